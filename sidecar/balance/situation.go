package balance

import (
	"cmp"
	"math"
	"slices"
)

// situation is who may be chosen now, of all groups of a Picker. It is immutable; Picker.look makes the next one when an override ends, a reflex opens or
// closes, or a share grows in slow start. A pick only reads, so that it costs the same for 3 endpoints and for 1,000.
type situation struct {
	generation uint64 // of States
	until      int64  // unix ns; until when it holds
	groups     []view
}

// view is a group in a situation.
type view struct {
	tiers   []tier
	ejected []chance // by overrides
	chance  float64  // of a probe to any of ejected
	opened  []int32  // entries that wait for a probe of the reflex
	idle    []int32  // those of opened whose tier has no share: no key leads to them
	due     int64    // when the first of opened is due; MaxInt64: none
}

// chance is the share of the requests to its group that goes to an ejected entry.
type chance struct {
	entry int32
	share float64
}

// look is the situation at now.
func (p *Picker) look(now int64) *situation {
	s := p.current.Load()
	if s != nil && now < s.until && s.generation == p.states.generation.Load() {
		return s
	}
	if s != nil && !p.mu.TryLock() {
		return s // somebody makes the next one
	} else if s == nil {
		p.mu.Lock()
	}
	defer p.mu.Unlock()
	if s = p.current.Load(); s == nil || now >= s.until || s.generation != p.states.generation.Load() {
		s = p.newSituation(now)
		p.current.Store(s)
	}
	return s
}

// condition is what is known of one entry while a situation is made.
type condition struct {
	out       bool    // by override or reflex, under the cap
	unhealthy bool    // by override or reflex
	factor    float64 // of its weight
}

func (p *Picker) newSituation(now int64) *situation {
	s := &situation{generation: p.states.generation.Load(), until: math.MaxInt64}
	conditions := make([]condition, len(p.entries))
	room := Cap(len(p.entries))
	take := func(i int32) {
		c := &conditions[i]
		c.unhealthy = true
		if !c.out && room > 0 {
			c.out = true
			room--
		}
	}
	for _, i := range p.ejectable {
		if expires := p.entries[i].endpoint.Override.Expires.UnixNano(); now < expires {
			s.until = min(s.until, expires)
			take(i)
		}
	}
	for _, i := range p.opened() {
		take(i)
	}
	for i := range p.entries {
		e, c := &p.entries[i], &conditions[i]
		factor, until := e.scale(now)
		s.until = min(s.until, until)
		c.factor = factor
		if w := p.balancer.SlowStart; w.Window > 0 {
			if since := e.warm(now, c.out); since > 0 {
				f, left := slow(w, now-since)
				c.factor *= f
				if left > 0 {
					s.until = min(s.until, now+left)
				}
			}
		}
	}
	s.groups = make([]view, len(p.groups))
	for i := range p.groups {
		p.groups[i].view(&s.groups[i], p, conditions)
	}
	return s
}

// opened are the entries whose reflex is open, the first that opened first.
func (p *Picker) opened() []int32 {
	if p.states.tripped.Load() == 0 {
		return nil
	}
	var out []int32
	for i := range p.entries {
		if p.entries[i].openUntil.Load() != 0 {
			out = append(out, int32(i))
		}
	}
	slices.SortStableFunc(out, func(a, b int32) int { return cmp.Compare(p.entries[a].opened.Load(), p.entries[b].opened.Load()) })
	return out
}

// group is endpoints that requests can be meant for: all of a service, or a subset.
type group struct {
	name  string // policy.SubsetName; "" for all
	tiers []*members
}

// view makes v of g.
func (g *group) view(v *view, p *Picker, conditions []condition) {
	v.due = math.MaxInt64
	v.tiers = make([]tier, len(g.tiers))
	enough := p.spread(g.tiers, v.tiers, conditions)
	for i, m := range g.tiers {
		v.tiers[i].fill(p, m, conditions, !enough)
	}
	before := 0.0
	for i := range v.tiers {
		t := &v.tiers[i]
		share := t.share - before
		before = t.share
		for pos, i := range t.members.entries {
			e, c := &p.entries[i], &conditions[i]
			open := e.openUntil.Load()
			switch {
			case open != 0 && (c.out && !t.alone || share <= 0):
				v.opened = append(v.opened, i)
				if share <= 0 {
					v.idle = append(v.idle, i)
				}
				v.due = min(v.due, open)
			case c.out && !t.alone && open == 0 && share > 0:
				part := share * t.members.weights[pos] / t.members.total * e.fraction()
				v.ejected = append(v.ejected, chance{i, part})
				v.chance += part
			}
		}
		t.finish()
	}
}

// fill finds who of m may be chosen. Where panic is allowed all may that would leave too few.
func (t *tier) fill(p *Picker, m *members, conditions []condition, panics bool) {
	t.p, t.members = p, m
	t.ready = make([]int32, 0, len(m.entries))
	for _, i := range m.entries {
		if !conditions[i].out {
			t.ready = append(t.ready, i)
		}
	}
	if len(t.ready) == 0 || panics && float64(len(t.ready)) < float64(p.balancer.PanicThreshold)/100*float64(len(m.entries)) {
		t.alone, t.ready = true, m.entries // to use all is better than to crowd a few
	}
	t.weights = make([]float64, 0, len(t.ready))
	for pos, i := range m.entries {
		if t.alone || !conditions[i].out {
			t.weights = append(t.weights, m.weights[pos]*conditions[i].factor)
		}
	}
}

// finish derives what picks use of ready and weights.
func (t *tier) finish() {
	total := 0.0
	t.uniform = true
	for _, w := range t.weights {
		total += w
		t.uniform = t.uniform && w == t.weights[0]
	}
	t.mean = total / float64(len(t.weights))
	if t.p.algorithm.schedule {
		t.turns = turns(t.ready, t.weights, t.uniform)
	}
	if t.uniform {
		t.weights = nil
	} else {
		t.alias = newAlias(t.weights)
	}
	t.in = make([]uint64, (len(t.p.entries)+63)/64)
	for _, i := range t.ready {
		t.in[i>>6] |= 1 << (i & 63)
	}
}
