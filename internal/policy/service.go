package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Service is a destination and how to treat it. Zero durations mean the default named beside the field; there is no "off" by accident:
// a negative duration is off.
//
// A service with several ports is one of these for each: its Name is that of PortOf, and its protocol, endpoints and limits are the port's own. Records, graph
// and evidence know the service as a whole (ServiceOf).
type Service struct {
	Name       string
	Namespace  string
	Protocol   flow.Protocol
	External   bool     // outside the mesh: plaintext or TLS origination, one-sided edges
	Hosts      []string // external only: names by which it is called, such as "api.example.com" and "*.example.com" (package route)
	Identities []string // SPIFFE IDs the endpoints may prove; empty for external
	MTLS       bool     // dial endpoints with mTLS
	// Proxy is of external services, protocols tcp and tls: connections to them begin with a header of the PROXY protocol.
	Proxy ProxyVersion

	TLS       *ClientTLS       // external only: TLS is originated; nil: what the application speaks goes on
	Via       string           // external only: service of the edge through which it is called, whose endpoints and identities these are; mTLS names the service by SNI. Without identities, and then without endpoints, the edge is not there: nobody calls the service
	Addresses []netip.AddrPort // with Via only: the host's own, by which redirected connections are known; sorted
	Authority string           // external only: what the authority of requests becomes; "" leaves it as it came

	RequestTimeout time.Duration // whole exchange; default 15 s
	TryTimeout     time.Duration // one attempt; default: RequestTimeout
	ConnectTimeout time.Duration // default 1 s
	IdleTimeout    time.Duration // relay, tunnel or stream without bytes; default 1 h
	StreamTimeout  time.Duration // an answer that has begun, in place of RequestTimeout; 0: not said, and then only calls of gRPC and event streams have none
	Retry          Retry
	MaxRequests    int // concurrent exchanges towards the service from one sidecar; default 1,024
	MaxConnections int // default 1,024
	MaxPending     int // of them, exchanges that wait for a connection to be made; default 1,024
	Balancer       Balancer
	Ejection       Ejection
	Adaptive       Adaptive // of the sidecars of its own workloads
}

// PortOf is the name under which a Snapshot has a port of a service: SERVICE for the one that callers mean who name none (port ""), SERVICE:PORT for another.
// Neither word has a colon.
func PortOf(service, port string) string {
	if port == "" {
		return service
	}
	return service + ":" + port
}

// ServiceOf is the service of a name of PortOf.
func ServiceOf(name string) string {
	if i := strings.IndexByte(name, ':'); i >= 0 {
		return name[:i]
	}
	return name
}

// Retry is off when Attempts ≤ 1 after defaults (a configured 1 is off, 0 means the default). Only exchanges that are safe (idempotent
// method, or never delivered) are retried.
type Retry struct {
	Attempts    int           // tries in all, including the first; default 2
	BudgetRatio float64       // retries allowed per request over the last 10 s; default 0.2
	BudgetMin   float64       // plus this many per second; default 10
	BackoffBase time.Duration // full jitter; default 25 ms
	BackoffMax  time.Duration // default 250 ms
	// GRPC are the statuses of gRPC after which a call that ended without a message is tried again; default none. They say that the service did nothing.
	GRPC GRPCStatuses
}

// Defaults, applied by Service.WithDefaults.
const (
	DefaultRequestTimeout = 15 * time.Second
	DefaultConnectTimeout = time.Second
	DefaultIdleTimeout    = time.Hour
	DefaultMaxRequests    = 1024
	DefaultMaxConnections = 1024
	DefaultMaxPending     = 1024
	DefaultAttempts       = 2
	DefaultBudgetRatio    = 0.2
	DefaultBudgetMin      = 10
	DefaultBackoffBase    = 25 * time.Millisecond
	DefaultBackoffMax     = 250 * time.Millisecond
)

