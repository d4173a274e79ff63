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
)

// Input is all that a Snapshot follows from.
type Input struct {
	TrustDomain string
	Set         *resource.Set
	Endpoints   []discovery.Endpoint
	Overrides   map[netip.AddrPort]policy.Override
}

// Output is what the fleet is to be told.
type Output struct {
	Workloads    map[string]Workload // by instance
	Destinations []policy.Resource   // answers on demand, the same for every workload
}

// Workload is one sidecar's share.
type Workload struct {
	Identity  identity.ID // what the sidecar must prove
	Snapshot  *policy.Snapshot
	Resources []policy.Resource // of Snapshot, sealed
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
	out := &Output{Workloads: make(map[string]Workload, len(in.Set.Workloads))}
	for _, w := range in.Set.Workloads {
		id, err := identity.Workload(in.TrustDomain, w.Metadata.Namespace, w.Spec.ServiceAccount)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Key(), err)
		}
		s := snapshot(in.Set, w, services, endpoints, via)
		resources, err := policy.Seal(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Key(), err)
		}
		out.Workloads[w.Metadata.Name] = Workload{Identity: id, Snapshot: s, Resources: resources}
	}
	for _, e := range in.Endpoints {
		d := policy.Destination{Address: e.Address, Service: e.Service, Known: true, TTL: policy.DefaultDestinationTTL}
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
		svc, ok := services[e.Service]
		if !ok {
			svc = policy.Service{Name: e.Service, Namespace: e.Namespace, Protocol: protocol(e.Protocol), External: e.External}
		}
		if !e.Identity.IsZero() && !slices.Contains(svc.Identities, e.Identity.String()) {
			svc.Identities = append(svc.Identities, e.Identity.String())
			svc.MTLS = true
		}
		services[e.Service] = svc
		ep := policy.Endpoint{Address: e.Address, Version: e.Version, Instance: e.Instance}
		if o, ok := in.Overrides[e.Address]; ok {
			ep.Override = &o
		}
		endpoints[e.Service] = append(endpoints[e.Service], ep.WithDefaults())
	}
	for _, e := range in.Set.External {
		svc, ok := services[e.Metadata.Name]
		if !ok { // known by its names alone
			svc = policy.Service{Name: e.Metadata.Name, Namespace: e.Metadata.Namespace, Protocol: protocol(e.Spec.Protocol), External: true}
		}
		svc.Hosts, svc.TLS, svc.Authority = e.Spec.Names(), e.Spec.TLS.Policy(), e.Spec.Authority
		services[e.Metadata.Name] = svc
	}
	for _, p := range in.Set.Policies {
		if svc, ok := services[p.Spec.TargetService]; ok {
			services[p.Spec.TargetService] = p.Spec.Apply(svc)
		}
	}
	for name, svc := range services {
		slices.Sort(svc.Identities)
		services[name] = svc.WithDefaults()
		slices.SortFunc(endpoints[name], func(a, b policy.Endpoint) int { return a.Address.Compare(b.Address) })
	}
	return services, endpoints
}

// longer is b where it is longer than a, or off. A sidecar ends nothing on its callers' behalf before they would; what is shorter than the default is theirs
// to keep, for of two clocks that end at once it is chance who is blamed.
func longer(a, b time.Duration) time.Duration {
	if b < 0 || b > a {
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

// snapshot is w's share: its own listeners and the services it calls.
func snapshot(set *resource.Set, w *resource.Workload, services map[string]policy.Service, endpoints map[string][]policy.Endpoint, via edges) *policy.Snapshot {
	s := &policy.Snapshot{
		Workload: policy.Workload{
			Service: w.Spec.Service, Namespace: w.Metadata.Namespace, Version: w.Spec.Version, Instance: w.Metadata.Name,
			Limits: w.Spec.Limits.Sidecar().WithDefaults(),
		},
		Telemetry: w.Spec.Telemetry.Policy(),
		Services:  map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
	}
	for _, p := range w.Spec.Ports {
		l := policy.Listener{
			Side: flow.SideServer, Protocol: protocol(p.Protocol), Service: w.Spec.Service,
			Address: netip.MustParseAddrPort(p.Listen), Target: netip.MustParseAddrPort(p.Target), // checked by resource
		}
		l.Name = fmt.Sprintf("inbound:%d", l.Address.Port())
		if l.Mode = modeOf(set, p.Mode); l.Protocol == flow.ProtocolTLS {
			l.Mode = policy.ModeStrict
		}
		l.Unbound = w.Spec.Intercept.Inbound.Listen != ""
		l = l.WithDefaults()
		own := services[w.Spec.Service]
		if l.IdleTimeout = longer(l.IdleTimeout, own.IdleTimeout); l.Protocol.HTTP() {
			l.RequestTimeout = longer(l.RequestTimeout, own.RequestTimeout)
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
		s.Listeners = append(s.Listeners, policy.Listener{
			Name: "intercept:outbound", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Interception: i,
			Address: netip.MustParseAddrPort(w.Spec.Intercept.Outbound.Listen),
		})
		for name := range services { // whatever the application calls
			s.Services[name], s.Endpoints[name], _ = via.of(w, name, services, endpoints)
		}
	}
	told := func(name string) policy.Service {
		svc, list, ok := via.of(w, name, services, endpoints)
		if !ok { // nobody serves it yet: the listener exists and answers no_endpoint
			svc = policy.Service{Name: name, Namespace: w.Metadata.Namespace, Protocol: flow.ProtocolHTTP}.WithDefaults()
		}
		s.Services[name], s.Endpoints[name] = svc, list
		return svc
	}
	s.Listeners = append(s.Listeners, edgeListeners(set, w, services, func(name string) { told(name) })...)
	for _, u := range w.Spec.Upstreams {
		svc := told(u.Service)
		s.Listeners = append(s.Listeners, policy.Listener{
			Name: "outbound:" + u.Service, Side: flow.SideClient, Protocol: svc.Protocol, Service: u.Service,
			Address: netip.MustParseAddrPort(u.Listen),
		})
	}
	for i := range s.Listeners {
		if l := &s.Listeners[i]; l.Protocol.HTTP() {
			l.Limits = w.Spec.Limits.Listener()
			*l = l.WithDefaults()
		}
	}
	slices.SortFunc(s.Listeners, func(a, b policy.Listener) int { return strings.Compare(a.Name, b.Name) })
	return s
}
