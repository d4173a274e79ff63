package balance

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// exploreOneIn is how rarely a pick ignores the costs.
const exploreOneIn = 33

// States is what was learnt about the endpoints of one destination, by address; it outlives Snapshots. The zero value is ready. Safe for
// concurrent use.
type States struct {
	tripped atomic.Int64 // endpoints whose reflex is open; 0 keeps Pick on its short path

	mu sync.Mutex
	m  map[netip.AddrPort]*state
}

// take returns the state of every endpoint and forgets all other addresses. Tries on their way to those still end well. The map is shared:
// callers only read it, before the next take.
func (s *States) take(endpoints []policy.Endpoint) map[netip.AddrPort]*state {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[netip.AddrPort]*state, len(endpoints))
	for i := range endpoints {
		a := endpoints[i].Address
		if m[a] != nil {
			continue
		}
		if m[a] = s.m[a]; m[a] == nil {
			m[a] = newState(s)
		}
	}
	for a, st := range s.m {
		if m[a] == nil && st.openUntil.Swap(0) != 0 {
			s.tripped.Add(-1)
		}
	}
	s.m = m
	return m
}

// Picker chooses among the endpoints of one Snapshot and never changes. It implements exchange.Picker.
type Picker struct {
	algorithm Algorithm
	random    func() uint64
	states    *States
	entries   []entry
	total     float64 // of the weights
	uniform   bool    // all weights are the same
	ejectable []int   // entries with an eject override, oldest first
}

type entry struct {
	*state
	endpoint *policy.Endpoint
	weight   float64
}

// share is the weight as an override scales it.
func (e *entry) share(now int64) float64 {
	if o := e.endpoint.Override; o != nil && o.Kind == policy.OverrideWeight && now < o.Expires.UnixNano() {
		return e.weight * max(o.Fraction, 0.001)
	}
	return e.weight
}

// New makes the Picker of a Snapshot. The slice and what it points to must not change afterwards. random may be nil (the runtime's
// generator); it must be safe for concurrent use.
func New(a Algorithm, endpoints []policy.Endpoint, states *States, random func() uint64) *Picker {
	if random == nil {
		random = rand.Uint64
	}
	p := &Picker{algorithm: a, random: random, states: states, uniform: true}
	known := states.take(endpoints)
	seen := make(map[netip.AddrPort]bool, len(endpoints))
	for i := range endpoints {
		e := &endpoints[i]
		if seen[e.Address] {
			continue // one address, one endpoint
		}
		seen[e.Address] = true
		st := known[e.Address]
		w := float64(e.Weight)
		if w <= 0 {
			w = policy.DefaultWeight
		}
		p.entries = append(p.entries, entry{state: st, endpoint: e, weight: w})
		p.total += w
		o := e.Override
		p.uniform = p.uniform && w == p.entries[0].weight && (o == nil || o.Kind != policy.OverrideWeight)
		if o != nil && o.Kind == policy.OverrideEject {
			p.ejectable = append(p.ejectable, len(p.entries)-1)
		}
	}
	slices.SortStableFunc(p.ejectable, func(a, b int) int {
		return p.entries[a].endpoint.Override.Issued.Compare(p.entries[b].endpoint.Override.Issued)
	})
	return p
}

// Cap is how many of n endpoints may be out at once, by override and reflex together: max(1, 10 %), never all.
func Cap(n int) int { return min(max(1, n/10), n-1) }

// Pick implements exchange.Picker. The reason is ReasonNoEndpoint when there is none; every other pick succeeds.
func (p *Picker) Pick(now time.Time, tried []netip.AddrPort) (exchange.Choice, flow.Reason) {
	n := len(p.entries)
	if n == 0 {
		return exchange.Choice{}, flow.ReasonNoEndpoint
	}
	t := now.UnixNano()
	view := View{p: p, left: n}
	if len(p.ejectable) > 0 || p.states.tripped.Load() > 0 {
		if i, reflex, ok := p.eject(&view, t, tried); ok {
			return p.take(i, t, true, reflex), flow.ReasonNone
		}
	}
	p.avoid(&view, tried)
	var i int
	if below(p.random, exploreOneIn) == 0 {
		i = Random(view, t, p.random)
	} else {
		i = p.algorithm(view, t, p.random)
	}
	return p.take(i, t, false, false), flow.ReasonNone
}

