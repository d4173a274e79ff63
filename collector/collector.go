// Package collector is the river: it embeds the OpenTelemetry Collector and builds its pipelines from our configuration. OTLP comes in from
// sidecars over mTLS (gRPC) and from applications in plaintext on loopback (HTTP), what speaks Zipkin's or Jaeger's protocols beside it if an address is given for it. It is
// checked, enriched and redacted, and goes to the store. There is no queue in between: a batch is acknowledged after the store has it on disk.
//
//	receivers (gate: mTLS, Host and Origin) -> backpressure -> memory_limiter -> enrich -> cardinality -> tullestore
//
// With backends that get a copy, "stored" takes tullestore's place and passes batches on when they are acknowledged, to exporters with queues on disk.
//
// Make one with New and run it once with Run, which is an actor's.
package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tulle-mesh/tulle/collector/exporter/tullestore"
	"github.com/tulle-mesh/tulle/collector/extension/gate"
	"github.com/tulle-mesh/tulle/collector/processor/backpressure"
	"github.com/tulle-mesh/tulle/collector/processor/cardinality"
	"github.com/tulle-mesh/tulle/collector/processor/enrich"
	"github.com/tulle-mesh/tulle/collector/receiver/inside"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
)

// MetricsSink takes metrics of authenticated reporters. An error that wraps store.ErrFull, ErrBusy or ErrClosed is answered as retryable.
type MetricsSink interface {
	Ingest(ctx context.Context, md pmetric.Metrics) error
}

// Registry knows which workload an identity belongs to.
type Registry interface {
	Lookup(identity string) (service, namespace string, ok bool)
}

// Config is what the collector needs. Addresses are host:port; "" turns a receiver off. What comes by another way than mTLS is no evidence.
type Config struct {
	GRPC          string           // OTLP gRPC; mTLS when Identity is set
	HTTP          string           // OTLP HTTP, plaintext, for applications; a loopback address
	Zipkin        string           // Zipkin v2 over HTTP, plaintext
	JaegerGRPC    string           // Jaeger's collector service; plaintext on a loopback address, else as GRPC
	JaegerHTTP    string           // Jaeger's Thrift over HTTP, plaintext
	JaegerCompact string           // Jaeger's agent over UDP, compact Thrift; cannot be acknowledged
	JaegerBinary  string           // the same with binary Thrift
	EnvoyALS      string           // Envoy's access log service over gRPC; plaintext on a loopback address, else as GRPC
	Identity      *identity.Holder // nil: plaintext gRPC without any evidence (tests)
	Spans         store.Spans
	Metrics       MetricsSink        // nil: metrics are counted and dropped
	Registry      Registry           // nil: identities are stamped, services are not checked
	Redact        enrich.Config      // what is removed beside what always is
	HashKey       []byte             // of values that Redact hashes; the same values give the same hashes only under the same key
	Cardinality   cardinality.Config // budgets of names that applications bring; a zero field takes cardinality.Default's
	Export        []Export           // backends that get a copy of all spans
	ExportDir     string             // where their queues are; required with Export
	ExportBytes   int64              // of each queue; default 256 MiB, at least 1 MiB
	// Raw is a configuration of the OpenTelemetry Collector in YAML that is merged with ours; empty for none. RawName is its file's name, for errors.
	Raw            []byte
	RawName        string
	OnEvent        func(event.Event) // nil: nobody is told of overflows. It must not block
	MemoryLimitMiB int               // heap of the process at which batches are refused, retryable; default 320, at least 32
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

	Export map[string]ExportStats `json:"export,omitempty"` // by exporter
}

// Collector runs the pipelines.
type Collector struct {
	cfg      Config
	gate     *gate.Gate
	pressed  backpressure.Counters
	inside   inside.Inside
	enriched enrich.Counters
	stored   tullestore.Counters
	folded   tally // altered by the cardinality guard
	lost     tally // dropped by receivers that cannot refuse, and from the copies for other backends
	meters   *meters
	raw      *raw // nil: ours alone

	mu    sync.Mutex
	addrs map[string]string // bound, by receiver and protocol
	ready func()
}

