package resilience

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// application is one under virtual time: it works on workers requests at a time (0: any number), and on those whose callers have left as well.
type application struct {
	adaptive Adaptive
	workers  int
	work     func(at time.Duration, r *rand.Rand) time.Duration // how long a request takes that is begun then
	patience time.Duration                                      // of callers; 0: a minute
	stream   time.Duration                                      // an answer goes on for so long after its first byte
}

// load is a part of the requests, from begin to end: rate per second, or clients that each wait for an answer before they ask again.
type load struct {
	begin, end time.Duration
	rate       float64
	clients    int
}

// seen is what came of one request.
type seen struct {
	at, took time.Duration
	shed     bool
	left     bool
	detail   string
}

// run plays loads for total, and returns what came of each request.
func (a *application) run(total time.Duration, loads ...load) (out []seen) {
	if a.adaptive.set == (policy.Adaptive{}) {
		a.adaptive.Set(policy.Adaptive{}.WithDefaults())
	}
	var slots chan struct{}
	if a.workers > 0 {
		slots = make(chan struct{}, a.workers)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	app := exchange.HandlerFunc(func(x *exchange.Exchange) {
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			if slots != nil {
				slots <- struct{}{}
				defer func() { <-slots }()
			}
			mu.Lock()
			d := a.work(time.Since(begin), random)
			mu.Unlock()
			time.Sleep(d)
		})
		patience := a.patience
		if patience == 0 {
			patience = time.Minute
		}
		left := time.NewTimer(patience)
		defer left.Stop()
		select {
		case <-done:
			x.FirstByte(x.Since())
			time.Sleep(a.stream)
			x.Outcome = exchange.Outcome{Status: 200, Answered: true}
		case <-left.C:
			x.Outcome.Fail(flow.ReasonDownstreamReset, "")
		}
	})
	chain := Adapt(app)
	one := func() {
		x := &exchange.Exchange{}
		x.Reset()
		x.Kind, x.Side, x.Start, x.Destination = flow.KindExchange, flow.SideServer, time.Now(), &exchange.Destination{Admission: &a.adaptive}
		chain.Handle(x)
		mu.Lock()
		defer mu.Unlock()
		out = append(out, seen{x.Start.Sub(begin), x.Since(), x.Outcome.Reason == flow.ReasonShed, x.Outcome.Reason == flow.ReasonDownstreamReset, x.Outcome.Detail})
	}
	for _, l := range loads {
		r := rand.New(rand.NewPCG(3, uint64(l.begin)))
		for i := range l.clients {
			wg.Go(func() {
				for time.Sleep(l.begin + time.Duration(i)*ms); time.Since(begin) < min(l.end, total); {
					one()
				}
			})
		}
		if l.clients > 0 {
			continue
		}
		wg.Go(func() {
			time.Sleep(l.begin)
			for time.Since(begin) < min(l.end, total) {
				wg.Go(one)
				time.Sleep(time.Duration(r.ExpFloat64() * float64(time.Second) / l.rate)) // Poisson's arrivals
			}
		})
	}
	wg.Wait()
	return out
}

// in are those that came in a time.
func in(all []seen, from, to time.Duration) (n, ok, shed, left int, slowest time.Duration) {
	for _, s := range all {
		if s.at < from || s.at >= to {
			continue
		}
		n++
		switch {
		case s.shed:
			shed++
		case s.left:
			left++
		default:
			ok++
			slowest = max(slowest, s.took)
		}
	}
	return n, ok, shed, left, slowest
}

const ms = time.Millisecond

// taking is work that always takes as long, but for ± a fifth.
func taking(d time.Duration) func(time.Duration, *rand.Rand) time.Duration {
	return func(_ time.Duration, r *rand.Rand) time.Duration {
		return time.Duration(float64(d) * (0.8 + 0.4*r.Float64()))
	}
}

// steps is work that takes d[i] in the i-th of parts.
func steps(part time.Duration, d ...time.Duration) func(time.Duration, *rand.Rand) time.Duration {
	return func(at time.Duration, r *rand.Rand) time.Duration {
		return taking(d[min(int(at/part), len(d)-1)])(at, r)
	}
}

