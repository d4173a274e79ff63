package balance

import (
	"fmt"
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
	t      *testing.T
	set    *Picker
	now    time.Time
	want   func(w *world) exchange.Want
	answer func(endpoint int, r *rand.Rand) (time.Duration, exchange.Result)
	// retryAfter is what whoever is overloaded says.
	retryAfter time.Duration
	picked     []int
	probes     []int
	times      []time.Duration
	pending    []pending
	r          *rand.Rand
}

type pending struct {
	at     time.Time
	took   time.Duration
	choice exchange.Choice
	result exchange.Result
	wait   *exchange.Waiting
}

func newWorld(t *testing.T, set *Picker, n int, seed uint64) *world {
	return &world{t: t, set: set, now: start, picked: make([]int, n), probes: make([]int, n), r: rand.New(rand.NewPCG(seed, 1)), want: func(*world) exchange.Want { return exchange.Want{} }}
}

func (w *world) run(d time.Duration, rps float64) {
	end := w.now.Add(d)
	for w.now.Before(end) {
		w.now = w.now.Add(time.Duration(w.r.ExpFloat64() / rps * float64(time.Second)))
		sort.Slice(w.pending, func(i, j int) bool { return w.pending[i].at.Before(w.pending[j].at) })
		for len(w.pending) > 0 && !w.pending[0].at.After(w.now) {
			p := w.pending[0]
			p.choice.Load.End(p.wait, p.at, p.took, p.result, w.retryAfter)
			w.pending = w.pending[1:]
		}
		c, reason := w.set.Pick(w.now, w.want(w))
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
		wait := new(exchange.Waiting)
		c.Load.Begin(wait, w.now)
		w.pending = append(w.pending, pending{at: w.now.Add(took), took: took, choice: c, result: result, wait: wait})
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
	set := New(policy.Balancer{}, endpoints(5), new(States), seeded(1))
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
	set := New(policy.Balancer{}, eps, new(States), seeded(1))
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
	tail := func(algorithm string) (time.Duration, float64) {
		set := New(policy.Balancer{Algorithm: algorithm}, endpoints(10), new(States), seeded(3))
		w := newWorld(t, set, 10, 4)
		w.answer = slow
		w.run(time.Minute, 500)
		return quantile(w.times, 0.99), share(w.picked, 3)
	}
	p2c, share := tail(policy.BalanceP2C)
	for _, other := range []string{policy.BalanceRandom, policy.BalanceRoundRobin} {
		worse, _ := tail(other)
		t.Logf("p99 %v with p2c-ewma (slow endpoint's share %.2f %%), %v with %s", p2c, 100*share, worse, other)
		if p2c*5 > worse || share > 0.01 {
			t.Errorf("p99 %v with p2c-ewma (slow endpoint's share %.2f %%), %v with %s: want less than a fifth, share under 1 %%", p2c, 100*share, worse, other)
		}
	}
	least, _ := tail(policy.BalanceLeastRequest)
	if uniform, _ := tail(policy.BalanceRandom); least > uniform {
		t.Errorf("p99 %v with least-request, %v at random", least, uniform)
	}
}

func TestAFastFailingEndpointAttractsNoTrafficButStaysInEvidence(t *testing.T) {
	set := New(policy.Balancer{}, endpoints(3), new(States), seeded(5))
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
	set := New(policy.Balancer{}, eps, new(States), seeded(8))
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
		set := New(policy.Balancer{}, eps, new(States), seeded(1))
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
	set := New(policy.Balancer{}, endpoints(3), new(States), seeded(11))
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
	set := New(policy.Balancer{}, eps, new(States), nil)
	for range 100 {
		c, reason := set.Pick(start, exchange.Want{})
		if reason != flow.ReasonNone || c.Probe {
			t.Fatalf("reason %v, probe %v", reason, c.Probe)
		}
		c.Load.End(nil, start, time.Millisecond, exchange.ResultUnreachable, 0)
	}
}

func TestTriedEndpointsAreAvoided(t *testing.T) {
	eps := endpoints(3)
	set := New(policy.Balancer{}, eps, new(States), seeded(1))
	tried := []netip.AddrPort{eps[0].Address, eps[2].Address}
	for range 200 {
		c, _ := set.Pick(start, exchange.Want{Tried: tried})
		if c.Endpoint.Address != eps[1].Address {
			t.Fatalf("picked %v again", c.Endpoint.Address)
		}
		c.Load.End(nil, start, time.Millisecond, exchange.ResultUnknown, 0)
	}
	if c, reason := set.Pick(start, exchange.Want{Tried: append(tried, eps[1].Address)}); reason != flow.ReasonNone || c.Endpoint == nil {
		t.Fatalf("with all tried: %v", reason)
	}
}

func TestWhatWasLearntOutlivesUpdates(t *testing.T) {
	set := New(policy.Balancer{}, endpoints(3), new(States), seeded(1))
	c, _ := set.Pick(start, exchange.Want{})
	c.Load.End(nil, start, 3*time.Second, exchange.ResultOK, 0)
	addr := c.Endpoint.Address
	set = New(policy.Balancer{}, endpoints(2000), set.states, nil)
	for _, e := range set.Endpoints(start) {
		if e.Address == addr && e.Average != 3*time.Second {
			t.Fatalf("average = %v after an update, want 3s", e.Average)
		}
	}
	set = New(policy.Balancer{}, nil, set.states, nil)
	if _, reason := set.Pick(start, exchange.Want{}); reason != flow.ReasonNoEndpoint {
		t.Fatalf("reason = %v, want no_endpoint", reason)
	}
}

func TestEveryAlgorithmIsSafeAndBalancesItsBooks(t *testing.T) {
	for name := range Algorithms {
		t.Run(name, func(t *testing.T) {
			b := of(name)
			b.SlowStart = policy.SlowStart{}
			var states States
			var current atomic.Pointer[Picker]
			current.Store(New(b, endpoints(3), &states, nil))
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
						current.Store(New(b, eps, &states, nil))
					}
				}
			})
			for g := range 4 {
				picks.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), 1))
					for range 3000 {
						c, reason := current.Load().Pick(time.Now(), exchange.Want{Key: r.Uint64(), Keyed: true})
						if reason != flow.ReasonNone {
							t.Errorf("Pick: %v", reason)
							return
						}
						var wait exchange.Waiting
						c.Load.Begin(&wait, time.Now())
						wait.Excused.Store(r.IntN(2) == 0)
						c.Load.End(&wait, time.Now(), time.Millisecond, exchange.Result(r.IntN(6)), 0)
					}
				})
			}
			picks.Wait()
			close(stop)
			updates.Wait()
			for _, e := range New(b, endpoints(7), &states, nil).Endpoints(time.Now()) {
				if e.InFlight != 0 {
					t.Errorf("%v: %d in flight after all ended", e.Address, e.InFlight)
				}
				if st := states.m[e.Address]; st.oldest.Load() != 0 || st.waiting != (waiting{}) {
					t.Errorf("%v: a try waits after all ended", e.Address)
				}
			}
		})
	}
}

