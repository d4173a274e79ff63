package policy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Edge makes of an inbound listener one whose connections go on to services, and not to an application of the workload's own: those of callers outside the mesh
// (ingress), or, with Mesh, those of sidecars to hosts outside it (egress). The listener's protocol is http (with TLS: https), tcp (with TLS: ended here), or tls, which
// is passed through.
type Edge struct {
	// Hosts say which host goes where: by the authority of each request, or by the SNI of a connection. An exact name counts before a wildcard, "*" is the rest. What is for
	// none is refused.
	Hosts []VirtualHost
	// TLS of callers is ended; nil: it is not.
	TLS *ServerTLS
	// Mesh: callers are sidecars, by mTLS, whose SNI is the name of the service that is meant; Hosts are those names. Of protocol tcp: what is spoken is the service's.
	Mesh bool
	// TrustedHops is how many proxies in front of the listener are believed what they say in x-forwarded-*; 0 to 16; http only.
	TrustedHops int
	// RedirectHTTPS answers every request with a redirect to https at this port; 0: not; http without TLS and Hosts only.
	RedirectHTTPS uint16
}

// VirtualHost sends what is for some hosts to a service.
type VirtualHost struct {
	Name    string   // of the route, in Records too; unique on its listener
	Hosts   []string // as route.CheckHost takes them, each once on its listener; at least one, "*" last
	Service string   // for what no rule is; "": that is refused; only where there are rules
	// Rules of requests, in the order in which they were written; of a listener whose connections are relayed at most one, which has neither matches nor anything but Backends.
	Rules []route.Rule
}

// targets are the services of the Snapshot that v needs.
func (v *VirtualHost) targets() []string {
	out := RouteTargets(v.Rules)
	if v.Service != "" {
		out = append(out, v.Service)
	}
	return out
}

func (v *VirtualHost) check(protocol flow.Protocol) error {
	if v.Service != "" || len(v.Rules) == 0 {
		if err := checkName("service", v.Service); err != nil {
			return err
		}
	}
	if err := route.Check(v.Rules); err != nil || protocol.HTTP() {
		return err
	}
	for _, r := range v.Rules {
		switch a := (route.Action{Backends: r.Action.Backends}); {
		case len(v.Rules) > 1 || v.Service != "":
			return fmt.Errorf("rule %q: a connection has nothing to match, so that a host has one rule and no service by default", r.Name)
		case len(r.Matches) > 0 || !reflect.DeepEqual(a, r.Action):
			return fmt.Errorf("rule %q: of connections a rule can only say backends", r.Name)
		}
	}
	return nil
}

// ServerTLS is how callers' TLS is ended. Files are of the sidecar's host; the sidecar reads them anew when they change. Versions and ciphers are those of Mozilla's
// "intermediate" configuration (https://wiki.mozilla.org/Security/Server_Side_TLS), as far as crypto/tls has them.
type ServerTLS struct {
	Certificates []CertificateFiles // at least one; the first that is for the caller's SNI, and whose signatures it takes, is presented; else the first
	MinVersion   uint16             // tls.VersionTLS12 (default) or tls.VersionTLS13
	ClientCAFile string             // trust anchors of callers' certificates, PEM; "": none is asked for
	ClientAuth   ClientAuth
}

// CertificateFiles are a certificate with its chain, and its key, PEM.
type CertificateFiles struct{ CertFile, KeyFile string }

// ClientAuth says what is wanted of callers' certificates.
type ClientAuth uint8

const (
	// ClientAuthNone: they are not asked for one.
	ClientAuthNone ClientAuth = iota
	// ClientAuthRequest: they are asked for one, which must be valid if they have it.
	ClientAuthRequest
	// ClientAuthRequire: they must have a valid one.
	ClientAuthRequire
)

var clientAuthNames = map[ClientAuth]string{ClientAuthNone: "", ClientAuthRequest: "request", ClientAuthRequire: "require"}

// String is "", "request" or "require".
func (c ClientAuth) String() string { return clientAuthNames[c] }

// ParseClientAuth is the inverse of String.
func ParseClientAuth(word string) (ClientAuth, error) {
	for c, name := range clientAuthNames {
		if name == word {
			return c, nil
		}
	}
	return 0, fmt.Errorf("%q: must be request or require", word)
}

// CipherSuites of TLS 1.2: Mozilla's intermediate ones that crypto/tls has. Those of 1.3 are all good, and not a matter of choice.
var CipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// cipherNames are CipherSuites as Envoy calls them.
var cipherNames = []string{
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
	"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
}

