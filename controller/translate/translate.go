// Package translate turns resources, endpoints and overrides into one policy Snapshot per workload. It is pure: no clock, no I/O; golden
// files under testdata show configuration in and Snapshots out.
package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Input is all that a Snapshot follows from.
type Input struct {
	TrustDomain string
	Set         *resource.Set
	Endpoints   []discovery.Endpoint
	Overrides   map[netip.AddrPort]policy.Override
	Called      map[string][]string // by service: names of what it was seen to call; workloads whose connections are redirected are told of it beforehand
}

// Output is what the fleet is to be told.
type Output struct {
	Workloads    map[string]Workload                 // by instance
	Services     map[string][]policy.Resource        // on demand, the same for every workload: by name, what a Snapshot that has the service has of it
	Routes       map[string]map[string]policy.Routed // and its rules, by what Workload.Rules says, or else by the namespace of the workload; "": of all others
	Destinations []policy.Resource                   // answers on demand, the same for every workload
}

// Workload is one sidecar's share.
type Workload struct {
	Identity  identity.ID // what the sidecar must prove
	Snapshot  *policy.Snapshot
	Resources []policy.Resource // of Snapshot, sealed
	Rules     map[string]string // of services with rules for some callers: under which key of Output.Routes the workload's are
}

// protocol reads a word that resource has checked.
func protocol(word string) flow.Protocol {
	p, _ := policy.ParseProtocol(word)
	return p
}

// Translate computes everything. An error is a bug or a resource that slipped past its checks: the caller keeps what was in force.
func Translate(in Input) (*Output, error) {
	services, endpoints := index(in)
	via, err := viaEdges(in, services)
	if err != nil {
		return nil, err
	}
	places := newPlaces(in.Set, services)
	out := &Output{Workloads: make(map[string]Workload, len(in.Set.Workloads)), Services: make(map[string][]policy.Resource, len(services))}
	rules, own, err := newRuled(in, services)
	if err != nil {
		return nil, err
	}
	out.Routes = rules
	first, longest := firstPorts(in.Set), rules.longest()
	for _, w := range in.Set.Workloads {
		id, err := identity.Workload(in.TrustDomain, w.Metadata.Namespace, w.Spec.ServiceAccount)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Key(), err)
		}
		s := snapshot(in, w, first, rules, own[w.Metadata.Name], longest, services, endpoints, via)
		places.put(w, s)
		resources, err := policy.Seal(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Key(), err)
		}
		out.Workloads[w.Metadata.Name] = Workload{Identity: id, Snapshot: s, Resources: resources, Rules: own[w.Metadata.Name]}
	}
	rules.unserved(services)
	for name, svc := range services {
		list := endpoints[name]
		if v, ok := via[name]; ok {
			svc, list = v.service, v.endpoints
		}
		resources, err := policy.ServiceResources(svc, list)
		if err != nil {
			return nil, err
		}
		out.Services[name] = resources
	}
	seen := make(map[netip.AddrPort]bool, len(in.Endpoints))
	for _, e := range in.Endpoints {
		if seen[e.Address] {
			continue // of services that share an address the first by name counts
		}
		seen[e.Address] = true
		d := policy.Destination{Address: e.Address, Service: e.Name(), Known: true, TTL: policy.DefaultDestinationTTL}
		x, err := d.ToXDS()
		if err != nil {
			return nil, fmt.Errorf("destination of %s: %w", e.Service, err)
		}
		r, err := policy.NewResource(policy.DestinationName("", e.Address), x)
		if err != nil {
			return nil, err
		}
		out.Destinations = append(out.Destinations, r)
	}
	return out, nil
}

