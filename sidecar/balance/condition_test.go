package balance

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// The cap is honoured among all endpoints, not only the first 64, and so is what was tried.
func TestAnyOfManyCanBeOut(t *testing.T) {
	eps := endpoints(300)
	for i := 200; i < 240; i++ {
		eject(&eps[i], "ov", start.Add(time.Duration(i)*time.Millisecond), start.Add(time.Hour), 1e-9)
	}
	for name := range Algorithms {
		set := New(of(name), eps, new(States), seeded(3))
		picked := tally(t, set, 30_000, rand.New(rand.NewPCG(1, 1)))
		out := 0
		for i, n := range picked {
			if n == 0 {
				out++
				if i < 200 || i >= 230 {
					t.Errorf("%s: endpoint %d got nothing", name, i)
				}
			}
		}
		if out != 30 {
			t.Errorf("%s: %d of 300 are out, want 30", name, out)
		}
		tried := []netip.AddrPort{eps[100].Address, eps[299].Address}
		for range 3000 {
			c, _ := set.Pick(start, exchange.Want{Tried: tried})
			if c.Endpoint == &eps[100] || c.Endpoint == &eps[299] {
				t.Fatalf("%s: %v was tried, and picked again", name, c.Endpoint.Address)
			}
			c.Load.End(nil, start, 0, exchange.ResultUnknown, 0)
		}
	}
}

// An endpoint that turns everything away, fast, and says when to come back gets nothing until then; without that word it gets next to nothing.
func TestOverloadIsNoAttraction(t *testing.T) {
	for _, tc := range []struct {
		retryAfter time.Duration
		most       int // of 1,500 in 10 s
	}{{0, 45}, {20 * time.Second, 5}} {
		set := New(policy.Balancer{}, endpoints(3), new(States), seeded(5))
		w := newWorld(t, set, 3, 6)
		w.answer = healthy
		w.run(30*time.Second, 150)
		w.picked, w.retryAfter = make([]int, 3), tc.retryAfter
		w.answer = func(i int, r *rand.Rand) (time.Duration, exchange.Result) {
			if i == 1 {
				return 50 * time.Microsecond, exchange.ResultOverloaded
			}
			return healthy(i, r)
		}
		w.run(10*time.Second, 150)
		if w.picked[1] > tc.most {
			t.Errorf("Retry-After %v: the endpoint got %d requests, at most %d are fair", tc.retryAfter, w.picked[1], tc.most)
		}
		w.run(30*time.Second, 150) // it must not look fast after a while, either
		if s := share(w.picked, 1); s > 0.04 {
			t.Errorf("Retry-After %v: in the long run it got %.1f %%", tc.retryAfter, 100*s)
		}
		w.picked, w.answer, w.retryAfter = make([]int, 3), healthy, 0
		w.run(60*time.Second, 150)
		if s := share(w.picked, 1); s < 0.15 {
			t.Errorf("Retry-After %v: after it healed it got %.1f %%", tc.retryAfter, 100*s)
		}
	}
	// All of them: somebody serves all the same.
	set := New(policy.Balancer{}, endpoints(3), new(States), seeded(5))
	for range 100 {
		c, reason := set.Pick(start, exchange.Want{})
		if reason != flow.ReasonNone {
			t.Fatal(reason)
		}
		c.Load.End(nil, start, time.Millisecond, exchange.ResultOverloaded, time.Hour)
	}
	for _, e := range set.Endpoints(start) {
		if want := start.Add(maxPause); !e.Paused.IsZero() && !e.Paused.Equal(want) {
			t.Errorf("paused until %v, at most %v is honoured", e.Paused, want)
		}
	}
}

