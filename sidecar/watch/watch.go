// Package watch is the sidecar's xDS client: it keeps one delta ADS stream to the controller, checks what arrives, and swaps one atomic
// pointer to the policy Snapshot; it ACKs, or NACKs with a reason one can act on. The last good Snapshot is kept on disk and served
// after a restart while the controller is away.
//
// Hold it so: New, then Run as an actor; ready is called when a Snapshot is in force. A Watcher is a policy.Source. Losing the controller is
// never an error: the last Snapshot stays in force, only its overrides end at their own expiry.
//
// It is a policy.Directory, too: what the Snapshot does not have it asks for (destination.go), and the Snapshot grows by the service that is found. Services that
// were learnt are on disk with the rest.
package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
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
	StateDir     string           // created if missing (0700); holds snapshot.pb
	Log          *slog.Logger     // default: discard
}

// Status is what a Watcher can say about itself.
type Status struct {
	Connected bool      // a stream to the controller is open and has answered
	Since     time.Time // of the last change of Connected
	Revision  string    // of the Snapshot in force; "" before the first
	FromDisk  bool      // the Snapshot in force was read from StateDir and not yet confirmed by the controller
	LastError string    // last connection error or NACK, "" when all is well
	Nacks     uint64    // refused responses since the start
	Applied   uint64    // Snapshots put in force since the start
}

// Watcher is a policy.Source fed by the controller.
type Watcher struct {
	cfg          Config
	current      atomic.Pointer[policy.Snapshot]
	destinations destinations

	disk disk
	dial func(ctx context.Context) (ads adsStream, hangUp func(), err error) // tests have their own

	// owned by the goroutine of Run that speaks to the controller
	staged staged // accepted, perhaps not yet in force

	mu      sync.Mutex
	base    *policy.Snapshot // as told; current is base without overrides that have run out
	changed chan struct{}
	status  Status
	yielded chan struct{} // not nil: no stream is opened before it is closed
}

var (
	_ policy.Source    = (*Watcher)(nil)
	_ policy.Directory = (*Watcher)(nil)
)

