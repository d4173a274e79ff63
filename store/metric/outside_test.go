package metric

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

func TestOutsideSeriesAreApartFromOurs(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := open(t, t.TempDir(), Config{Registerer: reg})
	ours := func(b *Batch) { b.Counter("tulle_requests_total", 7, "source", "web") }
	if err := d.NewWriter().Write(t.Context(), t0, ours); err != nil {
		t.Fatal(err)
	}
	ctx, refused := WithRefusals(t.Context())
	app := d.Outside().Appender(ctx)
	for _, l := range []labels.Labels{
		labels.FromStrings("__name__", "tulle_requests_total", "source", "web"),
		labels.FromStrings("__name__", "tulle_requests_total", "source", "web", "job", "forged"),
		labels.FromStrings("__name__", "ALERTS_FOR_STATE", "alertname", "forged"),
		labels.FromStrings("__name__", "long", "x", strings.Repeat("v", maxOutsideBytes)),
		labels.FromStrings("__name__", "up", "job", "node"),
		labels.FromStrings("__name__", "up"),
	} {
		if _, err := app.Append(0, l, t0.UnixMilli(), 99); err != nil {
			t.Errorf("%.60s: %v", l, err)
		}
		_, _ = app.AppendExemplar(0, l, exemplar.Exemplar{Labels: labels.FromStrings("trace_id", "1"), Value: 1, Ts: t0.UnixMilli(), HasTs: true})
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	late := d.Outside().Appender(ctx)
	if _, err := late.Append(0, labels.FromStrings("__name__", "up"), t0.Add(-time.Hour).UnixMilli(), 1); err != nil {
		t.Errorf("a late sample was not only noted: %v", err)
	}
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	if refused.Samples != 5 || refused.First == nil || !strings.Contains(refused.First.Error(), "tulle_requests_total") || !errors.Is(refused.First, storage.ErrOutOfBounds) {
		t.Errorf("refused %+v", refused)
	}
	for query, want := range map[string]string{
		`sum(tulle_requests_total)`: "7", `count(tulle_requests_total)`: "1", `count(ALERTS_FOR_STATE)`: "none", `count(up)`: "2", `count(up{job="remote_write"})`: "1",
		`count(up{job="node"})`: "1", `count(long)`: "none",
	} {
		if got := result(t, d, query, t0); got != want {
			t.Errorf("%s = %s, want %s", query, got, want)
		}
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP tulle_store_outside_samples_refused_total Samples from outside that were not taken, by reason: reserved, labels, budget, too_old, duplicate, invalid.
# TYPE tulle_store_outside_samples_refused_total counter
tulle_store_outside_samples_refused_total{reason="labels"} 1
tulle_store_outside_samples_refused_total{reason="reserved"} 3
tulle_store_outside_samples_refused_total{reason="too_old"} 1
# HELP tulle_store_outside_samples_total Samples taken from outside, by remote write and OTLP.
# TYPE tulle_store_outside_samples_total counter
tulle_store_outside_samples_total 2
`), "tulle_store_outside_samples_total", "tulle_store_outside_samples_refused_total"); err != nil {
		t.Error(err)
	}
}

func TestOutsideSeriesDoNotTakeTheRoomOfOurs(t *testing.T) {
	d := open(t, t.TempDir(), Config{ActiveSeriesBudget: 40})
	name := func(i int) labels.Labels {
		return labels.FromStrings("__name__", "other_total", "job", "x", "n", fmt.Sprint(i))
	}
	write := func(at time.Time) *Refusals {
		ctx, refused := WithRefusals(t.Context())
		app := d.Outside().AppenderV2(ctx)
		for i := range 100 {
			if _, err := app.Append(0, name(i), 0, at.UnixMilli(), 1, nil, nil, storage.AOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		return refused
	}
	for i := range 2 { // those that were admitted go on
		if r := write(t0.Add(time.Duration(i) * time.Second)); r.Samples != 80 || !strings.Contains(r.First.Error(), "below 20") {
			t.Errorf("refused %+v, want 80", r)
		}
	}
	err := d.NewWriter().Write(t.Context(), t0, func(b *Batch) {
		for i := range 20 {
			b.Counter("tulle_requests_total", 1, "source", fmt.Sprint(i))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := result(t, d, `count(tulle_requests_total{source!="other"})`, t0); got != "20" {
		t.Errorf("of ours %s were admitted, want 20", got)
	}
	if got := result(t, d, `count(other_total)`, t0); got != "20" {
		t.Errorf("of others %s were admitted, want 20", got)
	}
}

// Without a place for refusals they are errors that Prometheus' handler of remote write 2.0 answers with status 400 and the count of what was kept.
func TestOutsideRefusalsAreErrorsWithoutAPlaceForThem(t *testing.T) {
	d := open(t, t.TempDir(), Config{})
	app := d.Outside().Appender(t.Context())
	if _, err := app.Append(0, labels.FromStrings("__name__", "tulle_active"), t0.UnixMilli(), 1); !errors.Is(err, storage.ErrOutOfBounds) {
		t.Errorf("reserved: %v", err)
	}
	h := &histogram.FloatHistogram{Schema: 3, Count: 2, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []float64{-1}, Sum: math.Pi}
	var invalid histogram.Error
	if _, err := app.AppendHistogram(0, labels.FromStrings("__name__", "h"), t0.UnixMilli(), nil, h); !errors.As(err, &invalid) {
		t.Errorf("invalid histogram: %v", err)
	}
	if _, err := app.Append(0, labels.FromStrings("__name__", "fine"), t0.UnixMilli(), 1); err != nil {
		t.Error(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := result(t, d, `fine`, t0); got != "1" {
		t.Errorf("the rest was not kept: %s", got)
	}
}
