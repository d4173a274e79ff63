// Package resource is the configuration of the mesh as people write it: Tulle's kinds, their checks with errors that say where and what to
// do, and the resolution of a whole set in which a bad resource never takes a good one down.
//
// A source yields Documents in order; Resolve turns them, with the Set before, into the next Set and the Problems. Everything here is pure.
package resource

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// APIVersion of all kinds of this package.
const APIVersion = "tulle.dev/v1alpha1"

// Key names a resource. It compares with == and is a valid map key.
type Key struct{ Kind, Namespace, Name string }

// String is "Workload shop/catalog-1".
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Compare orders keys by kind, namespace, name.
func (k Key) Compare(o Key) int {
	return strings.Compare(k.Kind+"\x00"+k.Namespace+"\x00"+k.Name, o.Kind+"\x00"+o.Namespace+"\x00"+o.Name)
}

// Position is where a document stands.
type Position struct {
	File string
	Line int // first line of the document, from 1
}

func (p Position) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Object is one resource of any kind.
type Object interface {
	Key() Key
	// check says what is wrong with the object by itself; the error begins with the field.
	check() error
}

// Document is one YAML document as a source read it: an Object, or Err saying why there is none. Key may be set with Err when kind and name
// were readable; the last valid version of that resource then stays in force.
type Document struct {
	Position Position
	Key      Key
	Object   Object
	Lines    map[string]int // as of an Entry
	Err      error
	// Hold is set when the document cannot even be named: everything its file yielded before then stays in force.
	Hold bool
}

// Severity of a Problem.
type Severity string

const (
	// Refused: the document is not in force; its last valid version may be.
	Refused Severity = "refused"
	// Warning: in force, but probably not as meant.
	Warning Severity = "warning"
)

// Problem is what a person must know about one document.
type Problem struct {
	Position Position
	Key      Key
	Severity Severity
	Message  string // "spec.ports[0].listen: …; do …"
	Kept     bool   // the last valid version stays in force
	Reason   string // of the condition in a Status that says it, such as BackendNotFound, or ReasonLeftOut; "" of others
}

func (p Problem) String() string {
	s := p.Position.String() + ": "
	if p.Key != (Key{}) {
		s += p.Key.String() + ": "
	}
	s += p.Message
	if p.Kept {
		s += " (its last valid version stays in force)"
	}
	return s
}

// Entry is an Object in force and where it came from.
type Entry struct {
	Object   Object
	Position Position
	Lines    map[string]int // of its fields, by path ("spec.retry.attempts"); of kinds whose fields are looked up singly
}

// line is that of a field; 0: it is not known.
func (e Entry) line(path string) int { return e.Lines[path] }

// Set is all that is in force, immutable.
type Set struct {
	Entries   map[Key]Entry
	Workloads []*Workload // sorted by key
	External  []*ExternalService
	Policies  []*TrafficPolicy
	Subsets   []*Subset
	Access    []*AccessPolicy // sorted by key
	Observed  []*TelemetryPolicy
	Mesh      *MeshConfig // never nil

	Rules    map[string]ServiceRules // by policy.PortOf; of services that are parents of routes
	Edges    map[string][]EdgePort   // by instance of an edge: what it serves for its Gateway, by port
	TLS      map[string]BackendTLS   // by ExternalService: what a BackendTLSPolicy says
	Statuses []Status                // of the Gateway API's objects, sorted by key

	traffic   map[string]TrafficPolicySpec // by policy.PortOf: all levels together; of those that have any
	byTarget  map[target][]*TrafficPolicy
	firstPort map[string]string // by service
	rules     map[string]ruleOf // of routes, by their names in Records
}

// EmptySet is in force before the first reading.
func EmptySet() *Set { return &Set{Entries: map[Key]Entry{}, Mesh: &MeshConfig{}} }

