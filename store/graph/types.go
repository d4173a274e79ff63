// Package graph is the topology: a materialised view of who calls whom, written once on the way in from the sidecars' counters and read
// by the dashboard, the brain's evidence and the alerts. It never looks at spans.
package graph

import "time"

// NodeKind is what a node is.
type NodeKind string

const (
	KindService  NodeKind = "service"  // meshed workload, HTTP
	KindTCP      NodeKind = "tcp"      // meshed workload, opaque TCP
	KindGateway  NodeKind = "gateway"  // meshed workload that is an edge: it hands on what others send
	KindExternal NodeKind = "external" // a host outside the mesh that a sidecar called
	KindUnmeshed NodeKind = "unmeshed" // a plaintext caller without identity
	// KindPassthrough is all that is no service together: what redirected connections are passed through to.
	KindPassthrough NodeKind = "passthrough"
	// KindGroup is several services drawn as one, see Group.
	KindGroup NodeKind = "group"
)

// Snapshot is the graph over one window, immutable, safe to share.
type Snapshot struct {
	Sequence uint64        `json:"sequence"` // +1 per live tick; 0 for a historical snapshot
	At       time.Time     `json:"at"`       // end of the window
	Window   time.Duration `json:"windowNs"` // what rates and quantiles are computed over (live: 10 s, sliding by 1 s)
	Nodes    []Node        `json:"nodes"`    // sorted by ID
	Edges    []Edge        `json:"edges"`    // sorted by Source, Destination, Protocol
}

// Node is one service, external host, unmeshed caller or all that is passed through.
type Node struct {
	ID        string     `json:"id"` // service name; "unmeshed" for callers without identity, "passthrough" for what is no service
	Name      string     `json:"name"`
	Namespace string     `json:"namespace,omitempty"`
	Kind      NodeKind   `json:"kind"`
	Versions  []Version  `json:"versions,omitempty"`
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	Reporters []Reporter `json:"reporters,omitempty"`
	// TraceBreaks is the share of outbound exchanges (0 to 1) that lost traceparent although inbound had it; nil when not known.
	TraceBreaks *float64 `json:"traceBreaks,omitempty"`
	Inbound     View     `json:"inbound"` // sum over inbound edges, server view where present
	// App is what its workloads are a part of, Zones and Hosts where they run (sorted), as the registry says of them now.
	App   string   `json:"app,omitempty"`
	Zones []string `json:"zones,omitempty"`
	Hosts []string `json:"hosts,omitempty"`
	// Members is how many services a group stands for, 0 of others.
	Members int `json:"members,omitempty"`
}

// Version is one version of a service that took traffic in the window.
type Version struct {
	Version string  `json:"version"`
	Rate    float64 `json:"rate"`
	Errors  float64 `json:"errorRatio"`
}

// Endpoint is one endpoint as all its callers saw it.
type Endpoint struct {
	Address  string  `json:"address"`
	Instance string  `json:"instance,omitempty"`
	Version  string  `json:"version,omitempty"`
	Rate     float64 `json:"rate"` // attempts/s
	Errors   float64 `json:"errorRatio"`
	P50      float64 `json:"p50"` // seconds
	P99      float64 `json:"p99"`
	State    string  `json:"state"` // healthy | ejected | weighted
	Reason   string  `json:"reason,omitempty"`
	Override string  `json:"override,omitempty"` // id of the override in force
}

// Reporter is one sidecar that reports for the node.
type Reporter struct {
	Instance    string        `json:"instance"`
	BootID      string        `json:"bootId"`
	Identity    string        `json:"identity"`
	LastSeen    time.Time     `json:"lastSeen"`
	Missing     bool          `json:"missing"` // has not reported for ≥ 5 s without saying goodbye
	ClockOffset time.Duration `json:"clockOffsetNs"`
	Version     string        `json:"version,omitempty"`
	Folded      uint64        `json:"folded,omitempty"` // new series it counted under other since its boot, for want of room
	// CertNotAfter is the end of its certificate, by its own clock; zero when it has not said.
	CertNotAfter time.Time `json:"certNotAfter,omitzero"`
	Memory       uint64    `json:"memoryBytes,omitempty"` // resident; 0 when it has not said
}

// EdgeState says which reporters an edge rests on.
type EdgeState string

const (
	BothSides       EdgeState = "both"
	ClientOnly      EdgeState = "client-only" // destination is external or unmeshed
	ServerOnly      EdgeState = "server-only" // source is unmeshed
	ReporterMissing EdgeState = "reporter-missing"
)

// Edge is one (source, destination, protocol) with both sides' views.
type Edge struct {
	ID          string    `json:"id"` // source→destination:protocol, stable
	Source      string    `json:"source"`
	Destination string    `json:"destination"`
	Protocol    string    `json:"protocol"` // http/1.1 | h2 | grpc | tcp | …
	State       EdgeState `json:"state"`
	MTLS        bool      `json:"mtls"`
	Client      *View     `json:"client,omitempty"`
	Server      *View     `json:"server,omitempty"`
	Gap         *Gap      `json:"gap,omitempty"`     // only when State is both
	Amended     bool      `json:"amended,omitempty"` // late data changed a sealed window
	Missing     []string  `json:"missing,omitempty"` // instances whose reports are missing
}

// View is what one side counted in the window.
type View struct {
	Requests    uint64            `json:"requests"`
	Errors      uint64            `json:"errors"` // 5xx, a gRPC status that stands for one, or a failing reason; probes excluded
	Attempts    uint64            `json:"attempts,omitempty"`
	Rate        float64           `json:"rate"` // requests/s
	ErrorRatio  float64           `json:"errorRatio"`
	P50         float64           `json:"p50"` // seconds
	P95         float64           `json:"p95"`
	P99         float64           `json:"p99"`
	BytesIn     uint64            `json:"bytesIn"`
	BytesOut    uint64            `json:"bytesOut"`
	MessagesIn  uint64            `json:"messagesIn,omitempty"` // of gRPC, from the caller
	MessagesOut uint64            `json:"messagesOut,omitempty"`
	GRPC        map[string]uint64 `json:"grpc,omitempty"` // requests by the name of their gRPC status
	Active      int64             `json:"active"`
	Connections uint64            `json:"connections,omitempty"`
	Reasons     map[string]uint64 `json:"reasons,omitempty"`
	Exemplars   []string          `json:"exemplars,omitempty"` // trace ids, worst first, at most 5
}

// Gap is the difference of the two sides of an edge.
type Gap struct {
	Lost    int64   `json:"lost"`       // client attempts delivered − server exchanges
	Latency float64 `json:"latencyP50"` // client p50 − server p50, seconds: network and queue
}

// Totals are cumulative, exact counts of one edge since the graph was opened (or over [from,to) of Between); they are what the identities
// of docs/format/record.md are asserted on.
type Totals struct {
	Source, Destination, Protocol string
	State                         EdgeState
	ClientExchanges               uint64
	ClientAttempts                uint64
	NeverDelivered                map[string]uint64 // by reason
	ServerExchanges               uint64
	ServerAnswered                uint64
	ServerUnanswered              map[string]uint64 // by reason
	MissingReporters              []string
}
