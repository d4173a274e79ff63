package balance

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// exploreOneIn is how rarely a pick of an algorithm that starves ignores the costs.
const exploreOneIn = 33

// States is what was learnt about the endpoints of one destination, by address; it outlives Snapshots. The zero value is ready. Safe for
// concurrent use.
type States struct {
	tripped    atomic.Int64  // endpoints whose reflex is open
	generation atomic.Uint64 // grows when a reflex opens, closes, or is to be probed later
	paused     atomic.Int64  // unix ns; no endpoint is left alone for longer
	bounded    atomic.Int64  // tries in flight that were chosen with a bound on what is in flight
	typical    atomic.Int64  // ns; 0: not known
	typicalAt  atomic.Int64  // unix ns; when it was worked out

	ejection  atomic.Pointer[policy.Ejection] // nil: the defaults
	tell      atomic.Pointer[func(Ejection)]
	ejections [numWhy]atomic.Uint64 // since the boot
	spared    atomic.Uint64         // by the cap
	peers     atomic.Pointer[peers]
	random    atomic.Pointer[func() uint64]
	judged    atomic.Int64 // unix ns

	judging sync.Mutex // and scratch of who holds it:
	shares  []float64
	times   []float64
	recent  []window

	mu     sync.Mutex
	m      map[netip.AddrPort]*state
	tables map[uint64]table // of the latest Picker, by what they were made of
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
			m[a] = newState(s, a)
			m[a].fresh.Store(len(s.m) > 0)
		}
	}
	for a, st := range s.m {
		if m[a] == nil && st.openUntil.Swap(0) != 0 {
			s.tripped.Add(-1)
			s.generation.Add(1)
		}
	}
	s.m = m
	return m
}

// Picker chooses among the endpoints of one Snapshot and never changes. It implements exchange.Picker.
type Picker struct {
	algorithm Algorithm
	balancer  policy.Balancer // with defaults
	random    func() uint64
	states    *States
	entries   []entry
	groups    []group // the first is all of them
	subsets   map[string]int
	fallback  int     // group of requests to a subset that has no endpoint; -1: none
	whole     int     // group of requests that name no subset; -1: none
	ejectable []int32 // entries with an eject override, oldest first

	named func() map[uint64]int32 // entries by exchange.EndpointID, made when it is asked for first

	current atomic.Pointer[situation]
	mu      sync.Mutex // of who makes the next situation
}

type entry struct {
	*state
	endpoint *policy.Endpoint
	weight   float64
}

// scale is what an override makes of the weight, and until when.
func (e *entry) scale(now int64) (factor float64, until int64) {
	if o := e.endpoint.Override; o != nil && o.Kind == policy.OverrideWeight {
		if expires := o.Expires.UnixNano(); now < expires {
			return max(o.Fraction, 0.001), expires
		}
	}
	return 1, math.MaxInt64
}

// keeps reports whether q's key is among those that an override of the weight leaves to e.
func (e *entry) keeps(q query) bool {
	o := e.endpoint.Override
	return o == nil || o.Kind != policy.OverrideWeight || q.now >= o.Expires.UnixNano() || float64(mix(q.key)>>11)/(1<<53) < o.Fraction
}

// fraction is what an ejected endpoint gets of its share.
func (e *entry) fraction() float64 {
	if o := e.endpoint.Override; o != nil && o.Fraction > 0 && o.Fraction <= 1 {
		return o.Fraction
	}
	return policy.DefaultEjectFraction
}

// New makes the Picker of a Snapshot by b, which was checked. The slice and what it points to must not change afterwards. random may be nil (the runtime's
// generator); it must be safe for concurrent use.
func New(b policy.Balancer, endpoints []policy.Endpoint, states *States, random func() uint64) *Picker {
	if random == nil {
		random = rand.Uint64
	}
	b = b.WithDefaults()
	p := &Picker{algorithm: Algorithms[b.Algorithm], balancer: b, random: random, states: states}
	p.named = sync.OnceValue(p.names)
	known := states.take(endpoints)
	seen := make(map[netip.AddrPort]bool, len(endpoints))
	for i := range endpoints {
		e := &endpoints[i]
		if seen[e.Address] {
			continue // one address, one endpoint
		}
		seen[e.Address] = true
		w := float64(e.Weight)
		if w <= 0 {
			w = policy.DefaultWeight
		}
		p.entries = append(p.entries, entry{state: known[e.Address], endpoint: e, weight: w})
		if o := e.Override; o != nil && o.Kind == policy.OverrideEject {
			p.ejectable = append(p.ejectable, int32(len(p.entries)-1))
		}
	}
	slices.SortStableFunc(p.ejectable, func(a, b int32) int {
		return p.entries[a].endpoint.Override.Issued.Compare(p.entries[b].endpoint.Override.Issued)
	})
	all := &peers{}
	for i := range p.entries {
		all.states = append(all.states, p.entries[i].state)
	}
	for _, i := range p.ejectable {
		all.overrides = append(all.overrides, p.entries[i].endpoint.Override.Expires.UnixNano())
	}
	states.peers.Store(all)
	states.random.Store(&p.random)
	if len(p.entries) > 0 {
		p.divide()
		p.tables()
	}
	return p
}

