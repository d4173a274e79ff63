package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/flow"
)

// ListenerMode says what a listener does with plaintext and mTLS.
type ListenerMode uint8

const (
	// ModeStrict: inbound accepts mTLS only.
	ModeStrict ListenerMode = iota
	// ModePermissive: inbound accepts mTLS and plaintext; plaintext peers have no identity and are shown as unmeshed.
	ModePermissive
)

// Listener is one explicit listening address of a sidecar.
type Listener struct {
	Name     string         // unique in the snapshot: "inbound:8080", "outbound:catalog"
	Side     flow.Side      // SideServer = inbound, SideClient = outbound
	Protocol flow.Protocol  // one of Protocols: of the application or, outbound, of the service; callers may speak any version of HTTP to one of HTTP
	Address  netip.AddrPort // where to listen
	Target   netip.AddrPort // inbound: the application's address
	Service  string         // inbound: own service; outbound: destination service
	Mode     ListenerMode   // inbound only
	Limits   Limits         // of HTTP, and of ProtocolAuto
	// DetectTimeout is how long a caller's first bytes are awaited where they decide who speaks: with ProtocolAuto whether it is HTTP, and inbound, with ModePermissive and
	// a Protocol that is not HTTP, whether it is TLS. Then the server is taken to speak first. From 1 ms to 1 min, default 1 s; 0 where nothing is detected.
	// Redirected outbound connections have Interception.DetectTimeout.
	DetectTimeout time.Duration
	// Unix is the hop to the own application where it is a Unix socket: inbound the application's, in place of Target; outbound where to listen, in place of Address.
	Unix *Unix
	// Interception is set where redirected connections arrive: outbound, of protocol http (what is detected as HTTP), and of no one service; inbound, of protocol tcp, of
	// the own service and without a target.
	Interception *Interception
	// Edge is set where what comes goes on to services; inbound, without a target.
	Edge *Edge
	// Proxy is set where the listener is a forward proxy; outbound, of no one service.
	Proxy *Proxy
	// Unbound: inbound only; not a socket of its own, its connections are those of the listener with Interception that were meant for Address' port.
	Unbound bool

	// Inbound only: what the callers' settings of the service (Service) are, so that the sidecar in front of it ends nothing that they let live. Defaults and "off"
	// are those of Service.
	RequestTimeout time.Duration // HTTP only
	IdleTimeout    time.Duration // of relays, tunnels and streams
	StreamTimeout  time.Duration // HTTP only
	Adaptive       Adaptive      // HTTP only

	Access access.Rules // inbound only: who may use it; what is not said is allowed

	ProxyProtocol *ProxyProtocol // inbound only: which connections begin with a header of the PROXY protocol; nil: none
	TargetProxy   ProxyVersion   // inbound, protocols tcp and tls: connections to the application begin with one
}