// A new endpoint begins with a tenth of its share and has all of it after the window; so does one that comes back.
func TestSlowStart(t *testing.T) {
	for _, name := range []string{policy.BalanceRandom, policy.BalanceRoundRobin, policy.BalanceP2C, policy.BalanceLeastRequest} {
		b := of(name)
		b.SlowStart = policy.SlowStart{Window: 40 * time.Second}
		var states States
		old := New(b, endpoints(3), &states, seeded(1))
		if s := old.look(start.UnixNano()); !s.groups[0].tiers[0].uniform {
			t.Fatalf("%s: endpoints that were there from the beginning start slowly", name)
		}
		set := New(b, endpoints(4), &states, seeded(1))
		shares := func(from time.Duration) float64 {
			r, n := rand.New(rand.NewPCG(1, 1)), 0
			const picks = 40_000
			for k := range picks { // 400 ms
				now := start.Add(from + time.Duration(k)*10*time.Microsecond)
				c, _ := set.Pick(now, exchange.Want{Key: r.Uint64()})
				if c.Endpoint.Address.Port() == 1003 {
					n++
				}
				c.Load.End(nil, now, 0, exchange.ResultUnknown, 0)
			}
			return float64(n) / picks
		}
		for _, tc := range []struct {
			at   time.Duration
			want float64 // of its weight
		}{{0, 0.1}, {2 * time.Second, 0.1}, {10 * time.Second, 0.25}, {20 * time.Second, 0.5}, {30 * time.Second, 0.75}, {40 * time.Second, 1}, {60 * time.Second, 1}} {
			want := tc.want / (3 + tc.want)
			if got := shares(tc.at); math.Abs(got-want) > 0.02 {
				t.Errorf("%s: at %v the share is %.3f, want %.3f", name, tc.at, got, want)
			}
		}
		// It is ejected, and comes back by the clock.
		out := endpoints(4)
		eject(&out[3], "ov", start.Add(time.Minute), start.Add(2*time.Minute), 1e-9)
		set = New(b, out, &states, seeded(1))
		if got := shares(100 * time.Second); got != 0 {
			t.Errorf("%s: ejected, it gets %.3f", name, got)
		}
		if got, want := shares(2*time.Minute), 0.1/3.1; math.Abs(got-want) > 0.01 {
			t.Errorf("%s: back, it gets %.3f, want %.3f", name, got, want)
		}
		if got := shares(3 * time.Minute); math.Abs(got-0.25) > 0.02 {
			t.Errorf("%s: a minute later it gets %.3f", name, got)
		}
	}
	for _, tc := range []struct{ aggression, age, want float64 }{{1, 0.5, 0.5}, {2, 0.25, 0.5}, {0.5, 0.5, 0.25}, {1, 0, 0.1}, {1, 1, 1}} {
		s := policy.SlowStart{Window: time.Minute, Aggression: tc.aggression, MinWeight: 10}
		if got, _ := slow(s, int64(tc.age*float64(time.Minute))); math.Abs(got-tc.want) > 0.02 {
			t.Errorf("aggression %v at %v of the window: %v, want %v", tc.aggression, tc.age, got, tc.want)
		}
	}
}

// What leaves a priority whose endpoints fail, by Envoy's arithmetic.
func TestPrioritiesSpillOver(t *testing.T) {
	for _, tc := range []struct {
		name    string
		sizes   []int
		down    []int // unreachable, of each priority
		percent []float64
	}{
		{"all are well", []int{10, 10}, []int{0, 0}, []float64{100, 0}},
		{"above 72 % nothing leaves", []int{10, 10}, []int{2, 0}, []float64{100, 0}},
		{"half is down", []int{10, 10}, []int{5, 0}, []float64{70, 30}},
		{"the zone is down", []int{10, 10}, []int{10, 0}, []float64{0, 100}},
		{"of three priorities", []int{10, 10, 10}, []int{10, 5, 0}, []float64{0, 70, 30}},
		{"there is not enough", []int{10, 10}, []int{8, 8}, []float64{50, 50}},
		{"everything is down", []int{10, 30}, []int{10, 30}, []float64{25, 75}},
	} {
		var eps []policy.Endpoint
		for k, n := range tc.sizes {
			for range n {
				e := endpoints(len(eps) + 1)[len(eps)]
				e.Priority = uint32(k)
				eps = append(eps, e)
			}
		}
		set := New(of(policy.BalanceRandom), eps, new(States), seeded(1))
		at := 0
		for k, n := range tc.sizes {
			for i := range n {
				if i < tc.down[k] {
					e := &set.entries[at]
					for range reflexAfter {
						e.end(nil, start, time.Millisecond, exchange.ResultUnreachable, 0, false)
						e.inFlight.Add(1)
					}
				}
				at++
			}
		}
		picked := make([]float64, len(tc.sizes))
		const n = 20_000
		for range n {
			c, _ := set.Pick(start, exchange.Want{})
			if c.Probe {
				t.Fatalf("%s: a probe before its time", tc.name)
			}
			picked[c.Endpoint.Priority] += 100.0 / n
		}
		for k, want := range tc.percent {
			if math.Abs(picked[k]-want) > 1.5 || want == 0 && picked[k] > 0 {
				t.Errorf("%s: priority %d got %.1f %%, want %v", tc.name, k, picked[k], want)
			}
		}
		// A zone that is down is found to be up again: by probes, whichever of its endpoints the cap has out.
		if tc.name == "the zone is down" {
			w := &world{t: t, set: set, now: start, picked: make([]int, 20), probes: make([]int, 20), r: rand.New(rand.NewPCG(1, 1)), answer: healthy}
			w.want = func(*world) exchange.Want { return exchange.Want{} }
			w.run(10*time.Second, 100)
			home := 0
			for i := range 10 {
				if w.probes[i]+w.picked[i] == 0 { // once some are back, the cap spares the others
					t.Errorf("endpoint %d was not tried", i)
				}
				home += w.picked[i]
			}
			if home < 800 {
				t.Errorf("%d of 1,000 came home after the zone was up again", home)
			}
		}
	}
}

