// Package collector is the river: it embeds the OpenTelemetry Collector and builds its pipelines from our configuration. OTLP comes in from
// sidecars over mTLS (gRPC) and from applications in plaintext on loopback (HTTP), is checked, enriched and redacted, and goes to the
// store. There is no queue in between: a batch is acknowledged after the store has it on disk.
//
//	otlp receiver (gate: mTLS, Host and Origin) -> memory_limiter -> enrich -> tullestore
//
// Make one with New and run it once with Run, which is an actor's.
package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tulle-mesh/tulle/collector/exporter/tullestore"
	"github.com/tulle-mesh/tulle/collector/extension/gate"
	"github.com/tulle-mesh/tulle/collector/processor/enrich"
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
	MemoryLimitMiB int         // heap of the process at which batches are refused, retryable; default 320, at least 32
	Log            *slog.Logger
}

const defaultMemoryLimitMiB = 320

// Stats are counters since New: what came in, what was kept, what was refused or dropped and why.
type Stats struct {
	SpansAccepted   uint64            `json:"spansAccepted"`
	MetricsAccepted uint64            `json:"metricsAccepted"` // data points
	Refused         map[string]uint64 `json:"refused"`         // batches answered with an error, by reason; all but malformed and foreign_origin are retryable
	Dropped         map[string]uint64 `json:"dropped"`         // spans or data points dropped for good, by reason
	Altered         map[string]uint64 `json:"altered"`         // attributes overwritten or removed, by reason
}

// Collector runs the pipelines.
type Collector struct {
	cfg      Config
	gate     *gate.Gate
	enriched enrich.Counters
	stored   tullestore.Counters

	mu                 sync.Mutex
	grpcAddr, httpAddr string
	ready              func()
}

// New checks cfg; nothing listens yet.
func New(cfg Config) (*Collector, error) {
	if cfg.Spans == nil {
		return nil, errors.New("collector: no span store given")
	}
	if cfg.GRPC == "" && cfg.HTTP == "" {
		return nil, errors.New("collector: neither a gRPC nor an HTTP address is given; at least one is needed")
	}
	for name, a := range map[string]string{"gRPC": cfg.GRPC, "HTTP": cfg.HTTP} {
		if _, _, err := net.SplitHostPort(a); a != "" && err != nil {
			return nil, fmt.Errorf("collector: OTLP %s address %q: %w (it must be host:port)", name, a, err)
		}
	}
	if cfg.MemoryLimitMiB == 0 {
		cfg.MemoryLimitMiB = defaultMemoryLimitMiB
	}
	if cfg.MemoryLimitMiB < 32 {
		return nil, fmt.Errorf("collector: memory limit is %d MiB; at least 32 are needed", cfg.MemoryLimitMiB)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Collector{cfg: cfg}
	c.gate = gate.New(cfg.Identity, cfg.HTTP, func() {
		c.mu.Lock()
		ready := c.ready
		c.mu.Unlock()
		ready()
	})
	return c, nil
}

func (c *Collector) setAddress(p *string, addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*p = addr
}

// Addresses are the bound addresses of the receivers, known once Run has called ready; "" for one that is off.
func (c *Collector) Addresses() (grpc, http string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grpcAddr, c.httpAddr
}

// Run listens and serves until ctx is done; ready is called when the receivers listen. When ctx ends it stops listening, finishes the batches in
// progress and returns. Run may be called once.
func (c *Collector) Run(ctx context.Context, ready func()) error {
	c.mu.Lock()
	if c.ready != nil {
		c.mu.Unlock()
		return errors.New("collector: Run was called before")
	}
	c.ready = ready
	c.mu.Unlock()
	col, err := otelcol.NewCollector(otelcol.CollectorSettings{
		BuildInfo:               component.BuildInfo{Command: "tulle", Description: "Tulle's collector", Version: "1"},
		Factories:               c.components,
		DisableGracefulShutdown: true, // signals are the process's business
		SkipSettingGRPCLogger:   true,
		LoggingOptions:          []zap.Option{zap.WrapCore(func(zapcore.Core) zapcore.Core { return &slogCore{c: c} })},
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs: []string{scheme + ":"},
			ProviderFactories: []confmap.ProviderFactory{confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider {
				return memory{conf: c.pipelines()}
			})},
		}},
	})
	if err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	if err := col.Run(ctx); err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	if ctx.Err() == nil {
		return errors.New("collector: a receiver failed; the line logged before says which and why")
	}
	return nil
}

// Stats may be called at any time.
func (c *Collector) Stats() Stats {
	var s Stats
	var dropped map[string]uint64
	s.SpansAccepted, s.MetricsAccepted, s.Refused, s.Dropped = c.stored.Snapshot()
	for k, v := range c.gate.Refused() {
		s.Refused[k] += v
	}
	s.Altered, dropped = c.enriched.Snapshot()
	for k, v := range dropped {
		s.Dropped[k] += v
	}
	return s
}

// scheme is the URI scheme of the configuration that this package builds in memory.
const scheme = "tulle"

// memory is a confmap.Provider of a configuration that is already here.
type memory struct{ conf map[string]any }

func (m memory) Retrieve(context.Context, string, confmap.WatcherFunc) (*confmap.Retrieved, error) {
	return confmap.NewRetrieved(m.conf)
}

func (memory) Scheme() string { return scheme }

func (memory) Shutdown(context.Context) error { return nil }
