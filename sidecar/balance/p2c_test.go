package balance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

var t0 = time.Unix(1_800_000_000, 0)

// pool is n endpoints under the default algorithm with a seeded source of chance and a clock of its own.
type pool struct {
	t      *testing.T
	now    time.Time
	states States
	eps    []policy.Endpoint
	rng    *rand.Rand
	picker exchange.Picker
}

func newPool(t *testing.T, n int) *pool {
	p := &pool{t: t, now: t0, rng: rand.New(rand.NewPCG(1, 2))}
	for i := range n {
		p.eps = append(p.eps, policy.Endpoint{Address: addr(i), Weight: 100})
	}
	return p.build()
}

func addr(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:80", i+1)) }

func (p *pool) build() *pool {
	p.picker = Algorithms[Default](p.eps, &p.states, p.rng.Float64)
	return p
}

func (p *pool) eject(i int, kind policy.OverrideKind, f float64, expires time.Time) {
	p.eps[i].Override = &policy.Override{ID: fmt.Sprint("o", i), Kind: kind, Fraction: f, Issued: t0.Add(time.Duration(i)), Expires: expires}
}

// run picks n times, one at a time; took and result answer for each endpoint. It returns the shares and the number of probes.
func (p *pool) run(n int, answer func(i int) (time.Duration, exchange.Result)) (share []float64, probes int) {
	p.t.Helper()
	share = make([]float64, len(p.eps))
	for range n {
		c, reason := p.picker.Pick(p.now, nil)
		if reason != flow.ReasonNone {
			p.t.Fatalf("nothing picked: %s", reason)
		}
		i := 0
		for p.eps[i].Address != c.Endpoint.Address {
			i++
		}
		share[i] += 1 / float64(n)
		if c.Probe {
			probes++
		}
		took, result := answer(i)
		p.now = p.now.Add(time.Millisecond)
		c.Load.End(p.now, took, result)
	}
	return share, probes
}

func fine(int) (time.Duration, exchange.Result) { return 5 * time.Millisecond, exchange.ResultOK }

func between(t *testing.T, what string, v, lo, hi float64) {
	t.Helper()
	if v < lo || v > hi {
		t.Errorf("%s: %.4f, want %.4f to %.4f", what, v, lo, hi)
	}
}

// TestAlgorithms walks the table: what every algorithm must do.
func TestAlgorithms(t *testing.T) {
	for name, build := range Algorithms {
		var states States
		if _, r := build(nil, &states, rand.Float64).Pick(t0, nil); r != flow.ReasonNoEndpoint {
			t.Errorf("%s: no endpoints: %s", name, r)
		}
		eps := []policy.Endpoint{{Address: addr(0)}, {Address: addr(1)}}
		p := build(eps, &states, rand.Float64)
		for range 50 {
			c, _ := p.Pick(t0, []netip.AddrPort{addr(0)})
			if c.Endpoint.Address != addr(1) {
				t.Fatalf("%s: an endpoint that was tried is picked before one that was not", name)
			}
			c.Load.End(t0, time.Millisecond, exchange.ResultOK)
		}
		if c, r := p.Pick(t0, []netip.AddrPort{addr(0), addr(1)}); r != flow.ReasonNone || c.Endpoint == nil {
			t.Errorf("%s: when all were tried, one must serve again: %s", name, r)
		}
		for i := range eps { // none is ever left out of one
			eps[i].Override = &policy.Override{Kind: policy.OverrideEject, Fraction: 0.01, Expires: t0.Add(time.Hour)}
		}
		if _, r := build(eps[:1], &states, rand.Float64).Pick(t0, nil); r != flow.ReasonNone {
			t.Errorf("%s: the last endpoint was ejected: %s", name, r)
		}
	}
}

func TestEqualEndpointsShareEqually(t *testing.T) {
	share, _ := newPool(t, 4).run(8000, fine)
	for i, s := range share {
		between(t, fmt.Sprint("share of ", i), s, 0.15, 0.35)
	}
}

func TestSlowEndpointIsAvoidedButNotForgotten(t *testing.T) {
	p := newPool(t, 3)
	share, _ := p.run(6000, func(i int) (time.Duration, exchange.Result) {
		if i == 0 {
			return 300 * time.Millisecond, exchange.ResultOK
		}
		return fine(i)
	})
	between(t, "share of the slow one", share[0], 0.005, 0.03)
}

func TestFastFailuresAreNotAttractive(t *testing.T) {
	share, _ := newPool(t, 3).run(6000, func(i int) (time.Duration, exchange.Result) {
		if i == 0 {
			return 100 * time.Microsecond, exchange.ResultFailed
		}
		return 50 * time.Millisecond, exchange.ResultOK
	})
	between(t, "share of the failing one", share[0], 0.005, 0.03)
}

func TestRecoveredEndpointReturns(t *testing.T) {
	p := newPool(t, 3)
	p.run(300, func(i int) (time.Duration, exchange.Result) {
		if i == 0 {
			return time.Millisecond, exchange.ResultFailed
		}
		return fine(i)
	})
	p.run(90_000, fine) // ms
	share, _ := p.run(6000, fine)
	between(t, "share of the recovered one", share[0], 0.2, 0.45)
}

func TestWeights(t *testing.T) {
	p := newPool(t, 3)
	p.eps[0].Weight = 80
	share, _ := p.build().run(20_000, func(int) (time.Duration, exchange.Result) { return Seed, exchange.ResultOK })
	between(t, "share of weight 80 beside 100 and 100", share[0], 0.20, 0.34)
	p.eps[0].Weight = 100
	p.eject(0, policy.OverrideWeight, 0.2, p.now.Add(time.Hour))
	share, _ = p.build().run(20_000, func(int) (time.Duration, exchange.Result) { return Seed, exchange.ResultOK })
	between(t, "share of weight 100 scaled by 0.2", share[0], 0.04, 0.14)
}

func TestEjectLeavesHalfOpenTraffic(t *testing.T) {
	p := newPool(t, 3)
	p.eject(1, policy.OverrideEject, 0.01, t0.Add(100*time.Second))
	share, probes := p.build().run(50_000, fine)
	between(t, "share of the ejected one", share[1], 0.0015, 0.0060) // 1 % of a third
	if want := int(share[1]*50_000 + 0.5); probes != want {
		t.Errorf("%d probes, want %d: every pick of an ejected endpoint and no other", probes, want)
	}
	p.now = t0.Add(100 * time.Second) // expired: it ends by itself
	share, probes = p.run(6000, fine)
	between(t, "share after the expiry", share[1], 0.2, 0.45)
	if probes != 0 {
		t.Errorf("%d probes after the expiry", probes)
	}
}

func TestCapOfBothActuators(t *testing.T) {
	p := newPool(t, 4)
	for i := range 3 { // a controller gone mad
		p.eject(i, policy.OverrideEject, 0.01, t0.Add(time.Hour))
	}
	p.build()
	// Our own reflex may not add to it.
	for range UnreachableAfter {
		c := p.picker.(*p2c).choose(3)
		c.Load.End(p.now, time.Millisecond, exchange.ResultUnreachable)
	}
	p.now = p.now.Add(time.Minute)
	share, _ := p.run(20_000, fine)
	out := 0
	for _, s := range share {
		if s < 0.02 {
			out++
		}
	}
	if out != 1 {
		t.Errorf("%d of 4 endpoints are left out, want 1: shares %v", out, share)
	}
}

func TestUnreachableEndpointIsSkippedAndProbed(t *testing.T) {
	p := newPool(t, 3)
	dead := func(i int) (time.Duration, exchange.Result) {
		if i == 0 {
			return time.Millisecond, exchange.ResultUnreachable
		}
		return fine(i)
	}
	p.run(2000, dead)
	share, probes := p.run(60_000, dead) // a minute
	if n := int(share[0]*60_000 + 0.5); n != probes || n < 1 || n > 12 {
		t.Errorf("%d picks of the dead endpoint in a minute, %d of them probes; want a few, all probes", n, probes)
	}
	p.now = p.now.Add(SkipMax)
	p.run(2, fine) // the probe finds it alive
	p.now = p.now.Add(2 * time.Minute)
	share, _ = p.run(6000, fine)
	between(t, "share after it came back", share[0], 0.2, 0.45)
}

func TestStateSurvivesSnapshots(t *testing.T) {
	p := newPool(t, 2)
	c := p.picker.(*p2c).choose(0)
	p.eps = append(p.eps, policy.Endpoint{Address: addr(7), Weight: 100})
	p.build()
	if n := p.picker.(*p2c).states[0].inflight.Load(); n != 1 {
		t.Errorf("in flight after a new snapshot: %d, want 1", n)
	}
	c.Load.End(p.now, time.Second, exchange.ResultOK)
	if got := p.picker.(*p2c).states[0].estimate(p.now); got != float64(time.Second) {
		t.Errorf("estimate after a new snapshot: %v", time.Duration(got))
	}
	p.eps = p.eps[1:]
	p.build()
	if len(p.states.m) != 2 {
		t.Errorf("%d states are kept for 2 endpoints", len(p.states.m))
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	p := newPool(t, 10)
	p.eject(1, policy.OverrideEject, 0.01, t0.Add(time.Hour))
	p.build()
	if n := testing.AllocsPerRun(1000, func() {
		c, _ := p.picker.Pick(p.now, nil)
		c.Load.End(p.now, time.Millisecond, exchange.ResultOK)
	}); n != 0 {
		t.Errorf("Pick allocates %v times, want 0", n)
	}
}

func BenchmarkPick(b *testing.B) {
	var states States
	var eps []policy.Endpoint
	for i := range 10 {
		eps = append(eps, policy.Endpoint{Address: addr(i)})
	}
	p := NewPicker(eps, &states)
	b.ReportAllocs()
	for b.Loop() {
		c, _ := p.Pick(t0, nil)
		c.Load.End(t0, time.Millisecond, exchange.ResultOK)
	}
}
