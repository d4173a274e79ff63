// Package watch is the sidecar's xDS client: it keeps one delta ADS stream to the controller, checks what arrives, and swaps one atomic
// pointer to the policy Snapshot; it ACKs, or NACKs with a reason one can act on. The last good Snapshot is kept on disk and served
// after a restart while the controller is away.
//
// Hold it so: New, then Run as an actor; ready is called when a Snapshot is in force. A Watcher is a policy.Source.
package watch

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Config is what a Watcher needs. Version and Log are optional.
type Config struct {
	Controller   string           // host:port of the controller's gRPC listener
	ControllerID identity.ID      // who must answer there; see identity.Controller
	Identity     *identity.Holder // this sidecar's certificate
	Workload     policy.Workload  // Instance is required: it is the xDS node id
	Version      string           // of the sidecar, shown to the controller
	StateDir     string           // holds snapshot.pb
	Log          *slog.Logger     // default: discard
}

// Status is what a Watcher can say about itself.
type Status struct {
	Connected bool      // a stream to the controller is open
	Since     time.Time // of Connected
	Revision  string    // of the Snapshot in force; "" before the first
	FromDisk  bool      // the Snapshot in force was read from StateDir and not yet confirmed by the controller
	LastError string    // last connection error or NACK, "" when all is well
	Nacks     uint64    // refused responses since the start
}

// Watcher is a policy.Source fed by the controller.
type Watcher struct{ cfg Config }

// New checks the configuration.
func New(cfg Config) (*Watcher, error) { return &Watcher{cfg: cfg}, nil }

// Run keeps the stream open until ctx is done. It returns nil then; losing the controller is not an error.
func (w *Watcher) Run(ctx context.Context, ready func()) error { return errors.New("watch: not built") }

// Current implements policy.Source.
func (w *Watcher) Current() *policy.Snapshot { return nil }

// Changed implements policy.Source.
func (w *Watcher) Changed() <-chan struct{} { return nil }

// Status is safe to call at any time.
func (w *Watcher) Status() Status { return Status{} }