// Check refuses what a sidecar could not act on; the error names field, value and remedy.
func (l Listener) Check() error {
	if err := checkName("name", l.Name); err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	fail := func(err error) error { return fmt.Errorf("listener %q: %w", l.Name, err) }
	if l.Side != flow.SideServer && l.Side != flow.SideClient {
		return fail(fmt.Errorf("side %d: must be inbound or outbound", l.Side))
	}
	if err := checkProtocol(l.Protocol); err != nil {
		return fail(err)
	}
	if l.Unix != nil {
		switch {
		case l.Interception != nil:
			return fail(fmt.Errorf("%s: redirected connections are of TCP; remove it", l.Unix))
		case l.Side == flow.SideClient && l.Address.IsValid():
			return fail(fmt.Errorf("address %s: the listener has %s too; give one of them", l.Address, l.Unix))
		case l.Side == flow.SideServer && l.Target.IsValid():
			return fail(fmt.Errorf("target %s: the listener has %s too; give one of them", l.Target, l.Unix))
		}
		if err := l.Unix.check(l.Side); err != nil {
			return fail(fmt.Errorf("unix socket: %w", err))
		}
	}
	if l.Unix == nil || l.Side == flow.SideServer {
		if err := checkAddress("address", l.Address); err != nil {
			return fail(err)
		}
	}
	if l.Edge != nil {
		if err := l.checkEdge(); err != nil {
			return fail(err)
		}
		return nil
	}
	if l.Proxy != nil {
		if err := l.checkProxy(); err != nil {
			return fail(err)
		}
	}
	if i := l.Interception; i != nil {
		switch {
		case l.Side == flow.SideServer && (l.Protocol != flow.ProtocolTCP || l.Target.IsValid() || l.Unbound):
			return fail(errors.New("interception: inbound it must be of protocol tcp, bound, and without a target"))
		case l.Side == flow.SideServer && len(i.OpaquePorts) > 0:
			return fail(errors.New("interception: opaquePorts: are of outbound listeners; inbound the port's protocol says it"))
		case l.Side == flow.SideServer:
			if err := checkName("service", l.Service); err != nil {
				return fail(err)
			}
		case l.Protocol != flow.ProtocolHTTP:
			return fail(errors.New("interception: outbound it must be of protocol http"))
		case i.Transparent:
			return fail(errors.New("interception: transparent: outbound connections are redirected; remove it"))
		case l.Service != "":
			return fail(fmt.Errorf("service %q: a listener of redirected connections serves all; remove it", l.Service))
		}
		if err := i.Check(); err != nil {
			return fail(fmt.Errorf("interception: %w", err))
		}
	} else if err := checkName("service", l.Service); err != nil && l.Proxy == nil {
		return fail(err)
	}
	if l.Protocol == flow.ProtocolTLS && l.Mode != ModeStrict {
		return fail(errors.New("mode permissive: of protocol tls the mesh's TLS could not be told from the application's; use strict"))
	}
	if !l.Access.IsZero() {
		if l.Side != flow.SideServer || l.Interception != nil {
			return fail(errors.New("access: only inbound listeners of a port are judged by it; remove it"))
		}
		if err := l.Access.Check(); err != nil {
			return fail(err)
		}
	}
	if l.ProxyProtocol != nil {
		if l.Side != flow.SideServer || l.Interception != nil {
			return fail(errors.New("proxy protocol: only inbound listeners of a port take it; remove it"))
		}
		if err := l.ProxyProtocol.Check(); err != nil {
			return fail(fmt.Errorf("proxy protocol: %w", err))
		}
	}
	if err := checkProxyVersion(l.TargetProxy, l.Protocol); err != nil {
		return fail(fmt.Errorf("proxy protocol to the target: %w", err))
	}
	if l.TargetProxy != 0 && (l.Side != flow.SideServer || l.Interception != nil) {
		return fail(errors.New("proxy protocol to the target: only inbound listeners of a port have a target; remove it"))
	}
	if l.Mode > ModePermissive {
		return fail(fmt.Errorf("mode %d: must be strict or permissive", l.Mode))
	}
	if !l.Protocol.MayBeHTTP() && l.Limits != (Limits{}) {
		return fail(errors.New("limits: only http listeners have them; remove them"))
	}
	if !l.Protocol.MayBeHTTP() && l.RequestTimeout != 0 {
		return fail(fmt.Errorf("request timeout %s: only http listeners have one; remove it", l.RequestTimeout))
	}
	if (l.Side != flow.SideServer || !l.Protocol.MayBeHTTP()) && l.Adaptive != (Adaptive{}) {
		return fail(errors.New("adaptive limit: only inbound http listeners have one; remove it"))
	}
	if err := l.Adaptive.check(); err != nil {
		return fail(fmt.Errorf("adaptive limit: %w", err))
	}
	if !l.Protocol.MayBeHTTP() && l.StreamTimeout != 0 {
		return fail(fmt.Errorf("stream timeout %s: only http listeners have one; remove it", l.StreamTimeout))
	}
	if l.DetectTimeout != 0 {
		if !l.Detects() {
			return fail(fmt.Errorf("detect timeout %s: nothing is detected here; remove it", l.DetectTimeout))
		}
		if err := checkDetectTimeout(l.DetectTimeout); err != nil {
			return fail(fmt.Errorf("detect timeout %w", err))
		}
	}
	if err := l.Limits.Check(); err != nil {
		return fail(fmt.Errorf("limits: %w", err))
	}
	if l.Side == flow.SideServer && l.Interception != nil {
		return nil
	}
	if l.Side == flow.SideServer {
		if l.Unix != nil {
			return nil
		}
		if err := checkAddress("target", l.Target); err != nil {
			return fail(err)
		}
		if l.Target == l.Address && !l.Unbound {
			return fail(fmt.Errorf("target %s: is the listener's own address; give the application's", l.Target))
		}
		return nil
	}
	if l.Unbound {
		return fail(errors.New("unbound: only inbound listeners can be; remove it"))
	}
	if l.Target.IsValid() {
		return fail(fmt.Errorf("target %s: only inbound listeners have one; remove it", l.Target))
	}
	if l.RequestTimeout != 0 || l.IdleTimeout != 0 || l.StreamTimeout != 0 {
		return fail(errors.New("timeouts: of outbound traffic they are the service's; remove them"))
	}
	if l.Mode != ModeStrict {
		return fail(errors.New("mode permissive: only inbound listeners have a mode; remove it"))
	}
	return nil
}

