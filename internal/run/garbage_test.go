package run

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

var garbage = Garbage{Spare: 8 << 20, Most: 200, Least: 50}

func TestGarbagePercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 200, 1 << 20: 200, 4 << 20: 200, 6 << 20: 133, 8 << 20: 100, 16 << 20: 50, 1 << 30: 50} {
		if got := garbage.percent(live); got != want {
			t.Errorf("%d bytes in use: %d %%, want %d", live, got, want)
		}
	}
}

func TestGarbageLimit(t *testing.T) {
	g := Garbage{Low: 70, High: 90, Room: 25}
	for live, want := range map[uint64]int64{0: 70, 45: 70, 50: 75, 65: 90, 80: 90} {
		if got := g.limit(live); got != want {
			t.Errorf("%d bytes in use: %d, want %d", live, got, want)
		}
	}
}

// What is in use decides, and a chosen GOGC stands.
func TestGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var set []int
		done := make(chan error)
		g := garbage
		g.Low, g.High, g.Room = 48<<20, 80<<20, 8<<20
		var limits []int64
		go func() {
			done <- g.keep(ctx, func(p int) int { set = append(set, p); return 0 }, func(n int64) int64 { limits = append(limits, n); return 0 })
		}()
		time.Sleep(1500 * time.Millisecond)
		held := make([]byte, 64<<20)
		runtime.GC()
		time.Sleep(2 * time.Second)
		runtime.KeepAlive(held)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(set) < 2 || set[len(set)-1] != garbage.Least || set[0] <= garbage.Least {
			t.Errorf("GOGC was set to %v, want more than %d at first and %d with 64 MiB in use", set, garbage.Least, garbage.Least)
		}
		if len(limits) != 2 || limits[0] != 48<<20 || limits[1] < 72<<20 || limits[1] > 80<<20 {
			t.Errorf("the memory limit was set to %v, want 48 MiB at first and between 72 and 80 with 64 MiB in use", limits)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- garbage.Actor(func(string) (string, bool) { return "100", true })(ctx, func() {})
		}()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
