// Package spanmetric counts the spans that come in, by service, name, kind and status, under the names that Grafana and Jaeger know (Tempo's metrics-generator, the
// Collector's spanmetrics connector). So applications' own operations have rates, errors and durations as well, which the mesh's counters do not know.
//
// These are counts of spans: a batch that is sent again because its answer was lost is counted again, though it is stored once. The mesh's own families (store/graph) are
// counted where requests pass, and are what alerts and decisions rest on.
package spanmetric

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/metric"
)

// Latency is the only family that is stored: service, span_name, span_kind, status_code; a native histogram of seconds.
const Latency = "traces_spanmetrics_latency"

// Views are the other names of it.
var Views = []metric.Derived{
	{Name: "traces_spanmetrics_calls_total", Of: Latency + "_count", Keep: []string{"service", "span_name", "span_kind", "status_code"}, Help: "Spans, as Tempo's metrics-generator names it."},
	{
		Name: "traces_span_metrics_calls_total", Of: Latency + "_count", Keep: []string{"span_name", "span_kind", "status_code"}, Labels: []metric.DerivedLabel{{Name: "service_name", From: "service"}},
		Help: "Spans, as the Collector's spanmetrics connector names it.",
	},
	{
		Name: "traces_span_metrics_duration_milliseconds", Of: Latency, Scale: 1000, Keep: []string{"span_name", "span_kind", "status_code"}, Labels: []metric.DerivedLabel{{Name: "service_name", From: "service"}},
		Help: "Duration of spans in milliseconds, as the Collector's spanmetrics connector names it.",
	},
}

const (
	// Interval is how often the series are written.
	Interval = 5 * time.Second
	// MaxSeries is how many combinations are told apart; the spans of further ones are counted with other for a name, and with other for a service when even those are too many.
	MaxSeries = 5_000
)

// backend has another name than Spans, which is a method of it.
type backend interface{ store.Spans }

// Spans is a store whose spans are counted once they are stored. Safe for concurrent use.
type Spans struct {
	backend
	db  *metric.DB
	now func() time.Time

	mu sync.Mutex
	by map[key]*flow.Histogram
}

type key struct {
	service, name string
	kind          ptrace.SpanKind
	status        ptrace.StatusCode
}

// New counts what is written to s; the series go to db while Run runs.
func New(s store.Spans, db *metric.DB) *Spans {
	return &Spans{backend: s, db: db, now: time.Now, by: map[key]*flow.Histogram{}}
}

// Write stores td and then counts it.
func (m *Spans) Write(ctx context.Context, td ptrace.Traces) error {
	if err := m.backend.Write(ctx, td); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, rs := range td.ResourceSpans().All() {
		k := key{service: "unknown_service"}
		if v, ok := rs.Resource().Attributes().Get(flow.AttrServiceName); ok && v.Type() == pcommon.ValueTypeStr && v.Str() != "" {
			k.service = v.Str()
		}
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				if p, ok := s.Attributes().Get(flow.AttrPhase); ok && p.AsString() == flow.PhaseProgress.String() {
					continue // its last span says all
				}
				k.name, k.kind, k.status = s.Name(), s.Kind(), s.Status().Code()
				m.histogram(k).Observe(took(s))
			}
		}
	}
	return nil
}

// took is how long a span lasted; 0 when it has no end, or ended before it began.
func took(s ptrace.Span) time.Duration {
	if s.EndTimestamp() <= s.StartTimestamp() {
		return 0
	}
	return time.Duration(s.EndTimestamp() - s.StartTimestamp()) //nolint:gosec // below 2^63 for clocks of this age
}

func (m *Spans) histogram(k key) *flow.Histogram {
	h := m.by[k]
	for over := 0; h == nil; over++ {
		if len(m.by) < MaxSeries || over == 2 {
			h = &flow.Histogram{}
			m.by[key{cloned(k.service), cloned(k.name), k.kind, k.status}] = h
			break
		}
		if k.name = metric.Other; over == 1 {
			k.service = metric.Other
		}
		h = m.by[k]
	}
	return h
}

// cloned does not keep the batch that s came with.
func cloned(s string) string { return string([]byte(s)) }

// Run writes the series until ctx is done, and once more then.
func (m *Spans) Run(ctx context.Context, ready func()) error {
	ready()
	w := m.db.NewWriter()
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return m.flush(context.WithoutCancel(ctx), w)
		}
		if err := m.flush(ctx, w); err != nil && ctx.Err() == nil {
			continue // a full disk: counts go on, and the store says it
		}
	}
}

func (m *Spans) flush(ctx context.Context, w *metric.Writer) error {
	return w.Write(ctx, m.now(), func(b *metric.Batch) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for k, h := range m.by {
			b.Histogram(Latency, metric.Native(&histogram.FloatHistogram{}, h.Offset, h.Buckets, h.Zero, h.Count, h.Sum.Seconds()), "service", k.service, "span_name", k.name, "span_kind", kinds[k.kind], "status_code", statuses[k.status])
		}
	})
}

// kinds and statuses are OTLP's names, as Tempo has them.
var (
	kinds = map[ptrace.SpanKind]string{
		ptrace.SpanKindUnspecified: "SPAN_KIND_UNSPECIFIED", ptrace.SpanKindInternal: "SPAN_KIND_INTERNAL", ptrace.SpanKindServer: "SPAN_KIND_SERVER",
		ptrace.SpanKindClient: "SPAN_KIND_CLIENT", ptrace.SpanKindProducer: "SPAN_KIND_PRODUCER", ptrace.SpanKindConsumer: "SPAN_KIND_CONSUMER",
	}
	statuses = map[ptrace.StatusCode]string{ptrace.StatusCodeUnset: "STATUS_CODE_UNSET", ptrace.StatusCodeOk: "STATUS_CODE_OK", ptrace.StatusCodeError: "STATUS_CODE_ERROR"}
)
