package translate

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// addRoutes gives s, which is w's, the rules for the services it has; told is called for each service to which they send, whose own rules come along.
func addRoutes(set *resource.Set, w *resource.Workload, s *policy.Snapshot, told func(name string)) {
	if len(set.Rules) == 0 {
		return
	}
	for todo := slices.Sorted(maps.Keys(s.Services)); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		rules := set.Rules[name].For(w.Metadata.Namespace)
		if len(rules) == 0 {
			continue
		}
		if s.Routes == nil {
			s.Routes = map[string][]route.Rule{}
		}
		s.Routes[name] = rules
		for _, to := range targets(rules) {
			if _, known := s.Services[to]; !known {
				told(to)
				todo = append(todo, to)
			}
		}
	}
}

// targets are the services that rules send to or mirror to, each once.
func targets(rules []route.Rule) []string {
	var out []string
	add := func(name string) {
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, r := range rules {
		for _, b := range r.Action.Backends {
			add(b.Service)
		}
		for _, m := range r.Action.Mirrors {
			add(m.Service)
		}
	}
	return out
}
