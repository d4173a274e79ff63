package translate

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// ruled are the rules of all services, by service and then by the callers' namespace, "" for all that have none of their own; of services with rules for some callers also by
// who of them calls (sorts).
type ruled map[string]map[string]policy.Routed

// of are those for w; own is the workload's from sorts.
func (r ruled) of(service string, w *resource.Workload, own map[string]string) policy.Routed {
	if key, ok := own[service]; ok {
		return r[service][key]
	}
	if own, ok := r[service][w.Metadata.Namespace]; ok {
		return own
	}
	return r[service][""]
}

// sorts adds the rules of services that have some for single callers, for every workload, and returns for each, by its name, under which key of r[service] its own are; of other
// services it says nothing. Workloads for whom the same rules are have them under one key.
func (r ruled) sorts(in Input, affinity func(string) []policy.AffinityKey) (map[string]map[string]string, error) {
	names := map[string][]string{} // of Callers, by service
	for name, s := range in.Set.Rules {
		if list := s.Callers(); len(list) > 0 {
			names[name] = list
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	out := map[string]map[string]string{}
	for _, w := range in.Set.Workloads {
		selected, own := in.Set.SelectedBy(w, in.TrustDomain), map[string]string{}
		for service, list := range names {
			s := in.Set.Rules[service]
			key := ""
			if _, consumes := s.Consumer[w.Metadata.Namespace]; consumes {
				key = w.Metadata.Namespace
			}
			for _, name := range list {
				if selected(name) {
					key += " " + name // neither has one
				}
			}
			own[service] = key
			if _, known := r[service][key]; known {
				continue
			}
			routed, err := newRouted(service, s.For(w.Metadata.Namespace, selected), affinity)
			if err != nil {
				return nil, err
			}
			r[service][key] = routed
		}
		out[w.Metadata.Name] = own
	}
	return out, nil
}

// newRouted writes rules down; of none there is nothing to write.
func newRouted(service string, rules []route.Rule, affinity func(string) []policy.AffinityKey) (policy.Routed, error) {
	if len(rules) == 0 {
		return policy.Routed{}, nil
	}
	return policy.NewRouted(service, rules, affinity)
}

// addRoutes gives s, which is w's, the rules for the services it has; told is called for each service to which they send, whose own rules come along.
func addRoutes(rules ruled, w *resource.Workload, own map[string]string, s *policy.Snapshot, told func(name string)) {
	if len(rules) == 0 {
		return
	}
	for todo := slices.Sorted(maps.Keys(s.Services)); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		r := rules.of(name, w, own)
		s.Route(r)
		for _, to := range r.To {
			if _, known := s.Services[to]; !known {
				told(to)
				todo = append(todo, to)
			}
		}
	}
}

// newRuled writes all rules, once for all workloads that have them; and returns what sorts does.
func newRuled(in Input, services map[string]policy.Service) (ruled, map[string]map[string]string, error) {
	out := ruled{}
	affinity := func(name string) []policy.AffinityKey { return services[name].Balancer.Affinity }
	nobody := func(string) bool { return false }
	for name, s := range in.Set.Rules {
		of := map[string]policy.Routed{}
		for _, namespace := range append(slices.Collect(maps.Keys(s.Consumer)), "") {
			rules := s.For(namespace, nobody)
			if len(rules) == 0 && namespace == "" {
				continue
			}
			var err error
			if of[namespace], err = newRouted(name, rules, affinity); err != nil {
				return nil, nil, err
			}
		}
		out[name] = of
	}
	own, err := out.sorts(in, affinity)
	return out, own, err
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
