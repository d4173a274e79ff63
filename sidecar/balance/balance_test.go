package balance

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func endpoints(n int) []policy.Endpoint {
	out := make([]policy.Endpoint, n)
	for i := range out {
		out[i] = policy.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(1000+i)), Weight: policy.DefaultWeight}
	}
	return out
}

func seeded(seed uint64) func() uint64 { return rand.New(rand.NewPCG(seed, 7)).Uint64 }

// world drives a Set in virtual time: open-loop arrivals, endpoints that answer after a while.
type world struct {
	t       *testing.T
	set     *Picker
	now     time.Time
	answer  func(endpoint int, r *rand.Rand) (time.Duration, exchange.Result)
	picked  []int
	probes  []int
	times   []time.Duration
	pending []pending
	r       *rand.Rand
}

type pending struct {
	at     time.Time
	took   time.Duration
	choice exchange.Choice
	result exchange.Result
}

func newWorld(t *testing.T, set *Picker, n int, seed uint64) *world {
	return &world{t: t, set: set, now: start, picked: make([]int, n), probes: make([]int, n), r: rand.New(rand.NewPCG(seed, 1))}
}

func (w *world) run(d time.Duration, rps float64) {
	end := w.now.Add(d)
	for w.now.Before(end) {
		w.now = w.now.Add(time.Duration(w.r.ExpFloat64() / rps * float64(time.Second)))
		sort.Slice(w.pending, func(i, j int) bool { return w.pending[i].at.Before(w.pending[j].at) })
		for len(w.pending) > 0 && !w.pending[0].at.After(w.now) {
			p := w.pending[0]
			p.choice.Load.End(p.at, p.took, p.result)
			w.pending = w.pending[1:]
		}
		c, reason := w.set.Pick(w.now, nil)
		if reason != flow.ReasonNone {
			w.t.Fatalf("Pick: %v", reason)
		}
		i := int(c.Endpoint.Address.Port()) - 1000
		if c.Probe {
			w.probes[i]++
		} else {
			w.picked[i]++
		}
		took, result := w.answer(i, w.r)
		w.times = append(w.times, took)
		w.pending = append(w.pending, pending{at: w.now.Add(took), took: took, choice: c, result: result})
	}
}

func healthy(_ int, r *rand.Rand) (time.Duration, exchange.Result) {
	return 5*time.Millisecond + time.Duration(r.ExpFloat64()*float64(5*time.Millisecond)), exchange.ResultOK
}

func share(picked []int, i int) float64 {
	sum := 0
	for _, n := range picked {
		sum += n
	}
	return float64(picked[i]) / float64(sum)
}

func quantile(d []time.Duration, q float64) time.Duration {
	s := append([]time.Duration(nil), d...)
	sort.Slice(s, func(i, j int) bool { return s[i] < s[j] })
	return s[int(q*float64(len(s)-1))]
}

func TestHealthyEndpointsShareEvenly(t *testing.T) {
	set := New(P2C, endpoints(5), new(States), seeded(1))
	w := newWorld(t, set, 5, 2)
	w.answer = healthy
	w.run(2*time.Minute, 200)
	for i := range 5 {
		if s := share(w.picked, i); s < 0.14 || s > 0.27 {
			t.Errorf("endpoint %d got %.1f %%, want about 20 %%", i, 100*s)
		}
	}
}

func TestWeightsAreHonoured(t *testing.T) {
	eps := endpoints(2)
	eps[0].Weight, eps[1].Weight = 10, 100
	set := New(P2C, eps, new(States), seeded(1))
	w := newWorld(t, set, 2, 2)
	w.answer = func(_ int, r *rand.Rand) (time.Duration, exchange.Result) {
		return 50*time.Millisecond + time.Duration(r.ExpFloat64()*float64(10*time.Millisecond)), exchange.ResultOK
	}
	w.run(time.Minute, 400)
	if s := share(w.picked, 0); s > 0.2 {
		t.Errorf("the endpoint of weight 10 beside 100 got %.1f %%, want under 20 %%", 100*s)
	}
}

func TestOneSlowEndpointOfTenDoesNotSetTheTail(t *testing.T) {
	slow := func(i int, r *rand.Rand) (time.Duration, exchange.Result) {
		if i == 3 {
			return 500 * time.Millisecond, exchange.ResultOK
		}
		return healthy(i, r)
	}
	tail := func(a Algorithm) (time.Duration, float64) {
		set := New(a, endpoints(10), new(States), seeded(3))
		w := newWorld(t, set, 10, 4)
		w.answer = slow
		w.run(time.Minute, 500)
		return quantile(w.times, 0.99), share(w.picked, 3)
	}
	p2c, p2cShare := tail(P2C)
	uniform, _ := tail(Random)
	if p2c*5 > uniform || p2cShare > 0.01 {
		t.Errorf("p99 %v with p2c (slow endpoint's share %.2f %%), %v at random: want less than a fifth, share under 1 %%", p2c, 100*p2cShare, uniform)
	}
}

