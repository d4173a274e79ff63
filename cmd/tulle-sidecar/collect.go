package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much garbage may gather before it is collected. With little in use, a collection finds little and costs as much: a sidecar that makes
// handshakes spent a tenth of its time in them. With much in use (thousands of connections), half as much again is all that may gather, because a
// sidecar counts in every pod.
const (
	spareHeap  = 8 << 20 // bytes of garbage that are allowed in any case
	gcMost     = 200     // GOGC, percent
	gcLeast    = 50
	gcInterval = time.Second
)

// gcPercent is the GOGC for so many bytes that the last collection found in use.
func gcPercent(live uint64) int {
	if live == 0 {
		return gcMost
	}
	return int(min(max(spareHeap*100/live, gcLeast), gcMost))
}

// collect keeps GOGC at gcPercent until ctx is done.
func collect(ctx context.Context, set func(percent int) int) error {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(gcInterval)
	defer tick.Stop()
	for in := 0; ; {
		metrics.Read(live)
		// Setting it stops the world for a moment: only for a difference that matters.
		if p := gcPercent(live[0].Value.Uint64()); p > in+in/8 || p < in-in/8 {
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

// collector is set for the life of a process whose GOGC nobody has chosen.
func collector(env func(string) (string, bool)) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		if _, chosen := env("GOGC"); chosen {
			<-ctx.Done()
			return nil
		}
		return collect(ctx, debug.SetGCPercent)
	}
}
