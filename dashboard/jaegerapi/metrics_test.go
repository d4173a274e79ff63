package jaegerapi

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
)

// measured keeps an hour of series in which web calls catalog four times a second, one of them fails, and each takes about 40 ms (as the caller sees it 90 ms).
func measured(t *testing.T) *http.ServeMux {
	t.Helper()
	db, err := tsdb.Open(t.TempDir(), nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	const step = 5
	for n := 0; n <= 3600/step; n++ {
		at := epoch.Add(time.Duration(n*step-3600) * time.Second).UnixMilli()
		app := db.Appender(context.Background())
		name := func(name string, pairs ...string) labels.Labels {
			return labels.FromStrings(append([]string{model.MetricNameLabel, name, "destination", "catalog"}, pairs...)...)
		}
		count := func(perSecond float64, l labels.Labels) {
			if _, err := app.Append(0, l, at, perSecond*float64(n*step)); err != nil {
				t.Fatal(err)
			}
		}
		took := func(seconds float64, l labels.Labels) {
			c := float64(4 * n * step)
			h := &histogram.FloatHistogram{Schema: 3, ZeroThreshold: 1e-9, Count: c, Sum: c * seconds, PositiveBuckets: []float64{c}, PositiveSpans: []histogram.Span{
				{Offset: int32(math.Ceil(math.Log2(seconds) * 8)), Length: 1},
			}}
			if _, err := app.AppendHistogram(0, l, at, nil, h); err != nil {
				t.Fatal(err)
			}
		}
		for side, seconds := range map[string]float64{"server": .04, "client": .09} {
			edge := []string{"source", "web", "side", side, "protocol", "http"}
			count(3, name("tulle_requests_total", append(edge, "code_class", "2xx")...))
			count(1, name("tulle_requests_total", append(edge, "code_class", "5xx", "reason", "upstream_5xx")...))
			count(7, name("tulle_requests_total", append(edge, "code_class", "5xx", "probe", "true")...))
			count(1, name("tulle_request_failures_total", edge...))
			took(seconds, name("tulle_request_duration_seconds", append(edge, "code_class", "2xx")...))
		}
		for status, seconds := range map[string]float64{"STATUS_CODE_UNSET": .04, "STATUS_CODE_ERROR": .039} {
			took(seconds, labels.FromStrings(model.MetricNameLabel, "traces_spanmetrics_latency", "service", "catalog", "span_name", "GET /items/{id}", "span_kind", "SPAN_KIND_SERVER", "status_code", status))
		}
		took(.2, labels.FromStrings(model.MetricNameLabel, "traces_spanmetrics_latency", "service", "catalog", "span_name", "look up", "span_kind", "SPAN_KIND_INTERNAL", "status_code", "STATUS_CODE_UNSET"))
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	m := http.NewServeMux()
	Register(m, &source.Sources{
		Spans: dashboardtest.NewSpans(), Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch },
		Metrics: source.Metrics{Queryable: db, Engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: 20 * time.Second})},
	})
	return m
}

