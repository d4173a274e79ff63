// Package explain says what is in force for a service and where it comes from, for people: `tulle explain` on files, and GET /explain of the controller. It is pure.
package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/schema"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Question is what is asked.
type Question struct {
	Service   string // as policy.PortOf names it: "catalog", "catalog:admin"
	Namespace string // of the service; "": any, names are unique in the mesh
	From      string // instance of a caller; "": callers are not told apart
	Rule      string // as Records name it, "shop/catalog/canary"; "": what holds for the service
}

// Answer is the policy of a service.
type Answer struct {
	Service   string    `json:"service"`
	Namespace string    `json:"namespace"`
	Protocol  string    `json:"protocol,omitempty"` // "" of a service that has no port
	External  bool      `json:"external,omitempty"`
	Endpoints int       `json:"endpoints"`
	Rule      string    `json:"rule,omitempty"`
	Caller    *Caller   `json:"caller,omitempty"`
	Settings  []Setting `json:"settings"` // by field
}

// Setting is one field and where its value comes from.
type Setting struct {
	Field string   `json:"field"` // below spec of a TrafficPolicy
	Value string   `json:"value"` // as it could be written
	Unit  string   `json:"unit,omitempty"`
	From  Origin   `json:"from"`
	Over  []Origin `json:"over,omitempty"` // what set it, too, and does not count; the most special first
}

