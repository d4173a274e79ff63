package policy

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// Workload is what a sidecar is told about itself.
type Workload struct {
	Service   string
	Namespace string
	Version   string
	Instance  string
	Limits    SidecarLimits // of the sidecar
}

// Check refuses what a sidecar could not act on.
func (w Workload) Check() error {
	if err := checkName("instance", w.Instance); err != nil {
		return fmt.Errorf("workload: %w", err)
	}
	if err := checkName("service", w.Service); err != nil {
		return fmt.Errorf("workload %q: %w", w.Instance, err)
	}
	if err := w.Limits.Check(); err != nil {
		return fmt.Errorf("workload %q: limits: %w", w.Instance, err)
	}
	return nil
}

// ToXDS maps w, with its defaults applied, what it is told about telemetry and the revision that is now complete to the Policy resource.
func (w Workload) ToXDS(t Telemetry, revision string) (*tullev1.Policy, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("workload %q: telemetry: %w", w.Instance, err)
	}
	return &tullev1.Policy{
		Revision: revision, Service: w.Service, Namespace: w.Namespace, Version: w.Version, Instance: w.Instance,
		Telemetry: t.toXDS(), Limits: w.Limits.WithDefaults().toXDS(),
	}, nil
}

// WorkloadFromXDS is the inverse of ToXDS.
func WorkloadFromXDS(x *tullev1.Policy) (w Workload, t Telemetry, revision string, err error) {
	w = Workload{
		Service: x.GetService(), Namespace: x.GetNamespace(), Version: x.GetVersion(), Instance: x.GetInstance(),
		Limits: sidecarLimitsFromXDS(x.GetLimits()),
	}
	if err := checkName("revision", x.GetRevision()); err != nil {
		return Workload{}, t, "", fmt.Errorf("workload %q: %w", w.Instance, err)
	}
	if t, err = telemetryFromXDS(x.GetTelemetry()); err != nil {
		return Workload{}, t, "", fmt.Errorf("workload %q: %w", w.Instance, err)
	}
	return w, t, x.GetRevision(), w.Check()
}