// of is a policy with an algorithm and what it needs.
func of(algorithm string) policy.Balancer {
	b := policy.Balancer{Algorithm: algorithm}
	if b.Keyed() {
		b.Affinity = []policy.AffinityKey{{Kind: policy.AffinityHeader, Name: "x-user"}}
	}
	return b
}

func TestPickAllocatesNothing(t *testing.T) {
	for name := range Algorithms {
		for _, n := range []int{10, 300} {
			eps := endpoints(n)
			eject(&eps[4], "ov", start, time.Now().Add(time.Hour), 0.5)
			eps[5].Weight = 50
			b := of(name)
			b.Subsets.Selectors = [][]string{{"version"}}
			for i := range eps {
				eps[i].Version, eps[i].Priority = "v2", uint32(i%2)
			}
			for _, bound := range []int{0, 150} {
				if b.BoundedLoad = bound; bound != 0 && !b.Keyed() {
					continue
				}
				set := New(b, eps, new(States), nil)
				r := rand.New(rand.NewPCG(1, 1))
				var wait exchange.Waiting
				w := exchange.Want{Tried: []netip.AddrPort{eps[0].Address}, Keyed: true, Subset: "version=v2"}
				if allocs := testing.AllocsPerRun(1000, func() {
					w.Key = r.Uint64()
					c, _ := set.Pick(time.Now(), w)
					c.Load.Begin(&wait, time.Now())
					c.Load.End(&wait, time.Now(), time.Millisecond, exchange.ResultOK, 0)
				}); allocs != 0 {
					t.Errorf("%s of %d: %v allocations per pick, want 0", name, n, allocs)
				}
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, name := range policy.BalanceAlgorithms {
		for _, n := range []int{3, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				set := New(of(name), endpoints(n), new(States), nil)
				b.ReportAllocs()
				key, now := uint64(1), time.Now()
				for b.Loop() {
					key = mix(key)
					c, _ := set.Pick(now, exchange.Want{Key: key, Keyed: true})
					(*state)(c.Load.(*plainLoad)).inFlight.Add(-1) // what End adds is measured below
				}
			})
		}
	}
}

// BenchmarkPickParallel is contention: all goroutines share a Picker.
func BenchmarkPickParallel(b *testing.B) {
	for _, name := range policy.BalanceAlgorithms {
		b.Run(name, func(b *testing.B) {
			set := New(of(name), endpoints(100), new(States), nil)
			b.RunParallel(func(pb *testing.PB) {
				key, now := rand.Uint64(), time.Now()
				for pb.Next() {
					key = mix(key)
					c, _ := set.Pick(now, exchange.Want{Key: key, Keyed: true})
					(*state)(c.Load.(*plainLoad)).inFlight.Add(-1)
				}
			})
		})
	}
}

// BenchmarkEnd is what an answer costs.
func BenchmarkEnd(b *testing.B) {
	set := New(policy.Balancer{}, endpoints(100), new(States), nil)
	now := time.Now()
	var wait exchange.Waiting
	for b.Loop() {
		c, _ := set.Pick(now, exchange.Want{})
		c.Load.Begin(&wait, now)
		c.Load.End(&wait, now, time.Millisecond, exchange.ResultOK, 0)
	}
}

// BenchmarkNew is what a Snapshot costs whose endpoints have changed.
func BenchmarkNew(b *testing.B) {
	for _, name := range policy.BalanceAlgorithms {
		for _, n := range []int{3, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				eps := endpoints(n)
				for b.Loop() {
					New(of(name), eps, new(States), nil).look(1)
				}
			})
		}
	}
}