// WithDefaults returns s with every zero setting replaced by its default. Negative durations ("off") stay negative.
func (s Service) WithDefaults() Service {
	def(&s.RequestTimeout, DefaultRequestTimeout)
	def(&s.TryTimeout, s.RequestTimeout)
	def(&s.ConnectTimeout, DefaultConnectTimeout)
	def(&s.IdleTimeout, DefaultIdleTimeout)
	def(&s.MaxRequests, DefaultMaxRequests)
	def(&s.MaxConnections, DefaultMaxConnections)
	def(&s.MaxPending, DefaultMaxPending)
	def(&s.Retry.Attempts, DefaultAttempts)
	def(&s.Retry.BudgetRatio, DefaultBudgetRatio)
	def(&s.Retry.BudgetMin, DefaultBudgetMin)
	def(&s.Retry.BackoffBase, DefaultBackoffBase)
	def(&s.Retry.BackoffMax, DefaultBackoffMax)
	if s.TLS != nil {
		c := s.TLS.WithDefaults()
		s.TLS = &c
	}
	s.Balancer = s.Balancer.WithDefaults()
	s.Ejection = s.Ejection.WithDefaults()
	s.Adaptive = s.Adaptive.WithDefaults()
	return s
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Check refuses what a sidecar could not act on; zero settings are fine (they mean the default).
func (s Service) Check() error {
	if err := checkName("name", s.Name); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("service %q: %w", s.Name, fmt.Errorf(format, args...))
	}
	if err := checkProtocol(s.Protocol); err != nil {
		return fail("%w", err)
	}
	for _, id := range s.Identities {
		if _, err := identity.Parse(id); err != nil {
			return fail("identities: %w", err)
		}
	}
	if s.MTLS && len(s.Identities) == 0 {
		return fail("%w", errors.New("mtls: needs at least one identity that endpoints may prove; add identities or turn mtls off"))
	}
	for i, h := range s.Hosts {
		if err := route.CheckHost(h); err != nil || h == "*" {
			return fail("hosts[%d]: %q is no host name; write one such as api.example.com, or *.example.com for all below it", i, h)
		}
	}
	if s.TLS != nil {
		if !s.External {
			return fail("%w", errors.New("tls: only external services have it, between sidecars there is mTLS; remove it"))
		}
		if err := s.TLS.Check(s.Protocol); err != nil {
			return fail("tls: %w", err)
		}
	}
	if len(s.Addresses) > 0 && s.Via == "" {
		return fail("%w", errors.New("addresses: are of services by way of an edge; others have endpoints"))
	}
	if s.Authority != "" {
		if !s.External || !s.Protocol.MayBeHTTP() {
			return fail("authority %q: only external services of HTTP have one; remove it", s.Authority)
		}
		if err := CheckAuthority(s.Authority); err != nil {
			return fail("authority %w", err)
		}
	}
	if len(s.Hosts) > 0 && !s.External {
		return fail("%w", errors.New("hosts: only external services have them; remove them"))
	}
	if s.External && s.MTLS && s.Via == "" {
		return fail("%w", errors.New("mtls: an external service has no mesh identity; turn mtls off"))
	}
	if s.Via != "" && (!s.External || s.MTLS != (len(s.Identities) > 0) || s.TLS != nil) {
		return fail("via %q: the service must be external, with the mTLS of the edge, if there is one, and without TLS of its own, which the edge originates", s.Via)
	}
	if err := checkProxyVersion(s.Proxy, s.Protocol); err != nil {
		return fail("proxy protocol: %w", err)
	}
	if s.Proxy != 0 && !s.External {
		return fail("%w", errors.New("proxy protocol: of the mesh's own services the sidecars know who calls; remove it"))
	}
	if s.ConnectTimeout < 0 {
		return fail("connect timeout %s: must be positive; a connect without a limit would hold requests for minutes", s.ConnectTimeout)
	}
	if s.MaxRequests < 0 || s.MaxRequests > maxLimit {
		return fail("max requests %d: must be from 1 to %d", s.MaxRequests, maxLimit)
	}
	if s.MaxConnections < 0 || s.MaxConnections > maxLimit {
		return fail("max connections %d: must be from 1 to %d", s.MaxConnections, maxLimit)
	}
	if s.MaxPending < 0 || s.MaxPending > maxLimit {
		return fail("max pending %d: must be from 1 to %d", s.MaxPending, maxLimit)
	}
	if r := s.RequestTimeout; r > 0 && s.TryTimeout > r {
		return fail("try timeout %s: is longer than the request timeout %s; lower it", s.TryTimeout, r)
	}
	if err := s.Retry.check(); err != nil {
		return fail("retry %w", err)
	}
	if err := s.Ejection.check(); err != nil {
		return fail("ejection.%w", err)
	}
	if err := s.Adaptive.check(); err != nil {
		return fail("limits.adaptive.%w", err)
	}
	if err := s.Balancer.Check(); err != nil {
		return fail("loadBalancer.%w", err)
	}
	return nil
}

