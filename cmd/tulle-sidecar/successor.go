package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/sidecar/admin"
	"github.com/tulle-mesh/tulle/sidecar/handover"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/watch"
)

// successor is what of a sidecar takes part in handovers: it may be the new process, and later the old one. What it does in which order is
// handover's to say.
type successor struct {
	life     *life
	joining  *join.Client
	watching *watch.Watcher
	carrying *sidecar.Sidecar
	page     *admin.Server
	ready    func() error
	taking   *handover.Taking // from whom; nil: from nobody
	served   chan struct{}    // closed when this process serves alone
	paged    chan struct{}    // closed when the admin page is no longer this process's
	paging   context.Context  // done: this process is to answer no more on the admin page
	unpage   context.CancelFunc
	log      *slog.Logger
}

// How often readiness is looked at: soon, because connections wait, and then less and less.
const (
	readyFirst   = 2 * time.Millisecond
	readyLongest = 250 * time.Millisecond
)

// door is the configuration of the handover to the next process. What it calls is s at that time.
func (s *successor) door(c config, workload, boot string, log *slog.Logger) handover.Config {
	return handover.Config{
		Dir: c.stateDir, Workload: workload + " " + c.workload.Instance, Log: log,
		Self: handover.Hello{PID: os.Getpid(), Version: version(), Boot: boot},
		Socket: func(q handover.Socket) syscall.Conn {
			switch {
			case q.Workload != c.workload.Instance:
			case q.Kind == handover.Admin && q.Address == c.admin:
				return s.page.Socket()
			case q.Kind == handover.Listener:
				return s.carrying.Socket(q.Address, q.Transparent)
			}
			return nil
		},
		Begin: func() {
			s.watching.Yield()
			s.joining.Yield()
		},
		Cancel: func() {
			s.joining.Resume()
			s.watching.Resume()
		},
		Left: func() {
			s.unpage() // first, so that nobody is told that the sidecar drains: another one is ready
			<-s.paged
			s.carrying.HandOver()
			s.life.stop(nil)
		},
	}
}

// predecessor is the boot id of the process that is taken over from.
func predecessor(t *handover.Taking) string {
	if t == nil {
		return ""
	}
	return t.From().Boot
}

// inherit asks for the sockets of listeners.
func inherit(t *handover.Taking, workload string) func(string, bool) (net.Listener, error) {
	if t == nil {
		return nil
	}
	return func(at string, transparent bool) (net.Listener, error) {
		return t.Socket(handover.Socket{Workload: workload, Kind: handover.Listener, Address: at, Transparent: transparent})
	}
}

// inheritAdmin asks for the socket of the admin page.
func inheritAdmin(t *handover.Taking, c config) func() (net.Listener, error) {
	if t == nil {
		return nil
	}
	return func() (net.Listener, error) {
		return t.Socket(handover.Socket{Workload: c.workload.Instance, Kind: handover.Admin, Address: c.admin})
	}
}

// until waits for served. False: ctx is done.
func (s *successor) until(ctx context.Context) bool {
	select {
	case <-s.served:
		return true
	case <-ctx.Done():
		return false
	}
}

// admin is the actor of the page: it answers from when this process serves until the next one does.
func (s *successor) admin(ctx context.Context, ready func()) error {
	if s.taking != nil {
		ready()
	}
	if !s.until(ctx) {
		return nil
	}
	mine, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.paging, cancel)()
	err := s.page.Run(mine, ready)
	close(s.paged)
	if err == nil {
		<-ctx.Done()
	}
	return err
}

// answer is the actor of the door.
func (s *successor) answer(ctx context.Context, ready func(), door *handover.Door) error {
	ready()
	if s.until(ctx) {
		door.Run(ctx)
	}
	return nil
}

// tell is the actor of telemetry. Before this process serves it says nothing: to the observer one that gives up would be one that died.
func (s *successor) tell(ctx context.Context, ready func(), t *telemetry.Telemetry) error {
	ready()
	if !s.until(ctx) {
		return nil
	}
	return t.Run(ctx, func() {})
}

// begin is the last actor: it waits until all is ready, takes over if there is somebody to take over from, and tells whoever waits.
func (s *successor) begin(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for wait := readyFirst; s.ready() != nil; wait = min(2*wait, readyLongest) {
		tick.Reset(wait)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	if s.taking != nil {
		s.taking.Commit()
		close(s.served)
		s.log.Info("taken over", "process", s.taking.From().PID, "version", s.taking.From().Version, "boot_id", s.taking.From().Boot)
	}
	notify("READY=1")
	tellParent(parentReady)
	<-ctx.Done()
	return nil
}

// giveUp ends a process that has not taken over in time.
func (s *successor) giveUp() {
	why := s.ready()
	select {
	case <-s.served:
		return
	default:
	}
	if why == nil {
		return // it is about to
	}
	s.life.stop(fmt.Errorf("not ready %s after it began to take over from process %d, which goes on: %w", handover.TakeLimit, s.taking.From().PID, why))
}
