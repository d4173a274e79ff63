package lint

import (
	"cmp"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// tryTimeout is about rules whose limit of a try, their own or the service's, is above that of the request. Within one rule, and within one policy, it is refused.
func tryTimeout(m *mesh, say func(place, string, ...any)) {
	m.eachRule(func(_ table, r *route.Rule, at written) {
		for _, b := range r.Action.Backends {
			if b.Service == "" {
				continue
			}
			s, own := m.service(b.Service), r.Action.Timeouts
			request, try := cmp.Or(own.Request, s.RequestTimeout), cmp.Or(own.Try, s.TryTimeout)
			if own.Try == 0 && m.Set.Traffic(b.Service).TryTimeout == 0 { // it follows the request's
				continue
			}
			if request > 0 && try > request {
				say(at.place, "%s.timeouts: a try of a request to %s may take %s, the whole request %s", at.field, b.Service, short(try), short(request))
				return
			}
		}
	})
}

// timeoutBeyondCaller is about services that are given less time than they give.
func timeoutBeyondCaller(m *mesh, say func(place, string, ...any)) {
	type pair struct{ caller, called string }
	said := map[pair]bool{}
	for _, w := range m.Set.Workloads {
		if len(w.Spec.Ports) == 0 { // it has no callers whose patience is known
			continue
		}
		patience := m.service(w.Spec.Service).RequestTimeout
		names, fields := m.called(w)
		for i, name := range names {
			s := m.service(name)
			if p := (pair{w.Spec.Service, name}); patience > 0 && (s.RequestTimeout < 0 || s.RequestTimeout > patience) && m.known(name) && !said[p] && policy.ServiceOf(name) != w.Spec.Service {
				said[p] = true
				say(m.at(w.Key()), "%s: %s waits for %s %s, its own callers wait for it %s", fields[i], w.Spec.Service, name, limit(s.RequestTimeout), limit(patience))
			}
		}
	}
}

func short(d time.Duration) string { return d.String() }

func limit(d time.Duration) string {
	if d < 0 {
		return "without a limit"
	}
	return "for " + d.String()
}