const (
	maxLimit    = 1 << 20
	maxAttempts = 10
)

func addressTexts(list []netip.AddrPort) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func parseAddresses(texts []string) (out []netip.AddrPort, err error) {
	for _, t := range texts {
		a, err := netip.ParseAddrPort(t)
		if err != nil {
			return nil, fmt.Errorf("%q is not ip:port", t)
		}
		out = append(out, a)
	}
	return out, nil
}

// CheckAuthority refuses what is no host or host:port.
func CheckAuthority(s string) error {
	host, port := route.Hostname(s), ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') && len(host) < len(s) {
		port = s[i+1:]
	}
	_, err := netip.ParseAddr(host)
	if bracketed := strings.HasPrefix(s, "["); err != nil && (bracketed || !route.ValidHost(host)) || err == nil && strings.Contains(host, ":") != bracketed {
		return fmt.Errorf("%q: must be a host or host:port, such as api.example.com", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) || strings.HasSuffix(s, ":") {
		return fmt.Errorf("%q: the port must be from 1 to 65535", s)
	}
	return nil
}

func (r Retry) check() error {
	switch {
	case r.Attempts < 0 || r.Attempts > maxAttempts:
		return fmt.Errorf("attempts %d: must be from 1 (no retry) to %d", r.Attempts, maxAttempts)
	case !(r.BudgetRatio >= 0 && r.BudgetRatio <= 1):
		return fmt.Errorf("budget ratio %v: must be from 0 to 1", r.BudgetRatio)
	case !(r.BudgetMin >= 0 && r.BudgetMin <= maxLimit):
		return fmt.Errorf("budget minimum %v: must be from 0 to %d retries per second", r.BudgetMin, maxLimit)
	case r.BackoffBase < 0 || r.BackoffMax < 0:
		return fmt.Errorf("backoff %s to %s: must not be negative", r.BackoffBase, r.BackoffMax)
	case r.GRPC&^failures != 0:
		return fmt.Errorf("grpc %#x: must be statuses of failed calls, without OK", uint32(r.GRPC))
	case r.BackoffBase > r.BackoffMax && r.BackoffMax != 0:
		return fmt.Errorf("backoff base %s: is longer than the maximum %s", r.BackoffBase, r.BackoffMax)
	}
	return nil
}

// ads says "over the same stream".
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// ToXDS maps s, with its defaults applied, to an Envoy cluster of type EDS.
func (s Service) ToXDS() (*clusterv3.Cluster, error) {
	s = s.WithDefaults()
	if err := s.Check(); err != nil {
		return nil, err
	}
	e := extras{}
	e.str("namespace", s.Namespace)
	e.protocol(s.Protocol)
	e.flag("external", s.External)
	e.strs("hosts", s.Hosts)
	e.str("authority", s.Authority)
	e.str("via", s.Via)
	e.strs("addresses", addressTexts(s.Addresses))
	e.strs("identities", s.Identities)
	e.flag("mtls", s.MTLS)
	e.str("proxy", s.Proxy.String())
	e.dur("request_timeout", s.RequestTimeout)
	e.dur("try_timeout", s.TryTimeout)
	e.dur("idle_timeout", s.IdleTimeout)
	e.dur("stream_timeout", s.StreamTimeout)
	e.num("retry_attempts", float64(s.Retry.Attempts))
	e.num("retry_budget_ratio", s.Retry.BudgetRatio)
	e.num("retry_budget_min", s.Retry.BudgetMin)
	e.dur("retry_backoff_base", s.Retry.BackoffBase)
	e.dur("retry_backoff_max", s.Retry.BackoffMax)
	e.strs("retry_grpc", s.Retry.GRPC.Names())
	options, err := upstreamOptions(s.Protocol)
	if err != nil {
		return nil, err
	}
	var socket *corev3.TransportSocket
	if s.TLS != nil {
		if socket, err = s.TLS.toXDS(s.Protocol); err != nil {
			return nil, err
		}
	}
	x := &clusterv3.Cluster{
		TransportSocket:               socket,
		TypedExtensionProtocolOptions: options,

		Name:                 s.Name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()},
		ConnectTimeout:       durationpb.New(s.ConnectTimeout),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxRequests:    wrapperspb.UInt32(uint32(s.MaxRequests)),
			MaxConnections: wrapperspb.UInt32(uint32(s.MaxConnections)), MaxPendingRequests: wrapperspb.UInt32(uint32(s.MaxPending)),
			RetryBudget: &clusterv3.CircuitBreakers_Thresholds_RetryBudget{BudgetPercent: &typev3.Percent{Value: 100 * s.Retry.BudgetRatio}},
		}}},
	}
	s.Balancer.toXDS(x, e)
	s.Ejection.toXDS(x, e)
	s.Adaptive.toXDS(e)
	x.Metadata = e.metadata()
	return x, affinityToXDS(s.Balancer.Affinity, x.Metadata)
}

