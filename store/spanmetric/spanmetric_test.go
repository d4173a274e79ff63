package spanmetric

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/metric"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// taking is a store that keeps nothing.
type taking struct {
	backend
	err error
}

func (t *taking) Write(context.Context, ptrace.Traces) error { return t.err }

func open(t *testing.T) (*Spans, *taking, *metric.DB) {
	t.Helper()
	db, err := metric.Open(t.TempDir(), metric.Config{Derived: Views})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := &taking{}
	return New(s, db), s, db
}

func value(t *testing.T, db *metric.DB, at time.Time, q string) float64 {
	t.Helper()
	v, err := db.Query(t.Context(), q, at)
	if err != nil {
		t.Fatal(err)
	}
	if len(v) != 1 {
		return -1
	}
	return v[0].F
}

func TestSpansAreCounted(t *testing.T) {
	m, s, db := open(t)
	start := time.Now().Truncate(time.Second)
	w := db.NewWriter()
	at := start.Add(-time.Minute)
	m.now = func() time.Time { at = at.Add(Interval); return at }
	batch := storetest.Batch(
		storetest.Span{Trace: 1, ID: 1, Service: "bank", Name: "book", Kind: ptrace.SpanKindServer, Start: start, Duration: 10 * time.Millisecond},
		storetest.Span{Trace: 1, ID: 2, Service: "bank", Name: "book", Kind: ptrace.SpanKindServer, Start: start, Duration: 30 * time.Millisecond, Error: true},
		storetest.Span{Trace: 1, ID: 3, Service: "bank", Name: "look up", Kind: ptrace.SpanKindClient, Start: start, Duration: time.Second},
		storetest.Span{Trace: 1, ID: 4, Service: "bank", Name: "tcp", Kind: ptrace.SpanKindClient, Start: start, Duration: time.Hour, Attrs: map[string]any{flow.AttrPhase: "progress"}},
	)
	for range 3 {
		if err := m.Write(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if err := m.flush(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	s.err = errors.New("not stored")
	if err := m.Write(t.Context(), batch); err == nil {
		t.Fatal("no error")
	}
	if err := m.flush(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	for q, want := range map[string]float64{
		`sum(traces_spanmetrics_calls_total)`: 9,
		`traces_spanmetrics_calls_total{service="bank", span_name="book", span_kind="SPAN_KIND_SERVER", status_code="STATUS_CODE_ERROR"}`: 3,
		`sum(traces_spanmetrics_latency_sum{span_name="book"})`:                                                                           0.12,
		`histogram_count(sum(traces_spanmetrics_latency{span_kind="SPAN_KIND_CLIENT"}))`:                                                  3,
		`sum(traces_spanmetrics_latency_bucket{span_name="look up", le="0.5"})`:                                                           0,
		`sum(traces_spanmetrics_latency_bucket{span_name="look up", le="1.0"})`:                                                           3,
		`sum(traces_span_metrics_calls_total{service_name="bank", status_code="STATUS_CODE_UNSET"})`:                                      6,
		`sum(traces_span_metrics_duration_milliseconds_sum{service_name="bank", span_name="look up"})`:                                    3000,
		`sum(traces_span_metrics_duration_milliseconds_bucket{span_name="look up", le="1000.0"})`:                                         3,
	} {
		if got := value(t, db, at, q); got < want*0.999 || got > want*1.001 {
			t.Errorf("%s is %v, want %v", q, got, want)
		}
	}
}

// However many names come, there is a bound, and no span goes uncounted.
func TestNamesHaveABound(t *testing.T) {
	m, _, db := open(t)
	at := time.Now().Truncate(time.Second)
	m.now = func() time.Time { return at }
	const n = 3 * MaxSeries
	for i := 0; i < n; i += 1000 {
		var spans []storetest.Span
		for k := range 1000 {
			spans = append(spans, storetest.Span{Trace: 1, ID: uint64(i + k + 1), Service: fmt.Sprintf("s-%d", i%7000), Name: fmt.Sprintf("GET /%d", i+k), Kind: ptrace.SpanKindServer, Start: at, Duration: time.Millisecond}) //nolint:gosec // small
		}
		if err := m.Write(t.Context(), storetest.Batch(spans...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.flush(t.Context(), db.NewWriter()); err != nil {
		t.Fatal(err)
	}
	if got := value(t, db, at, `sum(traces_spanmetrics_calls_total)`); got != n {
		t.Errorf("%v spans of %d", got, n)
	}
	if got := value(t, db, at, `count(traces_spanmetrics_calls_total)`); got > MaxSeries+1 {
		t.Errorf("%v series", got)
	}
	if got := value(t, db, at, `sum(traces_spanmetrics_calls_total{service="other", span_name="other"})`); got <= 0 {
		t.Errorf("other has %v", got)
	}
}

// BenchmarkWrite is what counting adds to a batch of 512 spans of a mesh.
func BenchmarkWrite(b *testing.B) {
	m := New(&taking{}, nil)
	var spans []storetest.Span
	for i := range 512 {
		attrs := map[string]any{}
		for k := range 38 {
			attrs[fmt.Sprintf("tulle.attribute.%d", k)] = "value"
		}
		spans = append(spans, storetest.Span{Trace: 1, ID: uint64(i + 1), Service: "bank", Name: fmt.Sprintf("GET /%d", i%20), Kind: ptrace.SpanKindServer, Start: time.Unix(1, 0), Duration: time.Duration(i) * time.Millisecond, Attrs: attrs}) //nolint:gosec // small
	}
	td := storetest.Batch(spans...)
	for b.Loop() {
		if err := m.Write(b.Context(), td); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/span")
}