// Where few are left all are used; but not as long as another priority can take the load.
func TestPanic(t *testing.T) {
	eps := endpoints(30)
	for i := range eps {
		eps[i].Version = "v1"
		if i < 3 {
			eps[i].Version = "v2"
		}
	}
	for i := range 2 {
		eject(&eps[i], "ov", start, start.Add(time.Hour), 1e-9)
	}
	idle := func(b policy.Balancer, eps []policy.Endpoint) int {
		b.Subsets.Selectors = [][]string{{"version"}}
		set := New(b, eps, new(States), seeded(1))
		picked := map[netip.AddrPort]int{}
		for range 3000 {
			c, _ := set.Pick(start, exchange.Want{Subset: "version=v2"})
			picked[c.Endpoint.Address]++
		}
		return 3 - len(picked)
	}
	if n := idle(policy.Balancer{Algorithm: policy.BalanceRandom}, eps); n != 0 {
		t.Errorf("1 of 3 is left, and %d are not used: below 50 %% all are", n)
	}
	if n := idle(policy.Balancer{Algorithm: policy.BalanceRandom, PanicThreshold: 30}, eps); n != 2 {
		t.Errorf("1 of 3 is left, above the threshold of 30 %%: %d are not used, want 2", n)
	}
	if n := idle(policy.Balancer{Algorithm: policy.BalanceRandom, PanicThreshold: -1}, eps); n != 2 {
		t.Errorf("without a threshold %d are not used, want 2", n)
	}
	eject(&eps[2], "ov", start, start.Add(time.Hour), 1e-9)
	if n := idle(policy.Balancer{Algorithm: policy.BalanceRandom, PanicThreshold: -1}, eps); n != 0 {
		t.Errorf("nobody is left, and %d are not used", n)
	}
	two := endpoints(20)
	for i := range two {
		two[i].Version = "v2"
		if i >= 2 {
			two[i].Priority = 1
		}
	}
	eject(&two[0], "ov", start, start.Add(time.Hour), 1e-9)
	eject(&two[1], "ov", start, start.Add(time.Hour), 1e-9)
	set := New(of(policy.BalanceRandom), two, new(States), seeded(1))
	for range 2000 {
		if c, _ := set.Pick(start, exchange.Want{}); c.Endpoint.Priority == 0 {
			t.Fatal("a priority without healthy endpoints serves though the next one can")
		}
	}
}

