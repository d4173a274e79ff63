package balance

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// tally picks n times while nothing is in flight, and counts by endpoint.
func tally(t *testing.T, set *Picker, n int, r *rand.Rand) []int {
	t.Helper()
	picked := make([]int, len(set.entries))
	for range n {
		c, reason := set.Pick(start, exchange.Want{Key: r.Uint64(), Keyed: true})
		if reason != flow.ReasonNone {
			t.Fatalf("Pick: %v", reason)
		}
		picked[int(c.Endpoint.Address.Port())-1000]++
		c.Load.End(nil, start, 0, exchange.ResultUnknown, 0)
	}
	return picked
}

// chi2 is Pearson's statistic of picked against weights.
func chi2(picked []int, weights []float64) float64 {
	n, total, sum := 0, 0.0, 0.0
	for i := range picked {
		n += picked[i]
		total += weights[i]
	}
	for i := range picked {
		want := float64(n) * weights[i] / total
		sum += (float64(picked[i]) - want) * (float64(picked[i]) - want) / want
	}
	return sum
}

// While nothing is in flight every algorithm gives each endpoint its weight: those that draw within chance (chi², 9 degrees of freedom, p = 0.001: 27.9), turns
// exactly, tables within what their slots can express.
func TestWeightsAreHonouredByAllAlgorithms(t *testing.T) {
	weights := []float64{1, 2, 5, 10, 50, 50, 64, 100, 100, 128}
	eps := endpoints(len(weights))
	for i, w := range weights {
		eps[i].Weight = uint32(w)
	}
	const n = 200_000
	for name, a := range Algorithms {
		set := New(of(name), eps, new(States), seeded(1))
		picked := tally(t, set, n, rand.New(rand.NewPCG(3, 1)))
		switch {
		case a.schedule:
			for i, w := range weights {
				if want := n * w / 510; math.Abs(float64(picked[i])-want) > 2*w {
					t.Errorf("%s: endpoint of weight %v got %d, want %.1f", name, w, picked[i], want)
				}
			}
		case a.table != nil:
			for i, w := range weights {
				// A ring's share has a deviation of 1/sqrt(points); a Maglev table's is a slot or two.
				points := 128 * w / 100
				tolerance := 4*math.Sqrt(n*w/510) + 4*n*w/510/math.Sqrt(points)
				if name == policy.BalanceMaglev {
					tolerance = 4*math.Sqrt(n*w/510) + 2*n/65537.0*w
				}
				if want := n * w / 510; math.Abs(float64(picked[i])-want) > tolerance {
					t.Errorf("%s: endpoint of weight %v got %d, want %.1f ± %.0f", name, w, picked[i], want, tolerance)
				}
			}
		default:
			if x := chi2(picked, weights); x > 27.9 {
				t.Errorf("%s: %v of weights %v: chi² %.1f", name, picked, weights, x)
			}
		}
	}
}

// The turns of an endpoint are as far apart as they can be: with weights 4, 2 and 1 nobody waits longer than twice its distance.
func TestTurnsAreSmooth(t *testing.T) {
	eps := endpoints(3)
	eps[0].Weight, eps[1].Weight, eps[2].Weight = 40, 20, 10
	set := New(of(policy.BalanceRoundRobin), eps, new(States), seeded(1))
	var order []int
	for range 7 * 20 {
		c, _ := set.Pick(start, exchange.Want{})
		order = append(order, int(c.Endpoint.Address.Port())-1000)
	}
	for i, weight := range []int{4, 2, 1} {
		last := -1
		for at, who := range order {
			if who != i {
				continue
			}
			if gap := at - last; last >= 0 && gap > 2*(7/weight) {
				t.Errorf("endpoint %d waits %d turns, at %v", i, gap, order[:14])
			}
			last = at
		}
	}
	equal := New(of(policy.BalanceRoundRobin), endpoints(7), new(States), seeded(1))
	first, _ := equal.Pick(start, exchange.Want{})
	for k := 1; k < 50; k++ {
		c, _ := equal.Pick(start, exchange.Want{})
		if want := (int(first.Endpoint.Address.Port())-1000+k)%7 + 1000; int(c.Endpoint.Address.Port()) != want {
			t.Fatalf("pick %d is %d, want %d", k, c.Endpoint.Address.Port(), want)
		}
	}
}