// index groups what is the same for every caller: services with their policy, and endpoints with their overrides.
func index(in Input) (map[string]policy.Service, map[string][]policy.Endpoint) {
	services, endpoints := map[string]policy.Service{}, map[string][]policy.Endpoint{}
	for _, e := range in.Endpoints {
		name := e.Name()
		svc, ok := services[name]
		if !ok {
			svc = policy.Service{Name: name, Namespace: e.Namespace, Protocol: protocol(e.Protocol), External: e.External}
		}
		if !e.Identity.IsZero() && !slices.Contains(svc.Identities, e.Identity.String()) {
			svc.Identities = append(svc.Identities, e.Identity.String())
			svc.MTLS = true
		}
		services[name] = svc
		ep := policy.Endpoint{
			Address: e.Address, Version: e.Version, Instance: e.Instance,
			Placement: policy.Placement{Locality: e.Locality, Labels: policy.FreeLabels(e.Labels)},
		}
		if o, ok := in.Overrides[e.Address]; ok {
			ep.Override = &o
		}
		endpoints[name] = append(endpoints[name], ep.WithDefaults())
	}
	for _, e := range in.Set.External {
		svc, ok := services[e.Metadata.Name]
		if !ok { // known by its names alone
			svc = policy.Service{Name: e.Metadata.Name, Namespace: e.Metadata.Namespace, Protocol: protocol(e.Spec.Protocol), External: true}
		}
		svc.Hosts, svc.TLS, svc.Authority, svc.Proxy = e.Spec.Names(), e.Spec.TLS.Policy(), e.Spec.Authority, resource.ProxyVersion(e.Spec.ProxyProtocol)
		if b, ok := in.Set.TLS[e.Metadata.Name]; ok {
			if svc.TLS = b.TLS; b.Broken { // nobody is called rather than in plaintext
				delete(endpoints, e.Metadata.Name)
			}
		}
		services[e.Metadata.Name] = svc
	}
	for name, svc := range services {
		svc = in.Set.Traffic(name).Apply(svc) // each port by itself
		for _, sub := range in.Set.Subsets {  // named by routes
			if s := &svc.Balancer.Subsets; sub.Spec.Service == policy.ServiceOf(name) && len(s.Selectors) < policy.MaxSelectors && // resource warns
				!slices.ContainsFunc(s.Selectors, func(keys []string) bool { return slices.Equal(keys, sub.Keys()) }) {
				s.Selectors = append(s.Selectors, sub.Keys())
			}
		}
		slices.Sort(svc.Identities)
		services[name] = svc.WithDefaults()
		selected(svc.Balancer.Subsets, endpoints[name])
		slices.SortFunc(endpoints[name], func(a, b policy.Endpoint) int { return a.Address.Compare(b.Address) })
	}
	return services, endpoints
}

// portName is a port of a service as configuration names it.
type portName struct{ service, port string }

// firstPorts are the names under which the first port of each service is known.
func firstPorts(set *resource.Set) map[portName]bool {
	out := map[portName]bool{}
	for _, w := range set.Workloads {
		if len(w.Spec.Ports) > 0 {
			out[portName{w.Spec.Service, w.Spec.Ports[0].Name}] = true
		}
	}
	return out
}

// longer is b where it is longer than a, or off. A sidecar ends nothing on its callers' behalf before they would; what is shorter than the default is theirs
// to keep, for of two clocks that end at once it is chance who is blamed.
func longer(a, b time.Duration) time.Duration {
	if a >= 0 && (b < 0 || b > a) {
		return b
	}
	return a
}

// modeOf is a port's mode: its own, or the mesh's.
func modeOf(set *resource.Set, own string) policy.ListenerMode {
	if cmp.Or(own, set.Mesh.Spec.Mode) == "permissive" {
		return policy.ModePermissive
	}
	return policy.ModeStrict
}

