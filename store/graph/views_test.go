package graph

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"

	"github.com/tulle-mesh/tulle/store/metric"
)

// viewed is a store with random series of the families that views come from, with all values that their labels may have.
func viewed(t *testing.T, seed uint64) (*metric.DB, time.Time) {
	t.Helper()
	db, err := metric.Open(t.TempDir(), metric.Config{Derived: Views})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	r := rand.New(rand.NewPCG(seed, 9)) //nolint:gosec // reproducible on purpose
	vocabulary := map[string][]string{
		"source": {"web", "cart", "unmeshed"}, "destination": {"catalog", "pay"}, "side": {"client", "server"}, "protocol": {"http/1.1", "h2", "grpc", "tcp", "tls"},
		"code_class": {"2xx", "3xx", "4xx", "5xx", "none"}, "grpc_response_status": {"", "OK", "UNAVAILABLE", "NOT_FOUND"},
		"reason": {"", "connect_refused", "connect_timeout", "upstream_5xx", "draining"}, "probe": {"", "true"}, "direction": {"in", "out"},
	}
	at := time.Now().Truncate(time.Second)
	app := db.Appender(t.Context())
	of := map[string]bool{}
	for _, v := range Views {
		of[v.Of] = true
	}
	for family := range of {
		for range 300 {
			b := labels.NewScratchBuilder(8)
			b.Add(model.MetricNameLabel, family)
			for _, name := range seriesLabels[family] {
				if v := vocabulary[name][r.IntN(len(vocabulary[name]))]; v != "" {
					b.Add(name, v)
				}
			}
			b.Sort()
			if family == SeriesDuration {
				h := &histogram.FloatHistogram{Schema: 3, Count: 9, Sum: r.Float64(), PositiveSpans: []histogram.Span{{Offset: int32(r.IntN(40) - 60), Length: 3}}, PositiveBuckets: []float64{2, 3, 4}} //nolint:gosec // small
				_, err = app.AppendHistogram(0, b.Labels(), at.UnixMilli(), nil, h)
			} else {
				_, err = app.Append(0, b.Labels(), at.UnixMilli(), float64(r.IntN(1000)))
			}
			if err != nil && !strings.Contains(err.Error(), "duplicate sample") {
				t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	return db, at
}

func ask(t *testing.T, db *metric.DB, at time.Time, q string) promql.Vector {
	t.Helper()
	v, err := db.Query(t.Context(), q, at)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func scalar(t *testing.T, db *metric.DB, at time.Time, q string) float64 {
	t.Helper()
	if v := ask(t, db, at, q); len(v) == 1 {
		return v[0].F
	}
	return -1
}

// A view has as many series as what it comes from, so none was lost in another, and says as much.
func TestViewsAreWhatTheyComeFrom(t *testing.T) {
	for seed := range uint64(4) {
		db, at := viewed(t, seed)
		for _, v := range Views {
			var conditions []string
			for _, m := range v.Where {
				conditions = append(conditions, m.String())
			}
			of := v.Of + "{" + strings.Join(conditions, ",") + "}"
			suffix := func(s string) string { return v.Of + s + "{" + strings.Join(conditions, ",") + "}" }
			pairs := map[string]string{"sum(" + v.Name + ")": "sum(" + of + ")", "count(" + v.Name + ")": "count(" + of + ")"}
			if v.Scale != 0 {
				pairs = map[string]string{
					"sum(" + v.Name + "_count)":                                      "sum(" + suffix("_count") + ")",
					"count(" + v.Name + "_sum)":                                      "count(" + suffix("_sum") + ")",
					"sum(" + v.Name + "_sum)":                                        fmt.Sprintf("%g * sum(%s)", v.Scale, suffix("_sum")),
					"sum(" + v.Name + "_bucket)":                                     "sum(" + suffix("_bucket") + ")",
					"count(count by (le) (" + v.Name + "_bucket))":                   "count(count by (le) (" + suffix("_bucket") + "))",
					"histogram_quantile(0.9, sum by (le) (" + v.Name + "_bucket))":   fmt.Sprintf("%g * histogram_quantile(0.9, sum by (le) (%s))", v.Scale, suffix("_bucket")),
					"sum(" + v.Name + "_bucket{le=\"+Inf\"})":                        "sum(" + suffix("_count") + ")",
					"sum(" + v.Name + fmt.Sprintf("_bucket{le=\"%g\"})", v.Scale/64): "sum(" + v.Of + "_bucket{" + strings.Join(append(conditions, `le="0.015625"`), ",") + "})",
				}
			}
			if v.Scale == 1 {
				pairs["histogram_count(sum("+v.Name+"))"] = "histogram_count(sum(" + of + "))"
			}
			for view, stored := range pairs {
				got, want := scalar(t, db, at, view), scalar(t, db, at, stored)
				if want < 0 || got < want*0.999999 || got > want*1.000001 {
					t.Errorf("%s is %v, %s is %v", view, got, stored, want)
				}
			}
			for _, keep := range []bool{true, false} { // each label that a view has is asked for, as it is and as it is not
				for _, s := range ask(t, db, at, v.Name+map[bool]string{true: "", false: "_count"}[v.Scale == 0]) {
					s.Metric.Range(func(l labels.Label) {
						if l.Name == model.MetricNameLabel {
							return
						}
						op := map[bool]string{true: "=", false: "!="}[keep]
						q := fmt.Sprintf("%s{%s%s%q}", s.Metric.Get(model.MetricNameLabel), l.Name, op, l.Value)
						found := slices.ContainsFunc(ask(t, db, at, q), func(x promql.Sample) bool { return labels.Equal(x.Metric, s.Metric) })
						if found != keep {
							t.Fatalf("%s finds %s: %t", q, s.Metric, found)
						}
					})
					break
				}
			}
		}
	}
}

// What Kiali and Istio's boards ask.
func TestIstioViews(t *testing.T) {
	db, at := viewed(t, 1)
	for istio, ours := range map[string]string{
		`sum(istio_requests_total{reporter="destination", destination_service_name="catalog", response_code=~"5.*"})`: `sum(tulle_requests_total{side="server", destination="catalog", code_class="5xx"})`,
		`sum(istio_requests_total{reporter="source", source_workload="web", response_flags="UF"})`:                    `sum(tulle_requests_total{side="client", source="web", reason=~"connect_refused|connect_timeout"})`,
		`sum(istio_requests_total{request_protocol="http", response_code!="0"})`:                                      `sum(tulle_requests_total{protocol=~"http/1.1|h2", code_class!="none"})`,
		`sum(istio_requests_total{grpc_response_status="14"})`:                                                        `sum(tulle_requests_total{grpc_response_status="UNAVAILABLE"})`,
		`sum(istio_requests_total{source_workload_namespace="unknown", response_flags="-"})`:                          `sum(tulle_requests_total{reason=~"|upstream_5xx|draining"})`,
		`sum(istio_tcp_sent_bytes_total{reporter="source"})`:                                                          `sum(tulle_bytes_total{side="client", direction="out", protocol=~"tcp|tls"})`,
	} {
		if got, want := scalar(t, db, at, istio), scalar(t, db, at, ours); got != want || want <= 0 {
			t.Errorf("%s is %v, %s is %v", istio, got, ours, want)
		}
	}
}

func TestOpenTelemetryViews(t *testing.T) {
	db, at := viewed(t, 2)
	for otel, ours := range map[string]string{
		`sum(http_server_request_duration_seconds_count{job="catalog", error_type="500"})`:                                               `sum(tulle_request_duration_seconds_count{side="server", destination="catalog", code_class="5xx"})`,
		`sum(http_client_request_duration_seconds_count{service_name="web", server_address="pay", network_protocol_version="2"})`:        `sum(tulle_request_duration_seconds_count{side="client", source="web", destination="pay", protocol=~"h2|grpc"})`,
		`count(http_server_request_duration_seconds_count{http_response_status_code=""})`:                                                `count(tulle_request_duration_seconds_count{side="server", code_class="none"})`,
		`sum(http_server_request_duration_seconds_bucket{le="0.015625", network_protocol_name="http", http_response_status_code="200"})`: `sum(tulle_request_duration_seconds_bucket{side="server", le="0.015625", protocol=~"http/1.1|h2|grpc", code_class="2xx"})`,
	} {
		if got, want := scalar(t, db, at, otel), scalar(t, db, at, ours); got != want || want <= 0 {
			t.Errorf("%s is %v, %s is %v", otel, got, ours, want)
		}
	}
}

// Names and values of labels, as a board's variables ask for them.
func TestLabelsOfViews(t *testing.T) {
	db, at := viewed(t, 3)
	q, err := db.Querier(at.Add(-time.Minute).UnixMilli(), at.UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	has := func(name string, want []string, ms ...*labels.Matcher) {
		t.Helper()
		got, _, err := q.LabelValues(t.Context(), name, nil, ms...)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("%s has %v, not %s", name, got, w)
			}
		}
	}
	has("__name__", []string{"istio_requests_total", "istio_request_duration_milliseconds_bucket", "http_server_request_duration_seconds", "tulle_requests_total"})
	has("source_workload", []string{"web", "cart"})
	has("reporter", []string{"source", "destination"})
	has("response_code", []string{"0", "200", "500"}, where("__name__", "istio_requests_total")...)
	has("le", []string{"0.244140625", "+Inf"}, where("__name__", "istio_request_duration_milliseconds_bucket")...)
	if got, _, err := q.LabelValues(t.Context(), "side", nil, where("__name__", "istio_requests_total")...); err != nil || len(got) > 0 {
		t.Errorf("a label of ours under Istio's name: %v, %v", got, err)
	}
	names, _, err := q.LabelNames(t.Context(), nil, where("__name__", "istio_requests_total", "reporter", "source")...)
	if err != nil || !slices.Contains(names, "destination_service") || slices.Contains(names, "destination") {
		t.Errorf("%v, %v", names, err)
	}
}