// Where weights differ by more than turns are laid out for, they are rounded, and nobody is forgotten.
func TestManyUnevenTurns(t *testing.T) {
	eps := endpoints(1000)
	r := rand.New(rand.NewPCG(5, 5))
	for i := range eps {
		eps[i].Weight = 1 + r.Uint32N(128)
	}
	set := New(of(policy.BalanceRoundRobin), eps, new(States), seeded(1))
	s := set.look(1)
	laid := s.groups[0].tiers[0].turns
	if len(laid) > 2*maxTurns {
		t.Errorf("%d turns", len(laid))
	}
	counts := map[int32]int{}
	for _, i := range laid {
		counts[i]++
	}
	for i := range eps {
		if counts[int32(i)] == 0 {
			t.Fatalf("endpoint %d of weight %d has no turn", i, eps[i].Weight)
		}
	}
}

// owners is who serves each of n keys.
func owners(set *Picker, n int) []netip.AddrPort {
	out := make([]netip.AddrPort, n)
	for k := range out {
		c, _ := set.Pick(start, exchange.Want{Key: mix(uint64(k) + 1), Keyed: true})
		out[k] = c.Endpoint.Address
		c.Load.End(nil, start, 0, exchange.ResultUnknown, 0)
	}
	return out
}

// Of n endpoints one comes, goes, or is ejected: at most 2/n of the keys move.
func TestFewKeysMove(t *testing.T) {
	const keys = 40_000
	for _, algorithm := range []string{policy.BalanceRingHash, policy.BalanceMaglev} {
		for _, n := range []int{3, 10, 50, 100, 200} {
			eps := endpoints(n)
			b := of(algorithm)
			if algorithm == policy.BalanceMaglev && n > 100 {
				b.TableSize = 655373 // as configuration.md advises above a hundred endpoints
			}
			before := owners(New(b, eps, new(States), seeded(1)), keys)
			for what, changed := range map[string][]policy.Endpoint{
				"one goes":  slices.Concat(eps[:n/2], eps[n/2+1:]),
				"one comes": endpoints(n + 1),
				"one is ejected": func() []policy.Endpoint {
					out := endpoints(n)
					eject(&out[n/2], "ov", start, start.Add(time.Hour), 1e-9)
					return out
				}(),
				"one of half the weight": func() []policy.Endpoint {
					out := endpoints(n)
					out[n/2].Weight = 50
					return out
				}(),
			} {
				after := owners(New(b, changed, new(States), seeded(1)), keys)
				moved, others := 0, 0
				gone := eps[n/2].Address
				for k := range before {
					if before[k] != after[k] {
						moved++
						if before[k] != gone && after[k] != gone {
							others++
						}
					}
				}
				t.Logf("%s of %d: %s: %.2f/n of the keys moved", algorithm, n, what, float64(moved)*float64(n)/keys)
				if limit := 2 * keys / n; moved > limit || moved == 0 {
					t.Errorf("%s of %d: %s: %d of %d keys moved, at most %d may", algorithm, n, what, moved, keys, limit)
				}
				if what == "one is ejected" && others > 0 {
					t.Errorf("%s of %d: %s: %d keys of others moved", algorithm, n, what, others)
				}
			}
		}
	}
}

// Every sidecar of a fleet sends a key to the same endpoint, in whatever order it has heard of them.
func TestAFleetAgrees(t *testing.T) {
	for _, algorithm := range []string{policy.BalanceRingHash, policy.BalanceMaglev} {
		eps := endpoints(20)
		for i := range eps {
			eps[i].Weight = uint32(1 + i)
		}
		one := owners(New(of(algorithm), eps, new(States), seeded(1)), 5000)
		shuffled := slices.Clone(eps)
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if !slices.Equal(one, owners(New(of(algorithm), shuffled, new(States), nil), 5000)) {
			t.Errorf("%s: two sidecars disagree", algorithm)
		}
	}
}

