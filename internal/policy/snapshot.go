// Package policy holds the Snapshot: all that one sidecar has been told. One file per resource kind carries the type, its check,
// and its mapping to and from xDS (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol); table.go lists the kinds, and a
// round-trip property test walks it. Snapshots are immutable once published: readers share them without locks.
package policy

import (
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Snapshot is everything a sidecar acts on, at one revision. An exchange takes the current Snapshot once and is judged by it to its end.
type Snapshot struct {
	Revision  string // opaque, changes with every change of content; stamped on Records
	Workload  Workload
	Listeners []Listener            // xDS: Listener
	Services  map[string]Service    // xDS: Cluster, by service name
	Endpoints map[string][]Endpoint // xDS: ClusterLoadAssignment, by service name
}

// Workload is what a sidecar is told about itself.
type Workload struct {
	Service   string
	Namespace string
	Version   string
	Instance  string
}

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
	Protocol flow.Protocol  // ProtocolHTTP1 or ProtocolTCP
	Address  netip.AddrPort // where to listen
	Target   netip.AddrPort // inbound: the application's address
	Service  string         // inbound: own service; outbound: destination service
	Mode     ListenerMode   // inbound only
}

// Service is a destination and how to treat it. Zero durations mean the default named beside the field; there is no "off" by accident:
// a negative duration is off.
type Service struct {
	Name       string
	Namespace  string
	Protocol   flow.Protocol
	External   bool     // outside the mesh: plaintext or TLS origination, one-sided edges
	Identities []string // SPIFFE IDs the endpoints may prove; empty for external
	MTLS       bool     // dial endpoints with mTLS

	RequestTimeout time.Duration // whole exchange; default 15 s
	TryTimeout     time.Duration // one attempt; default: RequestTimeout
	ConnectTimeout time.Duration // default 1 s
	IdleTimeout    time.Duration // TCP relay without bytes; default 1 h
	Retry          Retry
	MaxRequests    int // concurrent exchanges towards the service from one sidecar; default 1,024
	MaxConnections int // default 1,024
}

// Retry is off when Attempts ≤ 1. Only exchanges that are safe (idempotent method, or never delivered) are retried.
type Retry struct {
	Attempts    int           // tries in all, including the first; default 2
	BudgetRatio float64       // retries allowed per request over the last 10 s; default 0.2
	BudgetMin   float64       // plus this many per second; default 10
	BackoffBase time.Duration // full jitter; default 25 ms
	BackoffMax  time.Duration // default 250 ms
}

// Defaults, applied by Service.WithDefaults.
const (
	DefaultRequestTimeout = 15 * time.Second
	DefaultConnectTimeout = time.Second
	DefaultIdleTimeout    = time.Hour
	DefaultMaxRequests    = 1024
	DefaultMaxConnections = 1024
)

// Endpoint is one address that serves a service, with what the controller has decided about it.
type Endpoint struct {
	Address  netip.AddrPort
	Version  string
	Instance string
	Weight   uint32 // 1 to 128; default 100 (xDS load_balancing_weight)
	Override *Override
}

// OverrideKind is what an Override does.
type OverrideKind uint8

const (
	// OverrideEject leaves half-open traffic only: Fraction (default 1 %) of what the endpoint would get, each marked as a probe.
	OverrideEject OverrideKind = iota + 1
	// OverrideWeight scales the endpoint's weight by Fraction.
	OverrideWeight
)

// Override is a decision of the controller's brain about one endpoint. The sidecar enforces Expires by its own clock: an override that is
// not renewed ends by itself (fail open).
type Override struct {
	ID       string
	Kind     OverrideKind
	Fraction float64 // 0 < f ≤ 1
	Reason   string
	Issued   time.Time
	Expires  time.Time
}

// Destination answers "who is at (network, IP, port)"; looked up on first use by transparent listeners (xDS: on-demand resource).
type Destination struct {
	Network string
	Address netip.AddrPort
	Service string // "" with Known true: pass-through
	Known   bool
	TTL     time.Duration
}
