package translate

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// edges are the services of ExternalServices as callers by way of an edge see them: its endpoints and identities, and mTLS.
type edges map[string]viaEdge

type viaEdge struct {
	service   policy.Service
	endpoints []policy.Endpoint
}

// viaEdges finds, for each ExternalService with an edge before it, what callers are told in place of its addresses.
func viaEdges(in Input, services map[string]policy.Service) (edges, error) {
	out := edges{}
	for _, e := range in.Set.External {
		if e.Spec.Via == "" {
			continue
		}
		v := viaEdge{service: services[e.Metadata.Name]}
		v.service.Via, v.service.TLS, v.service.Authority, v.service.Proxy = e.Spec.Via, nil, "", 0 // these are the edge's to do
		for _, w := range in.Set.Workloads {
			if w.Spec.Service != e.Spec.Via || w.Spec.Edge.Egress.Listen == "" {
				continue
			}
			id, err := identity.Workload(in.TrustDomain, w.Metadata.Namespace, w.Spec.ServiceAccount)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(v.service.Identities, id.String()) {
				v.service.Identities = append(v.service.Identities, id.String())
			}
			v.endpoints = append(v.endpoints, policy.Endpoint{
				Address: netip.MustParseAddrPort(w.Spec.Edge.Egress.Listen), Version: w.Spec.Version, Instance: w.Metadata.Name, // checked by resource
			}.WithDefaults())
		}
		for _, a := range e.Spec.Addresses {
			v.service.Addresses = append(v.service.Addresses, netip.MustParseAddrPort(a))
		}
		slices.SortFunc(v.service.Addresses, netip.AddrPort.Compare)
		v.service.MTLS = len(v.service.Identities) > 0 // else nobody is there, and it is called by nobody, past the edge least of all
		slices.Sort(v.service.Identities)
		slices.SortFunc(v.endpoints, func(a, b policy.Endpoint) int { return a.Address.Compare(b.Address) })
		out[e.Metadata.Name] = v
	}
	return out, nil
}

// of is a service as w calls it: the edge itself, and nobody else, calls the host.
func (e edges) of(w *resource.Workload, name string, services map[string]policy.Service, endpoints map[string][]policy.Endpoint) (policy.Service, []policy.Endpoint, bool) {
	svc, ok := services[name]
	if v, via := e[name]; via && (w.Spec.Service != v.service.Via || w.Spec.Edge.Egress.Listen == "") {
		return v.service, v.endpoints, true
	}
	return svc, endpoints[name], ok
}

// edgeListeners are those of w's edge; told is called for each service that they need.
func edgeListeners(set *resource.Set, w *resource.Workload, domain string, services map[string]policy.Service, told func(name string)) []policy.Listener {
	var out []policy.Listener
	for _, l := range w.Spec.Edge.Listeners {
		e := l.Policy(func(r resource.EdgeRoute) bool {
			svc, ok := services[r.Service]
			if ok && !l.Sends(svc.Protocol) {
				return false // resource warns
			}
			told(r.Service)
			return true
		})
		out = append(out, policy.Listener{
			Name: "edge:" + l.Name, Side: flow.SideServer, Protocol: l.FlowProtocol(), Service: w.Spec.Service, Address: netip.MustParseAddrPort(l.Listen), Edge: &e,
			ProxyProtocol: l.ProxyProtocol.Policy(),
		})
	}
	selected := set.SelectedBy(w, domain)
	for _, p := range set.Edges[w.Metadata.Name] {
		p.Hosts = slices.Clone(p.Hosts)
		for i := range p.Hosts { // the edge is who calls
			p.Hosts[i].Rules, _ = resource.OfCaller(p.Hosts[i].Rules, selected)
		}
		out = append(out, gatewayListener(w, p))
		for _, v := range p.Hosts {
			for _, to := range policy.RouteTargets(v.Rules) {
				told(to)
			}
		}
	}
	if at := w.Spec.Edge.Egress.Listen; at != "" {
		e := policy.Edge{Mesh: true}
		for _, x := range set.External {
			if x.Spec.Via == w.Spec.Service {
				told(x.Metadata.Name)
				e.Hosts = append(e.Hosts, policy.VirtualHost{Name: x.Metadata.Name, Hosts: []string{x.Metadata.Name}, Service: x.Metadata.Name})
			}
		}
		out = append(out, policy.Listener{
			Name: "edge-egress", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Service: w.Spec.Service, Address: netip.MustParseAddrPort(at), Edge: &e,
		})
	}
	return out
}

// gatewayListener is what w's edge serves at a port of its Gateway.
func gatewayListener(w *resource.Workload, p resource.EdgePort) policy.Listener {
	g := w.Spec.Edge.Gateway
	e := policy.Edge{TLS: p.TLS, Hosts: p.Hosts}
	if p.Protocol.HTTP() {
		e.TrustedHops = g.TrustedHops
	}
	return policy.Listener{
		Name: fmt.Sprintf("gateway:%d", p.Number), Side: flow.SideServer, Protocol: p.Protocol, Service: w.Spec.Service,
		Address: netip.AddrPortFrom(netip.MustParseAddr(g.Address), p.Number), Edge: &e, ProxyProtocol: g.ProxyProtocol.Policy(), // checked by resource
	}
}
