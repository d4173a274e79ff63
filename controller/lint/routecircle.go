package lint

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/route"
)

// routeCircle is about services whose rules send to each other. A circle is said once, at the rule of its first service.
func routeCircle(m *mesh, say func(place, string, ...any)) {
	type edge struct {
		to string
		at written
	}
	sends := map[string][]edge{}
	for _, t := range m.rules {
		for i := range t.rules {
			at, ok := m.written[t.rules[i].Name]
			for _, b := range t.rules[i].Action.Backends {
				if ok && b.Weight > 0 && b.Service != "" && b.Service != t.service {
					sends[t.service] = append(sends[t.service], edge{b.Service, at})
				}
			}
		}
	}
	said := map[string]bool{}
	for _, t := range m.rules {
		start := t.service
		if said[start] {
			continue
		}
		// The shortest way back, breadth first.
		type step struct {
			name string
			way  []string
			at   written
		}
		var queue []step
		for _, e := range sends[start] {
			queue = append(queue, step{e.to, []string{start, e.to}, e.at})
		}
		seen := map[string]bool{}
		for len(queue) > 0 {
			s := queue[0]
			queue = queue[1:]
			if s.name == start {
				for _, name := range s.way {
					said[name] = true
				}
				say(s.at.place, "%s.backendRefs: %s", s.at.field, strings.Join(s.way, " sends to "))
				break
			}
			if seen[s.name] {
				continue
			}
			seen[s.name] = true
			for _, e := range sends[s.name] {
				queue = append(queue, step{e.to, append(slices.Clone(s.way), e.to), s.at})
			}
		}
	}
}

// mirrorToItself is about copies that go where the original goes.
func mirrorToItself(m *mesh, say func(place, string, ...any)) {
	m.eachRule(func(_ table, r *route.Rule, at written) {
		for _, c := range r.Action.Mirrors {
			if slices.ContainsFunc(r.Action.Backends, func(b route.Backend) bool { return b.Service == c.Service && b.Subset == c.Subset && b.Weight > 0 }) {
				say(at.place, "%s.filters: requests to %s are mirrored to it", at.field, to(c.Service, c.Subset))
			}
		}
	})
}