// Bounds of the pause between two connections, jittered ±50 %.
const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// New checks the configuration; it touches neither disk nor network.
func New(cfg Config) (*Watcher, error) {
	for _, f := range []struct {
		name  string
		empty bool
	}{
		{"Controller", cfg.Controller == ""},
		{"ControllerID", cfg.ControllerID.IsZero()},
		{"Identity", cfg.Identity == nil},
		{"Workload.Instance", cfg.Workload.Instance == ""},
		{"StateDir", cfg.StateDir == ""},
	} {
		if f.empty {
			return nil, fmt.Errorf("watch: %s must be set", f.name)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{cfg: cfg, changed: make(chan struct{}), staged: staged{}}
	w.destinations.init()
	w.disk.init()
	w.dial = w.dialController
	return w, nil
}

// Run keeps the stream open until ctx is done, and returns nil then.
func (w *Watcher) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(w.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("watch: %w (choose a writable state directory)", err)
	}
	if s, stored, err := load(w.file(), w.cfg.Workload.Instance); err == nil {
		w.staged = stored
		w.destinations.inherit(s)
		w.apply(s, true)
		w.cfg.Log.Info("policy in force from disk", "revision", s.Revision, "file", w.file())
	} else if !errors.Is(err, os.ErrNotExist) {
		w.cfg.Log.Warn("stored policy is not usable; waiting for the controller", "file", w.file(), "error", err)
	}
	var helpers sync.WaitGroup
	helpers.Go(func() { w.expire(ctx, ready) })
	helpers.Go(func() { w.destinations.sweep(ctx) })
	helpers.Go(func() { w.write(ctx) })
	defer helpers.Wait()
	backoff := minBackoff
	for {
		if !w.turn(ctx) {
			return nil
		}
		opened := time.Now()
		err := w.stream(ctx)
		w.destinations.disconnected(w.Status().Connected)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(opened) > maxBackoff {
			backoff = minBackoff
		}
		err = w.explain(err)
		w.disconnected(err)
		pause := time.NewTimer(time.Duration((0.5 + rand.Float64()) * float64(backoff)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// Yield leaves the controller to another process of the same instance: the stream stays open until that process has opened one, which ends
// it, and is not opened again before Resume. The Snapshot in force stays, and its overrides end at their expiry.
func (w *Watcher) Yield() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.yielded == nil {
		w.yielded = make(chan struct{})
	}
}

// Resume takes back Yield.
func (w *Watcher) Resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.yielded != nil {
		close(w.yielded)
		w.yielded = nil
	}
}

// turn waits while the controller is another process's. False: ctx is done.
func (w *Watcher) turn(ctx context.Context) bool {
	w.mu.Lock()
	yielded := w.yielded
	w.mu.Unlock()
	if yielded == nil {
		return ctx.Err() == nil
	}
	w.destinations.disconnected(false) // nobody is to wait for a stream that is not made
	select {
	case <-yielded:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Current implements policy.Source.
func (w *Watcher) Current() *policy.Snapshot { return w.current.Load() }

// Changed implements policy.Source.
func (w *Watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Status is safe to call at any time.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// apply puts s in force.
func (w *Watcher) apply(s *policy.Snapshot, fromDisk bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.base = s
	w.status.Revision, w.status.FromDisk = s.Revision, fromDisk
	w.status.Applied++
	w.publishLocked(time.Now())
	w.destinations.arrived(s)
}

// publishLocked makes current what base is at now, and wakes readers.
func (w *Watcher) publishLocked(now time.Time) {
	w.current.Store(withoutExpired(w.base, now))
	close(w.changed)
	w.changed = make(chan struct{})
}

// withoutExpired is s, or a copy of it without the overrides that have run out at now. The revision stays: it names what the controller said.
func withoutExpired(s *policy.Snapshot, now time.Time) *policy.Snapshot {
	var out *policy.Snapshot
	for service, endpoints := range s.Endpoints {
		var copied []policy.Endpoint
		for i, e := range endpoints {
			if e.Override == nil || e.Override.InForce(now) {
				continue
			}
			if copied == nil {
				copied = append([]policy.Endpoint(nil), endpoints...)
			}
			copied[i].Override = nil
		}
		if copied == nil {
			continue
		}
		if out == nil {
			c := *s
			c.Endpoints = make(map[string][]policy.Endpoint, len(s.Endpoints))
			for k, v := range s.Endpoints {
				c.Endpoints[k] = v
			}
			out = &c
		}
		out.Endpoints[service] = copied
	}
	if out == nil {
		return s
	}
	return out
}

// expire calls ready at the first Snapshot, and takes overrides out of force at their expiry.
func (w *Watcher) expire(ctx context.Context, ready func()) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		changed := w.Changed()
		var due <-chan time.Time
		if s := w.Current(); s != nil {
			ready()
			if next := nextExpiry(s); !next.IsZero() {
				timer.Reset(time.Until(next))
				due = timer.C
			}
		}
		select {
		case <-changed:
		case <-due:
			w.mu.Lock()
			w.publishLocked(time.Now())
			w.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func nextExpiry(s *policy.Snapshot) time.Time {
	var next time.Time
	for _, endpoints := range s.Endpoints {
		for _, e := range endpoints {
			if e.Override != nil && (next.IsZero() || e.Override.Expires.Before(next)) {
				next = e.Override.Expires
			}
		}
	}
	return next
}

func (w *Watcher) connected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.status.Connected {
		w.status.Connected, w.status.Since = true, time.Now()
		w.status.LastError = ""
		w.cfg.Log.Info("connected to the controller", "controller", w.cfg.Controller)
	}
}

func (w *Watcher) disconnected(err error) {
	w.mu.Lock()
	was, last := w.status.Connected, w.status.LastError
	w.status.LastError = err.Error()
	if was {
		w.status.Connected, w.status.Since = false, time.Now()
	}
	revision, yielded := w.status.Revision, w.yielded != nil
	w.mu.Unlock()
	if yielded {
		return // the process that took over speaks to the controller
	}
	if was || last != err.Error() { // the same error again and again is said once
		w.cfg.Log.Warn("not connected to the controller; the last policy stays in force", "error", err, "revision", revision)
	}
}
