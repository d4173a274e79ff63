// Package collector is the river: it embeds the OpenTelemetry Collector and builds its pipelines from our configuration. OTLP comes in from
// sidecars over mTLS (gRPC) and from applications in plaintext on loopback (HTTP), is checked, enriched and redacted, and goes to the
// store. There is no queue in between: a batch is acknowledged after the store has it on disk.
package collector

import (
	"context"
	"errors"
	"log/slog"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/store"
)

// MetricsSink takes metrics of authenticated reporters. An error that wraps store.ErrFull, ErrBusy or ErrClosed is answered as retryable.
type MetricsSink interface {
	Ingest(ctx context.Context, md pmetric.Metrics) error
}

// Registry knows which workload an identity belongs to.
type Registry interface {
	Lookup(identity string) (service, namespace string, ok bool)
}

// Config is what the collector needs. Addresses are host:port; "" turns a receiver off.
type Config struct {
	GRPC           string           // OTLP gRPC; mTLS when Identity is set
	HTTP           string           // OTLP HTTP, plaintext, for applications; a loopback address
	Identity       *identity.Holder // nil: plaintext gRPC without any evidence (tests)
	Spans          store.Spans
	Metrics        MetricsSink // nil: metrics are counted and dropped
	Registry       Registry    // nil: identities are stamped, services are not checked
	MemoryLimitMiB int         // heap at which batches are refused, retryable; default 320
	Log            *slog.Logger
}

// Stats are counters since New: what came in, what was kept, what was dropped and why.
type Stats struct {
	SpansAccepted   uint64            `json:"spansAccepted"`
	MetricsAccepted uint64            `json:"metricsAccepted"` // data points
	Refused         map[string]uint64 `json:"refused"`         // batches answered with a retryable error, by reason
	Dropped         map[string]uint64 `json:"dropped"`         // items dropped for good, by reason
	Altered         map[string]uint64 `json:"altered"`         // attributes overwritten or removed, by reason
}

// Collector runs the pipelines. Make it with New, start it with Run, once.
type Collector struct{ cfg Config }

// New checks cfg and builds the pipelines; nothing listens yet.
func New(cfg Config) (*Collector, error) {
	return nil, errors.New("collector: not built yet")
}

// Run listens and serves until ctx is done; ready is called when both receivers listen.
func (c *Collector) Run(ctx context.Context, ready func()) error { return nil }

// Addresses are the bound addresses of the receivers, known once Run has called ready; "" for one that is off.
func (c *Collector) Addresses() (grpc, http string) { return "", "" }

// Stats may be called at any time.
func (c *Collector) Stats() Stats { return Stats{} }