// Resolve admits documents in order. One that is bad by itself or at odds with an earlier one is refused, and its last valid version, if any,
// is admitted in its place. Problems come in the order of the documents.
func Resolve(documents []Document, last *Set) (*Set, []Problem) {
	var problems []Problem
	a := admission{set: EmptySet(), listeners: map[string]Key{}, instances: map[string]Key{}, services: map[string]serviceOwner{}, hosts: map[string]Key{}, egress: map[string]bool{}}
	refuse := func(d Document, message string) {
		p := Problem{Position: d.Position, Key: d.Key, Severity: Refused, Message: message}
		if old, ok := last.Entries[d.Key]; ok && d.Key != (Key{}) && a.admit(old) == "" {
			p.Kept = true
		}
		if d.Hold {
			for _, old := range sortedEntries(last) {
				if old.Position.File == d.Position.File && !declared(documents, old.Object.Key()) && a.admit(old) == "" {
					p.Kept = true
				}
			}
		}
		problems = append(problems, p)
	}
	for _, d := range documents {
		if d.Err != nil {
			refuse(d, d.Err.Error())
			continue
		}
		d.Key = d.Object.Key()
		if err := d.Object.check(); err != nil {
			refuse(d, err.Error())
			continue
		}
		if message := a.admit(Entry{Object: d.Object, Position: d.Position, Lines: d.Lines}); message != "" {
			refuse(d, message)
		}
	}
	a.finish()
	problems = append(problems, a.warnings()...)
	problems = append(problems, statusProblems(a.set.Statuses)...)
	return a.set, problems
}

func declared(documents []Document, k Key) bool {
	return slices.ContainsFunc(documents, func(d Document) bool { return d.Key == k || d.Object != nil && d.Object.Key() == k })
}

func sortedEntries(s *Set) []Entry {
	out := make([]Entry, 0, len(s.Entries))
	for _, e := range s.Entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return a.Object.Key().Compare(b.Object.Key()) })
	return out
}

// serviceOwner is what the workloads of a service have said of it so far.
type serviceOwner struct {
	namespace string
	protocol  string // of its first port
	external  bool
	key       Key
	first     map[string]Key         // names that its instances give to their first port, which is the service's whatever it is called
	further   map[string]servicePort // by name
}

type servicePort struct {
	protocol string
	key      Key
}

// admission is the set being built and what is already taken.
type admission struct {
	set       *Set
	listeners map[string]Key // "host:port" of sidecar listeners
	instances map[string]Key
	services  map[string]serviceOwner
	hosts     map[string]Key  // of external services
	egress    map[string]bool // services that have an egress
	dropped   []Problem       // about what of policies does not go with others
}

// admit adds e unless it is at odds with what is there; then it returns why, and changes nothing.
func (a *admission) admit(e Entry) string {
	key := e.Object.Key()
	if other, ok := a.set.Entries[key]; ok {
		return fmt.Sprintf("metadata.name: %s is also defined at %s; rename or remove one", key, other.Position)
	}
	switch o := e.Object.(type) {
	case *Workload:
		if message := a.admitWorkload(o); message != "" {
			return message
		}
	case *ExternalService:
		if owner, ok := a.services[o.Metadata.Name]; ok {
			return fmt.Sprintf("metadata.name: service %q is already defined by %s; service names are unique in the mesh", o.Metadata.Name, owner.key)
		}
		for _, h := range o.Spec.Names() {
			if other, ok := a.hosts[h]; ok {
				return fmt.Sprintf("spec.hosts: %q already belongs to %s; a host is one service, remove it from one of them", h, other)
			}
		}
		for _, h := range o.Spec.Names() {
			a.hosts[h] = key
		}
		a.services[o.Metadata.Name] = serviceOwner{namespace: o.Metadata.Namespace, protocol: o.Spec.Protocol, external: true, key: key}
	case *TelemetryPolicy:
		for _, other := range sortedEntries(a.set) {
			if p, ok := other.Object.(*TelemetryPolicy); ok {
				for _, t := range o.targets() {
					if slices.Contains(p.targets(), t) {
						return fmt.Sprintf("spec.targetRefs: %s already has %s (%s); merge the two", t, p.Key(), other.Position)
					}
				}
			}
		}
	case *TrafficPolicy:
		for _, other := range a.set.Entries {
			p, ok := other.Object.(*TrafficPolicy)
			if !ok {
				continue
			}
			for i, t := range o.targets() {
				switch {
				case !slices.Contains(p.targets(), t):
				case o.Spec.TargetService != "":
					return fmt.Sprintf("spec.targetService: %q already has %s (%s); merge the two", o.Spec.TargetService, p.Key(), other.Position)
				default:
					return fmt.Sprintf("spec.targetRefs[%d]: %s already has %s (%s); merge the two", i, t, p.Key(), other.Position)
				}
			}
		}
	case *MeshConfig:
		for _, other := range a.set.Entries {
			if m, ok := other.Object.(*MeshConfig); ok {
				return fmt.Sprintf("kind: the mesh already has %s (%s); merge the two", m.Key(), other.Position)
			}
		}
	}
	a.set.Entries[key] = e
	return ""
}