// tables makes the tables of p, or takes those that the Picker before made of the same.
func (p *Picker) tables() {
	s := p.states
	s.mu.Lock()
	defer s.mu.Unlock()
	made := map[uint64]table{}
	for g := range p.groups {
		for _, m := range p.groups[g].tiers {
			m.turn.Store(p.random())
			if p.algorithm.table == nil {
				continue
			}
			keys := make([]string, len(m.entries))
			d := xxhash.New()
			_, _ = d.WriteString(p.balancer.Algorithm) // never fails, as below
			var sizes []byte
			for _, n := range []int{p.balancer.RingPoints, p.balancer.TableSize} {
				sizes = binary.LittleEndian.AppendUint64(sizes, uint64(n))
			}
			_, _ = d.Write(sizes)
			for pos, i := range m.entries {
				keys[pos] = p.entries[i].endpoint.Address.String()
				_, _ = d.WriteString(keys[pos])
				_, _ = d.Write(binary.LittleEndian.AppendUint64(sizes[:0], math.Float64bits(m.weights[pos])))
			}
			id := d.Sum64()
			if m.table = cmp.Or(made[id], s.tables[id]); m.table == nil {
				m.table = p.algorithm.table(p.balancer, keys, m.weights)
			}
			made[id] = m.table
		}
	}
	s.tables = made
}

// Cap is how many of n endpoints may be out at once, by override and reflex together: max(1, 10 %), never all.
func Cap(n int) int { return min(max(1, n/10), n-1) }

// Pick implements exchange.Picker. The reason is ReasonNoEndpoint when there is none; every other pick succeeds.
func (p *Picker) Pick(now time.Time, w exchange.Want) (exchange.Choice, flow.Reason) {
	g := p.group(w.Subset)
	if g < 0 || len(p.entries) == 0 {
		return exchange.Choice{}, flow.ReasonNoEndpoint
	}
	q := newQuery(now.UnixNano(), w, p.random)
	v := &p.look(q.now).groups[g]
	if w.Stay != 0 {
		if i, ok := p.stay(v, q, w.Stay); ok {
			return p.take(i, q.now, false, false), flow.ReasonNone
		}
	}
	keyed := q.keyed && p.algorithm.table != nil
	q.keyed = keyed
	if v.chance > 0 || v.due != math.MaxInt64 {
		if i, reflex, ok := p.probe(v, q); ok {
			return p.take(i, q.now, true, reflex), flow.ReasonNone
		}
	}
	t := v.tier(q)
	var i int32
	var probe, reflex bool
	switch {
	case keyed:
		i, probe, reflex = t.keyed(q)
	case p.algorithm.starves && below(p.random, exploreOneIn) == 0:
		if i = t.ready[t.willing(q, t.draw(q))]; p.entries[i].stuck(q.now) {
			i = p.algorithm.choose(t, q)
		}
	default:
		i = p.algorithm.choose(t, q)
	}
	return p.take(i, q.now, probe, reflex), flow.ReasonNone
}

// stay finds the endpoint that a session wants, if it may be chosen: it is not out, and was not tried.
func (p *Picker) stay(v *view, q query, id uint64) (int32, bool) {
	i, ok := p.named()[id]
	if !ok || q.spent(&p.entries[i]) {
		return 0, false
	}
	for k := range v.tiers {
		if v.tiers[k].has(i) {
			return i, true
		}
	}
	return 0, false
}

func (p *Picker) names() map[uint64]int32 {
	m := make(map[uint64]int32, len(p.entries))
	for i := range p.entries {
		m[exchange.EndpointID(p.entries[i].endpoint)] = int32(i)
	}
	return m
}

