package resource

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// EdgePort is what an edge serves at one port for the Gateway that it names.
type EdgePort struct {
	Number   uint16
	Protocol flow.Protocol
	TLS      *policy.ServerTLS    // of callers, which is ended; nil: it is not
	Hosts    []policy.VirtualHost // each with Rules, and no Service
}

// defaultClass is a GatewayClass that is there without being written.
const defaultClass = "tulle"

// optionMinVersion is the one option of a listener's TLS.
const optionMinVersion = "tulle.dev/min-version"

var controllerPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$`)

func (c *GatewayClass) check() error {
	if err := checkObject(c); err != nil {
		return err
	}
	if name := c.Spec.ControllerName; len(name) > 253 || !controllerPattern.MatchString(string(name)) {
		return fmt.Errorf("spec.controllerName: %q must be a host name and a path, such as %s", name, ControllerName)
	}
	return nil
}

func (n *Namespace) check() error { return checkObject(n) }

func (g *Gateway) check() error {
	if err := checkObject(g); err != nil {
		return err
	}
	if g.Spec.GatewayClassName == "" {
		return fmt.Errorf("spec.gatewayClassName: is required; write %s", defaultClass)
	}
	if len(g.Spec.Listeners) == 0 {
		return fmt.Errorf("spec.listeners: needs at least one listener")
	}
	type place struct {
		port     int32
		protocol gatewayv1.ProtocolType
		host     gatewayv1.Hostname
	}
	names, places := map[gatewayv1.SectionName]bool{}, map[place]gatewayv1.SectionName{}
	for i := range g.Spec.Listeners {
		l, at := &g.Spec.Listeners[i], fmt.Sprintf("spec.listeners[%d]", i)
		mode := gatewayv1.TLSModeTerminate
		if l.TLS != nil {
			mode = value(l.TLS.Mode, mode)
		}
		host := value(l.Hostname, "")
		switch {
		case l.Name == "":
			return fmt.Errorf("%s.name: is required", at)
		case names[l.Name]:
			return fmt.Errorf("%s.name: %q is used twice; rename one", at, l.Name)
		case l.Port == 0:
			return fmt.Errorf("%s.port: is required, from 1 to 65535", at)
		case l.Protocol == "":
			return fmt.Errorf("%s.protocol: is required; HTTP, HTTPS, TLS or TCP", at)
		case l.TLS != nil && (l.Protocol == gatewayv1.HTTPProtocolType || l.Protocol == gatewayv1.TCPProtocolType || l.Protocol == gatewayv1.UDPProtocolType):
			return fmt.Errorf("%s.tls: protocol %s has none; use HTTPS or TLS, or remove it", at, l.Protocol)
		case l.Protocol == gatewayv1.HTTPSProtocolType && mode != gatewayv1.TLSModeTerminate:
			return fmt.Errorf("%s.tls.mode: %s: must be Terminate for protocol HTTPS; use protocol TLS", at, mode)
		case l.Protocol == gatewayv1.TLSProtocolType && (l.TLS == nil || l.TLS.Mode == nil):
			return fmt.Errorf("%s.tls.mode: is required for protocol TLS; Terminate or Passthrough", at)
		case l.TLS != nil && mode == gatewayv1.TLSModeTerminate && len(l.TLS.CertificateRefs)+len(l.TLS.Options) == 0:
			return fmt.Errorf("%s.tls.certificateRefs: mode Terminate needs certificates", at)
		case host != "" && (l.Protocol == gatewayv1.TCPProtocolType || l.Protocol == gatewayv1.UDPProtocolType):
			return fmt.Errorf("%s.hostname: %s names no host; remove it, or use protocol TLS", at, l.Protocol)
		}
		names[l.Name] = true
		p := place{l.Port, l.Protocol, host}
		if other, ok := places[p]; ok {
			return fmt.Errorf("%s: listener %q has port %d, protocol %s and the hostname too; merge the two", at, other, l.Port, l.Protocol)
		}
		places[p] = l.Name
		if l.TLS != nil {
			for k, c := range l.TLS.CertificateRefs {
				if c.Name == "" {
					return fmt.Errorf("%s.tls.certificateRefs[%d].name: is required", at, k)
				}
			}
			if v, ok := l.TLS.Options[optionMinVersion]; ok {
				if _, err := policy.ParseTLSVersion(string(v)); err != nil {
					return fmt.Errorf("%s.tls.options[%s]: %w", at, optionMinVersion, err)
				}
			}
		}
		if a := l.AllowedRoutes; a != nil {
			if n := a.Namespaces; n != nil {
				if _, err := metav1.LabelSelectorAsSelector(n.Selector); err != nil {
					return fmt.Errorf("%s.allowedRoutes.namespaces.selector: %w", at, err)
				}
				if selects := value(n.From, gatewayv1.NamespacesFromSame) == gatewayv1.NamespacesFromSelector; selects != (n.Selector != nil) {
					return fmt.Errorf("%s.allowedRoutes.namespaces: selector goes with from: Selector; give both, or none", at)
				}
			}
			for k, kind := range a.Kinds {
				if kind.Kind == "" {
					return fmt.Errorf("%s.allowedRoutes.kinds[%d].kind: is required", at, k)
				}
			}
		}
	}
	for i, a := range g.Spec.Addresses {
		at, wrong := fmt.Sprintf("spec.addresses[%d].value", i), ""
		switch value(a.Type, gatewayv1.IPAddressType) {
		case gatewayv1.IPAddressType:
			if _, err := netip.ParseAddr(a.Value); a.Value != "" && err != nil {
				wrong = "an IP address; write one such as 192.0.2.1"
			}
		case gatewayv1.HostnameAddressType:
			if a.Value != "" && hostname(a.Value) != "" {
				wrong = "a host name; write one such as gateway.example.com"
			}
		}
		if wrong != "" {
			return fmt.Errorf("%s: %q is not %s", at, a.Value, wrong)
		}
	}
	if g.Spec.TLS != nil && g.Spec.TLS.Frontend != nil {
		f, ports := g.Spec.TLS.Frontend, map[int32]bool{}
		if err := checkFrontend("spec.tls.frontend.default", f.Default.Validation); err != nil {
			return err
		}
		for i, p := range f.PerPort {
			at := fmt.Sprintf("spec.tls.frontend.perPort[%d]", i)
			if p.Port == 0 || ports[p.Port] {
				return fmt.Errorf("%s.port: %d: must be there once among them; merge the two", at, p.Port)
			}
			ports[p.Port] = true
			if err := checkFrontend(at+".tls", p.TLS.Validation); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkFrontend(at string, v *gatewayv1.FrontendTLSValidation) error {
	if v == nil {
		return nil
	}
	if len(v.CACertificateRefs) == 0 {
		return fmt.Errorf("%s.validation.caCertificateRefs: needs at least one; callers' certificates are judged by it", at)
	}
	for i, r := range v.CACertificateRefs {
		if r.Kind == "" || r.Name == "" {
			return fmt.Errorf("%s.validation.caCertificateRefs[%d]: kind and name are required", at, i)
		}
	}
	return nil
}

// gateway is a Gateway, read.
type gateway struct {
	*Gateway
	position  Position
	edges     []*Workload // that serve it
	listeners []*listener
}

// listener is one of a Gateway's. It is served when neither refused nor unresolved.
type listener struct {
	*gatewayv1.Listener
	host       string // "*" is the rest
	kinds      []string
	tls        *policy.ServerTLS
	conditions conditions
	refused    bool
	attached   []attachment // in the order of routes
	count      int
}

// attachment is a route at a listener, for hosts that both are for.
type attachment struct {
	route *object
	hosts []string
}

// shape is what listeners at one port have in common: an edge does one thing at a port.
func (l *listener) shape() string {
	if l.Protocol == gatewayv1.TLSProtocolType {
		return "TLS " + string(*l.TLS.Mode)
	}
	return string(l.Protocol)
}

// kindsOf are the kinds of routes that a listener of a shape can take.
var kindsOf = map[string][]string{
	"HTTP": {"GRPCRoute", "HTTPRoute"}, "HTTPS": {"GRPCRoute", "HTTPRoute"}, "TLS Passthrough": {"TLSRoute"}, "TLS Terminate": {"TCPRoute", "TLSRoute"}, "TCP": {"TCPRoute"},
}

func (l *listener) refuse(kind, reason, format string, args ...any) {
	l.refused = true
	l.conditions.set(kind, false, reason, fmt.Sprintf(format, args...))
}

// gateways reads Gateways and their classes, attaches routes to them, and leaves in the Set what edges serve.
func (t *attaching) gateways(entries []Entry) {
	classes := map[string]bool{defaultClass: true}
	list := map[Key]*gateway{}
	for _, e := range entries {
		switch o := e.Object.(type) {
		case *GatewayClass:
			classes[o.GetName()] = t.class(o, e.Position)
		case *Gateway:
			list[o.Key()] = &gateway{Gateway: o, position: e.Position}
		}
	}
	for _, w := range t.set.Workloads {
		if g := list[w.gateway()]; g != nil {
			g.edges = append(g.edges, w)
		}
	}
	order := slices.SortedFunc(maps.Keys(list), Key.Compare)
	for _, k := range order {
		g := list[k]
		ours, known := classes[string(g.Spec.GatewayClassName)]
		if !ours {
			why := fmt.Sprintf("GatewayClass %q is of another controller; Tulle leaves the Gateway alone", g.Spec.GatewayClassName)
			if !known {
				why = fmt.Sprintf("spec.gatewayClassName: no GatewayClass %q; write %s, or add the class", g.Spec.GatewayClassName, defaultClass)
			}
			t.set.Statuses = append(t.set.Statuses, Status{Key: k, Position: g.position, Conditions: []Condition{
				{"Accepted", "False", string(gatewayv1.GatewayReasonPending), why}, {"Programmed", "False", string(gatewayv1.GatewayReasonPending), ""},
			}})
			delete(list, k)
			continue
		}
		t.listeners(g)
	}
	for _, r := range t.routes {
		for _, p := range r.parents {
			if value(p.Group, gatewayGroup) == gatewayGroup && value(p.Kind, "Gateway") == "Gateway" {
				t.toGateway(r, p, list)
			}
		}
	}
	taken := maps.Clone(t.admission.listeners)
	for _, k := range order {
		if g := list[k]; g != nil {
			t.serve(g, taken)
		}
	}
}

// class says of a GatewayClass whether it is Tulle's.
func (t *attaching) class(c *GatewayClass, at Position) bool {
	var list conditions
	ours := c.Spec.ControllerName == ControllerName
	switch {
	case !ours:
		list.set("Accepted", false, string(gatewayv1.GatewayClassReasonPending), fmt.Sprintf("spec.controllerName: %s is another controller; Tulle's is %s", c.Spec.ControllerName, ControllerName))
	default:
		list.set("Accepted", true, string(gatewayv1.GatewayClassReasonAccepted), "")
		for _, n := range unsupported(GatewayClassFields, c) {
			list.set("Accepted", true, "", n.text)
		}
	}
	t.set.Statuses = append(t.set.Statuses, Status{Key: c.Key(), Position: at, Conditions: list})
	return ours
}

// listeners judges each listener of g by itself, then beside the others at its port.
func (t *attaching) listeners(g *gateway) {
	shapes := map[int32]map[string]bool{}
	for i := range g.Spec.Listeners {
		l := &listener{Listener: &g.Spec.Listeners[i], host: string(value(g.Spec.Listeners[i].Hostname, ""))}
		l.host = cmp.Or(l.host, "*")
		g.listeners = append(g.listeners, l)
		all, known := kindsOf[l.shape()]
		if !known {
			l.refuse("Accepted", string(gatewayv1.ListenerReasonUnsupportedProtocol), "protocol %s is not served; use HTTP, HTTPS, TLS or TCP", l.Protocol)
			continue
		}
		if shapes[l.Port] == nil {
			shapes[l.Port] = map[string]bool{}
		}
		shapes[l.Port][l.shape()] = true
		l.kinds = all
		if a := l.AllowedRoutes; a != nil && len(a.Kinds) > 0 {
			l.kinds = nil
			for _, k := range a.Kinds {
				if value(k.Group, gatewayGroup) != gatewayGroup || !slices.Contains(all, string(k.Kind)) {
					l.conditions.set("ResolvedRefs", false, string(gatewayv1.ListenerReasonInvalidRouteKinds),
						fmt.Sprintf("allowedRoutes.kinds: %s is no kind of routes for a listener of protocol %s; name %s", groupKind(string(value(k.Group, gatewayGroup)), string(k.Kind)), l.shape(), strings.Join(all, " or ")))
					continue
				}
				l.kinds = append(l.kinds, string(k.Kind))
			}
		}
		if l.Protocol == gatewayv1.HTTPSProtocolType || l.shape() == "TLS Terminate" {
			t.terminate(g, l)
		}
	}
	for _, l := range g.listeners {
		if s := shapes[l.Port]; len(s) > 1 {
			l.refused = true
			why := fmt.Sprintf("port %d has listeners of %s, and an edge does one thing at a port; give each another port", l.Port, strings.Join(slices.Sorted(maps.Keys(s)), " and of "))
			l.conditions = append(l.conditions, Condition{"Conflicted", "True", string(gatewayv1.ListenerReasonProtocolConflict), why})
			l.conditions.set("Accepted", false, string(gatewayv1.ListenerReasonProtocolConflict), why)
		}
	}
}

// terminate finds the certificates with which l ends TLS.
func (t *attaching) terminate(g *gateway, l *listener) {
	l.tls = &policy.ServerTLS{}
	if l.TLS == nil {
		l.refuse("ResolvedRefs", string(gatewayv1.ListenerReasonInvalidCertificateRef), "tls: protocol %s needs certificates; add certificateRefs", l.Protocol)
		return
	}
	for i, r := range l.TLS.CertificateRefs {
		f, failed := t.tlsFiles("Gateway", g.GetNamespace(), string(value(r.Group, "")), string(value(r.Kind, "Secret")), string(value(r.Namespace, gatewayv1.Namespace(g.GetNamespace()))), string(r.Name))
		if failed == nil && f.Spec.CertFile == "" {
			failed = &refError{"", fmt.Sprintf("%s have no certFile and keyFile; add them", f.Key())}
		}
		if failed != nil {
			reason := string(gatewayv1.ListenerReasonInvalidCertificateRef)
			if failed.reason == string(gatewayv1.ListenerReasonRefNotPermitted) {
				reason = failed.reason
			}
			l.conditions.set("ResolvedRefs", false, reason, fmt.Sprintf("tls.certificateRefs[%d]: %s", i, failed.message))
			continue
		}
		l.tls.Certificates = append(l.tls.Certificates, policy.CertificateFiles{CertFile: f.Spec.CertFile, KeyFile: f.Spec.KeyFile})
	}
	if len(l.tls.Certificates) == 0 {
		l.refuse("ResolvedRefs", string(gatewayv1.ListenerReasonInvalidCertificateRef), "no certificate is left; the listener is not served")
	}
	for _, k := range slices.Sorted(maps.Keys(l.TLS.Options)) {
		if k == optionMinVersion {
			l.tls.MinVersion, _ = policy.ParseTLSVersion(string(l.TLS.Options[k])) // checked
			continue
		}
		l.conditions.set("Accepted", true, string(gatewayv1.ListenerReasonAccepted), fmt.Sprintf("tls.options[%s]: is not known and does nothing; known is %s", k, optionMinVersion))
	}
	if g.Spec.TLS == nil || g.Spec.TLS.Frontend == nil || l.Protocol != gatewayv1.HTTPSProtocolType {
		return
	}
	v, at := g.Spec.TLS.Frontend.Default.Validation, "spec.tls.frontend.default"
	for i, p := range g.Spec.TLS.Frontend.PerPort {
		if p.Port == l.Port {
			v, at = p.TLS.Validation, fmt.Sprintf("spec.tls.frontend.perPort[%d].tls", i)
		}
	}
	if v == nil {
		return
	}
	l.tls.ClientAuth = policy.ClientAuthRequire
	if v.Mode == gatewayv1.AllowInsecureFallback {
		l.tls.ClientAuth = policy.ClientAuthRequest
	}
	for i, r := range v.CACertificateRefs {
		field := fmt.Sprintf("%s.validation.caCertificateRefs[%d]", at, i)
		f, failed := t.tlsFiles("Gateway", g.GetNamespace(), string(r.Group), string(r.Kind), string(value(r.Namespace, gatewayv1.Namespace(g.GetNamespace()))), string(r.Name))
		switch {
		case failed != nil && failed.reason == "InvalidKind":
			l.conditions.set("ResolvedRefs", false, string(gatewayv1.ListenerReasonInvalidCACertificateKind), field+": "+failed.message)
		case failed != nil:
			l.conditions.set("ResolvedRefs", false, cmp.Or(failed.reason, string(gatewayv1.ListenerReasonInvalidCACertificateRef)), field+": "+failed.message)
		case f.Spec.CAFile == "":
			l.conditions.set("ResolvedRefs", false, string(gatewayv1.ListenerReasonInvalidCACertificateRef), fmt.Sprintf("%s: %s have no caFile; add it", field, f.Key()))
		case l.tls.ClientCAFile != "":
			l.conditions.set("Accepted", true, string(gatewayv1.ListenerReasonAccepted), field+": only the first counts; put all trust anchors into one file")
		default:
			l.tls.ClientCAFile = f.Spec.CAFile
		}
	}
	if l.tls.ClientCAFile == "" {
		l.refuse("Accepted", string(gatewayv1.ListenerReasonNoValidCACertificate), "no trust anchor of callers' certificates is left; the listener is not served")
	}
}

// toGateway attaches r to the listeners of a Gateway that p means, and says how that went.
func (t *attaching) toGateway(r *object, p gatewayv1.ParentReference, list map[Key]*gateway) {
	status := ParentStatus{Parent: r.parentName(p), Conditions: append(conditions(nil), r.common...)}
	reason, why := gatewayv1.RouteReasonNoMatchingParent, ""
	k := Key{Kind: "Gateway", Namespace: string(value(p.Namespace, gatewayv1.Namespace(r.GetNamespace()))), Name: string(p.Name)}
	g, ok := list[k]
	if !ok {
		why = fmt.Sprintf("no Gateway %s/%s of a class of Tulle's; add it, or correct the reference", k.Namespace, k.Name)
	} else {
		why = fmt.Sprintf("Gateway %s/%s has no such listener; it has %s", k.Namespace, k.Name, g.names())
		worst := 0 // how far the best of the listeners went
		say := func(far int, with gatewayv1.RouteConditionReason, format string, args ...any) {
			if far > worst {
				worst, reason, why = far, with, fmt.Sprintf(format, args...)
			}
		}
		accepted := slices.ContainsFunc(r.common, func(c Condition) bool { return c.Type == "Accepted" && c.Status == "True" })
		attached := false
		for _, l := range g.listeners {
			if p.SectionName != nil && *p.SectionName != l.Name || p.Port != nil && *p.Port != l.Port {
				continue
			}
			switch {
			case !slices.Contains(kindsOf[l.shape()], r.key.Kind):
				with := gatewayv1.RouteReasonNotAllowedByListeners
				if r.key.Kind == "TLSRoute" {
					with = gatewayv1.RouteReasonUnsupportedValue
				}
				say(1, with, "listener %s is of protocol %s, which routes of kind %s are not for", l.Name, l.shape(), r.key.Kind)
				continue
			case !slices.Contains(l.kinds, r.key.Kind):
				say(2, gatewayv1.RouteReasonNotAllowedByListeners, "listener %s does not allow routes of kind %s; add it to its allowedRoutes.kinds", l.Name, r.key.Kind)
				continue
			case !t.allows(g, l, r.GetNamespace()):
				say(3, gatewayv1.RouteReasonNotAllowedByListeners, "listener %s does not allow routes of namespace %s; say so in its allowedRoutes.namespaces", l.Name, r.GetNamespace())
				continue
			}
			hosts := meet(l.host, r.hostnames)
			if len(hosts) == 0 {
				say(4, gatewayv1.RouteReasonNoMatchingListenerHostname, "no hostname is one of listener %s, which is for %s", l.Name, l.host)
				continue
			}
			hosts, conflict := l.beside(r, hosts)
			if len(hosts) == 0 {
				say(5, "Conflicted", "%s", conflict)
				continue
			}
			attached = true
			if !slices.ContainsFunc(l.attached, func(a attachment) bool { return a.route == r }) {
				l.attached = append(l.attached, attachment{r, hosts})
				if accepted {
					l.count++
				}
			}
		}
		if attached {
			why = ""
		}
	}
	if why != "" {
		(*conditions)(&status.Conditions).set("Accepted", false, string(reason), why)
	}
	r.status = append(r.status, status)
}

// names are those of g's listeners, for people.
func (g *gateway) names() string {
	var out []string
	for _, l := range g.listeners {
		out = append(out, fmt.Sprintf("%s (port %d)", l.Name, l.Port))
	}
	return strings.Join(out, ", ")
}

// allows reports whether routes of a namespace may attach to l.
func (t *attaching) allows(g *gateway, l *listener, namespace string) bool {
	from, selector := gatewayv1.NamespacesFromSame, (*metav1.LabelSelector)(nil)
	if l.AllowedRoutes != nil && l.AllowedRoutes.Namespaces != nil {
		from, selector = value(l.AllowedRoutes.Namespaces.From, from), l.AllowedRoutes.Namespaces.Selector
	}
	switch from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSelector:
		s, err := metav1.LabelSelectorAsSelector(selector)
		return err == nil && s.Matches(t.namespaceLabels(namespace))
	case gatewayv1.NamespacesFromSame:
		return namespace == g.GetNamespace()
	}
	return false
}

// namespaceLabels are those that a Namespace is written with, and its name, as an API server sets it.
func (t *attaching) namespaceLabels(name string) labels.Set {
	out := labels.Set{"kubernetes.io/metadata.name": name}
	if e, ok := t.set.Entries[Key{Kind: "Namespace", Name: name}]; ok {
		maps.Copy(out, e.Object.(*Namespace).Labels)
	}
	return out
}

// beside are the hosts that are left to r at l beside the routes that are there, all of which are older; none: why. Of connections there is one route for a host; requests of a host are all
// gRPC, or none (GRPCRoute, Cross Serialization).
func (l *listener) beside(r *object, hosts []string) (left []string, why string) {
	for _, h := range hosts {
		free := true
		for _, other := range l.attached {
			if other.route == r || r.layer >= layerHTTP && r.layer == other.route.layer {
				continue
			}
			for _, o := range other.hosts {
				if both := common(h, o); r.layer >= layerHTTP && both != "" {
					return nil, fmt.Sprintf("host %s of listener %s has a %s already, %s; use one kind for a host", both, l.Name, other.route.key.Kind, other.route.key)
				}
				if r.layer < layerHTTP && h == o {
					free, why = false, fmt.Sprintf("host %s of listener %s has %s already, which is older; remove one", h, l.Name, other.route.key)
				}
			}
		}
		if free {
			left = append(left, h)
		}
	}
	return left, why
}

// meet are the hosts that a listener and a route are both for; none: all that the listener is.
func meet(listener string, hostnames []string) (out []string) {
	if len(hostnames) == 0 {
		return []string{listener}
	}
	for _, h := range hostnames {
		if both := common(listener, h); both != "" && !slices.Contains(out, both) {
			out = append(out, both)
		}
	}
	return out
}

// common are the hosts that two patterns are both for, as a pattern; "": there are none.
func common(a, b string) string {
	switch {
	case covers(a, b):
		return b
	case covers(b, a):
		return a
	}
	return ""
}

// covers reports whether all hosts of a pattern are of another.
func covers(wide, narrow string) bool {
	if wide == "*" || wide == narrow {
		return true
	}
	suffix, wild := strings.CutPrefix(wide, "*")
	return wild && strings.HasSuffix(narrow, suffix) // of "*.a.example.com" too
}

// serve makes of g's listeners what its edges serve, and says how g is.
func (t *attaching) serve(g *gateway, taken map[string]Key) {
	ports := map[int32][]*listener{}
	for _, l := range g.listeners {
		if !l.refused {
			ports[l.Port] = append(ports[l.Port], l)
		}
	}
	var list []EdgePort
	for _, n := range slices.Sorted(maps.Keys(ports)) {
		list = append(list, t.edgePort(ports[n]))
	}
	programmed := map[int32]bool{}
	var addresses []string
	for _, w := range g.edges {
		own := w.addresses()
		address := netip.MustParseAddr(w.Spec.Edge.Gateway.Address) // checked
		if !address.IsUnspecified() {
			addresses = append(addresses, address.String())
		}
		for _, p := range list {
			at := netip.AddrPortFrom(address, p.Number)
			if by := own.taken(at); by != "" {
				t.unavailable(ports[int32(p.Number)], fmt.Sprintf("%s: %s is already taken by its %s; give one of them another port", w.Key(), at, by))
				continue
			}
			if by, ok := taken[at.String()]; ok && !address.IsUnspecified() {
				t.unavailable(ports[int32(p.Number)], fmt.Sprintf("%s: %s is already taken by %s; give one of them another port or address", w.Key(), at, by))
				continue
			}
			taken[at.String()] = w.Key()
			programmed[int32(p.Number)] = true
			if t.set.Edges == nil {
				t.set.Edges = map[string][]EdgePort{}
			}
			t.set.Edges[w.Metadata.Name] = append(t.set.Edges[w.Metadata.Name], p)
		}
	}
	slices.Sort(addresses)
	t.set.Statuses = append(t.set.Statuses, g.status(programmed, slices.Compact(addresses)))
}

func (t *attaching) unavailable(list []*listener, why string) {
	for _, l := range list {
		l.conditions.set("Accepted", false, string(gatewayv1.ListenerReasonPortUnavailable), why)
	}
}

// status is what is said of g, once all is known.
func (g *gateway) status(programmed map[int32]bool, addresses []string) Status {
	s := Status{Key: g.Key(), Position: g.position, Addresses: addresses}
	var all conditions
	var bad []string
	some := false
	for _, l := range g.listeners {
		l.conditions.set("Accepted", true, string(gatewayv1.ListenerReasonAccepted), "")
		l.conditions.set("ResolvedRefs", true, string(gatewayv1.ListenerReasonResolvedRefs), "")
		if !slices.ContainsFunc(l.conditions, func(c Condition) bool { return c.Type == "Conflicted" }) {
			l.conditions = append(l.conditions, Condition{Type: "Conflicted", Status: "False", Reason: string(gatewayv1.ListenerReasonNoConflicts)})
		}
		switch {
		case l.refused:
			bad = append(bad, string(l.Name))
			l.conditions.set("Programmed", false, string(gatewayv1.ListenerReasonInvalid), "")
		case !programmed[l.Port]:
			l.conditions.set("Programmed", false, string(gatewayv1.ListenerReasonPending), "")
		default:
			some = true
			l.conditions.set("Programmed", true, string(gatewayv1.ListenerReasonProgrammed), "")
		}
		s.Listeners = append(s.Listeners, ListenerStatus{Name: string(l.Name), SupportedKinds: l.kinds, AttachedRoutes: l.count, Conditions: l.conditions})
	}
	switch {
	case len(bad) == len(g.listeners):
		all.set("Accepted", false, string(gatewayv1.GatewayReasonListenersNotValid), "none of its listeners can be served")
	case len(bad) > 0:
		all.set("Accepted", true, string(gatewayv1.GatewayReasonListenersNotValid), "")
	default:
		all.set("Accepted", true, string(gatewayv1.GatewayReasonAccepted), "")
	}
	if len(g.Spec.Addresses) > 0 {
		all.set("Accepted", false, string(gatewayv1.GatewayReasonUnsupportedAddress), "")
	}
	for _, n := range unsupported(gatewayFields, g.Gateway) {
		all.set("Accepted", all[0].Status == "True", all[0].Reason, n.text)
	}
	switch {
	case len(g.edges) == 0:
		all.set("Programmed", false, string(gatewayv1.GatewayReasonNoResources),
			fmt.Sprintf("no Workload of namespace %s serves it; write gateway: {name: %s} in spec.edge of one", g.GetNamespace(), g.GetName()))
	case !some:
		all.set("Programmed", false, string(gatewayv1.GatewayReasonInvalid), "")
	default:
		all.set("Programmed", true, string(gatewayv1.GatewayReasonProgrammed), "")
	}
	if f := g.Spec.TLS; f != nil && f.Frontend != nil && insecure(f.Frontend) {
		all = append(all, Condition{
			"InsecureFrontendValidationMode", "True", string(gatewayv1.GatewayReasonConfigurationChanged),
			"spec.tls.frontend: callers without a certificate are let in (AllowInsecureFallback); one that they present must be valid",
		})
	}
	s.Conditions = all
	return s
}

func insecure(f *gatewayv1.FrontendTLSConfig) bool {
	is := func(c gatewayv1.TLSConfig) bool {
		return c.Validation != nil && c.Validation.Mode == gatewayv1.AllowInsecureFallback
	}
	return is(f.Default) || slices.ContainsFunc(f.PerPort, func(p gatewayv1.TLSPortConfig) bool { return is(p.TLS) })
}

// edgePort is what is served at a port for good listeners, which are of one shape. Requests and connections go by the listener whose hostname is the most specific, and by no other
// (listener isolation); of its routes by those whose hostname is, and by no other.
func (t *attaching) edgePort(list []*listener) EdgePort {
	p := EdgePort{Number: uint16(list[0].Port), Protocol: flow.ProtocolHTTP}
	switch list[0].shape() {
	case "TLS Passthrough":
		p.Protocol = flow.ProtocolTLS
	case "TLS Terminate", "TCP":
		p.Protocol = flow.ProtocolTCP
	}
	for _, l := range list {
		if l.tls == nil {
			continue
		}
		if p.TLS == nil {
			p.TLS = &policy.ServerTLS{MinVersion: tls.VersionTLS12, ClientCAFile: l.tls.ClientCAFile, ClientAuth: l.tls.ClientAuth} // of the port
		}
		p.TLS.MinVersion = max(p.TLS.MinVersion, l.tls.MinVersion)
		for _, c := range l.tls.Certificates {
			switch {
			case slices.Contains(p.TLS.Certificates, c):
			case len(p.TLS.Certificates) == policy.MaxCertificates:
				l.conditions.set("Accepted", true, string(gatewayv1.ListenerReasonAccepted), fmt.Sprintf("tls.certificateRefs: port %d has more than %d certificates; those of %s are left out", l.Port, policy.MaxCertificates, l.Name))
			default:
				p.TLS.Certificates = append(p.TLS.Certificates, c)
			}
		}
	}
	for _, l := range list {
		routes := map[string][]*object{} // by host
		if p.Protocol.HTTP() || slices.ContainsFunc(list, func(o *listener) bool { return o != l && covers(o.host, l.host) }) {
			routes[l.host] = nil // nobody else's, where nobody is
		}
		for _, a := range l.attached {
			for _, h := range a.hosts {
				if mostSpecific(list, h) == l {
					routes[h] = append(routes[h], a.route)
				}
			}
		}
		of := map[string]int{} // places in p.Hosts, by the routes
		for _, h := range slices.Sorted(maps.Keys(routes)) {
			var keys strings.Builder
			for _, r := range routes[h] {
				keys.WriteString(r.key.String() + "\n")
			}
			if same, ok := of[keys.String()]; ok {
				v := &p.Hosts[same]
				v.Hosts = policy.SortHosts(append(v.Hosts, h))
				continue
			}
			of[keys.String()] = len(p.Hosts)
			p.Hosts = append(p.Hosts, policy.VirtualHost{Name: hostName(l, h), Hosts: []string{h}, Rules: t.hostRules(l, h, routes[h])})
		}
	}
	return p
}

// hostName is a host of l as its edge calls it: no other host at the port has the name.
func hostName(l *listener, host string) string {
	name := string(l.Name) + "/" + host
	if len(name) > policy.MaxName { // two listeners cannot have one host
		name = host
	}
	return name
}

// mostSpecific is the listener that a host belongs to.
func mostSpecific(list []*listener, host string) (best *listener) {
	for _, l := range list {
		if covers(l.host, host) && (best == nil || covers(best.host, l.host)) {
			best = l
		}
	}
	return best
}

// hostRules are the rules of the routes for a host of l, in their order.
func (t *attaching) hostRules(l *listener, host string, routes []*object) []route.Rule {
	http := l.shape() == "HTTP" || l.shape() == "HTTPS"
	rules, out := fit(routes, http, "listener "+string(l.Name))
	for r, err := range out {
		r.refuse(fmt.Sprintf("host %s of listener %s: %v; the route is left out there", host, l.Name, err))
	}
	switch {
	case http:
		return rules
	case len(rules) == 0:
		return []route.Rule{{Name: unmatched}} // without a backend, which refuses
	}
	return rules[:1] // a connection has nothing to match; there is one route for it
}

// refuse says at every parent that r is not in force everywhere.
func (r *object) refuse(why string) {
	for i := range r.status {
		(*conditions)(&r.status[i].Conditions).set("Accepted", false, string(gatewayv1.RouteReasonUnsupportedValue), why)
	}
}

// gateway is the key of the Gateway that w serves; the zero Key: none.
func (w *Workload) gateway() Key {
	if w.Spec.Edge.Gateway.Name == "" {
		return Key{}
	}
	return Key{Kind: "Gateway", Namespace: w.Metadata.Namespace, Name: w.Spec.Edge.Gateway.Name}
}

// addresses are those at which w listens besides for its Gateway.
type addresses []listen

func (w *Workload) addresses() addresses {
	out := append(addresses(w.listens()), w.Spec.Edge.listens(true)...)
	if at := w.Spec.Intercept.Outbound.Listen; at != "" {
		out = append(out, listen{"spec.intercept.outbound.listen", at})
	}
	if at := w.Spec.Intercept.Inbound.Listen; at != "" {
		out = append(out, listen{"spec.intercept.inbound.listen", at})
	}
	return out
}

// taken is the field that has at, or that is of every interface there.
func (a addresses) taken(at netip.AddrPort) string {
	for _, l := range a {
		own, err := netip.ParseAddrPort(l.address)
		if err == nil && own.Port() == at.Port() && (own.Addr() == at.Addr() || own.Addr().IsUnspecified() || at.Addr().IsUnspecified()) {
			return l.field + " (" + strconv.Itoa(int(own.Port())) + ")"
		}
	}
	return ""
}