func (a *admission) admitWorkload(w *Workload) string {
	key := w.Key()
	if other, ok := a.instances[w.Metadata.Name]; ok {
		return fmt.Sprintf("metadata.name: instance %q already exists as %s; instance names are unique in the mesh", w.Metadata.Name, other)
	}
	if owner, ok := a.services[w.Spec.Service]; ok {
		switch {
		case owner.namespace != w.Metadata.Namespace || owner.external:
			return fmt.Sprintf("spec.service: service %q already belongs to %s; service names are unique in the mesh, rename one", w.Spec.Service, owner.key)
		case len(w.Spec.Ports) > 0 && owner.protocol != "" && owner.protocol != w.Spec.Ports[0].Protocol:
			return fmt.Sprintf("spec.ports[0].protocol: %q, but service %q has protocol %q at %s; all instances of a service speak one protocol",
				w.Spec.Ports[0].Protocol, w.Spec.Service, owner.protocol, owner.key)
		}
		for i, p := range w.Spec.Ports {
			other, known := owner.further[p.Name]
			first, leads := owner.first[p.Name]
			switch {
			case i == 0 && known:
				return fmt.Sprintf("spec.ports[0].name: %q, but that is a further port of service %q at %s; list first what is first at all of its instances, or rename one",
					p.Name, w.Spec.Service, other.key)
			case i > 0 && leads:
				return fmt.Sprintf("spec.ports[%d].name: %q, but that is the first port of service %q at %s; list first what is first at all of its instances, or rename one",
					i, p.Name, w.Spec.Service, first)
			case i > 0 && known && other.protocol != p.Protocol:
				return fmt.Sprintf("spec.ports[%d].protocol: %q, but port %q of service %q has protocol %q at %s; all instances speak one protocol at a port, rename one",
					i, p.Protocol, p.Name, w.Spec.Service, other.protocol, other.key)
			}
		}
	}
	for _, l := range w.listens() {
		if other, ok := a.listeners[l.address]; ok && !l.local() {
			return fmt.Sprintf("%s: %s is already taken by %s; give one of them another port", l.field, l.address, other)
		}
	}
	for _, l := range w.listens() {
		a.listeners[l.address] = key
	}
	a.instances[w.Metadata.Name] = key
	if w.Spec.Edge.Egress.Listen != "" {
		a.egress[w.Spec.Service] = true
	}
	owner, ok := a.services[w.Spec.Service]
	if !ok {
		owner = serviceOwner{namespace: w.Metadata.Namespace, first: map[string]Key{}, further: map[string]servicePort{}}
	}
	if !ok || len(w.Spec.Ports) > 0 {
		owner.key = key
	}
	for i, p := range w.Spec.Ports {
		switch _, known := owner.further[p.Name]; {
		case i == 0:
			owner.protocol = p.Protocol
			if _, known := owner.first[p.Name]; !known {
				owner.first[p.Name] = key
			}
		case !known:
			owner.further[p.Name] = servicePort{p.Protocol, key}
		}
	}
	a.services[w.Spec.Service] = owner
	return ""
}

// finish sorts what was admitted by kind.
func (a *admission) finish() {
	for _, e := range sortedEntries(a.set) {
		switch o := e.Object.(type) {
		case *Workload:
			a.set.Workloads = append(a.set.Workloads, o)
		case *ExternalService:
			a.set.External = append(a.set.External, o)
		case *TrafficPolicy:
			a.set.Policies = append(a.set.Policies, o)
		case *AccessPolicy:
			a.set.Access = append(a.set.Access, o)
		case *TelemetryPolicy:
			a.set.Observed = append(a.set.Observed, o)
		case *Subset:
			a.set.Subsets = append(a.set.Subsets, o)
		case *MeshConfig:
			a.set.Mesh = o
		}
	}
	a.traffic()
	a.attach()
}

// has reports whether the service has a port of that name.
func (s serviceOwner) has(port string) bool {
	_, first := s.first[port]
	_, further := s.further[port]
	return first || further
}

