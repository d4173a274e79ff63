// Package source is what the dashboard reads: small interfaces and structs that the observer fills in, so that pages and APIs know where
// their data comes from without knowing who keeps it. Every field of Sources may be nil unless it says otherwise; a page whose source is
// missing says so instead of failing.
package source

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/tap"
)

// Graph is the topology as the store keeps it. Safe for concurrent use.
type Graph interface {
	// Live returns the newest snapshot; nil before the first tick.
	Live() *graph.Snapshot
	// Subscribe yields every live snapshot until ctx is done, then closes the channel. A slow reader misses snapshots, never blocks.
	Subscribe(ctx context.Context) <-chan *graph.Snapshot
	// At draws the graph of a past instant from the retained series.
	At(ctx context.Context, t time.Time) (*graph.Snapshot, error)
}

// Events is what happened and why. Safe for concurrent use.
type Events interface {
	// Query returns matching events, newest first, and the Before of the next page, "" on the last.
	Query(ctx context.Context, q event.Query) (events []event.Event, next string, err error)
	// Subscribe yields every new event until ctx is done, then closes the channel. A slow reader misses events, never blocks.
	Subscribe(ctx context.Context) <-chan event.Event
}

// Metrics is Prometheus' storage and engine. The zero value means that no series are kept: charts say so.
type Metrics struct {
	Queryable storage.SampleAndChunkQueryable
	Exemplars storage.ExemplarQueryable
	Engine    *promql.Engine
	// Outside takes series that others write, by remote write or OTLP; nil: none are taken.
	Outside Outside
}

// Outside is where series of others go. With metric.WithRefusals in a request's context, it notes there what it does not take.
type Outside interface {
	storage.Appendable
	storage.AppendableV2
}

// Tap shows spans as they come in. Safe for concurrent use.
type Tap interface {
	// Watch shows what is written until ctx ends. A slow watcher misses batches, which are counted for it.
	Watch(ctx context.Context) (*tap.Watcher, error)
}

// Alerts is what the alerting rules say now.
type Alerts interface {
	Alerts(ctx context.Context) ([]Alert, error)        // pending and firing
	Rules(ctx context.Context) ([]Rule, error)          // alerting and recording rules, in file order
	Deliveries(ctx context.Context) ([]Delivery, error) // what was sent to receivers, or should have been, the latest first
}

// Alert is one active alert instance.
type Alert struct {
	Name        string            `json:"name"`
	State       string            `json:"state"`              // pending | firing
	Severity    string            `json:"severity,omitempty"` // label severity
	Service     string            `json:"service,omitempty"`  // service the alert is about, when a label says so
	Summary     string            `json:"summary,omitempty"`  // annotation summary or description
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	ActiveSince time.Time         `json:"activeSince"`
	Value       float64           `json:"value"`
	Silenced    bool              `json:"silenced,omitempty"`
}

// Delivery is one notification on its way to a receiver, or there.
type Delivery struct {
	Receiver    string            `json:"receiver"`
	Integration string            `json:"integration"` // kind and place in the receiver's configuration: webhook[0]
	Group       map[string]string `json:"group,omitempty"`
	Alerts      []string          `json:"alerts"` // names, each once
	Firing      int               `json:"firing"` // alerts in it
	Resolved    int               `json:"resolved"`
	State       string            `json:"state"` // delivered | retrying | failed
	Attempts    int               `json:"attempts"`
	First       time.Time         `json:"first"`
	Last        time.Time         `json:"last"`
	Took        time.Duration     `json:"tookNs"`          // the latest attempt
	Error       string            `json:"error,omitempty"` // of the latest attempt that failed
}

