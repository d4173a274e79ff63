package lint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// mesh is what findings look at: the Set, by what they ask.
type mesh struct {
	Input
	endpoints map[string][]discovery.Endpoint // by policy.PortOf
	external  map[string]bool                 // services outside the mesh
	rules     []table                         // every list of rules that some caller goes by
	written   map[string]written              // where a rule stands, by its name
}

// table is the rules for requests to a port of a service.
type table struct {
	service  string // policy.PortOf; of a Gateway's "HOST at port N of edge INSTANCE"
	consumer string // namespace of its callers; "": all others
	rules    []route.Rule
}

// written is a rule in a document.
type written struct {
	place
	field string // "spec.rules[0]"
}

func newMesh(in Input) *mesh {
	m := &mesh{Input: in, endpoints: map[string][]discovery.Endpoint{}, external: map[string]bool{}, written: map[string]written{}}
	for _, e := range in.Endpoints {
		m.endpoints[e.Name()] = append(m.endpoints[e.Name()], e)
	}
	for _, e := range in.Set.External {
		m.external[e.Metadata.Name] = true
	}
	for _, service := range slices.Sorted(maps.Keys(in.Set.Rules)) {
		r := in.Set.Rules[service]
		if len(r.Producer) > 0 {
			m.rules = append(m.rules, table{service, "", r.Producer})
		}
		for _, namespace := range slices.Sorted(maps.Keys(r.Consumer)) {
			m.rules = append(m.rules, table{service, namespace, r.Consumer[namespace]})
		}
	}
	for _, instance := range slices.Sorted(maps.Keys(in.Set.Edges)) {
		for _, port := range in.Set.Edges[instance] {
			for _, h := range port.Hosts {
				if len(h.Rules) > 0 {
					m.rules = append(m.rules, table{fmt.Sprintf("%s at port %d of edge %s", strings.Join(h.Hosts, ", "), port.Number, instance), "", h.Rules})
				}
			}
		}
	}
	for _, e := range m.entries() {
		var names []string
		switch o := e.Object.(type) {
		case *resource.HTTPRoute:
			for _, r := range o.Spec.Rules {
				names = append(names, string(deref(r.Name)))
			}
		case *resource.GRPCRoute:
			for _, r := range o.Spec.Rules {
				names = append(names, string(deref(r.Name)))
			}
		case *resource.TCPRoute:
			for _, r := range o.Spec.Rules {
				names = append(names, string(deref(r.Name)))
			}
		case *resource.TLSRoute:
			for _, r := range o.Spec.Rules {
				names = append(names, string(deref(r.Name)))
			}
		}
		for i, section := range names {
			key := e.Object.Key()
			name := fmt.Sprintf("%s/%s[%d]", key.Namespace, key.Name, i)
			if section != "" {
				name = key.Namespace + "/" + key.Name + "/" + section
			}
			m.written[name] = written{m.at(key), fmt.Sprintf("spec.rules[%d]", i)}
		}
	}
	return m
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// entries are those of the Set, by key.
func (m *mesh) entries() []resource.Entry {
	return slices.SortedFunc(maps.Values(m.Set.Entries), func(a, b resource.Entry) int { return a.Object.Key().Compare(b.Object.Key()) })
}

func (m *mesh) at(key resource.Key) place { return place{m.Set.Entries[key].Position, key} }

// eachRule calls f once for every rule that stands in a document, for the first list of rules that it is in.
func (m *mesh) eachRule(f func(t table, r *route.Rule, at written)) {
	seen := map[string]bool{}
	for _, t := range m.rules {
		for i := range t.rules {
			r := &t.rules[i]
			if at, ok := m.written[r.Name]; ok && !seen[r.Name] {
				seen[r.Name] = true
				f(t, r, at)
			}
		}
	}
}

// setBy is what set a field of the policy for a service, and where: Level is resource.LevelDefault when nobody did.
func (m *mesh) setBy(service, field string) (at place, level resource.Level) {
	for _, s := range resource.Effective(m.Set, service, "") {
		if s.Field == field {
			return place{s.From.Position, s.From.Key}, s.From.Level
		}
	}
	return place{}, resource.LevelDefault
}

// service is how callers treat a port of a service.
func (m *mesh) service(name string) policy.Service {
	return m.Set.Traffic(name).Apply(policy.Service{Name: name}).WithDefaults()
}

// called are the ports of services that a workload is known to call, by policy.PortOf, with the field that says so.
func (m *mesh) called(w *resource.Workload) (names, fields []string) {
	for i, u := range w.Spec.Upstreams {
		names, fields = append(names, m.portOf(u.Service, u.Port)), append(fields, fmt.Sprintf("spec.upstreams[%d]", i))
	}
	for i, l := range w.Spec.Edge.Listeners {
		for k, r := range l.Routes {
			names, fields = append(names, r.Service), append(fields, fmt.Sprintf("spec.edge.listeners[%d].routes[%d]", i, k))
		}
	}
	return names, fields
}

// portOf is the name of a port that configuration calls port: that of the first is the service's.
func (m *mesh) portOf(service, port string) string {
	for _, w := range m.Set.Workloads {
		if w.Spec.Service == service && len(w.Spec.Ports) > 0 && w.Spec.Ports[0].Name == port {
			return service
		}
	}
	return policy.PortOf(service, port)
}

// known reports whether there is such a service at all; where not, the controller says so.
func (m *mesh) known(service string) bool {
	service = policy.ServiceOf(service)
	return m.external[service] || slices.ContainsFunc(m.Set.Workloads, func(w *resource.Workload) bool { return w.Spec.Service == service })
}

// methods are those for which a match is, "" for any.
func methods(r *route.Rule) (out []string) {
	if len(r.Matches) == 0 {
		return []string{""}
	}
	for _, m := range r.Matches {
		out = append(out, m.Method)
	}
	return out
}

// idempotent reports whether requests of a method may be sent twice (RFC 9110, section 9.2.2).
func idempotent(method string) bool {
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}, method)
}

// to is where a share of the requests goes, for people.
func to(service, subset string) string {
	return service + cmp.Or(map[bool]string{true: " {" + subset + "}"}[subset != ""], "")
}