const maxTrustedHops = 16

// MaxCertificates bounds those of a ServerTLS.
const MaxCertificates = 256

// WithDefaults fills in MinVersion.
func (e Edge) WithDefaults() Edge {
	if e.TLS != nil {
		t := *e.TLS
		def(&t.MinVersion, tls.VersionTLS12)
		e.TLS = &t
	}
	return e
}

// Check refuses what a sidecar could not act on; protocol is the listener's.
func (e Edge) Check(protocol flow.Protocol) error {
	e = e.WithDefaults()
	switch {
	case protocol != flow.ProtocolHTTP && !protocol.Relayed():
		return fmt.Errorf("protocol %s: must be http, tcp or tls", ProtocolName(protocol))
	case e.Mesh && (protocol != flow.ProtocolTCP || e.TLS != nil):
		return errors.New("mesh: must be of protocol tcp and without tls; its TLS is the mesh's")
	case protocol == flow.ProtocolTLS && e.TLS != nil:
		return errors.New("tls: of protocol tls it is passed through; use protocol tcp to end it, or remove tls")
	case e.TrustedHops < 0 || e.TrustedHops > maxTrustedHops || e.TrustedHops > 0 && !protocol.HTTP():
		return fmt.Errorf("trustedHops %d: must be from 0 to %d, and 0 of relayed protocols", e.TrustedHops, maxTrustedHops)
	case e.RedirectHTTPS != 0 && (!protocol.HTTP() || e.TLS != nil || len(e.Hosts) > 0):
		return errors.New("redirectHTTPS: is for listeners of http without tls, and answers for all hosts; remove hosts")
	}
	names, hosts := map[string]bool{}, map[string]bool{}
	for i, v := range e.Hosts {
		field := fmt.Sprintf("hosts[%d]", i)
		if err := checkName(field+": name", v.Name); err != nil {
			return err
		}
		if err := v.check(protocol); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if names[v.Name] {
			return fmt.Errorf("%s: name %q: is used twice; rename one", field, v.Name)
		}
		names[v.Name] = true
		if len(v.Hosts) == 0 {
			return fmt.Errorf(`%s: names no host; "*" is for all`, field)
		}
		for k, h := range v.Hosts {
			if err := route.CheckHost(h); err != nil {
				return fmt.Errorf("%s: %w", field, err)
			}
			switch {
			case hosts[route.Canonical(h)]:
				return fmt.Errorf("%s: host %q: is listed twice; remove one", field, h)
			case h == "*" && k < len(v.Hosts)-1:
				return fmt.Errorf("%s: host *: must be the last of its list", field)
			case h != "*" && protocol == flow.ProtocolTCP && e.TLS == nil && !e.Mesh:
				return fmt.Errorf("%s: host %q: TCP names no host; use * alone, or protocol tls", field, h)
			}
			hosts[route.Canonical(h)] = true
		}
	}
	if e.TLS != nil {
		if err := e.TLS.check(); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
	}
	return nil
}

func (t *ServerTLS) check() error {
	if n := len(t.Certificates); n == 0 || n > MaxCertificates {
		return fmt.Errorf("certificates: has %d entries, must have 1 to %d", n, MaxCertificates)
	}
	for i, c := range t.Certificates {
		for _, f := range []struct{ field, path string }{{"certFile", c.CertFile}, {"keyFile", c.KeyFile}} {
			field := fmt.Sprintf("certificates[%d].%s", i, f.field)
			if f.path == "" {
				return fmt.Errorf("%s: must not be empty", field)
			}
			if err := CheckFile(field, f.path); err != nil {
				return err
			}
		}
	}
	if err := CheckFile("clientCAFile", t.ClientCAFile); err != nil {
		return err
	}
	if t.ClientAuth > ClientAuthRequire || (t.ClientAuth == ClientAuthNone) != (t.ClientCAFile == "") {
		return fmt.Errorf("clientAuth %q: goes with a clientCAFile, and must be request or require", t.ClientAuth)
	}
	return checkVersion(t.MinVersion)
}