func TestAFastFailingEndpointAttractsNoTrafficButStaysInEvidence(t *testing.T) {
	set := New(P2C, endpoints(3), new(States), seeded(5))
	w := newWorld(t, set, 3, 6)
	w.answer = healthy
	w.run(30*time.Second, 150)
	w.picked = make([]int, 3)
	w.answer = func(i int, r *rand.Rand) (time.Duration, exchange.Result) {
		if i == 1 {
			return time.Millisecond, exchange.ResultFailed
		}
		return healthy(i, r)
	}
	w.run(10*time.Second, 150)
	s := share(w.picked, 1)
	if s > 0.05 {
		t.Errorf("the failing endpoint got %.1f %%, want under 5 %%", 100*s)
	}
	if w.picked[1] < 5 {
		t.Errorf("the failing endpoint got %d tries in 10 s: too few to judge it by", w.picked[1])
	}
	w.picked, w.answer = make([]int, 3), healthy
	w.run(30*time.Second, 150)
	if s := share(w.picked, 1); s < 0.2 {
		t.Errorf("after it healed the endpoint got %.1f %%, want about a third", 100*s)
	}
}

func eject(e *policy.Endpoint, id string, issued, expires time.Time, fraction float64) {
	e.Override = &policy.Override{ID: id, Kind: policy.OverrideEject, Fraction: fraction, Issued: issued, Expires: expires}
}

func TestEjectionLeavesHalfOpenTrafficAndEndsByTheClock(t *testing.T) {
	eps := endpoints(3)
	eject(&eps[2], "ov-1", start, start.Add(20*time.Minute+time.Second), 0.01)
	set := New(P2C, eps, new(States), seeded(8))
	w := newWorld(t, set, 3, 9)
	w.answer = healthy
	w.run(20*time.Minute, 300)
	if w.picked[2] != 0 {
		t.Errorf("an ejected endpoint got %d unmarked tries", w.picked[2])
	}
	total := float64(w.picked[0] + w.picked[1] + w.probes[2])
	if got, want := float64(w.probes[2]), total/300; math.Abs(got-want) > 4*math.Sqrt(want) {
		t.Errorf("%v probes of %v picks, want about %.0f (1 %% of a third)", got, total, want)
	}
	w.probes[2] = 0
	w.now = w.now.Add(2 * time.Second)
	w.run(time.Minute, 300) // expired now
	if w.probes[2] != 0 || w.picked[2] == 0 {
		t.Errorf("after expiry: %d probes, %d picks; want none and many", w.probes[2], w.picked[2])
	}
}

func TestTheCapIgnoresWhatIsOver(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 1, 3: 1, 10: 1, 19: 1, 20: 2, 60: 6} {
		if Cap(n) != want {
			t.Errorf("Cap(%d) = %d, want %d", n, Cap(n), want)
		}
		eps := endpoints(n)
		for i := range eps {
			// The last is the oldest, so it must be honoured first.
			eject(&eps[i], "ov", start.Add(-time.Duration(i)*time.Second), start.Add(time.Hour), 0.01)
		}
		set := New(P2C, eps, new(States), seeded(1))
		w := newWorld(t, set, n, 1)
		w.answer = healthy
		w.run(time.Minute, 20*float64(n))
		idle := 0
		for i, p := range w.picked {
			if p == 0 {
				idle++
				if i < n-want {
					t.Errorf("n=%d: endpoint %d was out, though younger decisions exceed the cap", n, i)
				}
			}
		}
		if idle != want {
			t.Errorf("n=%d: %d endpoints were out, want %d", n, idle, want)
		}
	}
}

func TestReflexStopsUnreachableEndpointAndProbes(t *testing.T) {
	set := New(P2C, endpoints(3), new(States), seeded(11))
	w := newWorld(t, set, 3, 12)
	w.answer = func(i int, r *rand.Rand) (time.Duration, exchange.Result) {
		if i == 0 {
			return 100 * time.Microsecond, exchange.ResultUnreachable
		}
		return healthy(i, r)
	}
	w.run(3*time.Minute, 100)
	if w.picked[0] > 60 {
		t.Errorf("an unreachable endpoint got %d tries besides probes", w.picked[0])
	}
	// 1 + 2 + 4 + 8 + 16 + 30 + 30 … seconds
	if w.probes[0] < 5 || w.probes[0] > 12 {
		t.Errorf("%d probes in 3 min, want backing off from 1 s to 30 s", w.probes[0])
	}
	w.picked[0] = 0
	w.answer = healthy
	w.run(time.Minute, 100)
	if s := w.picked[0]; s < 200 {
		t.Errorf("after it came back the endpoint got %d of 6000", s)
	}
	if set.states.tripped.Load() != 0 {
		t.Errorf("tripped = %d after all healed", set.states.tripped.Load())
	}
}

