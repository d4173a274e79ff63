package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/sidecar/admin"
	"github.com/tulle-mesh/tulle/sidecar/handover"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// successor is what takes part in handovers: it may be the new one, and later the old one. It is the sidecar of one workload, or all of a node. What it does in which
// order is handover's to say.
type successor struct {
	// Of the old one. socket is what it hands over, nil: it has none. begin and cancel: another one has begun to take over, or has given up; left: it serves.
	socket              func(handover.Socket) syscall.Conn
	begin, cancel, left func()

	// Of the new one.
	ready  func() error                    // what is missing before it can serve
	may    func(ctx context.Context) error // waits until it may serve, as soon as it can; nil: at once
	giveUp func(error)                     // ends it before it has served
	begun  func()                          // it serves; nil: nobody is to be told
	taking *handover.Taking                // from whom; nil: from nobody
	served chan struct{}                   // closed when it serves alone

	log *slog.Logger
}

// How often readiness is looked at: soon, because connections wait, and then less and less.
const (
	readyFirst   = 2 * time.Millisecond
	readyLongest = 250 * time.Millisecond
)

// open makes its door, or takes over from who has one in dir. who says what it is: only its like may take over.
func (s *successor) open(ctx context.Context, dir, who, boot string) (*handover.Door, error) {
	door, taking, err := handover.Open(ctx, handover.Config{
		Dir: dir, Workload: who, Log: s.log,
		Self:   handover.Hello{PID: os.Getpid(), Version: version(), Boot: boot},
		Socket: func(q handover.Socket) syscall.Conn { return s.socket(q) },
		Begin:  func() { s.begin() }, Cancel: func() { s.cancel() }, Left: func() { s.left() },
	})
	if err != nil {
		return nil, err
	}
	s.taking, s.served = taking, make(chan struct{})
	if taking == nil {
		close(s.served)
	}
	return door, nil
}

// predecessor is the boot id of the one that is taken over from.
func (s *successor) predecessor() string {
	if s.taking == nil {
		return ""
	}
	return s.taking.From().Boot
}

// inherit asks for the sockets of a workload's listeners.
func (s *successor) inherit(workload string) func(string, bool) (net.Listener, error) {
	if s.taking == nil {
		return nil
	}
	return func(at string, transparent bool) (net.Listener, error) {
		return s.taking.Socket(handover.Socket{Workload: workload, Kind: handover.Listener, Address: at, Transparent: transparent})
	}
}

// inheritAdmin asks for the socket of the admin page at address.
func (s *successor) inheritAdmin(workload, address string) func() (net.Listener, error) {
	if s.taking == nil {
		return nil
	}
	return func() (net.Listener, error) {
		return s.taking.Socket(handover.Socket{Workload: workload, Kind: handover.Admin, Address: address})
	}
}

// limit ends it when it has not taken over in time. It is called when all else is in place.
func (s *successor) limit() (stop func()) {
	if s.taking == nil {
		return func() {}
	}
	t := time.AfterFunc(handover.TakeLimit, func() {
		if why := s.ready(); why != nil && !s.serves() { // else it is about to
			s.giveUp(s.late(why))
		}
	})
	return func() { t.Stop() }
}

// close gives up, if it has not taken over.
func (s *successor) close() {
	if s.taking != nil {
		s.taking.Close()
	}
}

// serves reports whether it serves: nobody is being taken over from any more.
func (s *successor) serves() bool {
	select {
	case <-s.served:
		return true
	default:
		return false
	}
}

// until waits until it serves. False: ctx is done.
func (s *successor) until(ctx context.Context) bool {
	select {
	case <-s.served:
		return true
	case <-ctx.Done():
		return false
	}
}

// actors are the parts of w that take turns with another one's, around the rest of them.
func (s *successor) actors(w *workload, door *handover.Door) []run.Actor {
	out := []run.Actor{{Name: "handover", Run: func(ctx context.Context, ready func()) error { return s.answer(ctx, ready, door) }}}
	for _, a := range w.actors() {
		if a.Name == "telemetry" {
			a.Run = func(ctx context.Context, ready func()) error { return s.tell(ctx, ready, w.telling) }
		}
		out = append(out, a)
	}
	return append(out, run.Actor{Name: "readiness", Run: s.take})
}

// answer is the actor of the door; nil: there is none.
func (s *successor) answer(ctx context.Context, ready func(), door *handover.Door) error {
	ready()
	switch {
	case !s.until(ctx):
	case door == nil:
		<-ctx.Done()
	default:
		door.Run(ctx)
	}
	return nil
}

// tell is the actor of telemetry. Before it serves it says nothing: to the observer one that gives up would be one that died. But what it has carried by then is told.
func (s *successor) tell(ctx context.Context, ready func(), t *telemetry.Telemetry) error {
	ready()
	if !s.until(ctx) && !t.Recorded() {
		return nil
	}
	return t.Run(ctx, func() {})
}

// take is the last actor: it waits until all is ready, takes over if there is somebody to take over from, and tells whoever waits.
func (s *successor) take(ctx context.Context, ready func()) error {
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
		if s.may != nil && s.may(ctx) != nil {
			return nil
		}
		switch err := s.taking.Commit(); {
		case errors.Is(err, handover.ErrLate):
			s.giveUp(s.late(err))
			return nil
		case err != nil:
			s.log.Warn("taken over, but the old sidecar does not answer", "err", err)
		}
		close(s.served)
		from := s.taking.From()
		s.log.Info("taken over", "process", from.PID, "version", from.Version, "boot_id", from.Boot)
	}
	if s.begun != nil {
		s.begun()
	}
	<-ctx.Done()
	return nil
}

func (s *successor) late(why error) error {
	return fmt.Errorf("not ready %s after it began to take over from process %d, which goes on: %w", handover.TakeLimit, s.taking.From().PID, why)
}

// serving tells whoever started the process that it serves.
func serving() {
	notify("READY=1")
	tellParent(parentReady)
}

// turn is the admin page of a process that takes over, and is taken over from: it answers from when the process serves until the next one does.
type turn struct {
	page   *admin.Server
	ended  chan struct{}   // closed when the page is no longer this process's
	mine   context.Context // done: this process is to answer no more
	finish context.CancelFunc
}

func newTurn(page *admin.Server) *turn {
	t := &turn{page: page, ended: make(chan struct{})}
	t.mine, t.finish = context.WithCancel(context.Background())
	return t
}

// run is the actor of the page.
func (t *turn) run(ctx context.Context, ready func(), s *successor) error {
	if s.taking != nil {
		ready()
	}
	if !s.until(ctx) {
		return nil
	}
	mine, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.mine, cancel)()
	err := t.page.Run(mine, ready)
	close(t.ended)
	if err == nil {
		<-ctx.Done()
	}
	return err
}

// over ends it, and waits for it: nobody is told that the sidecar drains when another one is ready.
func (t *turn) over() {
	t.finish()
	<-t.ended
}
