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

// What is in use decides, and a chosen GOGC stands.
func TestGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var set []int
		done := make(chan error)
		go func() { done <- garbage.keep(ctx, func(p int) int { set = append(set, p); return 0 }) }()
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
