package run

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Garbage says how much garbage may gather before it is collected. GOGC alone counts in shares of what is in use: with little in use a
// collection finds little and costs as much, with much in use it lets too much gather.
type Garbage struct {
	Spare       uint64 // bytes that may gather, as far as Most and Least let them
	Most, Least int    // GOGC, percent
}

const garbageInterval = time.Second

// percent is the GOGC for so many bytes that the last collection found in use.
func (g Garbage) percent(live uint64) int {
	if live == 0 {
		return g.Most
	}
	return min(max(int(g.Spare*100/live), g.Least), g.Most) //nolint:gosec // a percentage of a memory
}

// keep keeps GOGC at percent until ctx is done.
func (g Garbage) keep(ctx context.Context, set func(percent int) int) error {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(garbageInterval)
	defer tick.Stop()
	for in := 0; ; {
		metrics.Read(live)
		// Setting it stops the world for a moment: only for a difference that matters.
		if p := g.percent(live[0].Value.Uint64()); p > in+in/8 || p < in-in/8 {
			set(p)
			in = p
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Actor is for the life of a process: it sets nothing when GOGC is in env, because somebody has chosen.
func (g Garbage) Actor(env func(string) (string, bool)) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		if _, chosen := env("GOGC"); chosen {
			<-ctx.Done()
			return nil
		}
		return g.keep(ctx, debug.SetGCPercent)
	}
}