// States is what it shares with the Pickers before and after it.
func (p *Picker) States() *States { return p.states }

// Another implements exchange.Picker.
func (p *Picker) Another(w exchange.Want) bool {
	g := p.group(w.Subset)
	if g < 0 {
		return false
	}
	q := query{tried: w.Tried}
	for _, m := range p.groups[g].tiers {
		for _, i := range m.entries {
			if !q.spent(&p.entries[i]) {
				return true
			}
		}
	}
	return false
}

func (p *Picker) take(i int32, now int64, probe, reflex bool) exchange.Choice {
	e := &p.entries[i]
	e.inFlight.Add(1)
	c := exchange.Choice{Endpoint: e.endpoint, Probe: probe, Load: (*plainLoad)(e.state)}
	switch {
	case reflex:
		c.Load = (*reflexLoad)(e.state)
	case p.balancer.BoundedLoad > 0:
		e.states.bounded.Add(1)
		c.Load = (*boundedLoad)(e.state)
	}
	if o := e.endpoint.Override; o == nil || reflex {
		return c
	} else if probe || o.Kind == policy.OverrideWeight && now < o.Expires.UnixNano() {
		c.Override = o.ID
	}
	return c
}

// probe chooses who of v is out and gets a request all the same, if one is due: of the reflex the first whose time has come, else by chance one of those that
// overrides have out. Requests with a key are left to tier.keyed, which finds those that are out by their own keys.
func (p *Picker) probe(v *view, q query) (i int32, reflex, ok bool) {
	if q.now >= v.due {
		waiting := v.opened
		if q.keyed {
			waiting = v.idle
		}
		for _, i := range waiting {
			if probe, reflex := p.due(i, q); probe && reflex {
				return i, true, true
			}
		}
	}
	if v.chance <= 0 || q.keyed {
		return 0, false, false
	}
	u := unit(p.random)
	for k := range v.ejected {
		c := &v.ejected[k]
		if u -= c.share; u < 0 {
			return c.entry, false, !q.spent(&p.entries[c.entry])
		}
	}
	return 0, false, false
}

// due reports whether entry i, which is out, gets q as a probe: of the reflex when its time has come, one at a time; else with the fraction of its override.
func (p *Picker) due(i int32, q query) (probe, reflex bool) {
	e := &p.entries[i]
	if q.spent(e) {
		return false, false
	}
	if until := e.openUntil.Load(); until != 0 {
		return q.now >= until && e.probing.CompareAndSwap(false, true), true
	}
	return unit(p.random) < e.fraction(), false
}

// Endpoint is what a Picker knows of one endpoint, for the admin page.
type Endpoint struct {
	Address  netip.AddrPort
	Average  time.Duration // decayed response time
	Failing  float64       // moving share of failed tries, 0 to 1
	InFlight int64
	Ejected  bool      // by an override in force (the cap may still spare it)
	Reflex   Ejection  // by the sidecar itself, until the next probe; zero: it is not out
	Paused   time.Time // until when it is left alone, as it has asked for; zero: it is not
	Priority uint32
}

// Endpoints describes the endpoints in the order of the Snapshot.
func (p *Picker) Endpoints(now time.Time) []Endpoint {
	out := make([]Endpoint, 0, len(p.entries))
	for i := range p.entries {
		e := &p.entries[i]
		elapsed := now.UnixNano() - e.stamp.Load()
		o := e.endpoint.Override
		d := Endpoint{
			Address:  e.endpoint.Address,
			Average:  time.Duration(decayed(e.float(&e.average), elapsed, decay) * float64(time.Second)),
			Failing:  decayed(e.float(&e.failing), elapsed, failingDecay),
			InFlight: e.inFlight.Load(),
			Ejected:  o != nil && o.Kind == policy.OverrideEject && now.Before(o.Expires),
			Priority: e.endpoint.Priority,
		}
		if until := e.openUntil.Load(); until != 0 {
			e.mu.Lock()
			d.Reflex = Ejection{e.endpoint.Address, e.why, e.evidence, time.Unix(0, e.opened.Load()), time.Unix(0, until), e.times}
			e.mu.Unlock()
		}
		if until := e.paused.Load(); until > now.UnixNano() {
			d.Paused = time.Unix(0, until)
		}
		out = append(out, d)
	}
	return out
}
