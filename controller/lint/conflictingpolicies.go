package lint

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
)

// conflictingPolicies is about fields that two policies of one level set for a service, and about what of a less special policy does not go with a more special one. Two policies for the
// very same target are refused.
func conflictingPolicies(m *mesh, say func(place, string, ...any)) {
	services := map[string]bool{}
	for _, w := range m.Set.Workloads {
		services[w.Spec.Service] = true
	}
	for _, e := range m.Set.External {
		services[e.Metadata.Name] = true
	}
	for _, service := range slices.Sorted(maps.Keys(services)) {
		for _, s := range resource.Effective(m.Set, service, "") {
			for _, o := range s.Over {
				if o.Level == s.From.Level && o.Key.Kind == s.From.Key.Kind && o.Key != s.From.Key {
					say(place{o.Position, o.Key}, "spec.%s: does not count for %s, for which %s (%s) sets it, too, at the same level", s.Field, service, s.From.Key, s.From.Position)
				}
			}
		}
	}
	for _, p := range m.Problems {
		if p.Severity != resource.Refused && p.Reason == resource.ReasonLeftOut {
			say(place{p.Position, p.Key}, "%s", p.Message)
		}
	}
}
