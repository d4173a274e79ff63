package balance

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// divide makes the groups: all endpoints, and for each selector of the policy a subset for each combination of values that its endpoints have; in each, tiers
// by priority.
func (p *Picker) divide() {
	b := &p.balancer
	all := make([]int32, len(p.entries))
	for i := range all {
		all[i] = int32(i)
	}
	p.groups = []group{p.newGroup("", all)}
	selectors := b.Subsets.Selectors
	if len(b.Subsets.Default) > 0 {
		keys := make([]string, 0, len(b.Subsets.Default))
		for k := range b.Subsets.Default {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if !slices.ContainsFunc(selectors, func(s []string) bool { return slices.Equal(s, keys) }) {
			selectors = append(slices.Clip(selectors), keys)
		}
	}
	if len(selectors) > 0 {
		p.subsets = map[string]int{}
	}
	for _, keys := range selectors {
		found := map[string][]int32{}
		var names []string
	entries:
		for i := range p.entries {
			labels, of := p.entries[i].endpoint.Subset(), make(map[string]string, len(keys))
			for _, k := range keys {
				v, ok := labels[k]
				if !ok {
					continue entries
				}
				of[k] = v
			}
			name := policy.SubsetName(of)
			if found[name] == nil {
				names = append(names, name)
			}
			found[name] = append(found[name], int32(i))
		}
		for _, name := range names {
			p.subsets[name] = len(p.groups)
			p.groups = append(p.groups, p.newGroup(name, found[name]))
		}
	}
	switch b.Subsets.Fallback {
	case policy.FallbackNone:
		p.fallback = -1
	case policy.FallbackDefault:
		p.fallback = -1
		if g, ok := p.subsets[policy.SubsetName(b.Subsets.Default)]; ok {
			p.fallback = g
		}
		p.whole = p.fallback
	}
}

// group is the group of requests to a subset; -1: there is none.
func (p *Picker) group(subset string) int {
	if subset == "" {
		return p.whole
	}
	if g, ok := p.subsets[subset]; ok {
		return g
	}
	return p.fallback
}

func (p *Picker) newGroup(name string, entries []int32) group {
	g := group{name: name}
	for _, i := range entries {
		for int(p.entries[i].endpoint.Priority) >= len(g.tiers) {
			g.tiers = append(g.tiers, &members{})
		}
		m := g.tiers[p.entries[i].endpoint.Priority]
		m.entries = append(m.entries, i)
	}
	g.tiers = slices.DeleteFunc(g.tiers, func(m *members) bool { return len(m.entries) == 0 })
	for _, m := range g.tiers {
		m.weights = make([]float64, len(m.entries))
		weighs, means := map[policy.Locality]float64{}, map[policy.Locality]float64{} // what its endpoints weigh, and what it is meant to
		all, meant := 0.0, 0.0
		for _, i := range m.entries {
			e := &p.entries[i]
			weighs[e.endpoint.Locality] += e.weight
			means[e.endpoint.Locality] = float64(e.endpoint.LocalityWeight)
			all += e.weight
		}
		for at, w := range means {
			if w == 0 {
				means[at] = weighs[at]
			}
			meant += means[at]
		}
		for pos, i := range m.entries {
			e := &p.entries[i]
			m.weights[pos] = e.weight
			if at := e.endpoint.Locality; p.balancer.LocalityWeighted {
				m.weights[pos] *= means[at] / weighs[at] * all / meant // in all they weigh what they did
			}
			m.total += m.weights[pos]
		}
	}
	return g
}
