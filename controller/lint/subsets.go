package lint

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// emptySubset is about Subsets of services that have endpoints, but none with these labels.
func emptySubset(m *mesh, say func(place, string, ...any)) {
	for _, s := range m.Set.Subsets {
		var all, some int
		for name, list := range m.endpoints {
			if policy.ServiceOf(name) != s.Spec.Service {
				continue
			}
			for _, e := range list {
				all++
				if has(e, s.Spec.Labels) {
					some++
				}
			}
		}
		if all > 0 && some == 0 {
			say(m.at(s.Key()), "spec.labels: none of the %d endpoints of %s has %s", all, s.Spec.Service, policy.SubsetName(s.Spec.Labels))
		}
	}
}

// has reports whether an endpoint has all labels; some are fields of its workload.
func has(e discovery.Endpoint, labels map[string]string) bool {
	own := maps.Clone(e.Labels)
	if own == nil {
		own = map[string]string{}
	}
	own["version"], own["region"], own["zone"] = e.Version, e.Locality.Region, e.Locality.Zone
	for k, v := range labels {
		if own[k] != v {
			return false
		}
	}
	return true
}

// unusedSubset is about Subsets that no rule sends to or mirrors to.
func unusedSubset(m *mesh, say func(place, string, ...any)) {
	used := map[resource.Key]bool{}
	m.eachRule(func(_ table, r *route.Rule, _ written) {
		for _, s := range m.Set.Subsets {
			name := policy.SubsetName(s.Spec.Labels)
			named := func(service, subset string) bool {
				return subset == name && policy.ServiceOf(service) == s.Spec.Service
			}
			if slices.ContainsFunc(r.Action.Backends, func(b route.Backend) bool { return named(b.Service, b.Subset) }) ||
				slices.ContainsFunc(r.Action.Mirrors, func(b route.Mirror) bool { return named(b.Service, b.Subset) }) {
				used[s.Key()] = true
			}
		}
	})
	for _, s := range m.Set.Subsets {
		if !used[s.Key()] {
			say(m.at(s.Key()), "metadata.name: no route names it as a backend")
		}
	}
}