// More comes than the application can do, at once and for seconds. It goes on doing what it can, callers get answers in time, and it is over when it is over.
func TestAdaptiveOverload(t *testing.T) {
	for _, c := range []struct {
		name          string
		workers       int
		quick, slow   time.Duration
		rate          float64
		patience      time.Duration
		good, slowest float64 // of what it can do: at least; of patience: at most, from the eighth second on
	}{
		{"three times", 2, 5 * ms, 60 * ms, 100, 2 * time.Second, 0.9, 0.8},
		{"a third too much", 2, 5 * ms, 30 * ms, 100, 2 * time.Second, 0.9, 0.8},
		{"a sixth too much", 2, 5 * ms, 20 * ms, 116, 2 * time.Second, 0.9, 0.8},
		{"ten times", 8, 2 * ms, 40 * ms, 2000, 2 * time.Second, 0.7, 0.5}, // the line of the first half second holds more than callers wait for
		{"callers are impatient", 4, 5 * ms, 40 * ms, 300, 500 * ms, 0.75, 1},
		{"work takes longer than tolerated", 20, 5 * ms, 1500 * ms, 40, 10 * time.Second, 0.6, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			const before, fault, after = 5 * time.Second, 20 * time.Second, 10 * time.Second
			a := &application{workers: c.workers, patience: c.patience, work: func(at time.Duration, r *rand.Rand) time.Duration {
				if at >= before && at < before+fault {
					return taking(c.slow)(at, r)
				}
				return taking(c.quick)(at, r)
			}}
			all := a.run(before+fault+after, load{0, before + fault + after, c.rate, 0})
			if _, _, shed, left, _ := in(all, 0, before); shed+left > 0 {
				t.Errorf("%s: before it %d are shed, %d left", c.name, shed, left)
			}
			n, ok, shed, left, _ := in(all, before, before+fault)
			_, _, _, _, slowest := in(all, before+8*time.Second, before+fault)
			can := min(float64(c.workers)/c.slow.Seconds()*fault.Seconds(), float64(n))
			t.Logf("%s: of %d %d are answered of %.0f that can be, %d shed, %d left, the slowest takes %v", c.name, n, ok, can, shed, left, slowest)
			if float64(ok) < c.good*can || slowest.Seconds() > c.slowest*c.patience.Seconds() {
				t.Errorf("%s: of %d %d are answered of %.0f that can be, %d shed, %d left, the slowest takes %v", c.name, n, ok, can, shed, left, slowest)
			}
			if n, ok, _, _, _ := in(all, before+fault+4*time.Second, before+fault+after); ok < n {
				t.Errorf("%s: after it %d of %d are answered", c.name, ok, n)
			}
			if _, limit := a.adaptive.Count(); limit != -1 {
				t.Errorf("%s: after it the limit is %d", c.name, limit)
			}
			for _, s := range all {
				if s.shed && !strings.Contains(s.detail, "the application") {
					t.Fatalf("%s: %q", c.name, s.detail)
				}
			}
		})
	}
}

// The limit follows what the application can do, down and up.
func TestAdaptiveFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const part = 15 * time.Second
		took := []time.Duration{10 * ms, 80 * ms, 160 * ms, 40 * ms, 80 * ms, 10 * ms}
		a := &application{workers: 10, patience: 3 * time.Second, work: steps(part, took...)}
		all := a.run(part*time.Duration(len(took)), load{0, part * time.Duration(len(took)), 500, 0})
		for i, d := range took {
			from := part*time.Duration(i) + 5*time.Second // to settle
			n, ok, shed, left, slowest := in(all, from, part*time.Duration(i+1)-3*time.Second)
			can := min(10/d.Seconds()*(part-8*time.Second).Seconds(), float64(n))
			t.Logf("%v: %d of %d, %.0f can be, %d shed, %d left, slowest %v", d, ok, n, can, shed, left, slowest)
			if float64(ok) < 0.85*can || float64(left) > 0.02*float64(n) {
				t.Errorf("%v: %d of %d are answered, where %.0f can be; %d left", d, ok, n, can, left)
			}
		}
	})
}

