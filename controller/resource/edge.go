package resource

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Edge makes of a workload a gateway: it takes in what callers outside the mesh send to its services, and what sidecars send to hosts outside.
type Edge struct {
	Listeners []EdgeListener `yaml:"listeners,omitempty"`
	Gateway   EdgeGateway    `yaml:"gateway,omitempty"`
	Egress    Egress         `yaml:"egress,omitempty"`
}

// EdgeGateway names a Gateway of the workload's namespace, whose listeners the edge serves beside its own.
type EdgeGateway struct {
	Name          string        `yaml:"name,omitempty"`          // default: none
	Address       string        `yaml:"address,omitempty"`       // IP address at which the Gateway's ports are served; default 0.0.0.0
	ProxyProtocol ProxyProtocol `yaml:"proxyProtocol,omitempty"` // at all of them
	TrustedHops   int           `yaml:"trustedHops,omitempty"`   // at those of HTTP
}

func (g *EdgeGateway) check(at string) error {
	if g.Name == "" {
		if g.Address != "" || len(g.ProxyProtocol.From) > 0 || g.ProxyProtocol.Timeout != 0 || g.TrustedHops != 0 {
			return fmt.Errorf("%s.name: is required beside other fields; name the Gateway", at)
		}
		return nil
	}
	if len(g.Name) > 253 || !sectionPattern.MatchString(g.Name) {
		return fmt.Errorf("%s.name: %q is no name of a Gateway", at, g.Name)
	}
	address, err := netip.ParseAddr(cmp.Or(g.Address, "0.0.0.0"))
	if err != nil {
		return fmt.Errorf("%s.address: %q must be an IP address of this host, for example 10.0.0.7, or 0.0.0.0 for all", at, g.Address)
	}
	g.Address = address.Unmap().String()
	if err := g.ProxyProtocol.check(at + ".proxyProtocol"); err != nil {
		return err
	}
	if err := (policy.Edge{TrustedHops: g.TrustedHops}).Check(flow.ProtocolHTTP); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

// Egress is where sidecars call ExternalServices whose spec.via is the workload's service.
type Egress struct {
	Listen string `yaml:"listen,omitempty"` // ip:port; of this host, not 0.0.0.0: sidecars are told it
}

// EdgeListener is one address at which callers outside the mesh are served.
type EdgeListener struct {
	Name          string        `yaml:"name"`
	Listen        string        `yaml:"listen"`
	Protocol      string        `yaml:"protocol"` // one of edgeProtocols
	TLS           *ServerTLS    `yaml:"tls,omitempty"`
	ProxyProtocol ProxyProtocol `yaml:"proxyProtocol,omitempty"`
	TrustedHops   int           `yaml:"trustedHops,omitempty"`
	RedirectHTTPS int           `yaml:"redirectHTTPS,omitempty"`
	Routes        []EdgeRoute   `yaml:"routes,omitempty"`
}

// ServerTLS is how callers' TLS is ended. Meanings, defaults and ranges are those of policy.ServerTLS.
type ServerTLS struct {
	Certificates []CertificateFiles `yaml:"certificates"`
	MinVersion   string             `yaml:"minVersion,omitempty"`
	ClientCAFile string             `yaml:"clientCAFile,omitempty"`
	ClientAuth   string             `yaml:"clientAuth,omitempty"` // request | require (default with clientCAFile)
}

// CertificateFiles are a certificate and its key.
type CertificateFiles struct {
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
}

// EdgeRoute sends what is for some hosts to a service.
type EdgeRoute struct {
	Name    string   `yaml:"name,omitempty"`  // default: Service
	Hosts   []string `yaml:"hosts,omitempty"` // default: *
	Service string   `yaml:"service"`
}

// edgeProtocols are what an edge's listener can speak: https is http whose TLS is ended.
var edgeProtocols = []string{"http", "https", "tls", "tcp"}

// Sends reports whether what l takes can go on to a service of a protocol.
func (l EdgeListener) Sends(to flow.Protocol) bool {
	return to == flow.ProtocolAuto || to.HTTP() == l.HTTP()
}

// HTTP reports whether l takes requests, and not connections.
func (l EdgeListener) HTTP() bool { return l.Protocol == "http" || l.Protocol == "https" }

// FlowProtocol is l's protocol as sidecars are told.
func (l EdgeListener) FlowProtocol() flow.Protocol {
	switch l.Protocol {
	case "tls":
		return flow.ProtocolTLS
	case "tcp":
		return flow.ProtocolTCP
	}
	return flow.ProtocolHTTP
}

// Policy is l as sidecars are told, with the routes that take says yes to. l is checked.
func (l EdgeListener) Policy(take func(EdgeRoute) bool) policy.Edge {
	e := policy.Edge{TrustedHops: l.TrustedHops, RedirectHTTPS: uint16(l.RedirectHTTPS)}
	if t := l.TLS; t != nil {
		version, _ := policy.ParseTLSVersion(t.MinVersion)
		auth, _ := policy.ParseClientAuth(t.ClientAuth)
		e.TLS = &policy.ServerTLS{MinVersion: version, ClientCAFile: t.ClientCAFile, ClientAuth: auth}
		for _, c := range t.Certificates {
			e.TLS.Certificates = append(e.TLS.Certificates, policy.CertificateFiles{CertFile: c.CertFile, KeyFile: c.KeyFile})
		}
	}
	for _, r := range l.Routes {
		if take(r) {
			e.Hosts = append(e.Hosts, policy.VirtualHost{Name: r.Name, Hosts: policy.SortHosts(slices.Clone(r.Hosts)), Service: r.Service})
		}
	}
	return e.WithDefaults()
}

// maxEdgeListeners bounds listeners of one edge, maxEdgeRoutes routes of one listener.
const (
	maxEdgeListeners = 64
	maxEdgeRoutes    = 1024
)

func (e *Edge) check(field string) error {
	if len(e.Listeners) > maxEdgeListeners {
		return fmt.Errorf("%s.listeners: has %d entries, at most %d are allowed", field, len(e.Listeners), maxEdgeListeners)
	}
	names := map[string]bool{}
	for i := range e.Listeners {
		l, at := &e.Listeners[i], fmt.Sprintf("%s.listeners[%d]", field, i)
		if err := checkLabel(at+".name", l.Name); err != nil {
			return err
		}
		if names[l.Name] {
			return fmt.Errorf("%s.name: %q is used twice; rename one", at, l.Name)
		}
		names[l.Name] = true
		if err := l.check(at); err != nil {
			return err
		}
	}
	if err := e.Gateway.check(field + ".gateway"); err != nil {
		return err
	}
	if at := e.Egress.Listen; at != "" {
		if err := checkAddr(field+".egress.listen", &e.Egress.Listen); err != nil {
			return err
		}
		if unspecified(e.Egress.Listen) {
			return fmt.Errorf("%s.egress.listen: %s is no address that sidecars could call; give one of this host", field, at)
		}
	}
	return nil
}

// unspecified reports whether a checked address is that of every interface.
func unspecified(addr string) bool { return netip.MustParseAddrPort(addr).Addr().IsUnspecified() }

func (l *EdgeListener) check(at string) error {
	if err := checkAddr(at+".listen", &l.Listen); err != nil {
		return err
	}
	if err := oneOf(at+".protocol", l.Protocol, edgeProtocols...); err != nil {
		return err
	}
	if err := l.ProxyProtocol.check(at + ".proxyProtocol"); err != nil {
		return err
	}
	switch {
	case l.Protocol == "https" && l.TLS == nil:
		return fmt.Errorf("%s.tls: protocol https needs certificates", at)
	case l.Protocol == "http" && l.TLS != nil:
		return fmt.Errorf("%s.tls: protocol http has none; use https", at)
	case l.Protocol == "tls" && l.TLS != nil:
		return fmt.Errorf("%s.tls: of protocol tls it is passed through; use tcp to end it, or remove tls", at)
	case l.RedirectHTTPS < 0 || l.RedirectHTTPS > 65535:
		return fmt.Errorf("%s.redirectHTTPS: %d: must be a port from 1 to 65535", at, l.RedirectHTTPS)
	case l.RedirectHTTPS > 0 && (l.Protocol != "http" || len(l.Routes) > 0):
		return fmt.Errorf("%s.redirectHTTPS: is for listeners of http, and answers for all hosts; remove routes", at)
	case len(l.Routes) > maxEdgeRoutes:
		return fmt.Errorf("%s.routes: has %d entries, at most %d are allowed", at, len(l.Routes), maxEdgeRoutes)
	}
	if t := l.TLS; t != nil {
		if _, err := policy.ParseTLSVersion(t.MinVersion); err != nil {
			return fmt.Errorf("%s.tls.minVersion: %w", at, err)
		}
		if t.ClientCAFile != "" {
			t.ClientAuth = cmp.Or(t.ClientAuth, "require")
		}
		if _, err := policy.ParseClientAuth(t.ClientAuth); err != nil {
			return fmt.Errorf("%s.tls.clientAuth: %w", at, err)
		}
	}
	for i := range l.Routes {
		r, field := &l.Routes[i], fmt.Sprintf("%s.routes[%d]", at, i)
		if err := checkLabel(field+".service", r.Service); err != nil {
			return err
		}
		if r.Name = cmp.Or(r.Name, r.Service); r.Name != r.Service {
			if err := checkLabel(field+".name", r.Name); err != nil {
				return err
			}
		}
		if len(r.Hosts) == 0 {
			r.Hosts = []string{"*"}
		}
		for k, h := range r.Hosts {
			if err := route.CheckHost(route.Canonical(h)); err != nil {
				return fmt.Errorf("%s.hosts[%d]: %w", field, k, err)
			}
			r.Hosts[k] = route.Canonical(h)
		}
	}
	all := func(EdgeRoute) bool { return true }
	if err := l.Policy(all).Check(l.FlowProtocol()); err != nil { // what the sidecar would refuse
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

// listens are the addresses of e that nobody else in the mesh can have, and with every those that others on other hosts may have too.
func (e Edge) listens(every bool) []listen {
	var out []listen
	for i, l := range e.Listeners {
		if unspecified(l.Listen) == every {
			out = append(out, listen{fmt.Sprintf("spec.edge.listeners[%d].listen", i), l.Listen})
		}
	}
	if e.Egress.Listen != "" && !every {
		out = append(out, listen{"spec.edge.egress.listen", e.Egress.Listen})
	}
	return out
}

// edgeWarnings are about routes of w that lead nowhere.
func (a *admission) edgeWarnings(w *Workload, warn func(format string, args ...any)) {
	if k := w.gateway(); k != (Key{}) {
		if _, ok := a.set.Entries[k]; !ok {
			warn("spec.edge.gateway.name: no Gateway %s/%s; until there is one nothing is served for it", k.Namespace, k.Name)
		}
	}
	for i, l := range w.Spec.Edge.Listeners {
		for k, r := range l.Routes {
			field := fmt.Sprintf("spec.edge.listeners[%d].routes[%d].service", i, k)
			owner, ok := a.services[r.Service]
			switch protocol, _ := policy.ParseProtocol(owner.protocol); {
			case !ok:
				warn("%s: no service %q in the mesh%s; until there is one what is sent there gets no_endpoint. Add a Workload or an ExternalService", field, r.Service, a.suggest(r.Service))
			case owner.protocol != "" && !l.Sends(protocol):
				warn("%s: service %q speaks %s, a listener of protocol %s cannot send to it; the route is left out", field, r.Service, owner.protocol, l.Protocol)
			}
		}
	}
}