// ports lists the names of the service's ports for people, the first first.
func (s serviceOwner) ports() string {
	names := append(slices.Sorted(maps.Keys(s.first)), slices.Sorted(maps.Keys(s.further))...)
	if len(names) == 0 {
		return "none with a name"
	}
	return strings.Join(names, ", ")
}

// differingPorts warns where w's ports are not those of the other instances of its service. A workload without any is a pure client.
func (a *admission) differingPorts(w *Workload, warn func(string, ...any)) {
	if len(w.Spec.Ports) == 0 {
		return
	}
	owner := a.services[w.Spec.Service]
	if len(owner.first) > 1 {
		for _, name := range slices.Sorted(maps.Keys(owner.first)) {
			if name != w.Spec.Ports[0].Name {
				warn("spec.ports[0].name: is %q here, and %q at %s; both are the first port of service %q, so either name means all of its instances. "+
					"Give the first port one name", w.Spec.Ports[0].Name, name, owner.first[name], w.Spec.Service)
				break
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(owner.further)) {
		if !slices.ContainsFunc(w.Spec.Ports, func(p Port) bool { return p.Name == name }) {
			warn("spec.ports: no port %q, which service %q has at %s; what is sent to that port never comes to this instance. "+
				"Add it here, or give the workloads that have it a service of their own", name, w.Spec.Service, owner.further[name].key)
		}
	}
}

// warnings are about references that lead nowhere, and ports that only some instances have.
func (a *admission) warnings() []Problem {
	var out []Problem
	slices.SortFunc(a.dropped, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
	out = append(out, slices.Compact(a.dropped)...)
	for _, e := range sortedEntries(a.set) {
		warn := func(format string, args ...any) {
			out = append(out, Problem{Position: e.Position, Key: e.Object.Key(), Severity: Warning, Message: fmt.Sprintf(format, args...)})
		}
		switch o := e.Object.(type) {
		case *Workload:
			a.differingPorts(o, warn)
			a.edgeWarnings(o, warn)
			if at := o.Spec.Proxy.Listen; at != "" && !netip.MustParseAddrPort(at).Addr().IsLoopback() {
				warn("spec.proxy.listen: whoever reaches %s calls as this workload; listen on 127.0.0.1 or [::1], where only its own host does", at)
			}
			for i, u := range o.Spec.Upstreams {
				switch owner, ok := a.services[u.Service]; {
				case !ok:
					warn("spec.upstreams[%d].service: no service %q in the mesh%s; until there is one its listener answers no_endpoint. "+
						"Add a Workload or an ExternalService", i, u.Service, a.suggest(u.Service))
				case u.Port != "" && !owner.has(u.Port):
					warn("spec.upstreams[%d].port: service %q has no port %q, it has %s; until it has one the listener answers no_endpoint. "+
						"Name one of these, or none for the first", i, u.Service, u.Port, owner.ports())
				}
			}
		case *ExternalService:
			if via := o.Spec.Via; via != "" && !a.egress[via] {
				warn("spec.via: no workload of service %q has spec.edge.egress; until one has, calls get no_endpoint", via)
			}
		case *Subset:
			if owner, ok := a.services[o.Spec.Service]; !ok || owner.namespace != o.Metadata.Namespace {
				warn("spec.service: no service %q in namespace %s%s; until there is one what is sent to the subset gets 500", o.Spec.Service, o.Metadata.Namespace, a.suggest(o.Spec.Service))
			}
			if n := len(a.selectors(o.Spec.Service)); n > policy.MaxSelectors {
				warn("spec.labels: service %q has %d sets of label keys with this one, at most %d count; use the same keys in several Subsets", o.Spec.Service, n, policy.MaxSelectors)
			}
		case *TrafficPolicy:
			a.trafficWarnings(o, warn)
		case *AccessPolicy:
			a.accessWarnings(o, warn)
		case *TelemetryPolicy:
			a.telemetryWarnings(o, warn)
		}
	}
	return out
}

func (a *admission) suggest(name string) string {
	names := make([]string, 0, len(a.services))
	for n := range a.services {
		names = append(names, n)
	}
	if s := nearest(name, names); s != "" {
		return fmt.Sprintf(" (did you mean %q?)", s)
	}
	return ""
}