func (t *ServerTLS) toXDS(protocol flow.Protocol) (*corev3.TransportSocket, error) {
	if t == nil {
		return nil, nil
	}
	params := versionToXDS(t.MinVersion)
	params.CipherSuites = cipherNames
	common := &tlsv3.CommonTlsContext{TlsParams: params}
	if protocol.HTTP() {
		common.AlpnProtocols = []string{alpnHTTP2, alpnHTTP1}
	}
	for _, c := range t.Certificates {
		common.TlsCertificates = append(common.TlsCertificates, &tlsv3.TlsCertificate{CertificateChain: dataFile(c.CertFile), PrivateKey: dataFile(c.KeyFile)})
	}
	if t.ClientCAFile != "" {
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: dataFile(t.ClientCAFile)}}
	}
	config, err := pack(&tlsv3.DownstreamTlsContext{CommonTlsContext: common, RequireClientCertificate: wrapperspb.Bool(t.ClientAuth == ClientAuthRequire)})
	return &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}, err
}

func serverTLSFromXDS(x *corev3.TransportSocket) (*ServerTLS, error) {
	if x == nil {
		return nil, nil
	}
	down := &tlsv3.DownstreamTlsContext{}
	if err := x.GetTypedConfig().UnmarshalTo(down); err != nil {
		return nil, fmt.Errorf("transport_socket: not known to this sidecar; use a DownstreamTlsContext: %w", err)
	}
	common := down.GetCommonTlsContext()
	t := &ServerTLS{MinVersion: versionFromXDS(common.GetTlsParams()), ClientCAFile: common.GetValidationContext().GetTrustedCa().GetFilename()}
	for _, c := range common.GetTlsCertificates() {
		t.Certificates = append(t.Certificates, CertificateFiles{CertFile: c.GetCertificateChain().GetFilename(), KeyFile: c.GetPrivateKey().GetFilename()})
	}
	switch {
	case down.GetRequireClientCertificate().GetValue():
		t.ClientAuth = ClientAuthRequire
	case t.ClientCAFile != "":
		t.ClientAuth = ClientAuthRequest
	}
	return t, nil
}

// edgeToXDS maps a checked listener with an Edge: HTTP to one filter chain with virtual hosts, what is relayed to a filter chain for each, matched by server names,
// and a default one for "*". Rules stand in the metadata of their virtual host or filter chain, as in a route configuration; a stock Envoy reads what is beside them.
func (l Listener) edgeToXDS() (*listenerv3.Listener, error) {
	e := extras{}
	e.flag("edge", true)
	e.flag("edge_mesh", l.Edge.Mesh)
	e.str("side", sideNames[l.Side])
	e.str("service", l.Service)
	e.protocol(l.Protocol)
	if l.ProxyProtocol != nil {
		l.ProxyProtocol.toXDS(e)
	}
	x := &listenerv3.Listener{Name: l.Name, Address: socketAddress(l.Address), TrafficDirection: corev3.TrafficDirection_INBOUND}
	socket, err := l.Edge.TLS.toXDS(l.Protocol)
	if err != nil {
		return nil, err
	}
	chain := func(name string, config proto.Message, filter string) (*listenerv3.FilterChain, error) {
		typed, err := pack(config)
		return &listenerv3.FilterChain{
			Name: name, TransportSocket: socket,
			Filters: []*listenerv3.Filter{{Name: filter, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed}}},
		}, err
	}
	if l.Protocol.HTTP() {
		manager, err := l.edgeManager(e)
		if err != nil {
			return nil, err
		}
		only, err := chain("http", manager, "envoy.filters.network.http_connection_manager")
		if err != nil {
			return nil, err
		}
		x.FilterChains = []*listenerv3.FilterChain{only}
		x.Metadata = e.metadata()
		return x, nil
	}
	if l.Protocol == flow.ProtocolTLS || l.Edge.TLS != nil || l.Edge.Mesh {
		if x.ListenerFilters, err = tlsInspector(); err != nil {
			return nil, err
		}
	}
	for _, v := range l.Edge.Hosts {
		c, err := chain(v.Name, v.relay(), "envoy.filters.network.tcp_proxy")
		if err != nil {
			return nil, err
		}
		c.Metadata = v.metadata()
		names := v.Hosts
		if i := len(names) - 1; names[i] == "*" {
			names = names[:i]
			x.DefaultFilterChain = c
		}
		if len(names) > 0 {
			c = proto.Clone(c).(*listenerv3.FilterChain)
			c.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: names}
			x.FilterChains = append(x.FilterChains, c)
		}
	}
	if len(l.Edge.Hosts) == 0 { // Envoy wants a chain, and closes the connections of one without filters
		x.DefaultFilterChain = &listenerv3.FilterChain{TransportSocket: socket}
	}
	x.Metadata = e.metadata()
	return x, nil
}

