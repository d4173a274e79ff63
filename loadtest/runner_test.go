package loadtest

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func run(t *testing.T, r *Runner, d time.Duration) Totals {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := r.Run(ctx, time.Second); err != nil {
		t.Fatal(err)
	}
	return r.Totals()
}

func TestOpenLoopKeepsItsRateWhenAnswersAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Runner{Wave: Wave{Base: 50}, Do: func(context.Context, uint64) error { time.Sleep(3 * time.Second); return nil }}
		got := run(t, r, 20*time.Second)
		if got.Sent < 998 || got.Sent > 1000 || got.Dropped != 0 {
			t.Errorf("%+v, want 1000 sent in 20 s at 50/s although each answer takes 3 s", got)
		}
	})
}

func TestInFlightIsBoundedAndTheRestIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		r := &Runner{Wave: Wave{Base: 100}, MaxInFlight: 10, Do: func(context.Context, uint64) error {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		}}
		got := run(t, r, 10*time.Second)
		if most.Load() != 10 {
			t.Errorf("%d in flight at once, want 10", most.Load())
		}
		if sum := got.Sent + got.Dropped; sum < 998 || sum > 1000 || got.Sent > 110 {
			t.Errorf("%+v, want 1000 sent or dropped and about 100 sent", got)
		}
	})
}

func TestWaveSwings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var perQuarter [4]atomic.Int64
		began := time.Now()
		r := &Runner{Wave: Wave{Base: 100, Swing: 0.5, Period: time.Minute}, Do: func(context.Context, uint64) error {
			perQuarter[min(3, int(time.Since(began)/(15*time.Second)))].Add(1)
			return nil
		}}
		got := run(t, r, time.Minute)
		if got.Sent < 5995 || got.Sent > 6000 {
			t.Errorf("%d sent over one period, want 6000", got.Sent)
		}
		// The integral of a quarter: 1500 ± 100·0.5·60/2π = 1500 ± 477.
		for q, want := range []int64{1977, 1977, 1023, 1023} {
			if n := perQuarter[q].Load(); n < want-5 || n > want+5 {
				t.Errorf("quarter %d: %d, want about %d", q, n, want)
			}
		}
	})
}

func TestFailuresAreCountedAndDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Runner{Wave: Wave{Base: 10}, Do: func(ctx context.Context, n uint64) error {
			if n%2 == 0 {
				return errors.New("no")
			}
			<-ctx.Done() // never answered
			return ctx.Err()
		}}
		began := time.Now()
		got := run(t, r, 2*time.Second)
		if got.Failed != got.Sent || got.OK != 0 {
			t.Errorf("%+v", got)
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("took %s, want 2 s and the 1 s drain", d)
		}
	})
}

func TestBadWavesAreRefused(t *testing.T) {
	for _, w := range []Wave{{}, {Base: -1}, {Base: math.NaN()}, {Base: 1, Swing: 2, Period: 1}, {Base: 1, Swing: 0.5}, {Base: 1e9}} {
		if err := (&Runner{Wave: w}).Run(t.Context(), 0); err == nil {
			t.Errorf("%+v was accepted", w)
		}
	}
}

func TestDueIsTheIntegralOfTheRate(t *testing.T) {
	w := Wave{Base: 50, Swing: 0.25, Period: 3 * time.Minute}
	var sum float64
	for s := range 180 {
		sum += w.At(time.Duration(s) * time.Second)
	}
	if got := w.due(3 * time.Minute); math.Abs(got-sum) > 1 || math.Abs(got-9000) > 1 {
		t.Errorf("due %f, summed %f, want 9000", got, sum)
	}
}