func TestTheOnlyEndpointIsNeverTakenOut(t *testing.T) {
	eps := endpoints(1)
	eject(&eps[0], "ov", start, start.Add(time.Hour), 0.01)
	set := New(P2C, eps, new(States), nil)
	for range 100 {
		c, reason := set.Pick(start, nil)
		if reason != flow.ReasonNone || c.Probe {
			t.Fatalf("reason %v, probe %v", reason, c.Probe)
		}
		c.Load.End(start, time.Millisecond, exchange.ResultUnreachable)
	}
}

func TestTriedEndpointsAreAvoided(t *testing.T) {
	eps := endpoints(3)
	set := New(P2C, eps, new(States), seeded(1))
	tried := []netip.AddrPort{eps[0].Address, eps[2].Address}
	for range 200 {
		c, _ := set.Pick(start, tried)
		if c.Endpoint.Address != eps[1].Address {
			t.Fatalf("picked %v again", c.Endpoint.Address)
		}
		c.Load.End(start, time.Millisecond, exchange.ResultUnknown)
	}
	if c, reason := set.Pick(start, append(tried, eps[1].Address)); reason != flow.ReasonNone || c.Endpoint == nil {
		t.Fatalf("with all tried: %v", reason)
	}
}

func TestWhatWasLearntOutlivesUpdates(t *testing.T) {
	set := New(P2C, endpoints(3), new(States), seeded(1))
	c, _ := set.Pick(start, nil)
	c.Load.End(start, 3*time.Second, exchange.ResultOK)
	addr := c.Endpoint.Address
	set = New(P2C, endpoints(2000), set.states, nil)
	for _, e := range set.Endpoints(start) {
		if e.Address == addr && e.Average != 3*time.Second {
			t.Fatalf("average = %v after an update, want 3s", e.Average)
		}
	}
	set = New(P2C, nil, set.states, nil)
	if _, reason := set.Pick(start, nil); reason != flow.ReasonNoEndpoint {
		t.Fatalf("reason = %v, want no_endpoint", reason)
	}
}

func TestEveryAlgorithmIsSafeAndBalancesItsBooks(t *testing.T) {
	for name, a := range Algorithms {
		t.Run(name, func(t *testing.T) {
			var states States
			var current atomic.Pointer[Picker]
			current.Store(New(a, endpoints(3), &states, nil))
			var updates, picks sync.WaitGroup
			stop := make(chan struct{})
			updates.Go(func() {
				for n := 1; ; n = n%7 + 1 {
					select {
					case <-stop:
						return
					default:
						eps := endpoints(n)
						if n > 2 {
							eject(&eps[1], "ov", start, time.Now().Add(time.Hour), 0.5)
							eps[2].Weight = 7
						}
						current.Store(New(a, eps, &states, nil))
					}
				}
			})
			for g := range 4 {
				picks.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), 1))
					for range 3000 {
						c, reason := current.Load().Pick(time.Now(), nil)
						if reason != flow.ReasonNone {
							t.Errorf("Pick: %v", reason)
							return
						}
						c.Load.End(time.Now(), time.Millisecond, exchange.Result(r.IntN(4)))
					}
				})
			}
			picks.Wait()
			close(stop)
			updates.Wait()
			for _, e := range New(a, endpoints(7), &states, nil).Endpoints(time.Now()) {
				if e.InFlight != 0 {
					t.Errorf("%v: %d in flight after all ended", e.Address, e.InFlight)
				}
			}
		})
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	eps := endpoints(10)
	eject(&eps[4], "ov", start, time.Now().Add(time.Hour), 0.5)
	set := New(P2C, eps, new(States), nil)
	if n := testing.AllocsPerRun(1000, func() {
		c, _ := set.Pick(time.Now(), nil)
		c.Load.End(time.Now(), time.Millisecond, exchange.ResultOK)
	}); n != 0 {
		t.Errorf("%v allocations per pick, want 0", n)
	}
}

func BenchmarkPick(b *testing.B) {
	for name, n := range map[string]int{"3": 3, "1000": 1000} {
		b.Run(name, func(b *testing.B) {
			set := New(P2C, endpoints(n), new(States), nil)
			b.ReportAllocs()
			for b.Loop() {
				now := time.Now()
				c, _ := set.Pick(now, nil)
				c.Load.End(now, time.Millisecond, exchange.ResultOK)
			}
		})
	}
}