// Origin is what sets a field. Level "default" has nothing else.
type Origin struct {
	Level    string `json:"level"`
	Resource string `json:"resource,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
}

// String is "service, TrafficPolicy shop/catalog (mesh.yaml:12)".
func (o Origin) String() string {
	if o.Resource == "" {
		return o.Level
	}
	return fmt.Sprintf("%s, %s (%s:%d)", o.Level, o.Resource, o.File, o.Line)
}

// Caller is one workload that calls the service, or would.
type Caller struct {
	Workload string   `json:"workload"` // "Workload shop/web-1"
	Reaches  string   `json:"reaches"`  // how: "spec.upstreams[0] at 127.0.0.1:9001", "intercepted"; "": it has no way to
	Rules    []string `json:"rules"`    // that its requests go by, as they stand; empty: the service itself takes them all
	Consumer bool     `json:"consumer"` // the rules are of its own namespace (consumer routes)
}

// Missing is the error of a question about what is not there.
type Missing struct{ error }

func missing(format string, args ...any) error { return Missing{fmt.Errorf(format, args...)} }

// Of answers.
func Of(set *resource.Set, endpoints []discovery.Endpoint, q Question) (*Answer, error) {
	settings := resource.Effective(set, q.Service, q.Rule)
	a := &Answer{Service: q.Service, Rule: q.Rule, Settings: []Setting{}}
	known := a.find(set, endpoints)
	switch {
	case settings == nil || !known:
		return nil, missing("there is no service %q%s", q.Service, there(set))
	case q.Namespace != "" && q.Namespace != a.Namespace:
		return nil, missing("there is no service %q in namespace %s, it is in namespace %s", q.Service, q.Namespace, a.Namespace)
	}
	if q.Rule != "" && !slices.Contains(rules(set), q.Rule) {
		return nil, missing("no service has a rule %q; there are %s", q.Rule, list(rules(set)))
	}
	for _, s := range settings {
		out := Setting{Field: s.Field, Value: s.Value, Unit: units[s.Field], From: origin(s.From)}
		for _, o := range s.Over {
			out.Over = append(out.Over, origin(o))
		}
		a.Settings = append(a.Settings, out)
	}
	if q.From != "" {
		i := slices.IndexFunc(set.Workloads, func(w *resource.Workload) bool { return w.Metadata.Name == q.From })
		if i < 0 {
			return nil, missing("there is no Workload %q", q.From)
		}
		a.Caller = caller(set, set.Workloads[i], q.Service)
	}
	return a, nil
}

// find fills in what the service is.
func (a *Answer) find(set *resource.Set, endpoints []discovery.Endpoint) (known bool) {
	service := policy.ServiceOf(a.Service)
	for _, w := range set.Workloads {
		if w.Spec.Service == service {
			a.Namespace, known = w.Metadata.Namespace, true
		}
	}
	for _, e := range set.External {
		if e.Metadata.Name == service {
			a.Namespace, a.Protocol, a.External, known = e.Metadata.Namespace, e.Spec.Protocol, true, true
		}
	}
	for _, e := range endpoints {
		if e.Name() == a.Service {
			a.Protocol = e.Protocol
			a.Endpoints++
		}
	}
	return known && (a.Service == service || a.Endpoints > 0)
}

// units are those of fields, by their path below spec.
var units = func() map[string]string {
	out := map[string]string{}
	i := slices.IndexFunc(schema.Kinds, func(k schema.Kind) bool { return k.Name == "TrafficPolicy" })
	root, err := schema.Kinds[i].Shape()
	if err != nil {
		return out // its own tests say so
	}
	root.Each(func(f *schema.Field) {
		if f.Fact == nil {
			return
		}
		unit := f.Fact.Unit
		if f.Type == schema.Duration {
			unit = "duration"
		}
		out[strings.TrimPrefix(f.Path, "spec.")] = unit
	})
	return out
}()

func origin(o resource.Origin) Origin {
	if o.Level == resource.LevelDefault {
		return Origin{Level: o.Level.String()}
	}
	return Origin{o.Level.String(), o.Key.String(), o.Position.File, o.Position.Line}
}

// caller is how a workload calls a service.
func caller(set *resource.Set, w *resource.Workload, service string) *Caller {
	c := &Caller{Workload: w.Key().String(), Rules: []string{}}
	for i, u := range w.Spec.Upstreams {
		if name := policy.PortOf(u.Service, u.Port); name == service || u.Service == service && first(set, u.Service, u.Port) {
			c.Reaches = fmt.Sprintf("spec.upstreams[%d] at %s", i, u.Listen)
		}
	}
	switch {
	case c.Reaches != "":
	case w.Spec.Intercept.Outbound.Listen != "":
		c.Reaches = "its connections are redirected"
	case w.Spec.Proxy.Listen != "":
		c.Reaches = "through the forward proxy at " + w.Spec.Proxy.Listen
	}
	r := set.Rules[service]
	_, c.Consumer = r.Consumer[w.Metadata.Namespace]
	for _, rule := range r.For(w.Metadata.Namespace, set.SelectedBy(w, set.Mesh.Spec.TrustDomain)) {
		c.Rules = append(c.Rules, rule.Name)
	}
	return c
}

// first reports whether a service's first port is called so.
func first(set *resource.Set, service, port string) bool {
	return slices.ContainsFunc(set.Workloads, func(w *resource.Workload) bool {
		return w.Spec.Service == service && len(w.Spec.Ports) > 0 && w.Spec.Ports[0].Name == port
	})
}

// rules are the names of all, sorted.
func rules(set *resource.Set) (out []string) {
	for _, r := range set.Rules {
		for _, x := range r.Producer {
			out = append(out, x.Name)
		}
		for _, consumer := range r.Consumer {
			for _, x := range consumer {
				out = append(out, x.Name)
			}
		}
	}
	for _, ports := range set.Edges {
		for _, p := range ports {
			for _, h := range p.Hosts {
				for _, x := range h.Rules {
					out = append(out, x.Name)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(name string) bool { return !strings.Contains(name, "/") }) // the rest is nobody's
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	const most = 12
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// there lists the services of the mesh.
func there(set *resource.Set) string {
	var names []string
	for _, w := range set.Workloads {
		names = append(names, w.Spec.Service)
	}
	for _, e := range set.External {
		names = append(names, e.Metadata.Name)
	}
	slices.Sort(names)
	return "; there are " + list(slices.Compact(names))
}