// Localities of one priority get what their weights say, whatever they have of endpoints.
func TestLocalityWeights(t *testing.T) {
	eps := endpoints(10)
	for i := range eps {
		eps[i].Locality, eps[i].LocalityWeight = policy.Locality{Region: "eu", Zone: "a"}, 60
		if i >= 2 {
			eps[i].Locality.Zone, eps[i].LocalityWeight = "b", 40
		}
	}
	for name := range Algorithms {
		for weighted, want := range map[bool]float64{true: 0.6, false: 0.2} {
			b := of(name)
			b.LocalityWeighted = weighted
			picked := tally(t, New(b, eps, new(States), seeded(1)), 20_000, rand.New(rand.NewPCG(1, 1)))
			got := share(picked, 0) + share(picked, 1)
			if math.Abs(got-want) > 0.05 {
				t.Errorf("%s, weighted %v: zone a got %.3f, want %v", name, weighted, got, want)
			}
		}
	}
}

func TestSubsets(t *testing.T) {
	eps := endpoints(6)
	for i := range eps {
		eps[i].Version = []string{"v1", "v2"}[i%2]
		eps[i].Labels = map[string]string{"stage": []string{"prod", "beta", "beta"}[i/2]}
	}
	b := policy.Balancer{Subsets: policy.Subsets{Selectors: [][]string{{"version"}, {"stage", "version"}}}}
	serves := func(b policy.Balancer, subset string) (ports map[uint16]bool, reason flow.Reason) {
		set := New(b, eps, new(States), seeded(1))
		ports = map[uint16]bool{}
		for range 300 {
			c, reason := set.Pick(start, exchange.Want{Subset: subset})
			if reason != flow.ReasonNone {
				return nil, reason
			}
			ports[c.Endpoint.Address.Port()] = true
		}
		return ports, flow.ReasonNone
	}
	for _, tc := range []struct {
		subset   string
		fallback policy.SubsetFallback
		ports    []uint16
	}{
		{"", policy.FallbackAny, []uint16{1000, 1001, 1002, 1003, 1004, 1005}},
		{"version=v2", policy.FallbackNone, []uint16{1001, 1003, 1005}},
		{policy.SubsetName(map[string]string{"version": "v1", "stage": "beta"}), policy.FallbackNone, []uint16{1002, 1004}},
		{"version=v9", policy.FallbackAny, []uint16{1000, 1001, 1002, 1003, 1004, 1005}},
		{"version=v9", policy.FallbackNone, nil},
		{"stage=beta", policy.FallbackNone, nil}, // no selector has it
		{"version=v9", policy.FallbackDefault, []uint16{1000}},
		{"", policy.FallbackDefault, []uint16{1000}},
	} {
		b := b
		if b.Subsets.Fallback = tc.fallback; tc.fallback == policy.FallbackDefault {
			b.Subsets.Default = map[string]string{"stage": "prod", "version": "v1"}
		}
		ports, reason := serves(b, tc.subset)
		if len(ports) != len(tc.ports) || (reason == flow.ReasonNoEndpoint) != (tc.ports == nil) {
			t.Errorf("%q with fallback %s: %v, %v; want %v", tc.subset, tc.fallback, ports, reason, tc.ports)
		}
		for _, p := range tc.ports {
			if !ports[p] {
				t.Errorf("%q with fallback %s: %d did not serve", tc.subset, tc.fallback, p)
			}
		}
	}
}

// A try after one that reached nobody leaves the zone, also while nobody is known to be out; after any other failure it stays where there is another endpoint.
func TestTriesLeaveAZoneThatCannotBeReached(t *testing.T) {
	eps := endpoints(6)
	for i := range eps {
		eps[i].Priority = uint32(i / 2)
	}
	for name := range Algorithms {
		set := New(of(name), eps, new(States), seeded(1))
		for key := range uint64(200) {
			for _, c := range []struct {
				tried []int
				away  bool
				want  uint32
			}{{[]int{0}, true, 1}, {[]int{0}, false, 0}, {[]int{0, 2}, true, 2}, {[]int{4}, true, 0}} {
				w := exchange.Want{Away: c.away, Key: key, Keyed: true}
				for _, i := range c.tried {
					w.Tried = append(w.Tried, eps[i].Address)
				}
				if got, _ := set.Pick(start, w); got.Endpoint.Priority != c.want {
					t.Fatalf("%s: after %v (unreachable: %v) priority %d, want %d", name, c.tried, c.away, got.Endpoint.Priority, c.want)
				}
			}
		}
	}
}