func ask1(m *http.ServeMux, path string) (int, string) {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestMetrics(t *testing.T) {
	m := measured(t)
	at := fmt.Sprintf("endTs=%d&lookback=60000&step=20000", epoch.UnixMilli())
	for _, c := range []struct {
		path, name, help string
		labels           string
		least, most      float64 // of every point
		none             bool
	}{
		{path: "calls?service=catalog", name: "service_call_rate", help: "calls/sec, grouped by service", labels: "service_name=catalog", least: 3.99, most: 4.01},
		{path: "calls?service=web&spanKind=client", name: "service_call_rate", labels: "service_name=web", least: 3.99, most: 4.01},
		{path: "calls?service=web", name: "service_call_rate", none: true}, // nobody calls it
		{path: "calls?service=cata.og", name: "service_call_rate", none: true},
		{path: "calls?service=catalog&spanKind=internal&spanKind=consumer", name: "service_call_rate", none: true},
		{path: "calls?service=catalog&ratePer=60000", name: "service_call_rate", labels: "service_name=catalog", least: 3.99, most: 4.01},
		{path: "calls?service=catalog&groupByOperation=true", name: "service_operation_call_rate", help: "calls/sec, grouped by service & operation", labels: "operation=GET /items/{id} service_name=catalog", least: 7.99, most: 8.01},
		{path: "calls?service=catalog&groupByOperation=true&spanKind=internal", name: "service_operation_call_rate", labels: "operation=look up service_name=catalog", least: 3.99, most: 4.01},
		{path: "errors?service=catalog&service=other", name: "service_error_rate", help: "error rate, computed as a fraction of errors/sec over calls/sec, grouped by service", labels: "service_name=catalog", least: .249, most: .251},
		{path: "errors?service=web&spanKind=client", name: "service_error_rate", labels: "service_name=web", least: .249, most: .251},
		{path: "errors?service=catalog&groupByOperation=1", name: "service_operation_error_rate", labels: "operation=GET /items/{id} service_name=catalog", least: .499, most: .501},
		{path: "errors?service=catalog&groupByOperation=1&spanKind=internal", name: "service_operation_error_rate", labels: "operation=look up service_name=catalog", least: 0, most: 0},
		{path: "latencies?service=catalog&quantile=0.95", name: "service_latencies", help: "0.95th quantile latency, grouped by service", labels: "service_name=catalog", least: 37, most: 44},
		{path: "latencies?service=web&quantile=0.5&spanKind=client", name: "service_latencies", labels: "service_name=web", least: 82, most: 99},
		{path: "latencies?service=catalog&quantile=.5&groupByOperation=t", name: "service_operation_latencies", labels: "operation=GET /items/{id} service_name=catalog", least: 37, most: 44},
	} {
		code, body := ask1(m, "/api/metrics/"+c.path+"&"+at)
		var got struct {
			Name, Type, Help string
			Metrics          []struct {
				Labels       []struct{ Name, Value string }
				MetricPoints []struct {
					GaugeValue struct{ DoubleValue *float64 }
					Timestamp  time.Time
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK || got.Name != c.name || got.Type != "GAUGE" || c.help != "" && got.Help != c.help {
			t.Errorf("%s: %d, %v: %s", c.path, code, err, body)
			continue
		}
		if c.none {
			if len(got.Metrics) != 0 {
				t.Errorf("%s: %s", c.path, body)
			}
			continue
		}
		if len(got.Metrics) != 1 || len(got.Metrics[0].MetricPoints) != 4 {
			t.Errorf("%s: want one series of four points: %s", c.path, body)
			continue
		}
		var ls []string
		for _, l := range got.Metrics[0].Labels {
			ls = append(ls, l.Name+"="+l.Value)
		}
		if s := strings.Join(ls, " "); s != c.labels {
			t.Errorf("%s: labels %q, want %q", c.path, s, c.labels)
		}
		for i, p := range got.Metrics[0].MetricPoints {
			if v := p.GaugeValue.DoubleValue; v == nil || *v < c.least || *v > c.most {
				t.Errorf("%s: %s", c.path, body)
				break
			}
			if want := epoch.Add(time.Duration(i-3) * 20 * time.Second); !p.Timestamp.Equal(want) {
				t.Errorf("%s: point %d is of %v, want %v", c.path, i, p.Timestamp, want)
			}
		}
	}
}

func TestMetricsRefused(t *testing.T) {
	m := measured(t)
	for path, want := range map[string]string{
		"calls":                                  "unable to parse param 'service': please provide at least one service name",
		"latencies?service=a":                    "unable to parse param 'quantile': ",
		"latencies?service=a&quantile=NaN":       "unable to parse param 'quantile': ",
		"latencies?quantile=1":                   "unable to parse param 'service': ",
		"calls?service=a&spanKind=foo":           "unable to parse param 'spanKind': unsupported span kind: 'foo'",
		"calls?service=a&groupByOperation=si":    "unable to parse param 'groupByOperation': ",
		"calls?service=a&endTs=x":                "unable to parse param 'endTs': ",
		"calls?service=a&lookback=-1":            "unable to parse param 'lookback': ",
		"errors?service=a&step=0":                "unable to parse param 'step': ",
		"errors?service=a&ratePer=1h":            "unable to parse param 'ratePer': ",
		"errors?service=a&step=1&lookback=1e9":   "unable to parse param 'lookback': ",
		"errors?service=a&step=1&lookback=9999":  "",
		"errors?service=a&step=1&lookback=99999": "unable to parse param 'step': a lookback of 1m39.999s has more than 11000 steps of 1ms",
	} {
		code, body := ask1(m, "/api/metrics/"+path)
		if want == "" {
			if code != http.StatusOK {
				t.Errorf("%s: %d %s", path, code, body)
			}
			continue
		}
		var got struct{ Errors []fault }
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusBadRequest || len(got.Errors) != 1 || !strings.HasPrefix(got.Errors[0].Msg, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, body := ask1(m, "/api/metrics/minstep"); code != http.StatusOK || body != `{"data":1,"total":0,"limit":0,"offset":0,"errors":null}` {
		t.Errorf("minstep: %d %s", code, body)
	}
	if code, body := ask1(mux(t), "/api/metrics/calls?service=a"); code != http.StatusNotImplemented || !strings.Contains(body, "metrics querying is currently disabled") {
		t.Errorf("without series: %d %s", code, body)
	}
}
