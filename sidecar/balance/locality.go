package balance

import (
	"net/netip"
	"slices"
)

// spread sets the share of each tier: what its endpoints can take, and the rest to the next one. The endpoints of a tier can take
//
//	min(1, overprovision × healthy weight ÷ weight)
//
// of all requests, with overprovision (policy.Balancer.Overprovision) 1.4: above 72 % of healthy endpoints nothing leaves a tier. Unhealthy is what an override or the reflex would
// have out, though the cap spares it: to ask another tier first takes nobody out. When all tiers together cannot take everything, each gets its part of
// what they can; when none can take anything, each gets its part of the weight. As Envoy's priority levels.
//
// It reports whether there is enough: then a tier with few endpoints left has the few requests that they can take, and no reason for panic.
func (p *Picker) spread(all []*members, tiers []tier, conditions []condition) (enough bool) {
	if len(tiers) == 1 {
		tiers[0].share = 1
		return false
	}
	health, total, weight := make([]float64, len(tiers)), 0.0, 0.0
	for k, m := range all {
		healthy := 0.0
		for pos, i := range m.entries {
			if !conditions[i].unhealthy {
				healthy += m.weights[pos]
			}
		}
		health[k] = min(1, float64(p.balancer.Overprovision)/100*healthy/m.total)
		total += health[k]
		weight += m.total
	}
	left, sum := 1.0, 0.0
	for k := range tiers {
		part := all[k].total / weight
		if total > 0 {
			part = max(0, min(left, health[k]/min(total, 1)))
		}
		left -= part
		sum += part
		tiers[k].share = sum
	}
	return total >= 1
}

// tier is where q goes: by chance, or by its key, so that requests of one key stay together while the shares are what they are. A retry leaves a tier
// where everything was tried, and one where an endpoint could not be reached: a zone that is gone is gone as a whole.
func (v *view) tier(q query) *tier {
	k := 0
	if len(v.tiers) > 1 {
		u := 0.0
		switch {
		case v.tiers[0].share >= 1:
		case q.keyed:
			u = float64(mix(q.key^tierSeed)>>11) / (1 << 53)
		default:
			u = unit(q.random)
		}
		for k < len(v.tiers)-1 && u >= v.tiers[k].share {
			k++
		}
		for k > 0 && v.tiers[k].share <= v.tiers[k-1].share { // rounding has left a gap before 1, and the last ones have no share
			k--
		}
		if len(q.tried) > 0 {
			if q.away {
				for k < len(v.tiers)-1 && v.tiers[k].holds(q.tried) {
					k++
				}
			}
			for j := range v.tiers {
				if t := &v.tiers[(k+j)%len(v.tiers)]; !t.alone && t.fresh(q) {
					return t
				}
			}
		}
	}
	return &v.tiers[k]
}

// holds reports whether one of the endpoints at these addresses is a member of t.
func (t *tier) holds(addresses []netip.AddrPort) bool {
	for _, i := range t.members.entries {
		if slices.Contains(addresses, t.p.entries[i].endpoint.Address) {
			return true
		}
	}
	return false
}

// tierSeed sets the choice of a tier by key apart from what else a key chooses.
const tierSeed = 0x9e3779b97f4a7c15

// fresh reports whether something of t was not tried.
func (t *tier) fresh(q query) bool {
	if len(t.ready) > len(q.tried) {
		return true
	}
	for i := range t.ready {
		if !q.spent(t.entry(i)) {
			return true
		}
	}
	return false
}
