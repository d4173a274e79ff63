package policy

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Unknown says what becomes of a redirected connection whose destination is no service of the Snapshot.
type Unknown uint8

const (
	// UnknownPass relays it to its original destination.
	UnknownPass Unknown = iota
	// UnknownRefuse resets it.
	UnknownRefuse
)

// PassthroughCluster is what a stock Envoy would call where connections to unknown destinations go. Tulle's sidecars have no such service.
const PassthroughCluster = "passthrough"

// DefaultDetectTimeout is how long a connection's first bytes are awaited before it is taken for one where the server speaks first.
const DefaultDetectTimeout = time.Second

const (
	minDetectTimeout = time.Millisecond
	maxDetectTimeout = time.Minute
	maxOpaquePorts   = 256
)

// DefaultLookupTimeout is how long a connection to a destination that is not in the Snapshot waits for the controller to say what it is.
const DefaultLookupTimeout = time.Second

const (
	minLookupTimeout = time.Millisecond
	maxLookupTimeout = 10 * time.Second
)

// Interception makes of a listener one for redirected connections (docs/reference/interception.md). Outbound it serves whatever service has the original
// destination among its endpoints, with that service's protocol; inbound whatever unbound listener has its port.
type Interception struct {
	Unknown       Unknown       // inbound: of a port; what is passed on has passed the listener's mode
	Away          Unknown       // outbound only: of a destination about which the controller does not answer, because it is away or too late; default: as Unknown
	LookupTimeout time.Duration // default 1 s; outbound only: how long such an answer is awaited
	DetectTimeout time.Duration // default 1 s; outbound only
	OpaquePorts   []uint16      // destination ports whose connections are relayed as bytes without a look; ascending; outbound only
	Transparent   bool          // connections arrive by TPROXY, with their original destination; inbound only
}

// WithDefaults fills in DetectTimeout and LookupTimeout. The default of Away is whoever makes an Interception to set: its zero value is UnknownPass.
func (i Interception) WithDefaults() Interception {
	def(&i.DetectTimeout, DefaultDetectTimeout)
	def(&i.LookupTimeout, DefaultLookupTimeout)
	return i
}

// Check refuses what a sidecar could not act on.
func (i Interception) Check() error {
	i = i.WithDefaults()
	switch {
	case i.Unknown > UnknownRefuse:
		return fmt.Errorf("unknown %d: must be pass or refuse", i.Unknown)
	case i.Away > UnknownRefuse:
		return fmt.Errorf("away %d: must be pass or refuse", i.Away)
	case i.LookupTimeout < minLookupTimeout || i.LookupTimeout > maxLookupTimeout:
		return fmt.Errorf("lookupTimeout %s: must be from %s to %s", i.LookupTimeout, minLookupTimeout, maxLookupTimeout)
	case checkDetectTimeout(i.DetectTimeout) != nil:
		return fmt.Errorf("detectTimeout %w", checkDetectTimeout(i.DetectTimeout))
	case len(i.OpaquePorts) > maxOpaquePorts:
		return fmt.Errorf("opaquePorts: has %d entries, at most %d are allowed", len(i.OpaquePorts), maxOpaquePorts)
	case !slices.IsSorted(i.OpaquePorts):
		return fmt.Errorf("opaquePorts %v: must be in ascending order", i.OpaquePorts)
	}
	for _, p := range i.OpaquePorts {
		if p == 0 {
			return fmt.Errorf("opaquePorts: 0 is no port; use 1 to 65535")
		}
	}
	return nil
}

func checkDetectTimeout(d time.Duration) error {
	if d < minDetectTimeout || d > maxDetectTimeout {
		return fmt.Errorf("%s: must be from %s to %s", d, minDetectTimeout, maxDetectTimeout)
	}
	return nil
}

// Opaque reports whether connections to port are not to be looked at.
func (i *Interception) Opaque(port uint16) bool {
	_, found := slices.BinarySearch(i.OpaquePorts, port)
	return found
}

