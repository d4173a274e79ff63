package resource

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// ServiceRules are the rules for requests to a port of a service, in the order in which they count where nothing else tells them apart (GEP-1426): a
// caller in a namespace with rules of its own (consumer routes) goes by those alone, everybody else by those of the service's namespace (producer routes). Rules that are for some
// callers stand before the others. A caller for whom routes have no rule goes by what it would without them.
type ServiceRules struct {
	Producer []route.Rule
	Consumer map[string][]route.Rule // by the caller's namespace
	Bare     []route.Rule            // without any route
}

// For are the rules for a caller in a namespace whom selected names (OfCaller); nil: the service itself takes its requests.
func (s ServiceRules) For(namespace string, selected func(callers string) bool) []route.Rule {
	if own, ok := s.Consumer[namespace]; ok {
		if rules, some := OfCaller(own, selected); some {
			return rules
		}
	}
	if rules, some := OfCaller(s.Producer, selected); some {
		return rules
	}
	return s.Bare
}

// Callers are the names of Callers for whom rules are, sorted.
func (s ServiceRules) Callers() (out []string) {
	for _, list := range append(slices.Collect(maps.Values(s.Consumer)), s.Producer) {
		for _, r := range list {
			out = append(out, r.Callers...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// unmatched ends the rules of a service: what no rule of its routes is for is answered with 404, as the Gateway API says.
const unmatched = "unmatched"

func unmatchedRule(of string) route.Rule {
	return route.Rule{Name: unmatched, Action: route.Action{Respond: &route.Respond{Status: 404, Body: "no rule of the routes for " + of + " is for this request\n"}}}
}

// object is a route of any kind, read.
type object struct {
	GatewayObject
	key       Key
	position  Position
	parents   []gatewayv1.ParentReference
	hostnames []string
	rules     []rule
	layer     layer
	status    []ParentStatus
	common    conditions // what holds for every parent
}

// rule is one rule of a route. What is said of it by policies is not in it yet.
type rule struct {
	route.Rule
	section string // its name; "": it has none
	broken  string // why it cannot be as it is written: it is answered with 500
	void    bool   // so it is, and conditions say why
}

// layer is what a route looks at. Of routes of several kinds for one port of a service those of the highest count.
type layer int

const (
	layerTCP layer = iota
	layerTLS
	layerHTTP
	layerGRPC
)

// attaching resolves what refers to what, once the Set is whole.
type attaching struct {
	*admission
	grants  []*ReferenceGrant
	numbers map[string]map[int32]map[string]bool // by service: port numbers of its instances, and what the ports are called ("": the first)
	routes  []*object
	rules   map[string]ServiceRules
}

// attach puts into the Set what the Gateway API's objects come to.
func (a *admission) attach() {
	t := &attaching{admission: a, numbers: map[string]map[int32]map[string]bool{}, rules: map[string]ServiceRules{}}
	for _, w := range a.set.Workloads {
		for i, p := range w.Spec.Ports {
			name := p.Name
			if i == 0 {
				name = ""
			}
			t.number(w.Spec.Service, p.Listen, name)
		}
	}
	for _, e := range a.set.External {
		for _, at := range e.Spec.Addresses {
			t.number(e.Metadata.Name, at, "")
		}
	}
	entries := sortedEntries(a.set)
	for _, e := range entries {
		if g, ok := e.Object.(*ReferenceGrant); ok {
			t.grants = append(t.grants, g)
		}
	}
	for _, e := range entries {
		switch o := e.Object.(type) {
		case *HTTPRoute:
			t.routes = append(t.routes, t.httpRoute(o, e.Position))
		case *GRPCRoute:
			t.routes = append(t.routes, t.grpcRoute(o, e.Position))
		case *TCPRoute:
			t.routes = append(t.routes, t.tcpRoute(o, e.Position))
		case *TLSRoute:
			t.routes = append(t.routes, t.tlsRoute(o, e.Position))
		}
	}
	slices.SortStableFunc(t.routes, func(a, b *object) int { return older(a, b) })
	t.ruleTraffic()
	t.services()
	t.gateways(entries)
	t.backendTLS(entries)
	for _, r := range t.routes {
		a.set.Statuses = append(a.set.Statuses, Status{Key: r.key, Position: r.position, Parents: r.status})
	}
	sortStatuses(a.set.Statuses)
	a.set.Rules = t.rules
}

// older orders routes as they count among equals: by age, those that do not say theirs last, then by namespace and name.
func older(a, b GatewayObject) int {
	at, bt := a.GetCreationTimestamp().Time, b.GetCreationTimestamp().Time
	if at.IsZero() != bt.IsZero() {
		if at.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Or(at.Compare(bt), strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName()))
}

func (t *attaching) number(service, address, port string) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return
	}
	n := int32(at.Port())
	if t.numbers[service] == nil {
		t.numbers[service] = map[int32]map[string]bool{}
	}
	if t.numbers[service][n] == nil {
		t.numbers[service][n] = map[string]bool{}
	}
	t.numbers[service][n][port] = true
}

// refError says why a reference leads nowhere, as a reason of the condition ResolvedRefs and for people.
type refError struct{ reason, message string }

func unresolved(reason gatewayv1.RouteConditionReason, format string, args ...any) *refError {
	return &refError{string(reason), fmt.Sprintf(format, args...)}
}

// service finds a service by what refers to it: a Service, which in files is the workloads that name it, or an ExternalService.
func (t *attaching) service(group, kind, namespace, name string) (serviceOwner, *refError) {
	external := group == tulleGroup && kind == "ExternalService"
	if !external && (group != "" || kind != "Service") {
		return serviceOwner{}, unresolved(gatewayv1.RouteReasonInvalidKind, "%s is no kind that requests go to; name a Service, or of group %s an ExternalService or Subset", groupKind(group, kind), tulleGroup)
	}
	owner, ok := t.admission.services[name]
	switch {
	case !ok:
		return owner, unresolved(gatewayv1.RouteReasonBackendNotFound, "no service %q in the mesh%s; add a Workload or an ExternalService", name, t.suggest(name))
	case owner.namespace != namespace:
		return owner, unresolved(gatewayv1.RouteReasonBackendNotFound, "no service %q in namespace %s, it is in namespace %s; say namespace: %s", name, namespace, owner.namespace, owner.namespace)
	case external && !owner.external:
		return owner, unresolved(gatewayv1.RouteReasonBackendNotFound, "service %q is no ExternalService but one of workloads; refer to it as kind Service of the core group", name)
	}
	return owner, nil
}

func groupKind(group, kind string) string {
	if group == "" {
		return kind
	}
	return group + "/" + kind
}

// port finds the name of a service's port by its number; "" for its first. 0 is the first.
func (t *attaching) port(service string, number int32) (string, *refError) {
	known := t.numbers[service]
	if number == 0 || len(known) == 0 { // nobody serves it yet, or it is known by its names alone
		return "", nil
	}
	names := known[number]
	switch len(names) {
	case 0:
		var have []string
		for _, n := range slices.Sorted(maps.Keys(known)) {
			have = append(have, strconv.Itoa(int(n)))
		}
		return "", unresolved(gatewayv1.RouteReasonBackendNotFound, "service %q has no port %d, its instances listen at %s; name one of these, or none for the first", service, number, strings.Join(have, ", "))
	case 1:
		for name := range names {
			return name, nil
		}
	}
	return "", unresolved(gatewayv1.RouteReasonBackendNotFound, "port %d of service %q is called %s by its instances; give them one name", number, service, strings.Join(slices.Sorted(maps.Keys(names)), " and "))
}

// protocol is what a port of a service speaks; "" is its first.
func (s serviceOwner) protocolOf(port string) string {
	if port == "" {
		return s.protocol
	}
	return s.further[port].protocol
}

// backend resolves what a rule of a route sends to: a name of policy.Snapshot.Services, and a subset of its endpoints.
func (t *attaching) backend(r *object, ref gatewayv1.BackendObjectReference) (service, subset string, failed *refError) {
	group, kind, name := string(value(ref.Group, "")), string(value(ref.Kind, "Service")), string(ref.Name)
	namespace := string(value(ref.Namespace, gatewayv1.Namespace(r.GetNamespace())))
	if namespace != r.GetNamespace() && !t.granted(r.key.Kind, r.GetNamespace(), group, kind, namespace, name) && !r.consumes(group, kind, namespace, name) {
		return "", "", unresolved(gatewayv1.RouteReasonRefNotPermitted,
			"%s %s/%s is in another namespace, which does not allow it; add a ReferenceGrant there, from %s of namespace %s to %s", groupKind(group, kind), namespace, name, r.key.Kind, r.GetNamespace(), groupKind(group, kind))
	}
	if group == tulleGroup && kind == "Subset" {
		e, ok := t.set.Entries[Key{Kind: "Subset", Namespace: namespace, Name: name}]
		if !ok {
			return "", "", unresolved(gatewayv1.RouteReasonBackendNotFound, "no Subset %s/%s; add it, with the service and the labels of its endpoints", namespace, name)
		}
		s := e.Object.(*Subset)
		group, kind, name, subset = "", "Service", s.Spec.Service, policy.SubsetName(s.Spec.Labels)
		if owner, ok := t.admission.services[name]; ok && owner.external {
			return "", "", unresolved(gatewayv1.RouteReasonBackendNotFound, "Subset %s/%s is of service %q, which is outside the mesh and has no labels", namespace, string(ref.Name), name)
		}
	}
	owner, failed := t.service(group, kind, namespace, name)
	if failed != nil {
		return "", "", failed
	}
	port, failed := t.port(name, value(ref.Port, 0))
	if failed != nil {
		return "", "", failed
	}
	if p, known := policy.ParseProtocol(owner.protocolOf(port)); known && p != flow.ProtocolAuto && !r.layer.speaks(p.HTTP(), p.Relayed()) { // what is detected takes both
		return "", "", unresolved(gatewayv1.RouteReasonUnsupportedProtocol, "service %q speaks %s, to which routes of kind %s cannot send; name another port of it, or another service", policy.PortOf(name, port), owner.protocolOf(port), r.key.Kind)
	}
	return policy.PortOf(name, port), subset, nil
}

// speaks reports whether a route of l can send to a service of a protocol.
func (l layer) speaks(http, relayed bool) bool {
	if l == layerHTTP || l == layerGRPC {
		return http
	}
	return relayed
}

// without says what becomes of the share of a backend that is not valid.
func (l layer) without() string {
	if l == layerHTTP || l == layerGRPC {
		return "its share is answered with 500"
	}
	return "its share of connections is refused"
}

// consumes reports whether what is named is a Service that the route is for: who may call it may be sent to it.
func (r *object) consumes(group, kind, namespace, name string) bool {
	return slices.ContainsFunc(r.parents, func(p gatewayv1.ParentReference) bool {
		return string(value(p.Group, gatewayGroup)) == group && string(value(p.Kind, "Gateway")) == kind &&
			string(value(p.Namespace, gatewayv1.Namespace(r.GetNamespace()))) == namespace && string(p.Name) == name
	})
}

// granted reports whether a ReferenceGrant in namespace allows references from a kind of the Gateway API.
func (t *attaching) granted(fromKind, fromNamespace, group, kind, namespace, name string) bool {
	for _, g := range t.grants {
		if g.GetNamespace() != namespace {
			continue
		}
		from := slices.ContainsFunc(g.Spec.From, func(f gatewayv1.ReferenceGrantFrom) bool {
			return string(f.Group) == gatewayGroup && string(f.Kind) == fromKind && string(f.Namespace) == fromNamespace
		})
		to := slices.ContainsFunc(g.Spec.To, func(t gatewayv1.ReferenceGrantTo) bool {
			return string(t.Group) == group && string(t.Kind) == kind && (t.Name == nil || string(*t.Name) == name)
		})
		if from && to {
			return true
		}
	}
	return false
}

// parentName is a parent as its status calls it.
func (r *object) parentName(p gatewayv1.ParentReference) string {
	s := string(value(p.Kind, "Gateway")) + " " + string(value(p.Namespace, gatewayv1.Namespace(r.GetNamespace()))) + "/" + string(p.Name)
	if p.SectionName != nil {
		s += "/" + string(*p.SectionName)
	}
	if p.Port != nil {
		s += ":" + strconv.Itoa(int(*p.Port))
	}
	return s
}

// claim is one route at one port of a service, for callers of one namespace or for all.
type claim struct {
	route  *object
	parent int // index in route.status
	rules  []route.Rule
}

// services attaches routes to the Services that they name as parents.
func (t *attaching) services() {
	type place struct{ port, consumer string }
	claims := map[place][]claim{}
	for _, r := range t.routes {
		for _, p := range r.parents {
			status := ParentStatus{Parent: r.parentName(p)}
			var list conditions
			group, kind := string(value(p.Group, gatewayGroup)), string(value(p.Kind, "Gateway"))
			if kind == "Gateway" && group == gatewayGroup {
				continue // gateways does it
			}
			list = append(list, r.common...)
			namespace := string(value(p.Namespace, gatewayv1.Namespace(r.GetNamespace())))
			ports, why := t.parentPorts(r, group, kind, namespace, p)
			if why != "" {
				list.set("Accepted", false, string(gatewayv1.RouteReasonNoMatchingParent), why)
			}
			if len(r.hostnames) > 0 {
				list.set("Accepted", true, string(gatewayv1.RouteReasonAccepted), "spec.hostnames: are not looked at where the parent is a Service, whose name is the host; remove them")
			}
			status.Conditions = list
			r.status = append(r.status, status)
			consumer := ""
			if namespace != r.GetNamespace() {
				consumer = r.GetNamespace()
			}
			for _, port := range ports {
				at := place{policy.PortOf(string(p.Name), port), consumer}
				claims[at] = append(claims[at], claim{r, len(r.status) - 1, nil})
			}
		}
	}
	won := map[*ParentStatus]int{}
	lost := map[*ParentStatus]string{}
	for _, at := range slices.SortedFunc(maps.Keys(claims), func(a, b place) int {
		return cmp.Or(strings.Compare(a.port, b.port), strings.Compare(a.consumer, b.consumer))
	}) {
		list := claims[at]
		top := slices.MaxFunc(list, func(a, b claim) int { return cmp.Compare(a.route.layer, b.route.layer) }).route
		http := top.layer == layerHTTP || top.layer == layerGRPC
		var first *object
		var routes []*object
		by := map[*object]*ParentStatus{}
		for _, c := range list {
			status := &c.route.status[c.parent]
			switch {
			case c.route.layer != top.layer:
				lost[status] = fmt.Sprintf("%s has a %s too, %s, and of kinds of routes the most specific counts; use one kind for it", at.port, top.key.Kind, top.key)
			case !http && first != nil:
				lost[status] = fmt.Sprintf("%s has %s already, which is older, and a connection has nothing to match; remove one", at.port, first.key)
			default:
				first = cmp.Or(first, c.route)
				won[status]++
				routes, by[c.route] = append(routes, c.route), status
			}
		}
		rules, out := fit(routes, http, at.port)
		for r, err := range out {
			won[by[r]]--
			lost[by[r]] = fmt.Sprintf("%s: %v; the route is left out there", at.port, err)
		}
		if http {
			rules = t.ofService(at.port, rules)
		}
		s := t.rules[at.port]
		if at.consumer == "" {
			s.Producer = rules
		} else {
			if s.Consumer == nil {
				s.Consumer = map[string][]route.Rule{}
			}
			s.Consumer[at.consumer] = rules
		}
		if http && s.Bare == nil {
			s.Bare = t.ofService(at.port, nil)
		}
		t.rules[at.port] = s
	}
	for port := range t.set.traffic { // of services without routes
		if _, ok := claims[place{port: port}]; ok || !t.takesRequests(port) {
			continue
		}
		if rules := t.ofService(port, nil); rules != nil {
			s := t.rules[port]
			s.Producer = rules
			t.rules[port] = s
		}
	}
	for status, why := range lost {
		list := conditions(status.Conditions)
		list.set("Accepted", won[status] > 0, map[bool]string{true: "Accepted", false: "Conflicted"}[won[status] > 0], why)
		status.Conditions = list
	}
}

// fit are the rules of routes, which are in their order, as far as one table takes them, and what it does not take, with the reason. Of requests a rule for what none is for ends them;
// of names what the rules are of.
func fit(routes []*object, http bool, of string) ([]route.Rule, map[*object]error) {
	end := func(rules []route.Rule) []route.Rule {
		if http {
			return append(rules, unmatchedRule(of))
		}
		return rules
	}
	var all []route.Rule
	for _, r := range routes {
		for _, x := range r.rules {
			all = append(all, x.Rule)
		}
	}
	if all = end(special(all)); route.Check(all) == nil {
		return all, nil
	}
	var some []route.Rule
	out := map[*object]error{}
	for _, r := range routes {
		with := slices.Clone(some)
		for _, x := range r.rules {
			with = append(with, x.Rule)
		}
		if err := route.Check(end(with)); err != nil {
			out[r] = err
			continue
		}
		some = with
	}
	return end(special(some)), out
}

// takesRequests reports whether a port of a service, as policy.PortOf names it, speaks HTTP.
func (t *attaching) takesRequests(port string) bool {
	service := policy.ServiceOf(port)
	p, known := policy.ParseProtocol(t.admission.services[service].protocolOf(strings.TrimPrefix(strings.TrimPrefix(port, service), ":")))
	return known && p.MayBeHTTP()
}

// parentPorts are the ports of a Service that a reference means; or why there is none.
func (t *attaching) parentPorts(r *object, group, kind, namespace string, p gatewayv1.ParentReference) (ports []string, why string) {
	if kind == "Subset" {
		return nil, "a Subset is where requests go to, not whom callers call; name its Service"
	}
	owner, failed := t.service(group, kind, namespace, string(p.Name))
	if failed != nil {
		return nil, failed.message
	}
	all := append([]string{""}, slices.Sorted(maps.Keys(owner.further))...)
	if p.Port != nil {
		name, failed := t.port(string(p.Name), *p.Port)
		if failed != nil {
			return nil, failed.message
		}
		all = []string{name}
	}
	if s := p.SectionName; s != nil {
		name := string(*s)
		if _, first := owner.first[name]; first {
			name = ""
		} else if !owner.has(name) {
			return nil, fmt.Sprintf("service %q has no port %q, it has %s; sectionName is the name of a port", p.Name, name, owner.ports())
		}
		if p.Port != nil && all[0] != name {
			return nil, fmt.Sprintf("port %d of service %q is not the one that sectionName, %s, means", *p.Port, p.Name, *s)
		}
		all = []string{name}
	}
	for _, name := range all {
		if protocol, known := policy.ParseProtocol(owner.protocolOf(name)); !known || r.layer.speaks(protocol.MayBeHTTP(), protocol.Relayed()) {
			ports = append(ports, name)
		}
	}
	if len(ports) == 0 {
		return nil, fmt.Sprintf("service %q speaks %s there, which routes of kind %s are not for; say the protocol of its port if it is another", p.Name, owner.protocolOf(all[0]), r.key.Kind)
	}
	return ports, ""
}

// name is the route's in Records: NAMESPACE/NAME, and the rule's name, or its place in the list.
func (r *object) ruleName(i int, name *gatewayv1.SectionName) string {
	if name != nil {
		return r.GetNamespace() + "/" + r.GetName() + "/" + string(*name)
	}
	return fmt.Sprintf("%s/%s[%d]", r.GetNamespace(), r.GetName(), i)
}

// accept says what of its rules the route is accepted with, once all are read.
func (r *object) accept(fields []Field, o GatewayObject) {
	var broken []string
	for i := range r.rules {
		if x := &r.rules[i]; x.broken == "" {
			if err := x.Check(); err != nil { // what the sidecar would refuse
				x.broken, x.Action = fmt.Sprintf("spec.rules[%d]: %v", i, err), route.Action{}
			}
		}
	}
	r.rules = slices.DeleteFunc(r.rules, func(x rule) bool {
		if x.Check() != nil { // its matches are what is wrong: it is for nothing
			r.common = append(r.common, Condition{"PartiallyInvalid", "True", string(gatewayv1.RouteReasonUnsupportedValue), x.broken + "; the rule is left out"})
			return true
		}
		return false
	})
	for _, x := range r.rules {
		if x.broken != "" {
			broken = append(broken, x.broken)
		}
	}
	notes := unsupported(fields, o)
	switch why := strings.Join(broken, "; "); {
	case len(r.rules) == 0:
		r.common.set("Accepted", false, string(gatewayv1.RouteReasonUnsupportedValue), "no rule is left")
	case len(broken) == len(r.rules):
		r.common.set("Accepted", false, string(gatewayv1.RouteReasonUnsupportedValue), why+"; what they match is answered with 500")
	case len(broken) > 0:
		r.common.set("Accepted", true, string(gatewayv1.RouteReasonAccepted), "")
		r.common = append(r.common, Condition{"PartiallyInvalid", "True", string(gatewayv1.RouteReasonUnsupportedValue), why + "; what they match is answered with 500"})
	default:
		r.common.set("Accepted", true, string(gatewayv1.RouteReasonAccepted), "")
	}
	for _, n := range notes {
		if slices.ContainsFunc(r.common, func(c Condition) bool {
			return strings.Contains(c.Message, n.text) || n.said != "" && strings.Contains(c.Message, n.said)
		}) {
			continue
		}
		r.common.set("Accepted", true, string(gatewayv1.RouteReasonAccepted), n.text)
	}
	r.common.set("ResolvedRefs", true, string(gatewayv1.RouteReasonResolvedRefs), "")
}

// backends resolves a rule's, and says what is wrong with them. An invalid one keeps its share, which is answered with 500.
func (t *attaching) backends(r *object, x *rule, at string, refs []gatewayv1.BackendRef, edit func(i int, b *route.Backend) string) {
	for i, ref := range refs {
		field := fmt.Sprintf("%s.backendRefs[%d]", at, i)
		b := route.Backend{Weight: uint32(value(ref.Weight, 1))}
		var failed *refError
		if b.Service, b.Subset, failed = t.backend(r, ref.BackendObjectReference); failed != nil {
			r.common.set("ResolvedRefs", false, failed.reason, field+": "+failed.message+"; "+r.layer.without())
		} else if why := edit(i, &b); why != "" {
			b.Service, b.Subset = "", ""
			r.common.set("ResolvedRefs", false, string(gatewayv1.RouteReasonUnsupportedValue), field+why+"; "+r.layer.without())
		}
		x.Action.Backends = append(x.Action.Backends, b)
	}
}

// mirror resolves whom copies go to. One that leads nowhere is left out: it is nobody's answer.
func (t *attaching) mirror(r *object, x *rule, at string, m *gatewayv1.HTTPRequestMirrorFilter) {
	out := route.Mirror{PPM: route.Million}
	if p := m.Percent; p != nil {
		out.PPM = uint32(*p) * (route.Million / 100)
	}
	if f := m.Fraction; f != nil {
		out.PPM = uint32(uint64(f.Numerator) * route.Million / uint64(value(f.Denominator, 100)))
	}
	var failed *refError
	if out.Service, out.Subset, failed = t.backend(r, m.BackendRef); failed != nil {
		r.common.set("ResolvedRefs", false, failed.reason, at+".requestMirror.backendRef: "+failed.message+"; nothing is mirrored")
		return
	}
	if out.PPM > 0 {
		x.Action.Mirrors = append(x.Action.Mirrors, out)
	}
}

func edits(f *gatewayv1.HTTPHeaderFilter) (e route.Edits) {
	if f == nil {
		return e
	}
	for _, h := range f.Set {
		e.Set = append(e.Set, route.Field{Name: strings.ToLower(string(h.Name)), Value: h.Value})
	}
	for _, h := range f.Add {
		e.Add = append(e.Add, route.Field{Name: strings.ToLower(string(h.Name)), Value: h.Value})
	}
	for _, n := range f.Remove {
		e.Remove = append(e.Remove, strings.ToLower(n))
	}
	return e
}

// session is a rule's; path is where its cookie is for.
func session(s *gatewayv1.SessionPersistence, name, path string) *route.Session {
	if s == nil {
		return nil
	}
	out := &route.Session{Name: value(s.SessionName, sessionName(name))}
	if value(s.Type, gatewayv1.CookieBasedSessionPersistence) == gatewayv1.HeaderBasedSessionPersistence {
		out.Kind = route.SessionHeader
		out.Name = strings.ToLower(out.Name)
	} else {
		out.Path = path
	}
	if d := s.AbsoluteTimeout; d != nil {
		out.Absolute = duration(*d)
	}
	if c := s.CookieConfig; c != nil && value(c.LifetimeType, gatewayv1.SessionCookieLifetimeType) == gatewayv1.PermanentCookieLifetimeType {
		out.Lifetime = out.Absolute
	}
	return out
}

// off is a Duration as an Action has it: 0s is off.
func off(d *gatewayv1.Duration) time.Duration {
	switch {
	case d == nil:
		return 0
	case duration(*d) == 0:
		return -1
	}
	return duration(*d)
}
