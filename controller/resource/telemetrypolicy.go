package resource

import (
	"fmt"
	"slices"
	"strings"
)

// TelemetryPolicy says what the sidecars of many Workloads may write down and how they pass trace context on. What a Workload says itself in spec.telemetry counts before it.
type TelemetryPolicy struct {
	Header `yaml:",inline"`
	Spec   TelemetryPolicySpec `yaml:"spec"`
}

// TelemetryPolicySpec of a TelemetryPolicy.
type TelemetryPolicySpec struct {
	TargetRefs []TargetRef `yaml:"targetRefs,omitempty"` // Services, the Namespace, the MeshConfig: of whose sidecars; default: the Namespace
	Telemetry  `yaml:",inline"`
}

func (p *TelemetryPolicy) check() error {
	if err := p.Header.check(); err != nil {
		return err
	}
	if n := len(p.Spec.TargetRefs); n > 16 {
		return fmt.Errorf("spec.targetRefs: has %d entries, at most 16 are allowed", n)
	}
	for i, r := range p.Spec.TargetRefs {
		t, err := r.target(p.Metadata.Namespace)
		switch {
		case err != nil:
		case t.level > LevelService:
			err = fmt.Errorf("%s: a policy is of sidecars; name a Service, the Namespace or the MeshConfig, without sectionName", r.Kind)
		case r.Group == tulleGroup && r.Kind == "ExternalService":
			err = fmt.Errorf("ExternalService %s: has no sidecar", r.Name)
		case slices.Contains(p.Spec.TargetRefs[:i], r):
			err = fmt.Errorf("is listed twice; remove one")
		}
		if err != nil {
			return fmt.Errorf("spec.targetRefs[%d]: %w", i, err)
		}
	}
	for i, name := range p.Spec.Headers { // field names have no case (RFC 9110, section 5.1)
		p.Spec.Headers[i] = strings.ToLower(name)
	}
	if err := p.Spec.Telemetry.Policy().Check(); err != nil {
		return fmt.Errorf("spec.%w", err)
	}
	return nil
}

// targets are whose sidecars p, which is checked, is for.
func (p *TelemetryPolicy) targets() (out []target) {
	if len(p.Spec.TargetRefs) == 0 {
		return []target{{level: LevelNamespace, name: p.Metadata.Namespace}}
	}
	for _, r := range p.Spec.TargetRefs {
		t, _ := r.target(p.Metadata.Namespace)
		out = append(out, t)
	}
	return out
}

// Telemetry is what holds for w's sidecar: of each field what w says itself, else the policy for its service, for its namespace, for the mesh.
func (s *Set) Telemetry(w *Workload) Telemetry {
	out := w.Spec.Telemetry
	for _, at := range []target{
		{level: LevelService, namespace: w.Metadata.Namespace, name: w.Spec.Service},
		{level: LevelNamespace, name: w.Metadata.Namespace},
		{level: LevelMesh},
	} {
		for _, p := range s.Observed {
			if !slices.Contains(p.targets(), at) {
				continue
			}
			if out.Headers == nil {
				out.Headers = p.Spec.Headers
			}
			if out.Propagation.Accept == nil {
				out.Propagation.Accept = p.Spec.Propagation.Accept
			}
			if out.Propagation.Emit == nil {
				out.Propagation.Emit = p.Spec.Propagation.Emit
			}
		}
	}
	return out
}

// telemetryWarnings are about what p says in vain.
func (a *admission) telemetryWarnings(p *TelemetryPolicy, warn func(format string, args ...any)) {
	for i, t := range p.targets() {
		if t.level != LevelService {
			continue
		}
		switch owner, ok := a.services[t.name]; {
		case !ok:
			warn("spec.targetRefs[%d]: no service %q in the mesh%s; the policy has no effect there", i, t.name, a.suggest(t.name))
		case owner.namespace != t.namespace:
			warn("spec.targetRefs[%d]: service %q is in namespace %s, and a policy is for its own; it has no effect there, move it", i, t.name, owner.namespace)
		}
	}
}
