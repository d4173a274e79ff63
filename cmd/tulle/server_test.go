//go:build unix

package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	runner "github.com/tulle-mesh/tulle/internal/run"
)

// actors makes children that write down when they start and stop; the one named fails ends by itself at once.
func actors(fails string, names ...string) (all []runner.Actor, log func() []string) {
	var mu sync.Mutex
	var lines []string
	say := func(l string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, l)
	}
	for _, n := range names {
		all = append(all, runner.Actor{Name: n, Run: func(ctx context.Context, _ func()) error {
			if n == fails {
				return errors.New(n + " gave up")
			}
			<-ctx.Done()
			say("stopped " + n)
			return nil
		}})
	}
	return all, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(lines) }
}

func TestSuperviseStopsInReverse(t *testing.T) {
	all, log := actors("", "controller", "observer")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := supervise(ctx, all...); err != nil {
		t.Fatal(err)
	}
	if got := log(); !slices.Equal(got, []string{"stopped observer", "stopped controller"}) {
		t.Errorf("%v", got)
	}
}

func TestSuperviseStopsAllWhenOneGivesUp(t *testing.T) {
	all, log := actors("observer", "controller", "observer")
	err := supervise(t.Context(), all...)
	if err == nil || err.Error() != "observer gave up" {
		t.Errorf("%v", err)
	}
	if got := log(); !slices.Equal(got, []string{"stopped controller"}) {
		t.Errorf("%v", got)
	}
}