var (
	sideNames = map[flow.Side]string{flow.SideServer: "inbound", flow.SideClient: "outbound"}
	modeNames = map[ListenerMode]string{ModeStrict: "strict", ModePermissive: "permissive"}
)

// At is where l listens: "ip:port" or "unix:/path".
func (l *Listener) At() string {
	if l.Unix != nil && l.Side == flow.SideClient {
		return l.Unix.String()
	}
	return l.Address.String()
}

// Socket is the Unix socket on which l listens, nil when it is a port.
func (l *Listener) Socket() *Unix {
	if l.Side == flow.SideClient {
		return l.Unix
	}
	return nil
}

// Detects reports whether l's connections are looked at for DetectTimeout.
func (l Listener) Detects() bool {
	return l.Interception == nil && (l.Protocol == flow.ProtocolAuto || l.Side == flow.SideServer && l.Mode == ModePermissive && !l.Protocol.HTTP())
}

// WithDefaults returns l with the defaults of its limits and timeouts.
func (l Listener) WithDefaults() Listener {
	if l.Protocol.MayBeHTTP() {
		l.Limits = l.Limits.WithDefaults()
	}
	if l.Detects() {
		def(&l.DetectTimeout, DefaultDetectTimeout)
	}
	if l.Interception != nil {
		i := l.Interception.WithDefaults()
		l.Interception = &i
	}
	if l.ProxyProtocol != nil {
		p := l.ProxyProtocol.WithDefaults()
		l.ProxyProtocol = &p
	}
	if l.Edge != nil {
		e := l.Edge.WithDefaults()
		l.Edge = &e
		return l
	}
	if l.Side == flow.SideServer {
		if l.Protocol.MayBeHTTP() {
			def(&l.RequestTimeout, DefaultRequestTimeout)
			l.Adaptive = l.Adaptive.WithDefaults()
		}
		def(&l.IdleTimeout, DefaultIdleTimeout)
	}
	l.Unix = l.Unix.withDefaults(l.Side)
	return l
}

// ToXDS maps l, with its defaults applied, to an Envoy listener: one filter chain with an HttpConnectionManager or a TcpProxy whose cluster is the destination service;
// inbound traffic goes to a cluster named like the listener, intercepted traffic to PassthroughCluster.
func (l Listener) ToXDS() (*listenerv3.Listener, error) { return l.toXDS(nil, false) }

