package loadtest

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Wave is a rate over time: Base × (1 + Swing × sin(2π t / Period)).
type Wave struct {
	Base   float64       // requests per second, > 0
	Swing  float64       // 0 to 0.95
	Period time.Duration // > 0 when Swing > 0
}

// At is the rate at t after the start, requests per second.
func (w Wave) At(t time.Duration) float64 {
	if w.Swing == 0 || w.Period <= 0 {
		return w.Base
	}
	return w.Base * (1 + w.Swing*math.Sin(2*math.Pi*float64(t)/float64(w.Period)))
}

// due is how many requests should have left by t: the integral of At, so that neither rounding nor a late timer loses any.
func (w Wave) due(t time.Duration) float64 {
	n := w.Base * t.Seconds()
	if w.Swing > 0 && w.Period > 0 {
		p := w.Period.Seconds()
		n += w.Base * w.Swing * p / (2 * math.Pi) * (1 - math.Cos(2*math.Pi*t.Seconds()/p))
	}
	return n
}

// check refuses waves that cannot be followed.
func (w Wave) check() error {
	switch {
	case !(w.Base > 0) || w.Base > 100_000:
		return errors.New("load: the rate must be above 0 and at most 100,000 requests per second")
	case w.Swing < 0 || w.Swing > 0.95:
		return errors.New("load: the swing must be 0 to 0.95")
	case w.Swing > 0 && w.Period <= 0:
		return errors.New("load: a swing needs a period above 0")
	}
	return nil
}

// Runner sends requests by plan. Fill it, then call Run once.
type Runner struct {
	Wave Wave
	// Do sends request n (0, 1, 2 …) and returns when it is answered. It runs on a goroutine of its own and must end soon after ctx does.
	Do func(ctx context.Context, n uint64) error
	// MaxInFlight bounds the requests not yet answered; one more is counted as dropped. Default 512.
	MaxInFlight int

	sent, ok, failed, dropped atomic.Uint64
}

// Totals counts requests since Run began. Sent = OK + Failed + those in flight; Dropped were never sent.
type Totals struct {
	Sent    uint64 `json:"sent"`
	OK      uint64 `json:"ok"`
	Failed  uint64 `json:"failed"`
	Dropped uint64 `json:"dropped"`
}

// Totals may be called at any time, concurrently with Run.
func (r *Runner) Totals() Totals {
	return Totals{Sent: r.sent.Load(), OK: r.ok.Load(), Failed: r.failed.Load(), Dropped: r.dropped.Load()}
}

// tick is how often the plan is looked at; requests due within one tick leave together.
const tick = 5 * time.Millisecond

// Run follows the plan until ctx ends, then waits for the requests in flight: they keep a context of their own, which ends drain later.
// A plan that fell behind by more than a second (a sleeping laptop) is not caught up on: what was missed counts as dropped.
func (r *Runner) Run(ctx context.Context, drain time.Duration) error {
	if err := r.Wave.check(); err != nil {
		return err
	}
	limit := r.MaxInFlight
	if limit <= 0 {
		limit = 512
	}
	flying := make(chan struct{}, limit)
	reqCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	began := time.Now()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var planned uint64
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			now := time.Since(began)
			due := uint64(r.Wave.due(now))
			if late := float64(due-planned) - r.Wave.At(now); late > 1 {
				r.dropped.Add(uint64(late))
				planned += uint64(late)
			}
			for ; planned < due; planned++ {
				select {
				case flying <- struct{}{}:
				default:
					r.dropped.Add(1)
					continue
				}
				r.sent.Add(1)
				n := planned
				wg.Go(func() {
					defer func() { <-flying }()
					if err := r.Do(reqCtx, n); err != nil {
						r.failed.Add(1)
					} else {
						r.ok.Add(1)
					}
				})
			}
		}
	}
	stop := time.AfterFunc(drain, cancel)
	defer stop.Stop()
	wg.Wait()
	return nil
}
