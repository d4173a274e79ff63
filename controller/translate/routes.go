package translate

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// ruled are the rules of all services, by service and then by the callers' namespace, "" for all that have none of their own.
type ruled map[string]map[string]policy.Routed

// of are those for callers in a namespace.
func (r ruled) of(service, namespace string) policy.Routed {
	if own, ok := r[service][namespace]; ok {
		return own
	}
	return r[service][""]
}

// addRoutes gives s, which is w's, the rules for the services it has; told is called for each service to which they send, whose own rules come along.
func addRoutes(rules ruled, w *resource.Workload, s *policy.Snapshot, told func(name string)) {
	if len(rules) == 0 {
		return
	}
	for todo := slices.Sorted(maps.Keys(s.Services)); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		r := rules.of(name, w.Metadata.Namespace)
		s.Route(r)
		for _, to := range r.To {
			if _, known := s.Services[to]; !known {
				told(to)
				todo = append(todo, to)
			}
		}
	}
}

// newRuled writes all rules, once for all workloads that have them.
func newRuled(set *resource.Set, services map[string]policy.Service) (ruled, error) {
	out := ruled{}
	affinity := func(name string) []policy.AffinityKey { return services[name].Balancer.Affinity }
	for name, s := range set.Rules {
		of := map[string]policy.Routed{}
		add := func(namespace string, rules []route.Rule) (err error) {
			if len(rules) > 0 {
				of[namespace], err = policy.NewRouted(name, rules, affinity)
			} else if namespace != "" {
				of[namespace] = policy.Routed{}
			}
			return err
		}
		if err := add("", s.Producer); err != nil {
			return nil, err
		}
		for namespace, rules := range s.Consumer {
			if err := add(namespace, rules); err != nil {
				return nil, err
			}
		}
		out[name] = of
	}
	return out, nil
}

// longest are the longest timeouts of rules that send to each service, by its name: its own sidecars let pass what its callers may. Services without one are left out.
func (r ruled) longest() map[string]route.Timeouts {
	out := map[string]route.Timeouts{}
	for _, of := range r {
		for _, rules := range of {
			for i := range rules.Rules {
				a := &rules.Rules[i].Action
				if a.Timeouts == (route.Timeouts{}) {
					continue
				}
				for _, b := range a.Backends {
					name := policy.ServiceOf(b.Service)
					t := out[name]
					t.Request, t.Idle, t.Stream = longer(t.Request, a.Timeouts.Request), longer(t.Idle, a.Timeouts.Idle), longer(t.Stream, a.Timeouts.Stream)
					out[name] = t
				}
			}
		}
	}
	return out
}

// unserved adds to services what rules send to and nobody serves yet.
func (r ruled) unserved(services map[string]policy.Service) {
	for _, of := range r {
		for _, rules := range of {
			for _, to := range rules.To {
				if _, known := services[to]; !known {
					services[to] = unserved(to, "")
				}
			}
		}
	}
}

// unserved is a service that nobody serves yet: what calls it is answered no_endpoint.
func unserved(name, namespace string) policy.Service {
	return policy.Service{Name: name, Namespace: namespace, Protocol: flow.ProtocolHTTP}.WithDefaults()
}
