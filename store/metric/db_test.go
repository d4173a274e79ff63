package metric

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/histogram"

	"github.com/tulle-mesh/tulle/store/event"
)

var t0 = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, cfg Config) *DB {
	t.Helper()
	d, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func result(t *testing.T, d *DB, query string, at time.Time) string {
	t.Helper()
	v, err := d.Query(t.Context(), query, at)
	if err != nil {
		t.Fatal(err)
	}
	if len(v) == 0 {
		return "none"
	}
	return fmt.Sprintf("%.4g", v[0].F)
}

func TestWriteQueryReopen(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Config{})
	w := d.NewWriter()
	h := &histogram.FloatHistogram{Schema: 3, Count: 10, Sum: 1, PositiveSpans: []histogram.Span{{Offset: -20, Length: 2}}, PositiveBuckets: []float64{4, 6}}
	for i := range 10 {
		at := t0.Add(time.Duration(i) * 5 * time.Second)
		err := w.Write(t.Context(), at, func(b *Batch) {
			b.Counter("requests_total", float64(i*50), "source", "a", "empty", "")
			b.Exemplar("requests_total", "4bf92f3577b34da6a3ce929d0e0e4736", 0.2, at, "source", "a", "empty", "")
			b.Histogram("latency_seconds", h, "source", "a")
			if i >= 5 {
				b.Counter("errors_total", float64(i), "source", "a")
			}
			if i < 5 {
				b.Gauge("up", 1, "instance", "gone")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	end := t0.Add(45 * time.Second)
	check := func() {
		t.Helper()
		if got := result(t, d, `rate(requests_total{source="a",empty=""}[30s])`, end); got != "10" {
			t.Errorf("rate %s", got)
		}
		// A counter that appears with a value was zero before: its first increase is seen.
		if got := result(t, d, `max_over_time(errors_total[1m]) - min_over_time(errors_total[1m])`, end); got != "9" {
			t.Errorf("increase of a new counter %s", got)
		}
		if got := result(t, d, `histogram_count(latency_seconds)`, end); got != "10" {
			t.Errorf("histogram count %s", got)
		}
		if got := result(t, d, `up`, t0.Add(24*time.Second)); got != "1" {
			t.Errorf("up while written: %s", got)
		}
		if got := result(t, d, `up`, end); got != "none" {
			t.Errorf("a series that ended is still seen: %s", got)
		}
	}
	check()
	q, err := d.ExemplarQuerier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ms, err := Parser().ParseMetricSelector(`requests_total`)
	if err != nil {
		t.Fatal(err)
	}
	if xs, err := q.Select(t0.UnixMilli(), end.UnixMilli(), ms); err != nil || len(xs) != 1 || len(xs[0].Exemplars) < 2 {
		t.Errorf("exemplars %v %v", xs, err)
	}
	if _, err := d.Query(t.Context(), "rate(", end); err == nil {
		t.Error("nonsense was accepted")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir, Config{OnEvent: func(e event.Event) { t.Errorf("event on a clean store: %s", e.Message) }})
	check()
}

func TestOverBudgetIsFoldedVisibly(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := open(t, t.TempDir(), Config{ActiveSeriesBudget: 10, Registerer: reg})
	w := d.NewWriter()
	for i := range 3 {
		err := w.Write(t.Context(), t0.Add(time.Duration(i)*5*time.Second), func(b *Batch) {
			for s := range 40 {
				b.Counter("requests_total", float64(i), "source", fmt.Sprintf("s%02d", s), "side", "client")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	at := t0.Add(10 * time.Second)
	if got := result(t, d, `count(requests_total)`, at); got != "11" {
		t.Errorf("%s series", got)
	}
	if got := result(t, d, `sum(requests_total)`, at); got != "80" {
		t.Errorf("the sum over all is %s: something was lost", got)
	}
	if got := result(t, d, `requests_total{source="other",side="client"}`, at); got != "60" {
		t.Errorf("other is %s", got)
	}
	if got := testutil.ToFloat64(d.folded.WithLabelValues("requests_total")); got != 30 {
		t.Errorf("folded counter is %v", got)
	}
}

func TestDamagedWALIsCutAndReported(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Config{})
	w := d.NewWriter()
	for i := range 200 {
		if err := w.Write(t.Context(), t0.Add(time.Duration(i)*5*time.Second), func(b *Batch) { b.Counter("x", float64(i), "source", "a") }); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(dir, "wal", "00000000")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	for i := 6000; i < 6100; i++ {
		b[i] ^= 0xff
	}
	if err := os.WriteFile(segment, b, 0o644); err != nil {
		t.Fatal(err)
	}
	var events []event.Event
	d = open(t, dir, Config{OnEvent: func(e event.Event) { events = append(events, e) }})
	if len(events) != 1 || events[0].Kind != event.KindStore {
		t.Fatalf("events: %v", events)
	}
	if got := result(t, d, `x`, t0.Add(30*time.Second)); got != "6" {
		t.Errorf("what was before the damage is gone: %s", got)
	}
	w = d.NewWriter()
	if err := w.Write(t.Context(), t0.Add(time.Hour), func(b *Batch) { b.Counter("x", 7, "source", "a") }); err != nil {
		t.Fatal(err)
	}
	if got := result(t, d, `x`, t0.Add(time.Hour)); got != "7" {
		t.Errorf("after repair: %s", got)
	}
}

func TestOneWriterPerDirectory(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Config{})
	if d, err := Open(dir, Config{}); err == nil {
		_ = d.Close()
		t.Fatal("opened twice")
	}
}
