package translate

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/flow"
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
		for _, to := range policy.RouteTargets(rules) {
			if _, known := s.Services[to]; !known {
				told(to)
				todo = append(todo, to)
			}
		}
	}
}

// routesOnDemand are the rules of all services, by service and then by the callers' namespace, "" for all that have none of their own; and, among services, what they send to
// and nobody serves yet.
func routesOnDemand(set *resource.Set, services map[string]policy.Service) (map[string]map[string]policy.Routed, error) {
	out := map[string]map[string]policy.Routed{}
	affinity := func(name string) []policy.AffinityKey { return services[name].Balancer.Affinity }
	for name, s := range set.Rules {
		of := map[string]policy.Routed{}
		add := func(namespace string, rules []route.Rule) error {
			if len(rules) == 0 {
				return nil
			}
			r, err := policy.NewRouted(name, rules, affinity)
			if err != nil {
				return err
			}
			of[namespace] = r
			for _, to := range r.To {
				if _, known := services[to]; !known {
					services[to] = unserved(to, "")
				}
			}
			return nil
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

// unserved is a service that nobody serves yet: what calls it is answered no_endpoint.
func unserved(name, namespace string) policy.Service {
	return policy.Service{Name: name, Namespace: namespace, Protocol: flow.ProtocolHTTP}.WithDefaults()
}
