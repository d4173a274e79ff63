// Package run starts actors in order, stops them in reverse, and returns the first error. It is small, and stays so.
package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Actor is one part of a process. Run must call ready once it can serve (not calling it and returning nil means it had nothing to do),
// must return soon after ctx is done, and must have handed on what it accepted by then. An Actor that returns before ctx is done, with or
// without an error, stops its whole group.
type Actor struct {
	Name string
	Run  func(ctx context.Context, ready func()) error
	// StopTimeout bounds how long it may take to stop before the group goes on without it; 0 means the package's StopTimeout.
	StopTimeout time.Duration
}

// ErrStopTimeout is joined into the error of a group in which an actor did not stop in time.
var ErrStopTimeout = errors.New("did not stop in time")

// StopTimeout is the default of Actor.StopTimeout.
const StopTimeout = 30 * time.Second

// All runs the actors until ctx is done or one of them returns. It starts each when the one before is ready and stops them in
// reverse order. The result is nil when ctx ended it and every actor stopped cleanly; otherwise the first error, prefixed by the actor's name.
func All(ctx context.Context, actors ...Actor) error {
	type running struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	var (
		mu       sync.Mutex
		first    error
		started  []running
		ended    = make(chan struct{})
		endOnce  sync.Once
		stopping bool
	)
	fail := func(err error) {
		mu.Lock()
		if first == nil && err != nil {
			first = err
		}
		mu.Unlock()
	}
	base := context.WithoutCancel(ctx)
start:
	for _, a := range actors {
		actx, cancel := context.WithCancel(base)
		r := running{cancel: cancel, done: make(chan struct{})}
		ready := make(chan struct{})
		var readyOnce sync.Once
		go func() {
			defer close(r.done)
			err := a.Run(actx, func() { readyOnce.Do(func() { close(ready) }) })
			mu.Lock()
			byItself := !stopping
			mu.Unlock()
			switch {
			case err != nil && !errors.Is(err, context.Canceled):
				fail(fmt.Errorf("%s: %w", a.Name, err))
			case byItself && actx.Err() == nil:
				// A clean early end still ends the group, as success.
			}
			endOnce.Do(func() { close(ended) })
		}()
		started = append(started, r)
		select {
		case <-ready:
		case <-r.done:
			break start
		case <-ended:
			break start
		case <-ctx.Done():
			break start
		}
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	mu.Lock()
	stopping = true
	mu.Unlock()
	for i := len(started) - 1; i >= 0; i-- {
		started[i].cancel()
		limit := cmp.Or(actors[i].StopTimeout, StopTimeout)
		select {
		case <-started[i].done:
		case <-time.After(limit):
			fail(fmt.Errorf("%s: %w (waited %s)", actors[i].Name, ErrStopTimeout, limit))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return first
}