// snapshot is w's share: its own listeners and the services that it is known to call.
func snapshot(in Input, w *resource.Workload, first map[portName]bool, rules ruled, own map[string]string, longest map[string]route.Timeouts, services map[string]policy.Service, endpoints map[string][]policy.Endpoint, via edges) *policy.Snapshot {
	set := in.Set
	s := &policy.Snapshot{
		Workload: policy.Workload{
			Service: w.Spec.Service, Namespace: w.Metadata.Namespace, Version: w.Spec.Version, Instance: w.Metadata.Name,
			Limits: w.Spec.Limits.Sidecar().WithDefaults(),
		},
		Telemetry: set.Telemetry(w).Policy(),
		Services:  map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
	}
	for _, p := range w.Spec.Ports {
		l := policy.Listener{
			Side: flow.SideServer, Protocol: protocol(p.Protocol), Service: w.Spec.Service,
			Address: netip.MustParseAddrPort(p.Listen), Unix: w.TargetUnix(p), // checked by resource
		}
		if l.Unix == nil {
			l.Target = netip.MustParseAddrPort(p.Target)
		}
		l.Name = fmt.Sprintf("inbound:%d", l.Address.Port())
		if l.Mode = modeOf(set, p.Mode); l.Protocol == flow.ProtocolTLS {
			l.Mode = policy.ModeStrict
		}
		l.Unbound = w.Spec.Intercept.Inbound.Listen != ""
		l.ProxyProtocol, l.TargetProxy = p.ProxyProtocol.Policy(), resource.ProxyVersion(p.TargetProxyProtocol)
		l.Access = set.AccessOf(w.Metadata.Namespace, w.Spec.Service, p.Name)
		l = l.WithDefaults()
		called, ruled := services[w.Spec.Service], longest[w.Spec.Service]
		if l.IdleTimeout = longer(longer(l.IdleTimeout, called.IdleTimeout), ruled.Idle); l.Protocol.MayBeHTTP() {
			l.RequestTimeout = longer(longer(l.RequestTimeout, called.RequestTimeout), ruled.Request)
			l.StreamTimeout = longer(called.StreamTimeout, ruled.Stream)
			if called.StreamTimeout == 0 && ruled.Stream != 0 { // calls without such a rule have no limit
				l.StreamTimeout = -1
			}
			l.Adaptive = called.Adaptive.WithDefaults()
		}
		s.Listeners = append(s.Listeners, l)
	}
	if i := w.Spec.Intercept.Inbound.Policy(); i != nil {
		s.Listeners = append(s.Listeners, policy.Listener{
			Name: "intercept:inbound", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Interception: i, Service: w.Spec.Service,
			Address: netip.MustParseAddrPort(w.Spec.Intercept.Inbound.Listen), Mode: modeOf(set, ""),
		}.WithDefaults())
	}
	if i := w.Spec.Intercept.Outbound.Policy(); i != nil {
		i.DetectTimeout = cmp.Or(i.DetectTimeout, time.Duration(w.Spec.Limits.DetectTimeout))
		s.Listeners = append(s.Listeners, policy.Listener{
			Name: "intercept:outbound", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Interception: i,
			Address: netip.MustParseAddrPort(w.Spec.Intercept.Outbound.Listen),
		})
		for _, name := range in.Called[w.Spec.Service] { // whatever else the application calls its sidecar asks for
			if svc, list, ok := via.of(w, name, services, endpoints); ok {
				s.Services[name], s.Endpoints[name] = svc, list
			}
		}
		for name, svc := range services { // found by the name that TLS says, not by an address
			if len(svc.Hosts) > 0 {
				s.Services[name], s.Endpoints[name], _ = via.of(w, name, services, endpoints)
			}
		}
	}
	told := func(name string) policy.Service {
		svc, list, ok := via.of(w, name, services, endpoints)
		if !ok { // nobody serves it yet: the listener exists and answers no_endpoint
			svc = unserved(name, w.Metadata.Namespace)
		}
		s.Services[name], s.Endpoints[name] = svc, list
		return svc
	}
	if p := w.Spec.Proxy; p.Listen != "" {
		for name := range services { // whatever the application asks for
			told(name)
		}
		s.Listeners = append(s.Listeners, policy.Listener{
			Name: "proxy", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: netip.MustParseAddrPort(p.Listen), Proxy: p.Policy(),
		})
	}
	s.Listeners = append(s.Listeners, edgeListeners(set, w, in.TrustDomain, services, func(name string) { told(name) })...)
	for _, u := range w.Spec.Upstreams {
		name := policy.PortOf(u.Service, u.Port)
		if first[portName{u.Service, u.Port}] {
			name = u.Service
		}
		svc := told(name)
		l := policy.Listener{
			Name: "outbound:" + policy.PortOf(u.Service, u.Port), Side: flow.SideClient, Protocol: svc.Protocol, Service: name, Unix: w.Unix(u),
		}
		if l.Unix == nil {
			l.Address = netip.MustParseAddrPort(u.Listen)
		}
		s.Listeners = append(s.Listeners, l.WithDefaults())
	}
	addRoutes(rules, w, own, s, func(name string) { told(name) })
	for i := range s.Listeners {
		l := &s.Listeners[i]
		if l.Protocol.MayBeHTTP() {
			l.Limits = w.Spec.Limits.Listener()
		}
		if l.Detects() {
			l.DetectTimeout = time.Duration(w.Spec.Limits.DetectTimeout)
		}
		*l = l.WithDefaults()
	}
	slices.SortFunc(s.Listeners, func(a, b policy.Listener) int { return strings.Compare(a.Name, b.Name) })
	return s
}
