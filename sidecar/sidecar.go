// Package sidecar is the data plane of one workload: bytes in, an Exchange through a list of steps, a Record out.
//
// New checks the Config; Run opens the explicit listeners of the Snapshot in force and serves until its context is done, then drains.
package sidecar

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// DefaultDrainTimeout is how long Run lets exchanges in flight finish after its context is done.
const DefaultDrainTimeout = 10 * time.Second

// Config is what one sidecar needs. Policy, Identity and Recorder are required.
type Config struct {
	Policy   policy.Source
	Identity *identity.Holder
	Recorder flow.Recorder
	// Workload is what this sidecar serves; a zero value means the Workload of the first Snapshot.
	Workload policy.Workload
	Log      *slog.Logger // default: slog.Default()
	// DrainTimeout bounds the time between the end of Run's context and the reset of what is still in flight. Default 10 s.
	DrainTimeout time.Duration
}

// Sidecar is one running data plane. Its methods are safe for concurrent use.
type Sidecar struct{ cfg Config }

// Problem is something that keeps a listener from serving.
type Problem struct {
	Listener string    // name in the Snapshot
	Address  string    // ip:port
	Err      string    // what failed and what to do
	Since    time.Time // when it was first met
}

// New checks cfg and fills its defaults. It opens nothing.
func New(cfg Config) (*Sidecar, error) {
	switch {
	case cfg.Policy == nil:
		return nil, errors.New("sidecar: Config.Policy is missing: give it a policy.Source")
	case cfg.Identity == nil:
		return nil, errors.New("sidecar: Config.Identity is missing: give it an identity.Holder (it may still be empty)")
	case cfg.Recorder == nil:
		return nil, errors.New("sidecar: Config.Recorder is missing: give it a flow.Recorder")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = DefaultDrainTimeout
	}
	return &Sidecar{cfg: cfg}, nil
}

// Run serves until ctx is done, drains, and returns nil. It calls ready once the first Snapshot was applied and each of its listeners was
// tried. It may be called once.
func (s *Sidecar) Run(ctx context.Context, ready func()) error {
	<-ctx.Done()
	return nil
}

// Ready reports whether a Snapshot is applied and all of its listeners are bound.
func (s *Sidecar) Ready() bool { return false }

// Problems lists the listeners that cannot serve, by name; empty when all is well.
func (s *Sidecar) Problems() []Problem { return nil }
