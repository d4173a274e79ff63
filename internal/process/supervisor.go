//go:build unix

package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Supervisor keeps one child alive: it starts it, starts it again after a growing pause when it ends by itself, and stops it when its
// context ends. A child that ends before it was ready for the first time is not started again: that is a mistake in what it was told
// (a port in use, a bad flag), and the error carries its last line.
type Supervisor struct {
	Spec Spec
	// Ready returns nil once the child serves; it is asked every 100 ms. Nil: ready when it has lived for 1 s.
	Ready func(ctx context.Context) error
	// MinPause and MaxPause bound the pause before the child is started again; it doubles with each end and starts afresh after a life
	// of 30 s. Defaults 250 ms and 10 s.
	MinPause, MaxPause time.Duration
	// OnRestart hears that the child ended by itself and after which pause it will be started again. It must not block.
	OnRestart func(name string, err error, pause time.Duration)
	Log       *slog.Logger // nil discards

	mu       sync.Mutex
	pid      int
	restarts int
}

// longLife is a life after which the pauses start afresh.
const longLife = 30 * time.Second

// PID is the running child's process id, 0 between two lives.
func (s *Supervisor) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Restarts is how often the child ended by itself and was started again.
func (s *Supervisor) Restarts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restarts
}

func (s *Supervisor) setPID(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

// Run supervises until ctx ends, stops the child and returns nil, or the error that made it give up. It calls ready, once, when the child
// serves for the first time.
func (s *Supervisor) Run(ctx context.Context, ready func()) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	minPause, maxPause := s.MinPause, s.MaxPause
	if minPause <= 0 {
		minPause = 250 * time.Millisecond
	}
	if maxPause <= 0 {
		maxPause = 10 * time.Second
	}
	spec := s.Spec
	tail := &lastLine{next: spec.Log}
	if spec.Log == nil {
		tail.next = io.Discard
	}
	spec.Log = tail
	pause := minPause
	wasReady := false
	for {
		born := time.Now()
		p, err := Start(spec)
		if err != nil {
			if !wasReady {
				return err
			}
		} else {
			s.setPID(p.PID())
			watched, stopWatch := context.WithCancel(ctx)
			up := make(chan struct{})
			var watching sync.WaitGroup
			if !wasReady {
				watching.Go(func() {
					if s.awaitReady(watched) {
						close(up)
					}
				})
			}
			select {
			case <-up:
				wasReady = true
				if ready != nil {
					ready()
				}
				select {
				case <-p.Done():
				case <-ctx.Done():
				}
			case <-p.Done():
			case <-ctx.Done():
			}
			stopWatch()
			watching.Wait()
			if ctx.Err() != nil {
				err = p.Stop()
				s.setPID(0)
				return err
			}
			err = p.Err()
			s.setPID(0)
			if err == nil {
				err = fmt.Errorf("%s ended by itself", spec.Name)
			}
			if !wasReady {
				if line := tail.last(); line != "" {
					return fmt.Errorf("%w: %s", err, line)
				}
				return err
			}
		}
		if time.Since(born) >= longLife {
			pause = minPause
		}
		log.Warn("child ended, starting it again", "child", spec.Name, "error", err, "pause", pause.String(), "last", tail.last())
		if s.OnRestart != nil {
			s.OnRestart(spec.Name, err, pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		pause = min(2*pause, maxPause)
		s.mu.Lock()
		s.restarts++
		s.mu.Unlock()
	}
}

// awaitReady asks until the child is ready; false when ctx ended first.
func (s *Supervisor) awaitReady(ctx context.Context) bool {
	if s.Ready == nil {
		t := time.NewTimer(time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return Await(ctx, s.Ready) == nil
}

// Await asks ready every 100 ms, each time for at most 2 s, until it returns nil or ctx ends; then the error is ready's last one.
func Await(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := ready(ask)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// lastLine passes writes on and remembers the last line that says something (at most 500 bytes of it).
type lastLine struct {
	next io.Writer
	mu   sync.Mutex
	line []byte // last complete line
	part []byte // what follows it
}

func (l *lastLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	for rest := b; len(rest) > 0; {
		before, after, found := bytes.Cut(rest, []byte("\n"))
		if room := 500 - len(l.part); room > 0 {
			l.part = append(l.part, before[:min(room, len(before))]...)
		}
		if found {
			if len(bytes.TrimSpace(l.part)) > 0 {
				l.line = append(l.line[:0], l.part...)
			}
			l.part = l.part[:0]
		}
		rest = after
	}
	l.mu.Unlock()
	return l.next.Write(b)
}

func (l *lastLine) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := bytes.TrimSpace(l.part); len(text) > 0 {
		return string(text)
	}
	return string(bytes.TrimSpace(l.line))
}