// A session's endpoint is chosen whenever it may be: not when it is out, was tried, is not of the subset, or is gone.
func TestStay(t *testing.T) {
	now := time.Now()
	var endpoints []policy.Endpoint
	for i := range 10 {
		endpoints = append(endpoints, policy.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Weight: 100})
	}
	endpoints[4].Override = &policy.Override{Kind: policy.OverrideEject, Issued: now, Expires: now.Add(time.Hour)}
	for _, algorithm := range policy.BalanceAlgorithms {
		p := New(policy.Balancer{Algorithm: algorithm}, endpoints, &States{}, nil)
		for i := range endpoints {
			w := exchange.Want{Stay: exchange.EndpointID(&endpoints[i])}
			for range 20 {
				c, _ := p.Pick(now, w)
				if !c.Probe && (c.Endpoint == &endpoints[i]) != (i != 4) {
					t.Fatalf("%s: the session of %s went to %s", algorithm, endpoints[i].Address, c.Endpoint.Address)
				}
				var waiting exchange.Waiting
				c.Load.Begin(&waiting, now)
				c.Load.End(&waiting, now, time.Millisecond, exchange.ResultOK, 0)
			}
			w.Tried = []netip.AddrPort{endpoints[i].Address}
			if c, _ := p.Pick(now, w); c.Endpoint == &endpoints[i] {
				t.Errorf("%s: %s was tried", algorithm, c.Endpoint.Address)
			}
		}
		if c, _ := p.Pick(now, exchange.Want{Stay: 1}); c.Endpoint == nil {
			t.Errorf("%s: a session whose endpoint is gone has none", algorithm)
		}
	}
}