// Nobody is turned away where nothing queues, or where a queue is about to end by itself.
func TestAdaptiveShedsNothingWithoutAQueue(t *testing.T) {
	mixed := func(share float64, quick, slow time.Duration) func(time.Duration, *rand.Rand) time.Duration {
		return func(at time.Duration, r *rand.Rand) time.Duration {
			if r.Float64() < share {
				return taking(slow)(at, r)
			}
			return taking(quick)(at, r)
		}
	}
	minute := func(rate float64) []load { return []load{{0, time.Minute, rate, 0}} }
	for _, c := range []struct {
		name    string
		workers int
		work    func(time.Duration, *rand.Rand) time.Duration
		loads   []load
		total   time.Duration
	}{
		{"quick", 0, taking(3 * ms), minute(500), time.Minute},
		{"slow by nature", 0, taking(3 * time.Second), minute(50), time.Minute},
		{"slow by nature, one worker is enough", 1, taking(2 * time.Second), minute(0.2), time.Minute},
		{"busy, and just not too much", 4, taking(10 * ms), minute(280), time.Minute},
		{"mixed routes", 0, mixed(0.3, 4*ms, 2*time.Second), minute(200), time.Minute},
		{"mostly slow routes", 0, mixed(0.9, 4*ms, 2*time.Second), minute(100), time.Minute},
		{"long polls beside quick ones", 0, mixed(0.5, 3*ms, 20*time.Second), minute(100), time.Minute},
		{"long polls only", 0, func(_ time.Duration, r *rand.Rand) time.Duration {
			return time.Duration(r.Float64() * float64(30*time.Second))
		}, minute(20), time.Minute},
		{"slow by nature, and slower for a while", 0, steps(20*time.Second, 1000*ms, 1400*ms, 1000*ms), minute(50), time.Minute},
		{"slow by nature, and slower for a while, with more load", 0, steps(20*time.Second, 1000*ms, 2000*ms, 1000*ms), []load{{0, time.Minute, 50, 0}, {20 * time.Second, 40 * time.Second, 50, 0}}, time.Minute},
		{"it becomes slow, and has room", 0, steps(20*time.Second, 5*ms, 2*time.Second, 5*ms), minute(100), time.Minute},
		{"it becomes a little slower", 0, steps(20*time.Second, 5*ms, 150*ms, 5*ms), minute(100), time.Minute},
		{"load doubles and doubles", 0, taking(50 * ms), []load{{0, time.Minute, 50, 0}, {20 * time.Second, time.Minute, 50, 0}, {40 * time.Second, time.Minute, 100, 0}}, time.Minute},
		{"slow, and load doubles", 0, taking(time.Second), []load{{0, time.Minute, 50, 0}, {20 * time.Second, time.Minute, 50, 0}, {40 * time.Second, time.Minute, 100, 0}}, time.Minute},
		{"a burst", 10, taking(10 * ms), []load{{0, time.Minute, 20, 0}, {30 * time.Second, 30*time.Second + 10*ms, 50000, 0}}, time.Minute},
		{"many clients begin, and wait for each other", 10, taking(10 * ms), []load{{0, 20 * time.Second, 0, 400}}, 20 * time.Second},
		{"more clients join them", 10, taking(10 * ms), []load{{0, 20 * time.Second, 0, 100}, {10 * time.Second, 20 * time.Second, 0, 200}}, 20 * time.Second},
		{"seldom", 0, mixed(0.5, ms, time.Second), minute(1), time.Minute},
		{"a cold start", 0, func(at time.Duration, r *rand.Rand) time.Duration { return taking(max(5*ms, 800*ms-at/10))(at, r) }, minute(100), time.Minute},
		{"it stands still for a second", 0, func(at time.Duration, r *rand.Rand) time.Duration {
			if into := at % (15 * time.Second); into > 10*time.Second && into < 11*time.Second {
				return 11*time.Second - into + taking(5*ms)(at, r)
			}
			return taking(5*ms)(at, r)
		}, minute(200), time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := &application{workers: c.workers, work: c.work}
			all := a.run(c.total, c.loads...)
			if n, _, shed, _, _ := in(all, 0, c.total); shed > 0 || n == 0 {
				t.Errorf("%s: %d of %d are shed", c.name, shed, n)
			}
		})
	}
}

