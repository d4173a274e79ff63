package lint

import (
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// noEndpoints is about services that are there but that nobody serves. Hosts outside that are known by their names alone have their address from the connection.
func noEndpoints(m *mesh, say func(place, string, ...any)) {
	empty := func(name string) bool {
		return name != "" && m.known(name) && len(m.endpoints[name]) == 0 && !m.external[policy.ServiceOf(name)]
	}
	m.eachRule(func(_ table, r *route.Rule, at written) {
		for i, b := range r.Action.Backends {
			if empty(b.Service) {
				say(at.place, "%s.backendRefs[%d]: no workload of %s has such a port; its share is answered with 503, no_endpoint", at.field, i, b.Service)
			}
		}
	})
	for _, w := range m.Set.Workloads {
		names, fields := m.called(w)
		for i, name := range names {
			if empty(name) && len(m.endpoints[policy.ServiceOf(name)]) == 0 { // of a port that is missing the controller warns
				say(m.at(w.Key()), "%s: no workload of %s has a port: calls get no_endpoint", fields[i], name)
			}
		}
	}
}