func (p *Picker) take(i int, now int64, probe, reflex bool) exchange.Choice {
	e := &p.entries[i]
	e.inFlight.Add(1)
	c := exchange.Choice{Endpoint: e.endpoint, Probe: probe, Load: (*plainLoad)(e.state)}
	if reflex {
		c.Load = (*reflexLoad)(e.state)
	} else if probe {
		c.Override = e.endpoint.Override.ID
	} else if o := e.endpoint.Override; o != nil && o.Kind == policy.OverrideWeight && now < o.Expires.UnixNano() {
		c.Override = o.ID
	}
	return c
}

// eject takes out what override and reflex say, under the cap, and chooses a probe when one is due.
func (p *Picker) eject(v *View, now int64, tried []netip.AddrPort) (probe int, reflex, ok bool) {
	n := len(p.entries)
	room := Cap(n)
	probe = -1
	for _, i := range p.ejectable {
		e := &p.entries[i]
		o := e.endpoint.Override
		if room <= 0 || i >= 64 || now >= o.Expires.UnixNano() {
			continue
		}
		room--
		v.out |= 1 << i
		v.left--
		fraction := o.Fraction
		if fraction <= 0 || fraction > 1 {
			fraction = 0.01
		}
		if probe < 0 && unit(p.random) < fraction*e.weight/p.total && !slices.Contains(tried, e.endpoint.Address) {
			probe = i
		}
	}
	if p.states.tripped.Load() > 0 {
		for i := range min(n, 64) {
			st := p.entries[i].state
			until := st.openUntil.Load()
			if until == 0 || !v.usable(i) || room <= 0 {
				continue
			}
			room--
			v.out |= 1 << i
			v.left--
			if probe < 0 && now >= until && st.probing.CompareAndSwap(false, true) {
				return i, true, true
			}
		}
	}
	return probe, false, probe >= 0
}

// avoid takes out endpoints that were tried already, unless nothing else is left.
func (p *Picker) avoid(v *View, tried []netip.AddrPort) {
	if len(tried) == 0 {
		return
	}
	for i := range min(len(p.entries), 64) {
		if v.left > 1 && v.usable(i) && slices.Contains(tried, p.entries[i].endpoint.Address) {
			v.out |= 1 << i
			v.left--
		}
	}
}

// Endpoint is what a Picker knows of one endpoint, for the admin page.
type Endpoint struct {
	Address  netip.AddrPort
	Average  time.Duration // decayed response time
	Failing  float64       // moving share of failed tries, 0 to 1
	InFlight int64
	Ejected  bool // by an override in force (the cap may still spare it)
	Reflex   bool // unreachable, waiting for a probe
}

// Endpoints describes the endpoints in the order of the Snapshot.
func (p *Picker) Endpoints(now time.Time) []Endpoint {
	out := make([]Endpoint, 0, len(p.entries))
	for i := range p.entries {
		e := &p.entries[i]
		elapsed := now.UnixNano() - e.stamp.Load()
		o := e.endpoint.Override
		out = append(out, Endpoint{
			Address:  e.endpoint.Address,
			Average:  time.Duration(decayed(e.float(&e.average), elapsed, decay) * float64(time.Second)),
			Failing:  decayed(e.float(&e.failing), elapsed, failingDecay),
			InFlight: e.inFlight.Load(),
			Ejected:  o != nil && o.Kind == policy.OverrideEject && now.Before(o.Expires),
			Reflex:   e.openUntil.Load() != 0,
		})
	}
	return out
}
