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
const exploreOneIn = 50

// Set is the endpoints of one destination, and what was learnt about them. It implements exchange.Picker.
type Set struct {
	algorithm Algorithm
	random    func() uint64
	snap      atomic.Pointer[snapshot]
	tripped   atomic.Int64 // endpoints whose reflex is open; 0 keeps Pick on its short path

	mu     sync.Mutex // Update
	states map[netip.AddrPort]*state
}

type snapshot struct {
	entries   []entry
	ejectable []int // entries with an eject override, oldest first
}

type entry struct {
	*state
	endpoint *policy.Endpoint
	weight   float64
}

func (e *entry) cost(now int64) float64 {
	w := e.weight
	if o := e.endpoint.Override; o != nil && o.Kind == policy.OverrideWeight && now < o.Expires.UnixNano() {
		w *= max(o.Fraction, 0.001)
	}
	return e.state.cost(now, w)
}

// New makes an empty Set; it has no endpoint until the first Update. random may be nil (the runtime's generator).
func New(a Algorithm, random func() uint64) *Set {
	if a == nil {
		a = Algorithms[Default]
	}
	if random == nil {
		random = rand.Uint64
	}
	s := &Set{algorithm: a, random: random, states: map[netip.AddrPort]*state{}}
	s.snap.Store(&snapshot{})
	return s
}

// Update replaces the endpoints. The slice and what it points to must not change afterwards. Addresses that are not in it are forgotten;
// tries on their way to them still end well.
func (s *Set) Update(endpoints []policy.Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &snapshot{entries: make([]entry, 0, len(endpoints))}
	keep := make(map[netip.AddrPort]*state, len(endpoints))
	for i := range endpoints {
		e := &endpoints[i]
		if keep[e.Address] != nil {
			continue // one address, one endpoint
		}
		st := s.states[e.Address]
		if st == nil {
			st = newState(s)
		}
		keep[e.Address] = st
		w := float64(e.Weight)
		if w <= 0 {
			w = policy.DefaultWeight
		}
		n.entries = append(n.entries, entry{state: st, endpoint: e, weight: w})
		if o := e.Override; o != nil && o.Kind == policy.OverrideEject {
			n.ejectable = append(n.ejectable, len(n.entries)-1)
		}
	}
	slices.SortStableFunc(n.ejectable, func(a, b int) int {
		return n.entries[a].endpoint.Override.Issued.Compare(n.entries[b].endpoint.Override.Issued)
	})
	for addr, st := range s.states {
		if keep[addr] == nil && st.openUntil.Swap(0) != 0 {
			s.tripped.Add(-1)
		}
	}
	s.states = keep
	s.snap.Store(n)
}

// Cap is how many of n endpoints may be out at once, by override and reflex together: max(1, 10 %), never all.
func Cap(n int) int { return min(max(1, n/10), n-1) }

// Pick implements exchange.Picker. The reason is ReasonNoEndpoint when there is none; every other pick succeeds.
func (s *Set) Pick(now time.Time, tried []netip.AddrPort) (exchange.Choice, flow.Reason) {
	snap := s.snap.Load()
	n := len(snap.entries)
	if n == 0 {
		return exchange.Choice{}, flow.ReasonNoEndpoint
	}
	t := now.UnixNano()
	view := View{snap: snap, left: n}
	if len(snap.ejectable) > 0 || s.tripped.Load() > 0 {
		if i, reflex, ok := s.eject(&view, t); ok {
			return take(snap, i, true, reflex), flow.ReasonNone
		}
	}
	s.avoid(&view, tried)
	var i int
	if below(s.random, exploreOneIn) == 0 {
		i = view.random(s.random)
	} else {
		i = s.algorithm(view, t, s.random)
	}
	return take(snap, i, false, false), flow.ReasonNone
}

func take(snap *snapshot, i int, probe, reflex bool) exchange.Choice {
	e := &snap.entries[i]
	e.inFlight.Add(1)
	c := exchange.Choice{Endpoint: e.endpoint, Probe: probe, Load: (*plainLoad)(e.state)}
	if reflex {
		c.Load = (*reflexLoad)(e.state)
	} else if probe {
		c.Override = e.endpoint.Override.ID
	} else if o := e.endpoint.Override; o != nil && o.Kind == policy.OverrideWeight {
		c.Override = o.ID
	}
	return c
}

// eject takes out what override and reflex say, under the cap, and chooses a probe when one is due.
func (s *Set) eject(v *View, now int64) (probe int, reflex, ok bool) {
	n := len(v.snap.entries)
	room := Cap(n)
	share := 1 / float64(n)
	probe = -1
	for _, i := range v.snap.ejectable {
		o := v.snap.entries[i].endpoint.Override
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
		if probe < 0 && float64(s.random()>>11)/(1<<53) < fraction*share {
			probe = i
		}
	}
	if s.tripped.Load() > 0 {
		for i := range min(n, 64) {
			st := v.snap.entries[i].state
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
func (s *Set) avoid(v *View, tried []netip.AddrPort) {
	if len(tried) == 0 {
		return
	}
	for i := range min(len(v.snap.entries), 64) {
		if v.left > 1 && v.usable(i) && slices.Contains(tried, v.snap.entries[i].endpoint.Address) {
			v.out |= 1 << i
			v.left--
		}
	}
}

// Endpoint is what a Set knows of one endpoint, for the admin page.
type Endpoint struct {
	Address  netip.AddrPort
	Average  time.Duration // decayed response time
	Failing  float64       // moving share of failed tries, 0 to 1
	InFlight int64
	Ejected  bool // by an override in force (the cap may still spare it)
	Reflex   bool // unreachable, waiting for a probe
}

// Endpoints describes the set in the order of the Snapshot.
func (s *Set) Endpoints(now time.Time) []Endpoint {
	snap := s.snap.Load()
	out := make([]Endpoint, 0, len(snap.entries))
	for i := range snap.entries {
		e := &snap.entries[i]
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
