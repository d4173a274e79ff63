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

	// The memory limit, in bytes (runtime/debug.SetMemoryLimit): Low, or as much more as leaves Room beside what is in use, up to High. So garbage alone is
	// collected early, and where much is in use not so often that nothing else gets done. All 0: it is left as it is.
	Low, High, Room uint64
}

const garbageInterval = time.Second

// percent is the GOGC for so many bytes that the last collection found in use.
func (g Garbage) percent(live uint64) int {
	if live == 0 {
		return g.Most
	}
	return min(max(int(g.Spare*100/live), g.Least), g.Most) //nolint:gosec // a percentage of a memory
}

// limit is the memory limit for so many bytes that the last collection found in use.
func (g Garbage) limit(live uint64) int64 {
	return int64(min(max(live+g.Room, g.Low), g.High)) //nolint:gosec // a memory
}

// keep keeps GOGC at percent and the memory limit at limit until ctx is done; nil leaves one alone.
func (g Garbage) keep(ctx context.Context, gogc func(percent int) int, limit func(bytes int64) int64) error {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(garbageInterval)
	defer tick.Stop()
	for p, l := 0, int64(0); ; {
		metrics.Read(live)
		used := live[0].Value.Uint64()
		// Setting one stops the world for a moment: only for a difference that matters.
		if to := g.percent(used); gogc != nil && (to > p+p/8 || to < p-p/8) {
			gogc(to)
			p = to
		}
		if to := g.limit(used); limit != nil && to != l && (to > l+l/32 || to < l-l/32) {
			limit(to)
			l = to
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Actor is for the life of a process: what GOGC or GOMEMLIMIT in env has chosen it leaves alone, and the limit where High is 0.
func (g Garbage) Actor(env func(string) (string, bool)) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		gogc, limit := debug.SetGCPercent, debug.SetMemoryLimit
		if _, chosen := env("GOGC"); chosen {
			gogc = nil
		}
		if _, chosen := env("GOMEMLIMIT"); chosen || g.High == 0 {
			limit = nil
		}
		return g.keep(ctx, gogc, limit)
	}
}