// upstreamOptions say in Envoy's words which version of HTTP the service is spoken to; Tulle's sidecars read the metadata instead.
func upstreamOptions(p flow.Protocol) (map[string]*anypb.Any, error) {
	const name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	options := &upstreamv3.HttpProtocolOptions{}
	explicit := &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig{}
	switch p {
	case flow.ProtocolHTTP, flow.ProtocolAuto:
		options.UpstreamProtocolOptions = &upstreamv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreamv3.HttpProtocolOptions_UseDownstreamHttpConfig{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
		}
	case flow.ProtocolHTTP1:
		explicit.ProtocolConfig = &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}
		options.UpstreamProtocolOptions = &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit}
	case flow.ProtocolHTTP2, flow.ProtocolGRPC:
		explicit.ProtocolConfig = &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}
		options.UpstreamProtocolOptions = &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit}
	default:
		return nil, nil
	}
	packed, err := pack(options)
	return map[string]*anypb.Any{name: packed}, err
}

// ServiceFromXDS is the inverse of ToXDS.
func ServiceFromXDS(x *clusterv3.Cluster) (Service, error) {
	r := read(x.GetMetadata())
	s := Service{
		Name: x.GetName(), Namespace: r.str("namespace"), Protocol: r.protocol(), External: r.flag("external"), Hosts: r.strs("hosts"), Authority: r.str("authority"), Via: r.str("via"),
		Identities: r.strs("identities"), MTLS: r.flag("mtls"), Proxy: r.proxyVersion("proxy"),
		RequestTimeout: r.dur("request_timeout"), TryTimeout: r.dur("try_timeout"), IdleTimeout: r.dur("idle_timeout"),
		StreamTimeout:  r.dur("stream_timeout"),
		ConnectTimeout: x.GetConnectTimeout().AsDuration(),
		Retry: Retry{
			Attempts: int(r.num("retry_attempts")), BudgetRatio: r.num("retry_budget_ratio"), BudgetMin: r.num("retry_budget_min"),
			BackoffBase: r.dur("retry_backoff_base"), BackoffMax: r.dur("retry_backoff_max"),
		},
	}
	var err error
	if s.Retry.GRPC, err = ParseGRPCStatuses(r.strs("retry_grpc")); err != nil {
		r.fail("retry_grpc", "%v", err)
	}
	s.Balancer, s.Ejection, s.Adaptive = balancerFromXDS(x, r), ejectionFromXDS(r), adaptiveFromXDS(r)
	if t := x.GetCircuitBreakers().GetThresholds(); len(t) > 0 {
		s.MaxPending = int(t[0].GetMaxPendingRequests().GetValue())
		s.MaxRequests, s.MaxConnections = int(t[0].GetMaxRequests().GetValue()), int(t[0].GetMaxConnections().GetValue())
	}
	if r.err != nil {
		return Service{}, fmt.Errorf("service %q: %w", s.Name, r.err)
	}
	if s.Addresses, err = parseAddresses(read(x.GetMetadata()).strs("addresses")); err != nil {
		return Service{}, fmt.Errorf("service %q: addresses: %w", s.Name, err)
	}
	if s.TLS, err = clientTLSFromXDS(x.GetTransportSocket(), s.Protocol); err != nil {
		return Service{}, fmt.Errorf("service %q: %w", s.Name, err)
	}
	s = s.WithDefaults()
	return s, s.Check()
}
