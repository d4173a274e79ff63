// Package observer assembles the observer process: where evidence comes in, is kept, shown, judged by alert rules, and passed on to the
// controller.
//
//	keep     store/span, store/metric, store/event   opened first, closed last
//	join     internal/identity/join                  the observer's own certificate
//	draw     store/graph                             who calls whom
//	carry    collector                               OTLP in, over mTLS
//	notify   alert                                   rules, webhooks
//	look     dashboard                               pages, live feed, query APIs
//	pass on  evidence.go                             windows to the controller; events and the registry back
//
// Parts start in this order and stop in the reverse one. An observer without its controller serves, keeps and shows; it only decides nothing.
package observer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tulle-mesh/tulle/alert"
	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/collector/processor/cardinality"
	"github.com/tulle-mesh/tulle/collector/processor/enrich"
	"github.com/tulle-mesh/tulle/dashboard"
	"github.com/tulle-mesh/tulle/dashboard/jaegerapi"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/metric"
	"github.com/tulle-mesh/tulle/store/span"
	"github.com/tulle-mesh/tulle/store/spanmetric"
	"github.com/tulle-mesh/tulle/store/tap"
)

// Config is what an observer needs. Zero fields take the default named beside them; addresses are host:port, and port 0 picks one.
type Config struct {
	DataDir string // required: everything that is kept
	Version string // of the program; shown by /api/tulle/v1/stats

	HTTP      string   // dashboard, query APIs, /metrics, /healthz, /readyz; default 127.0.0.1:8640
	HTTPHosts []string // further host names that requests may be addressed to
	OTLPGRPC  string   // from sidecars, mTLS; default 127.0.0.1:4317
	OTLPHTTP  string   // from applications, plaintext; default 127.0.0.1:4318; "off" for none

	// What applications send that do not speak OTLP; "" for none. See collector.Config.
	Zipkin, JaegerGRPC, JaegerHTTP, JaegerCompact, JaegerBinary, EnvoyALS string

	// JaegerQuery serves Jaeger's query and remote storage APIs over gRPC; "" for none. Elsewhere than on loopback callers need certificates of the mesh.
	JaegerQuery string

	// Export are backends that get a copy of all spans; ExportBytes bounds the queue of each in DataDir/export (0: 256 MiB).
	Export      []collector.Export
	ExportBytes int64

	// CollectorYAML is a configuration of the OpenTelemetry Collector that is merged with the observer's; empty for none. CollectorFile names it in errors.
	CollectorYAML []byte
	CollectorFile string

	// Redact is what the collector removes from spans beside what always is; Cardinality how many names applications may bring (0: the default).
	Redact      enrich.Config
	Cardinality cardinality.Config

	// Controller is the address of its gRPC listener. "" runs without one: no certificate, so no sidecar is believed; for looking at what was kept.
	Controller  string
	TrustDomain string // default tulle.local
	Token       string // join token; needed until the first certificate is in DataDir
	TokenFile   string // or the file it is in
	BundleFile  string // PEM file with the trust anchors; required with Controller

	RulesDir    string   // more alerting rules; "" for none
	AlertConfig string   // an Alertmanager configuration file; "" for the built-in one
	WebhookURLs []string // where the built-in one sends
	ExternalURL string   // the dashboard as people reach it; default http:// and HTTP

	SpanBackend     string        // default local
	SpanEngine      span.Engine   // where it is, unless it is local
	SpanRetain      time.Duration // default: the backend's
	SpanRetainBytes uint64        // default: the backend's
	SpanThinAfter   time.Duration // default: the backend's
	SpanThinKeep    int           // default: the backend's; 1: no trace is left out to make room
	MetricRetain    time.Duration // default 15 days
	MetricBytes     int64         // default 2 GiB
	EventRetain     time.Duration // default 90 days

	RemoteWrite       []string // URLs that series are sent to besides
	RemoteWriteConfig string   // or a file in Prometheus' format with remote_write; "" for none

	// MemoryLimitMiB is the soft limit of the whole process: the garbage collector works harder near it (unless GOMEMLIMIT is set, which then
	// holds), and the collector refuses batches, retryably, from three fifths of it in the heap on. Default 320, at least 64.
	MemoryLimitMiB int

	// QueryMemoryMiB is what all queries together may hold of traces and spans at a time; one that wants more is refused. Default four fifths of MemoryLimitMiB, at least 16.
	QueryMemoryMiB int

	Log *slog.Logger // default: discard
}

