package balance

import "math"

// table spreads keys over the members of a tier, by their weights. It is immutable, and the same in every sidecar that has the same members, in any order.
type table interface {
	find(key uint64) int // the slot of a key
	owner(at int) int32  // the member, by its position in the tier, that has a slot
	next(at int) int     // the slot where the keys of a slot go without its owner
	size() int
}

// maxWalk bounds the slots that are looked at for one key.
const maxWalk = 4096

// keyed chooses by key: the member of the tier that the table names, or if that is out or full the one that would have its keys without it, so that
// the keys of one that comes back come back to it. An ejected member gets its override's fraction of its own keys, as probes; one of reduced weight keeps that
// part of them, always the same.
//
// With policy.Balancer.BoundedLoad (Mirrokni, Thorup and Zadimoghaddam, 2018) a member is full that has more in flight than that percentage of its share of what
// this sidecar has in flight with the service.
func (t *tier) keyed(q query) (i int32, probe, reflex bool) {
	m, p := t.members, t.p
	bound := float64(p.balancer.BoundedLoad) / 100
	if bound > 0 {
		bound *= float64(p.states.bounded.Load() + 1)
	}
	var seen [16]int32 // judged already: what has many slots is judged once
	judged := 0
	full, reduced := int32(-1), int32(-1) // who serves when nobody else is left
	at := m.table.find(q.key)
walk:
	for range min(m.table.size(), maxWalk) {
		pos := m.table.owner(at)
		at = m.table.next(at)
		i := m.entries[pos]
		for _, s := range seen[:judged] {
			if s == i {
				continue walk
			}
		}
		if judged < len(seen) {
			seen[judged] = i
			judged++
		}
		e := &p.entries[i]
		switch {
		case q.spent(e):
		case !t.has(i):
			if probe, reflex = p.due(i, q); probe {
				return i, true, reflex
			}
		case !e.keeps(q):
			if reduced < 0 {
				reduced = i
			}
		case bound > 0 && float64(e.inFlight.Load()+1) > math.Ceil(bound*m.weights[pos]/m.total):
			if full < 0 {
				full = i
			}
		default:
			return i, false, false
		}
		if judged == len(m.entries) {
			break
		}
	}
	switch {
	case reduced >= 0:
		return reduced, false, false
	case full >= 0:
		return full, false, false
	}
	return t.ready[t.draw(q)], false, false
}

// mix spreads what is left of a key's bits after its slot was found, so that both say nothing of each other.
func mix(key uint64) uint64 { // the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)
	key = (key ^ key>>30) * 0xbf58476d1ce4e5b9
	key = (key ^ key>>27) * 0x94d049bb133111eb
	return key ^ key>>31
}