// What has its first byte is no load: streams may be many.
func TestAdaptiveStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &application{workers: 2, work: steps(20*time.Second, 5*ms, 40*ms, 5*ms), stream: 30 * time.Second, patience: 2 * time.Second}
		all := a.run(time.Minute, load{0, time.Minute, 80, 0})
		n, ok, _, left, _ := in(all, 24*time.Second, 40*time.Second)
		if float64(ok) < 0.85*min(50*16, float64(n)) || left > 0 {
			t.Errorf("with more than a thousand streams open %d of %d are answered, %d left", ok, n, left)
		}
		if owed := a.adaptive.owed.Load(); owed != 0 {
			t.Errorf("%d are owed an answer in the end", owed)
		}
	})
}

// Switched off nothing is shed, also when it was on.
func TestAdaptiveOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &application{workers: 2, work: taking(60 * ms), patience: 2 * time.Second}
		a.adaptive.Set(policy.Adaptive{Off: true}.WithDefaults())
		if _, _, shed, _, _ := in(a.run(10*time.Second, load{0, 10 * time.Second, 100, 0}), 0, 10*time.Second); shed > 0 {
			t.Errorf("%d are shed", shed)
		}
	})
	var a Adaptive
	a.limit.Store(5)
	a.Set(policy.Adaptive{Off: true}.WithDefaults())
	if _, limit := a.Count(); limit != -1 {
		t.Errorf("the limit is %d after it was switched off", limit)
	}
}

// While there is a limit, who has said how long it waits is not let into a line that takes longer.
func TestAdaptiveDeadline(t *testing.T) {
	var a Adaptive
	a.Set(policy.Adaptive{}.WithDefaults())
	a.limit.Store(100)
	a.pace.Store(int64(10 * ms))
	a.owed.Store(50)
	for _, c := range []struct {
		timeout time.Duration
		ok      bool
	}{{0, true}, {2 * time.Second, true}, {100 * ms, false}} {
		x := newExchange(nil)
		x.Head.Timeout = c.timeout
		ok, why := a.Enter(x)
		if ok != c.ok || !ok && !strings.Contains(why, "later than the caller waits") {
			t.Errorf("%v: %v, %q", c.timeout, ok, why)
		}
	}
}

// A limit behind which nothing is answered any more gives way.
func TestAdaptiveIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Adaptive
		a.Set(policy.Adaptive{}.WithDefaults())
		a.limiting, a.height, a.start = true, 4, time.Now().UnixNano()
		a.limit.Store(4)
		a.owed.Store(4) // they never end
		for i := range 100 {
			if ok, _ := a.Enter(newExchange(nil)); ok {
				t.Logf("after %d", i)
				return
			}
			time.Sleep(100 * ms)
		}
		t.Error("nobody got in for ten seconds")
	})
}

func TestAdaptiveSlots(t *testing.T) {
	last := -1
	for d := time.Duration(0); d < 3*time.Minute; d += d/50 + 100*time.Nanosecond {
		i := slotOf(d)
		if i < last || i >= latencies {
			t.Fatalf("%v: slot %d after %d", d, i, last)
		}
		if last = i; d > 10*time.Microsecond && d < 2*time.Minute {
			if got := slotTime(i); got < d*3/4 || got > d*5/4 {
				t.Fatalf("%v: slot %d is %v", d, i, got)
			}
		}
	}
}

func BenchmarkAdaptive(b *testing.B) {
	var a Adaptive
	a.Set(policy.Adaptive{}.WithDefaults())
	d := &exchange.Destination{Admission: &a}
	h := Adapt(exchange.HandlerFunc(func(x *exchange.Exchange) { x.FirstByte(5 * ms) }))
	x := &exchange.Exchange{Kind: flow.KindExchange, Side: flow.SideServer, Start: time.Now(), Destination: d}
	x.Reset()
	x.Destination = d
	b.ReportAllocs()
	for b.Loop() {
		h.Handle(x)
	}
}