// Keys leave an endpoint that is out, and come back to it.
func TestStickinessYieldsAndComesBack(t *testing.T) {
	for _, algorithm := range []string{policy.BalanceRingHash, policy.BalanceMaglev} {
		eps := endpoints(5)
		var states States
		before := owners(New(of(algorithm), eps, &states, seeded(1)), 2000)
		out := endpoints(5)
		eject(&out[2], "ov", start, start.Add(time.Minute), 0.01)
		set := New(of(algorithm), out, &states, seeded(1))
		probes, kept := 0, 0
		for k := range 20_000 {
			c, _ := set.Pick(start, exchange.Want{Key: mix(uint64(k) + 1), Keyed: true})
			c.Load.End(nil, start, 0, exchange.ResultUnknown, 0)
			if at := c.Endpoint.Address; at == out[2].Address {
				if !c.Probe || c.Override != "ov" || k < 2000 && before[k] != at {
					t.Fatalf("%s: key %d went to what is out: %+v", algorithm, k, c)
				}
				probes++
			} else if k < 2000 && before[k] == at {
				kept++
			}
		}
		if probes < 10 || probes > 90 { // 1 % of a fifth of 20,000 is 40
			t.Errorf("%s: %d probes, want about 40", algorithm, probes)
		}
		if kept < 1400 {
			t.Errorf("%s: %d of 2,000 keys stayed, want all but a fifth", algorithm, kept)
		}
		if !slices.Equal(before, owners(New(of(algorithm), eps, &states, seeded(1)), 2000)) {
			t.Errorf("%s: keys did not come back", algorithm)
		}
		// An override of the weight keeps the same part of the keys, always.
		half := endpoints(5)
		half[2].Override = &policy.Override{ID: "w", Kind: policy.OverrideWeight, Fraction: 0.5, Issued: start, Expires: start.Add(time.Hour)}
		one, two := owners(New(of(algorithm), half, &states, seeded(1)), 2000), owners(New(of(algorithm), half, &states, seeded(9)), 2000)
		if !slices.Equal(one, two) {
			t.Errorf("%s: what a reduced endpoint keeps depends on chance", algorithm)
		}
		had, has := 0, 0
		for k := range one {
			if before[k] == eps[2].Address {
				had++
				if one[k] == before[k] {
					has++
				}
			} else if one[k] != before[k] {
				t.Fatalf("%s: key %d of another moved", algorithm, k)
			}
		}
		if has < had*2/5 || has > had*3/5 {
			t.Errorf("%s: a reduced endpoint kept %d of %d keys, want half", algorithm, has, had)
		}
	}
}

// With a bound no endpoint has more in flight than its share, however popular a key is.
func TestBoundedLoad(t *testing.T) {
	for _, algorithm := range []string{policy.BalanceRingHash, policy.BalanceMaglev} {
		b := of(algorithm)
		b.BoundedLoad = 125
		set := New(b, endpoints(10), new(States), seeded(1))
		var open []exchange.Choice
		for range 400 {
			c, _ := set.Pick(start, exchange.Want{Key: 42, Keyed: true})
			open = append(open, c)
		}
		for _, e := range set.Endpoints(start) {
			if e.InFlight > 50 {
				t.Errorf("%s: %v has %d of 400 in flight, at most 125 %% of a tenth may", algorithm, e.Address, e.InFlight)
			}
		}
		for _, c := range open {
			c.Load.End(nil, start, 0, exchange.ResultOK, 0)
		}
		if n := set.states.bounded.Load(); n != 0 {
			t.Errorf("%s: %d in flight after all ended", algorithm, n)
		}
	}
}

// A table is made anew only when what it is made of has changed.
func TestTablesOutliveSnapshots(t *testing.T) {
	var states States
	one := New(of(policy.BalanceMaglev), endpoints(5), &states, nil)
	changed := endpoints(5)
	eject(&changed[0], "ov", start, start.Add(time.Hour), 0.01)
	two := New(of(policy.BalanceMaglev), changed, &states, nil)
	if one.groups[0].tiers[0].table != two.groups[0].tiers[0].table {
		t.Error("an override made a new table")
	}
	if three := New(of(policy.BalanceMaglev), endpoints(6), &states, nil); three.groups[0].tiers[0].table == two.groups[0].tiers[0].table {
		t.Error("another endpoint did not make a new table")
	}
}