// New checks cfg; nothing listens yet.
func New(cfg Config) (*Collector, error) {
	if cfg.Spans == nil {
		return nil, errors.New("collector: no span store given")
	}
	given := false
	for name, a := range map[string]string{
		"OTLP gRPC": cfg.GRPC, "OTLP HTTP": cfg.HTTP, "Zipkin": cfg.Zipkin, "Jaeger gRPC": cfg.JaegerGRPC, "Jaeger HTTP": cfg.JaegerHTTP,
		"Jaeger UDP": cfg.JaegerCompact, "Jaeger binary UDP": cfg.JaegerBinary, "Envoy access logs": cfg.EnvoyALS,
	} {
		if _, _, err := net.SplitHostPort(a); a != "" && err != nil {
			return nil, fmt.Errorf("collector: %s address %q: %w (it must be host:port)", name, a, err)
		}
		given = given || a != ""
	}
	if !given {
		return nil, errors.New("collector: no address to receive on is given; at least one is needed")
	}
	if cfg.MemoryLimitMiB == 0 {
		cfg.MemoryLimitMiB = defaultMemoryLimitMiB
	}
	if cfg.MemoryLimitMiB < 32 {
		return nil, fmt.Errorf("collector: memory limit is %d MiB; at least 32 are needed", cfg.MemoryLimitMiB)
	}
	for _, x := range []struct {
		field *int
		value int
	}{
		{&cfg.Cardinality.Services, cardinality.Default.Services}, {&cfg.Cardinality.Names, cardinality.Default.Names}, {&cfg.Cardinality.Keys, cardinality.Default.Keys},
	} {
		if *x.field == 0 {
			*x.field = x.value
		}
	}
	if err := errors.Join(cfg.Redact.Validate(), cfg.Cardinality.Validate()); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	if len(cfg.Redact.Hash) > 0 && len(cfg.HashKey) == 0 {
		return nil, errors.New("collector: attributes are to be hashed, and there is no key to hash with")
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(event.Event) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ExportBytes == 0 {
		cfg.ExportBytes = defaultExportBytes
	}
	if cfg.ExportBytes < 1<<20 {
		return nil, fmt.Errorf("collector: the queue of exports has %d bytes; at least 1 MiB is needed", cfg.ExportBytes)
	}
	if len(cfg.Export) > 0 && cfg.ExportDir == "" {
		return nil, errors.New("collector: no folder for the queues of exports is given")
	}
	c := &Collector{cfg: cfg, addrs: map[string]string{}, meters: newMeters()}
	if len(cfg.Raw) > 0 {
		r, err := parseRaw(cmp.Or(cfg.RawName, "configuration"), cfg.Raw)
		if err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
		c.raw = r
	}
	if _, err := c.pipelines(); err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	c.gate = gate.New(cfg.Identity, []string{cfg.HTTP, cfg.Zipkin, cfg.JaegerHTTP}, c.places(), func() {
		c.mu.Lock()
		ready := c.ready
		c.mu.Unlock()
		ready()
	})
	return c, nil
}

// listening notes where a receiver listens.
func (c *Collector) listening(name, addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addrs[name] = addr
}

// Addresses are the bound addresses of OTLP, known once Run has called ready; "" for one that is off.
func (c *Collector) Addresses() (grpc, http string) { return c.Address(otlpGRPC), c.Address(otlpHTTP) }

// Address is the bound address of a receiver by its name and protocol: "otlp grpc", "otlp http", "zipkin", "jaeger grpc", "jaeger thrift_http",
// "jaeger thrift_compact", "jaeger thrift_binary", "envoy_als"; "" before Run has called ready and for one that is off.
func (c *Collector) Address(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addrs[name]
}

const (
	otlpGRPC = "otlp grpc"
	otlpHTTP = "otlp http"
)

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
	col, err := c.embedded()
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

// embedded makes the OpenTelemetry Collector that does the work.
func (c *Collector) embedded() (*otelcol.Collector, error) {
	conf, err := c.pipelines()
	if err != nil {
		return nil, err
	}
	return otelcol.NewCollector(otelcol.CollectorSettings{
		BuildInfo:               component.BuildInfo{Command: "tulle", Description: "Tulle's collector", Version: "1"},
		Factories:               c.components,
		DisableGracefulShutdown: true, // signals are the process's business
		SkipSettingGRPCLogger:   true,
		LoggingOptions:          []zap.Option{zap.WrapCore(func(zapcore.Core) zapcore.Core { return &slogCore{c: c} })},
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs: []string{scheme + ":"},
			ProviderFactories: []confmap.ProviderFactory{
				confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return memory{conf: conf} }),
				envprovider.NewFactory(), // ${env:NAME} in a configuration of one's own
			},
		}},
	})
}

// Write takes spans that another part of this process was given: they go the way of all others and count as an application's. It returns when they are
// stored; the collector may change td. The error wraps store.ErrClosed while Run does not run, and is permanent (consumererror) when trying again is of no use.
func (c *Collector) Write(ctx context.Context, td ptrace.Traces) error {
	return c.inside.Write(ctx, td)
}

// Stats may be called at any time.
func (c *Collector) Stats() Stats {
	var s Stats
	var dropped map[string]uint64
	s.SpansAccepted, s.MetricsAccepted, s.Refused, s.Dropped = c.stored.Snapshot()
	for k, v := range c.gate.Refused() {
		s.Refused[k] += v
	}
	if n := c.pressed.Memory(); n > 0 {
		s.Refused[backpressure.ReasonMemory] += n
	}
	s.Altered, dropped = c.enriched.Snapshot()
	for k, v := range c.folded.snapshot() {
		s.Altered[k] += v
	}
	for _, m := range []map[string]uint64{dropped, c.lost.snapshot()} {
		for k, v := range m {
			s.Dropped[k] += v
		}
	}
	s.Export = c.meters.exportStats()
	return s
}

// overflow tells of an application that has more names than its budget.
func (c *Collector) overflow(o cardinality.Overflow) {
	message := ""
	switch o.Reason {
	case cardinality.ReasonServices:
		message = fmt.Sprintf("Applications send spans of more than %d services; further ones are shown as %q.", o.Budget, cardinality.Other)
	case cardinality.ReasonNames:
		message = fmt.Sprintf("%s has more than %d span names; further ones are shown as %q, with the name in %s.", o.Service, o.Budget, cardinality.Other, cardinality.AttrSpanName)
	case cardinality.ReasonKeys:
		message = fmt.Sprintf("%s sends more than %d different attributes; further ones are dropped.", o.Service, o.Budget)
	}
	now := time.Now()
	c.cfg.OnEvent(event.Event{
		ID: event.NewID(now), Time: now, Kind: event.KindOverflow, Severity: "warning", Service: o.Service, Reason: o.Reason, Message: message,
		Evidence: map[string]string{"first": o.Example, "budget": strconv.Itoa(o.Budget)},
	})
}

// tally counts by reason. Safe for concurrent use; the zero value is ready.
type tally struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (t *tally) add(reason string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]uint64{}
	}
	t.n[reason] += uint64(n) //nolint:gosec // a count
}

func (t *tally) snapshot() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.n)
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