// metadata are v's rules as they were written.
func (v *VirtualHost) metadata() *corev3.Metadata {
	e := extras{}
	e.rules("rules", v.Rules)
	return e.metadata()
}

// relay sends connections to v's service, or by their weights to the backends of its rule; to those that are none they are refused, for there is no such cluster.
func (v *VirtualHost) relay() *tcpv3.TcpProxy {
	x := &tcpv3.TcpProxy{StatPrefix: v.Name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: v.Service}}
	if len(v.Rules) == 0 {
		return x
	}
	weighted := &tcpv3.TcpProxy_WeightedCluster{}
	for _, b := range v.Rules[0].Action.Backends {
		if b.Weight > 0 {
			weighted.Clusters = append(weighted.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{
				Name: cmp.Or(b.Service, noBackend), Weight: b.Weight, MetadataMatch: subsetToXDS(b.Subset),
			})
		}
	}
	x.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: weighted}
	if len(weighted.Clusters) == 0 {
		x.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: noBackend}
	}
	return x
}

// rulesFromXDS is the inverse of metadata.
func rulesFromXDS(md *corev3.Metadata) ([]route.Rule, error) {
	r := read(md)
	rules := r.rules("rules")
	return rules, r.err
}

func (l Listener) edgeManager(e extras) (*hcmv3.HttpConnectionManager, error) {
	router, err := pack(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	cors, err := corsHTTPFilter()
	if err != nil {
		return nil, err
	}
	routes := routeConfiguration(l.Name)
	all := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	for _, v := range l.Edge.Hosts {
		host := &routev3.VirtualHost{Name: v.Name, Domains: v.Hosts, Metadata: v.metadata()}
		for _, c := range route.ByPrecedence(v.Rules) {
			r, err := routeToXDS(c, func(string) []AffinityKey { return nil })
			if err != nil {
				return nil, fmt.Errorf("host %q: route %q: %w", v.Name, c.Rule.Name, err)
			}
			host.Routes = append(host.Routes, r)
		}
		if v.Service != "" {
			host.Routes = append(host.Routes, &routev3.Route{
				Match: all,
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: v.Service}, Timeout: durationpb.New(0), // the service's, which the sidecar knows
				}},
			})
		}
		routes.VirtualHosts = append(routes.VirtualHosts, host)
	}
	if port := l.Edge.RedirectHTTPS; port != 0 {
		routes.VirtualHosts = []*routev3.VirtualHost{{Name: "redirect", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match: all,
			Action: &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{
				SchemeRewriteSpecifier: &routev3.RedirectAction_HttpsRedirect{HttpsRedirect: true}, PortRedirect: uint32(port),
				ResponseCode: routev3.RedirectAction_PERMANENT_REDIRECT,
			}},
		}}}}
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: l.Name, CodecType: hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier:    &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes},
		HttpFilters:       []*hcmv3.HttpFilter{cors, {Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}},
		UseRemoteAddress:  wrapperspb.Bool(true),
		XffNumTrustedHops: uint32(l.Edge.TrustedHops),
		StripPortMode:     &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true},
	}
	l.Limits.toXDS(manager, e)
	return manager, nil
}