// toXDS is ToXDS for a listener to a service whose requests are kept together by affinity, which a stock Envoy reads at its routes; routed: there are rules for them, which it
// asks for by the service's name.
func (l Listener) toXDS(affinity []AffinityKey, routed bool) (*listenerv3.Listener, error) {
	l = l.WithDefaults()
	if err := l.Check(); err != nil {
		return nil, err
	}
	if l.Edge != nil {
		return l.edgeToXDS()
	}
	cluster, direction := l.Service, corev3.TrafficDirection_OUTBOUND
	if l.Interception != nil && l.Side == flow.SideClient || l.Proxy != nil {
		cluster = PassthroughCluster
	}
	if l.Side == flow.SideServer {
		cluster, direction = l.Name, corev3.TrafficDirection_INBOUND
	}
	e := extras{}
	deny, allow, err := accessToXDS(l.Access, e)
	if err != nil {
		return nil, err
	}
	var routes *routev3.RouteConfiguration
	name, config := "envoy.filters.network.tcp_proxy", proto.Message(&tcpv3.TcpProxy{
		StatPrefix: l.Name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster},
	})
	if l.Protocol.MayBeHTTP() {
		router, err := pack(&routerv3.Router{})
		if err != nil {
			return nil, err
		}
		action := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}
		if l.Side == flow.SideServer {
			action.Timeout = durationpb.New(max(l.RequestTimeout, 0)) // 0 is off
			if l.StreamTimeout > 0 {
				action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(l.StreamTimeout)}
			}
		} else {
			action.HashPolicy = hashPolicies(affinity)
		}
		virtual := cmp.Or(l.Service, cluster)
		routes = &routev3.RouteConfiguration{
			Name: l.Name,
			VirtualHosts: []*routev3.VirtualHost{{Name: virtual, Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: action},
			}}}},
		}
		manager := &hcmv3.HttpConnectionManager{
			StatPrefix:     l.Name,
			CodecType:      hcmv3.HttpConnectionManager_AUTO, // ALPN, or the preface of HTTP/2
			RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes},
			HttpFilters: []*hcmv3.HttpFilter{{
				Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router},
			}},
		}
		if routed && cluster == l.Service {
			cors, err := corsHTTPFilter()
			if err != nil {
				return nil, err
			}
			manager.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: l.Service, ConfigSource: &corev3.ConfigSource{
				ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			}}}
			manager.HttpFilters = append([]*hcmv3.HttpFilter{cors}, manager.HttpFilters...)
		}
		if err := guardHTTP(manager, deny, allow); err != nil {
			return nil, err
		}
		l.Limits.toXDS(manager, e)
		e.protocol(l.Protocol)
		name, config = "envoy.filters.network.http_connection_manager", manager
	}
	filter, err := pack(config)
	if err != nil {
		return nil, err
	}
	x := &listenerv3.Listener{
		Name: l.Name, Address: socketAddress(l.Address), TrafficDirection: direction,
		FilterChains: []*listenerv3.FilterChain{{}},
	}
	if l.Protocol == flow.ProtocolTLS {
		if x.ListenerFilters, err = tlsInspector(); err != nil {
			return nil, err
		}
	}
	if l.Unix != nil {
		if l.Side == flow.SideClient {
			x.Address = l.Unix.pipe()
		}
		l.Unix.toXDS(e)
	}
	if l.Interception != nil {
		if err := l.Interception.toXDS(x, routes, e); err != nil {
			return nil, err
		}
	}
	if l.Detects() {
		x.ListenerFiltersTimeout = durationpb.New(l.DetectTimeout)
	}
	if l.Protocol == flow.ProtocolAuto {
		if err := inspected(x, cluster); err != nil {
			return nil, err
		}
		guards, err := guardTCP(l.Name, deny, allow)
		if err != nil {
			return nil, err
		}
		x.DefaultFilterChain.Filters = append(guards, x.DefaultFilterChain.Filters...)
	}
	if !l.Protocol.MayBeHTTP() {
		if x.FilterChains[0].Filters, err = guardTCP(l.Name, deny, allow); err != nil {
			return nil, err
		}
	}
	x.FilterChains[0].Filters = append(x.FilterChains[0].Filters, &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: filter}})
	if l.Unbound {
		x.BindToPort = wrapperspb.Bool(false)
	}
	if l.Proxy != nil {
		e.flag("proxy", true)
		e.str("unknown", l.Proxy.Unknown.String())
	}
	e.str("side", sideNames[l.Side])
	e.str("service", l.Service)
	if l.Side == flow.SideServer {
		switch {
		case l.Unix != nil:
			e.str("target", l.Unix.String())
		case l.Interception == nil:
			e.str("target", l.Target.String())
		}
		e.str("mode", modeNames[l.Mode])
		e.dur("request_timeout", l.RequestTimeout)
		e.dur("idle_timeout", l.IdleTimeout)
		e.dur("stream_timeout", l.StreamTimeout)
		if l.Protocol.MayBeHTTP() {
			l.Adaptive.toXDS(e)
		}
		if l.ProxyProtocol != nil {
			l.ProxyProtocol.toXDS(e)
		}
		e.str("target_proxy", l.TargetProxy.String())
	}
	x.Metadata = e.metadata()
	return x, nil
}

