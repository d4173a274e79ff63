package lint

import (
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/route"
)

// eachCallers calls f for all Callers of the Set, by key.
func (m *mesh) eachCallers(f func(c *resource.Callers, name string)) {
	for _, e := range m.entries() {
		if c, ok := e.Object.(*resource.Callers); ok {
			f(c, c.Metadata.Namespace+"/"+c.Metadata.Name)
		}
	}
}

// emptyCallers is about Callers of which an entry selects no workload.
func emptyCallers(m *mesh, say func(place, string, ...any)) {
	m.eachCallers(func(c *resource.Callers, _ string) {
		for i, f := range c.Spec.From {
			one := *c
			one.Spec.From = []resource.CallersFrom{f}
			if !slices.ContainsFunc(m.Set.Workloads, func(w *resource.Workload) bool { return one.Select(w, m.Set.Mesh.Spec.TrustDomain) }) {
				say(m.at(c.Key()), "spec.from[%d]: is true of none of the %d Workloads", i, len(m.Set.Workloads))
			}
		}
	})
}

// unusedCallers is about Callers that no rule is for.
func unusedCallers(m *mesh, say func(place, string, ...any)) {
	used := map[string]bool{}
	m.eachRule(func(_ table, r *route.Rule, _ written) {
		for _, name := range r.Callers {
			used[name] = true
		}
	})
	m.eachCallers(func(c *resource.Callers, name string) {
		if !used[name] {
			say(m.at(c.Key()), "metadata.name: no rule of a route has a filter that names them")
		}
	})
}