// edgeFromXDS is the inverse of edgeToXDS, for what ListenerFromXDS has not read yet.
func edgeFromXDS(x *listenerv3.Listener, l *Listener, r *reader) error {
	e := &Edge{Mesh: r.flag("edge_mesh")}
	l.Edge, l.Side, l.Service = e, flow.SideServer, r.str("service")
	l.Protocol, l.ProxyProtocol = r.protocol(), proxyFromXDS(r)
	var err error
	if l.Protocol.HTTP() {
		if len(x.GetFilterChains()) != 1 || len(x.GetFilterChains()[0].GetFilters()) != 1 {
			return errors.New("filter_chains: must be one chain with one HttpConnectionManager")
		}
		chain, manager := x.GetFilterChains()[0], &hcmv3.HttpConnectionManager{}
		if err := chain.GetFilters()[0].GetTypedConfig().UnmarshalTo(manager); err != nil {
			return fmt.Errorf("unreadable HttpConnectionManager: %w", err)
		}
		l.Limits = limitsFromXDS(manager, r)
		e.TrustedHops = int(min(manager.GetXffNumTrustedHops(), 1<<16))
		for _, v := range manager.GetRouteConfig().GetVirtualHosts() {
			rules, err := rulesFromXDS(v.GetMetadata())
			if err != nil {
				return fmt.Errorf("virtual_host %q: %w", v.GetName(), err)
			}
			host := VirtualHost{Name: v.GetName(), Hosts: slices.Clone(v.GetDomains()), Rules: rules}
			own := v.GetRoutes()[min(len(v.GetRoutes()), len(route.ByPrecedence(rules))):] // behind those of the rules
			if len(own) > 1 || len(own) == 0 && len(rules) == 0 {
				return fmt.Errorf("virtual_host %q: must have one route, or rules in its metadata", v.GetName())
			}
			if len(own) == 1 {
				if to := own[0].GetRedirect(); to != nil {
					if p := to.GetPortRedirect(); p == 0 || p > 65535 {
						return fmt.Errorf("virtual_host %q: port_redirect %d: must be from 1 to 65535", v.GetName(), p)
					}
					e.RedirectHTTPS = uint16(to.GetPortRedirect())
					continue
				}
				host.Service = own[0].GetRoute().GetCluster()
			}
			e.Hosts = append(e.Hosts, host)
		}
		e.TLS, err = serverTLSFromXDS(chain.GetTransportSocket())
		return err
	}
	read := func(c *listenerv3.FilterChain, hosts []string) error {
		if e.TLS == nil {
			if e.TLS, err = serverTLSFromXDS(c.GetTransportSocket()); err != nil {
				return err
			}
		}
		if c.GetName() == "" {
			return nil
		}
		if i := slices.IndexFunc(e.Hosts, func(v VirtualHost) bool { return v.Name == c.GetName() }); i >= 0 {
			e.Hosts[i].Hosts = append(e.Hosts[i].Hosts, hosts...)
			return nil
		}
		relay := &tcpv3.TcpProxy{}
		if len(c.GetFilters()) != 1 {
			return fmt.Errorf("filter_chain %q: must have one TcpProxy", c.GetName())
		}
		if err := c.GetFilters()[0].GetTypedConfig().UnmarshalTo(relay); err != nil {
			return fmt.Errorf("filter_chain %q: unreadable TcpProxy: %w", c.GetName(), err)
		}
		host := VirtualHost{Name: c.GetName(), Hosts: hosts}
		if host.Rules, err = rulesFromXDS(c.GetMetadata()); err != nil {
			return fmt.Errorf("filter_chain %q: %w", c.GetName(), err)
		}
		if len(host.Rules) == 0 {
			host.Service = relay.GetCluster()
		}
		e.Hosts = append(e.Hosts, host)
		return nil
	}
	for _, c := range x.GetFilterChains() {
		if err := read(c, slices.Clone(c.GetFilterChainMatch().GetServerNames())); err != nil {
			return err
		}
	}
	if c := x.GetDefaultFilterChain(); c != nil {
		return read(c, []string{"*"})
	}
	return nil
}

// checkEdge is Listener.Check for one with an Edge.
func (l Listener) checkEdge() error {
	switch {
	case l.Side != flow.SideServer:
		return errors.New("edge: only inbound listeners can be one")
	case l.Unix != nil:
		return fmt.Errorf("edge: %s: callers come by TCP; remove it", l.Unix)
	case l.Target != (netip.AddrPort{}) || l.Unbound || l.Interception != nil || l.Mode != ModeStrict || l.RequestTimeout != 0 || l.IdleTimeout != 0 || l.StreamTimeout != 0 || l.Adaptive != (Adaptive{}):
		return errors.New("edge: what it takes in goes to services; target, unbound, interception, mode and timeouts are of other listeners, remove them")
	case l.Protocol == flow.ProtocolAuto:
		return errors.New("protocol auto: an edge is told what it takes in; use http, tcp or tls")
	case !l.Protocol.HTTP() && l.Limits != (Limits{}):
		return errors.New("limits: only http listeners have them; remove them")
	}
	for _, err := range []error{checkName("service", l.Service), l.Edge.Check(l.Protocol)} {
		if err != nil {
			return fmt.Errorf("edge: %w", err)
		}
	}
	if l.ProxyProtocol != nil {
		if err := l.ProxyProtocol.Check(); err != nil {
			return fmt.Errorf("proxy protocol: %w", err)
		}
	}
	if err := l.Limits.Check(); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return nil
}

// SortHosts puts hosts in the order in which a VirtualHost has them.
func SortHosts(hosts []string) []string {
	slices.SortFunc(hosts, func(a, b string) int {
		if (a == "*") != (b == "*") {
			if a == "*" {
				return 1
			}
			return -1
		}
		return cmp.Compare(a, b)
	})
	return hosts
}
