package lint

import "github.com/tulle-mesh/tulle/internal/route"

func weightless(r *route.Rule) (zero int) {
	for _, b := range r.Action.Backends {
		if b.Weight == 0 {
			zero++
		}
	}
	return zero
}

// noWeight is about rules none of whose backends gets anything.
func noWeight(m *mesh, say func(place, string, ...any)) {
	m.eachRule(func(_ table, r *route.Rule, at written) {
		if n := len(r.Action.Backends); n > 0 && weightless(r) == n {
			say(at.place, "%s.backendRefs: the weights of all %d are 0, so that what the rule matches is answered with 500", at.field, n)
		}
	})
}

// zeroWeight is about backends that get nothing beside others that do.
func zeroWeight(m *mesh, say func(place, string, ...any)) {
	m.eachRule(func(_ table, r *route.Rule, at written) {
		if zero := weightless(r); zero == 0 || zero == len(r.Action.Backends) {
			return
		}
		for i, b := range r.Action.Backends {
			if b.Weight == 0 && b.Service != "" {
				say(at.place, "%s.backendRefs[%d].weight: is 0: %s gets no request by this rule", at.field, i, to(b.Service, b.Subset))
			}
		}
	})
}