// ListenerFromXDS is the inverse of ToXDS. It refuses filters it does not know.
func ListenerFromXDS(x *listenerv3.Listener) (Listener, error) {
	fail := func(err error) (Listener, error) { return Listener{}, fmt.Errorf("listener %q: %w", x.GetName(), err) }
	l := Listener{Name: x.GetName()}
	var err error
	if pipe := x.GetAddress().GetPipe(); pipe != nil {
		l.Unix = &Unix{Path: pipe.GetPath(), Mode: pipe.GetMode()}
	} else if l.Address, err = fromSocketAddress(x.GetAddress()); err != nil {
		return fail(err)
	}
	if r := read(x.GetMetadata()); r.flag("edge") {
		if err := edgeFromXDS(x, &l, r); err != nil {
			return fail(err)
		}
		if r.err != nil {
			return fail(r.err)
		}
		l = l.WithDefaults()
		return l, l.Check()
	}
	if n := len(x.GetFilterChains()); n != 1 || len(x.GetFilterChains()[0].GetFilters()) == 0 {
		return fail(fmt.Errorf("filter_chains: must be one chain that ends with one filter, has %d chains", n))
	}
	filters := x.GetFilterChains()[0].GetFilters()
	config := filters[len(filters)-1].GetTypedConfig()
	manager := &hcmv3.HttpConnectionManager{}
	switch {
	case config.MessageIs(manager):
		l.Protocol = flow.ProtocolHTTP
		if err := config.UnmarshalTo(manager); err != nil {
			return fail(fmt.Errorf("unreadable HttpConnectionManager: %w", err))
		}
	case config.MessageIs(&tcpv3.TcpProxy{}):
		if l.Protocol = flow.ProtocolTCP; inspectsTLS(x) {
			l.Protocol = flow.ProtocolTLS
		}
	default:
		return fail(fmt.Errorf("filter %q: not known to this sidecar; use an HttpConnectionManager or a TcpProxy", config.GetTypeUrl()))
	}
	r := read(x.GetMetadata())
	l.Service = r.str("service")
	intercepts := x.GetUseOriginalDst().GetValue()
	if l.Protocol.HTTP() {
		l.Limits = limitsFromXDS(manager, r)
		if r.has("protocol") { // controllers from before HTTP/2 do not say it
			if l.Protocol = r.protocol(); r.err == nil && !l.Protocol.MayBeHTTP() {
				r.fail("protocol", "%q, but the listener has an HttpConnectionManager", ProtocolName(l.Protocol))
			}
		}
	}
	switch side := r.str("side"); side {
	case "inbound":
		l.Side = flow.SideServer
		l.Unbound = x.GetBindToPort() != nil && !x.GetBindToPort().GetValue()
		if target := r.str("target"); !intercepts {
			if l.Unix != nil {
				r.fail("side", "\"inbound\", but its address is a Unix socket, at which nobody else could call")
			} else if path, ok := ParseUnix(target); ok {
				l.Unix = &Unix{Path: path}
			} else if l.Target, err = netip.ParseAddrPort(target); err != nil {
				r.fail("target", "%q is not ip:port or unix:/path", target)
			}
		}
		switch mode := r.str("mode"); mode {
		case "strict":
		case "permissive":
			l.Mode = ModePermissive
		default:
			r.fail("mode", "%q must be strict or permissive", mode)
		}
		l.RequestTimeout, l.IdleTimeout, l.StreamTimeout = r.dur("request_timeout"), r.dur("idle_timeout"), r.dur("stream_timeout")
		if l.Protocol.MayBeHTTP() {
			l.Adaptive = adaptiveFromXDS(r)
		}
		l.Access = accessFromXDS(r)
		l.ProxyProtocol, l.TargetProxy = proxyFromXDS(r), r.proxyVersion("target_proxy")
	case "outbound":
		l.Side = flow.SideClient
		if r.flag("proxy") {
			unknown, err := ParseUnknown(r.str("unknown"), flow.SideClient)
			if err != nil {
				r.fail("unknown", "%v", err)
			}
			l.Proxy = &Proxy{Unknown: unknown}
		}
	default:
		r.fail("side", "%q must be inbound or outbound", side)
	}
	if l.Unix != nil {
		l.Unix.Attest = attestFromXDS(r)
	}
	if intercepts {
		l.Interception = interceptionFromXDS(x, l.Side, r)
	}
	if r.err != nil {
		return fail(r.err)
	}
	if l.Detects() {
		l.DetectTimeout = x.GetListenerFiltersTimeout().AsDuration()
	}
	l = l.WithDefaults()
	return l, l.Check()
}