var unknownNames = map[Unknown]string{UnknownPass: "pass", UnknownRefuse: "refuse"}

// String is "pass" or "refuse".
func (u Unknown) String() string { return unknownNames[u] }

// DefaultUnknown is to pass on what goes out, and to refuse what comes in: passing it would open to others what the host's own filter, which sees the sidecar's
// port and not the one that was meant, keeps from them.
func DefaultUnknown(side flow.Side) Unknown {
	if side == flow.SideServer {
		return UnknownRefuse
	}
	return UnknownPass
}

// ParseUnknown is the inverse of String; "" is the default of side.
func ParseUnknown(word string, side flow.Side) (Unknown, error) {
	switch word {
	case "":
		return DefaultUnknown(side), nil
	case "pass":
		return UnknownPass, nil
	case "refuse":
		return UnknownRefuse, nil
	}
	return 0, fmt.Errorf("%q: must be pass or refuse", word)
}

// toXDS puts i on the listener, in the words that Envoy has: its first filter chain is for what was detected as HTTP, its default one relays bytes.
func (i Interception) toXDS(x *listenerv3.Listener, routes *routev3.RouteConfiguration, e extras) error {
	x.UseOriginalDst = wrapperspb.Bool(true)
	x.ListenerFiltersTimeout = durationpb.New(i.DetectTimeout)
	e.str("unknown", i.Unknown.String())
	if i.Transparent {
		x.Transparent = wrapperspb.Bool(true)
	}
	if routes == nil { // inbound: the listener of the port decides
		return nil
	}
	routes.ValidateClusters = wrapperspb.Bool(false)
	if err := inspected(x, PassthroughCluster); err != nil {
		return err
	}
	var ports []string
	for _, p := range i.OpaquePorts {
		ports = append(ports, strconv.Itoa(int(p)))
	}
	e.strs("opaque_ports", ports)
	e.str("away", i.Away.String())
	e.dur("lookup_timeout", i.LookupTimeout)
	return nil
}

// inspected makes x, whose one chain serves HTTP, serve it only where it is detected; everything else is relayed to cluster.
func inspected(x *listenerv3.Listener, cluster string) error {
	relay, err := pack(&tcpv3.TcpProxy{StatPrefix: x.Name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}})
	if err != nil {
		return err
	}
	inspector, err := pack(&inspectorv3.HttpInspector{})
	if err != nil {
		return err
	}
	x.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name: "envoy.filters.listener.http_inspector", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: inspector},
	}}
	x.ContinueOnListenerFiltersTimeout = true
	x.FilterChains[0].FilterChainMatch = &listenerv3.FilterChainMatch{ApplicationProtocols: []string{"http/1.1", "h2c"}}
	x.DefaultFilterChain = &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{
		Name: "envoy.filters.network.tcp_proxy", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: relay},
	}}}
	return nil
}

// interceptionFromXDS is the inverse of toXDS.
func interceptionFromXDS(x *listenerv3.Listener, side flow.Side, r *reader) *Interception {
	i := Interception{DetectTimeout: x.GetListenerFiltersTimeout().AsDuration(), Transparent: x.GetTransparent().GetValue()}
	var err error
	if i.Unknown, err = ParseUnknown(r.str("unknown"), side); err != nil {
		r.fail("unknown", "%v", err)
	}
	if side == flow.SideClient {
		i.Away, i.LookupTimeout = i.Unknown, r.dur("lookup_timeout")
		if word := r.str("away"); word != "" { // controllers from before there were lookups do not say it
			if i.Away, err = ParseUnknown(word, side); err != nil {
				r.fail("away", "%v", err)
			}
		}
	}
	for _, word := range r.strs("opaque_ports") {
		p, err := strconv.ParseUint(word, 10, 16)
		if err != nil {
			r.fail("opaque_ports", "%q must be a port", word)
		}
		i.OpaquePorts = append(i.OpaquePorts, uint16(p))
	}
	i = i.WithDefaults()
	return &i
}