// Rule is one rule as loaded.
type Rule struct {
	Group       string            `json:"group"`
	Name        string            `json:"name"`
	Kind        string            `json:"kind"` // alerting | recording
	Query       string            `json:"query"`
	For         time.Duration     `json:"forNs,omitempty"`
	State       string            `json:"state,omitempty"` // inactive | pending | firing
	Health      string            `json:"health"`          // ok | err | unknown
	LastError   string            `json:"lastError,omitempty"`
	LastEval    time.Time         `json:"lastEvaluation"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Proxies is every sidecar that the controller or the collector knows.
type Proxies interface {
	Proxies(ctx context.Context) ([]Proxy, error)
}

// Proxy is one sidecar.
type Proxy struct {
	Instance     string        `json:"instance"` // workload instance, "catalog-2"
	Service      string        `json:"service"`
	Namespace    string        `json:"namespace,omitempty"`
	Version      string        `json:"version,omitempty"` // of the sidecar binary
	Identity     string        `json:"identity,omitempty"`
	Address      string        `json:"address,omitempty"`
	Connected    bool          `json:"connected"`         // to the controller
	Since        time.Time     `json:"since,omitzero"`    // of the connection, or of its loss
	LastSeen     time.Time     `json:"lastSeen,omitzero"` // last telemetry
	Reporting    bool          `json:"reporting"`         // telemetry arrives
	Acked        string        `json:"acked,omitempty"`   // revision it runs on
	Wanted       string        `json:"wanted,omitempty"`  // newest revision meant for it
	Nack         string        `json:"nack,omitempty"`    // last refusal, in the proxy's words; "" when the last answer was an ACK
	NackAt       time.Time     `json:"nackAt,omitzero"`   //
	ClockOffset  time.Duration `json:"clockOffsetNs"`     // proxy's clock minus ours
	CertNotAfter time.Time     `json:"certNotAfter,omitzero"`
	Folded       uint64        `json:"folded,omitempty"`      // new series it counted under other since its boot, for want of room
	Memory       uint64        `json:"memoryBytes,omitempty"` // resident; 0 when it has not said
}

// Notice is a banner on every page: something is wrong with Tulle itself and a person should act.
type Notice struct {
	Severity string `json:"severity"` // info | warning | error
	Message  string `json:"message"`  // what is wrong, on what
	Action   string `json:"action"`   // what to do about it
}

// Sources is everything the dashboard reads. Spans and Graph are required.
type Sources struct {
	Spans store.Spans
	// Memory is what all queries together may hold; nil: there is no bound.
	Memory  *store.Memory
	Graph   Graph
	Events  Events
	Metrics Metrics
	Alerts  Alerts
	// Tap shows spans as they come in; nil: it cannot be watched.
	Tap Tap
	// Rules gives the Prometheus API (/api/v1/rules, /api/v1/alerts) the rule manager's groups.
	Rules RulesRetriever
	// Alertmanager answers below /api/v2/ as Alertmanager does, silences included; nil: nothing does.
	Alertmanager http.Handler
	Proxies      Proxies
	// Self are further writers of Prometheus text for /metrics, called in order; each writes complete families with HELP and TYPE.
	Self []func(io.Writer)
	// Health and Ready answer /healthz and /readyz: nil means fine, an error says what is not.
	Health func() error
	Ready  func() error
	// Banner lists what is wrong with Tulle itself; called for every page, so it must be quick.
	Banner func() []Notice
	// Version is that of the observer's program; "" is not said.
	Version string
	// Disk is how much room there is where everything is kept; nil: unknown.
	Disk func() (Disk, error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Disk is a file system.
type Disk struct {
	Path  string `json:"path"`
	Free  uint64 `json:"freeBytes"` // to this process
	Total uint64 `json:"totalBytes"`
}

// RulesRetriever is the part of Prometheus' rule manager that its HTTP API reads.
type RulesRetriever interface {
	RuleGroups() []*rules.Group
	AlertingRules() []*rules.AlertingRule
}

// Clock returns the current time by s.Now, or time.Now.
func (s *Sources) Clock() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// Notices returns the banners, nil when there is nothing to say.
func (s *Sources) Notices() []Notice {
	if s.Banner == nil {
		return nil
	}
	return s.Banner()
}