// Defaults of Config.
const (
	DefaultHTTP           = dashboard.DefaultAddr
	DefaultOTLPGRPC       = "127.0.0.1:4317"
	DefaultOTLPHTTP       = "127.0.0.1:4318"
	DefaultTrustDomain    = "tulle.local"
	DefaultMemoryLimitMiB = 320
	off                   = "off"
)

// Observer is one observer. Make it with New, run it once with Run.
type Observer struct {
	cfg Config
	log *slog.Logger
	reg *prometheus.Registry

	registry *Registry
	holder   *identity.Holder
	join     *join.Client
	spans    store.Spans
	live     *tap.Spans // spans, which can be watched
	counted  *spanmetric.Spans
	metrics  *metric.DB
	events   *event.Log
	journal  *journal

	graph     *graph.Graph
	collector *collector.Collector
	alerting  *alert.Alerting
	dashboard *dashboard.Dashboard
	jaeger    *jaegerapi.RPC // nil for none
	evidence  *Evidence

	memory  *store.Memory // of queries
	remote  metric.RemoteWrite
	running chan struct{} // closed when everything is up
}

// complete sets defaults and checks what needs no file.
func (cfg *Config) complete() error {
	if cfg.DataDir == "" {
		return errors.New("observer: no data directory given; say where to keep things with --data-dir")
	}
	if cfg.HTTP == "" {
		cfg.HTTP = DefaultHTTP
	}
	if cfg.OTLPGRPC == "" {
		cfg.OTLPGRPC = DefaultOTLPGRPC
	}
	switch cfg.OTLPHTTP {
	case "":
		cfg.OTLPHTTP = DefaultOTLPHTTP
	case off:
		cfg.OTLPHTTP = ""
	}
	if cfg.TrustDomain == "" {
		cfg.TrustDomain = DefaultTrustDomain
	}
	if cfg.ExternalURL == "" {
		cfg.ExternalURL = "http://" + cfg.HTTP
	}
	if cfg.SpanBackend == "" {
		cfg.SpanBackend = "local"
	}
	if cfg.MemoryLimitMiB == 0 {
		cfg.MemoryLimitMiB = DefaultMemoryLimitMiB
	}
	if cfg.MemoryLimitMiB < 64 {
		return fmt.Errorf("observer: memory limit is %d MiB; at least 64 are needed", cfg.MemoryLimitMiB)
	}
	if cfg.QueryMemoryMiB == 0 {
		cfg.QueryMemoryMiB = cfg.MemoryLimitMiB * 4 / 5
	}
	if cfg.QueryMemoryMiB < 16 {
		return fmt.Errorf("observer: memory for queries is %d MiB; at least 16 are needed", cfg.QueryMemoryMiB)
	}
	if err := cfg.Redact.Validate(); err != nil {
		return fmt.Errorf("observer: redaction: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// New checks cfg. It opens nothing.
func New(cfg Config) (*Observer, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if cfg.TokenFile != "" {
		b, err := os.ReadFile(cfg.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("observer: read the join token: %w", err)
		}
		cfg.Token = strings.TrimSpace(string(b))
	}
	o := &Observer{cfg: cfg, log: cfg.Log, reg: prometheus.NewRegistry(), memory: store.NewMemory(int64(cfg.QueryMemoryMiB) << 20), running: make(chan struct{})}
	var err error
	if o.remote, err = metric.ReadRemoteWrite(cfg.RemoteWrite, cfg.RemoteWriteConfig); err != nil {
		return nil, fmt.Errorf("observer: %w", err)
	}
	if cfg.Controller == "" {
		return o, nil
	}
	controllerID, err := identity.Controller(cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("observer: %w", err)
	}
	id, err := identity.Observer(cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("observer: %w", err)
	}
	o.holder = &identity.Holder{}
	o.join, err = join.New(join.Config{
		Controller: cfg.Controller, ControllerID: controllerID, ID: id, Token: cfg.Token, BundleFile: cfg.BundleFile, StateDir: filepath.Join(cfg.DataDir, "identity"),
		Holder: o.holder, Log: cfg.Log.With("part", "join"),
	})
	if err != nil {
		return nil, fmt.Errorf("observer: %w", err)
	}
	o.evidence = NewEvidence(EvidenceConfig{
		Controller: cfg.Controller, ControllerID: controllerID, Holder: o.holder, Log: cfg.Log.With("part", "evidence"),
	})
	return o, nil
}

// Run runs an observer until ctx is done.
func Run(ctx context.Context, cfg Config) error {
	o, err := New(cfg)
	if err != nil {
		return err
	}
	return o.Run(ctx, func() {})
}

// garbage of a memory of limit bytes. More than usual gathers while little is in use: what comes in is garbage as soon as it is kept. But the collector refuses batches when
// more than three fifths of the limit are heap, and garbage alone must not come so far; what is decoded while it learns that memory is short must have room too.
func garbage(limit uint64) run.Garbage {
	return run.Garbage{Spare: 96 << 20, Most: 200, Least: 100, Low: limit / 10 * 7, High: limit / 8 * 7, Room: limit / 4}
}

// Run opens the stores, starts every part in order, calls ready when all are up, and stops them in reverse when ctx is done. What was
// acknowledged is kept. An error says which part failed, on what.
func (o *Observer) Run(ctx context.Context, ready func()) error {
	if _, chosen := os.LookupEnv("GOMEMLIMIT"); !chosen {
		debug.SetMemoryLimit(int64(garbage(uint64(o.cfg.MemoryLimitMiB) << 20).High)) //nolint:gosec // while stores are read back; garbage's actor goes on from there
	}
	closeStores, err := o.open()
	if err != nil {
		return errors.Join(err, closeStores())
	}
	err = o.assemble()
	if err == nil {
		err = run.All(ctx, o.actors(func() { close(o.running); ready() })...)
	}
	return errors.Join(err, closeStores())
}

// open opens the stores; the function closes those that are open, in reverse.
func (o *Observer) open() (closeStores func() error, err error) {
	var closers []func() error
	closeStores = func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	dir := func(name string) string { return filepath.Join(o.cfg.DataDir, name) }
	if err := os.MkdirAll(o.cfg.DataDir, 0o700); err != nil {
		return closeStores, fmt.Errorf("data directory: %w (choose one that can be written with --data-dir)", err)
	}
	if o.events, err = event.Open(dir("events"), event.Config{MaxAge: o.cfg.EventRetain, Logger: o.log.With("part", "events")}); err != nil {
		return closeStores, err
	}
	closers = append(closers, o.events.Close)
	o.journal = newJournal(o.events, o.log)
	closers = append(closers, func() error { o.journal.close(); return nil })
	if o.metrics, err = metric.Open(dir("metrics"), metric.Config{
		RetainAge: o.cfg.MetricRetain, RetainBytes: o.cfg.MetricBytes, RemoteWrite: o.remote, OnEvent: o.journal.add, Logger: o.log.With("part", "metrics"), Registerer: o.reg,
		Derived: slices.Concat(graph.Views, spanmetric.Views),
	}); err != nil {
		return closeStores, err
	}
	closers = append(closers, o.metrics.Close)
	if o.spans, err = span.Open(o.cfg.SpanBackend, span.Config{
		Dir: dir("spans"), RetainAge: o.cfg.SpanRetain, RetainBytes: o.cfg.SpanRetainBytes, ThinAfter: o.cfg.SpanThinAfter, ThinKeep: o.cfg.SpanThinKeep,
		Engine: o.cfg.SpanEngine, Log: o.log.With("part", "spans"), OnEvent: o.journal.add,
	}); err != nil {
		return closeStores, err
	}
	closers = append(closers, o.spans.Close)
	o.counted = spanmetric.New(o.spans, o.metrics)
	o.live = tap.New(o.counted)
	o.spans = o.live
	o.registry = openRegistry(dir("registry.pb"), o.log)
	return closeStores, nil
}

// assemble makes the parts, each from those before it.
func (o *Observer) assemble() (err error) {
	o.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if o.graph, err = graph.Open(graph.Config{
		DB: o.metrics, Dir: filepath.Join(o.cfg.DataDir, "graph"), Registry: o.registry.Current, OnEvent: o.journal.add, Logger: o.log.With("part", "graph"), Registerer: o.reg,
	}); err != nil {
		return err
	}
	if o.collector, err = o.openCollector(); err != nil {
		return err
	}
	if o.alerting, err = alert.New(alert.Config{
		DB: o.metrics, DataDir: filepath.Join(o.cfg.DataDir, "alert"), RulesDir: o.cfg.RulesDir, ConfigFile: o.cfg.AlertConfig, WebhookURLs: o.cfg.WebhookURLs,
		ExternalURL: o.cfg.ExternalURL, OnEvent: o.journal.add, Logger: o.log.With("part", "alert"), Registerer: o.reg,
	}); err != nil {
		return err
	}
	if o.evidence != nil {
		o.evidence.cfg.Observations, o.evidence.cfg.Store, o.evidence.cfg.Registry = o.graph.Observations, o.events.Append, o.registry.Set
	}
	sources := source.Sources{
		Spans: o.spans, Memory: o.memory, Graph: o.graph, Events: o.events,
		Metrics: source.Metrics{Queryable: o.metrics, Exemplars: o.metrics, Engine: o.metrics.Engine(), Outside: o.metrics.Outside()},
		Alerts:  alerts{o.alerting}, Rules: o.alerting, Alertmanager: o.alerting.API(), Proxies: proxies{o.registry, o.graph},
		Tap:  o.live,
		Self: []func(io.Writer){dashboard.Gatherer(o.reg)}, Ready: o.ready, Banner: o.notices,
		Version: o.cfg.Version, Disk: o.disk,
	}
	if o.dashboard, err = dashboard.New(dashboard.Config{Addr: o.cfg.HTTP, Hosts: o.cfg.HTTPHosts, Log: o.log.With("part", "dashboard"), Sources: sources}); err != nil {
		return err
	}
	if o.cfg.JaegerQuery != "" {
		if o.jaeger, err = jaegerapi.NewRPC(jaegerapi.RPCConfig{
			Addr: o.cfg.JaegerQuery, Sources: &sources, Write: o.collector.Write, Identity: o.holder,
		}); err != nil {
			return err
		}
	}
	o.registerMetrics()
	return nil
}

// actors lists the parts in the order in which data passes through them.
func (o *Observer) actors(allReady func()) []run.Actor {
	list := []run.Actor{{Name: "garbage", Run: garbage(uint64(o.cfg.MemoryLimitMiB) << 20).Actor(os.LookupEnv)}}
	if o.join != nil {
		list = append(list, run.Actor{Name: "join", Run: func(ctx context.Context, ready func()) error {
			ready() // the dashboard can say what is wrong while there is no certificate
			return o.join.Run(ctx, func() {})
		}})
	}
	list = append(list,
		run.Actor{Name: "graph", Run: o.graph.Run},
		run.Actor{Name: "span metrics", Run: o.counted.Run},
		run.Actor{Name: "collector", Run: o.collector.Run},
		run.Actor{Name: "alert", Run: o.alerting.Run},
		run.Actor{Name: "dashboard", Run: o.dashboard.Run},
	)
	if o.jaeger != nil {
		list = append(list, run.Actor{Name: "jaeger", Run: o.jaeger.Run})
	}
	if o.evidence != nil {
		list = append(list, run.Actor{Name: "evidence", Run: o.evidence.Run})
	}
	last := list[len(list)-1]
	list[len(list)-1] = run.Actor{Name: last.Name, Run: func(ctx context.Context, ready func()) error {
		return last.Run(ctx, func() { ready(); allReady() })
	}}
	return list
}

// Addresses are where the observer listens, with real ports. It blocks until it does or ctx is done ("").
func (o *Observer) Addresses(ctx context.Context) (http, otlpGRPC, otlpHTTP string) {
	select {
	case <-o.running:
	case <-ctx.Done():
		return "", "", ""
	}
	otlpGRPC, otlpHTTP = o.collector.Addresses()
	return o.dashboard.Addr(ctx), otlpGRPC, otlpHTTP
}

// Graph, Events and Metrics are the parts themselves, for a process that embeds an observer (tests, the demo's checks); valid once Run has
// called ready and until it returns.
func (o *Observer) Graph() *graph.Graph { return o.graph }
func (o *Observer) Events() *event.Log  { return o.events }
func (o *Observer) Metrics() *metric.DB { return o.metrics }
