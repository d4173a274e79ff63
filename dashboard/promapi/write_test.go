package promapi

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/metric"
)

// serve serves the API over an empty store.
func serve(t *testing.T) *httptest.Server {
	t.Helper()
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	Register(mux, &source.Sources{Metrics: source.Metrics{Queryable: db, Exemplars: db, Engine: db.Engine(), Outside: db.Outside()}}, slog.New(slog.DiscardHandler))
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

func post(t *testing.T, u string, header map[string]string, body []byte) (status int, h http.Header, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func ask(t *testing.T, base, query string) string {
	t.Helper()
	_, _, body := post(t, base+"/api/v1/query", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, []byte(url.Values{"query": {query}}.Encode()))
	return body
}

func marshal(t *testing.T, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func series(now int64, pairs ...string) prompb.TimeSeries {
	ts := prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: now, Value: 42}}}
	for i := 0; i < len(pairs); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return ts
}

var v1Header = map[string]string{"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}

func TestRemoteWriteOne(t *testing.T) {
	srv := serve(t)
	now := time.Now().UnixMilli()
	write := func(ts ...prompb.TimeSeries) (int, string) {
		status, _, said := post(t, srv.URL+writePath, v1Header, snappy.Encode(nil, marshal(t, &prompb.WriteRequest{Timeseries: ts})))
		return status, said
	}
	if status, said := write(series(now, "__name__", "node_load1", "job", "node")); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, said)
	}
	status, said := write(series(now, "__name__", "tulle_requests_total", "source", "forged"), series(now, "__name__", "node_load5"))
	if status != http.StatusBadRequest || !strings.Contains(said, "1 samples of this request were not kept, the others were") || !strings.Contains(said, "tulle_requests_total") {
		t.Errorf("%d %s", status, said)
	}
	for query, want := range map[string]string{
		`node_load1{job="node"}`: `"42"`, `node_load5{job="remote_write"}`: `"42"`, `tulle_requests_total`: `"result":[]`,
	} {
		if got := ask(t, srv.URL, query); !strings.Contains(got, want) {
			t.Errorf("%s: no %s in %s", query, want, got)
		}
	}
	if status, _, _ := post(t, srv.URL+writePath, v1Header, []byte("nonsense")); status != http.StatusBadRequest {
		t.Errorf("nonsense: %d", status)
	}
	// A body may not say that it unpacks to gigabytes.
	if status, _, said := post(t, srv.URL+writePath, v1Header, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}); status != http.StatusBadRequest {
		t.Errorf("a bomb: %d %s", status, said)
	}
}

func TestRemoteWriteTwo(t *testing.T) {
	srv := serve(t)
	now := time.Now().UnixMilli()
	req := &writev2.Request{
		Symbols: []string{"", "__name__", "tulle_active", "queue_length", "instance", "a"},
		Timeseries: []writev2.TimeSeries{
			{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Timestamp: now, Value: 1}}},
			{LabelsRefs: []uint32{1, 3, 4, 5}, Samples: []writev2.Sample{{Timestamp: now, Value: 2}}},
		},
	}
	status, h, said := post(t, srv.URL+writePath, map[string]string{
		"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "2.0.0",
	}, snappy.Encode(nil, marshal(t, req)))
	if status != http.StatusBadRequest || h.Get("X-Prometheus-Remote-Write-Samples-Written") != "1" || !strings.Contains(said, "tulle_active") {
		t.Errorf("%d %v %s", status, h, said)
	}
	if got := ask(t, srv.URL, `queue_length{job="remote_write",instance="a"}`); !strings.Contains(got, `"2"`) {
		t.Error(got)
	}
}

func TestOTLPMetrics(t *testing.T) {
	srv := serve(t)
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "billing")
	for _, name := range []string{"jobs.done", "tulle.requests"} {
		m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		m.SetName(name)
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		p := sum.DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		p.SetIntValue(5)
	}
	req := pmetricotlp.NewExportRequestFromMetrics(md)
	body, err := req.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	status, _, said := post(t, srv.URL+otlpPath, map[string]string{"Content-Type": "application/x-protobuf"}, body)
	answer := pmetricotlp.NewExportResponse()
	if err := answer.UnmarshalProto([]byte(said)); err != nil || status != http.StatusOK {
		t.Fatalf("%d %v %q", status, err, said)
	}
	if p := answer.PartialSuccess(); p.RejectedDataPoints() != 1 || !strings.Contains(p.ErrorMessage(), "tulle_requests_total") {
		t.Errorf("partial success %d %q", p.RejectedDataPoints(), p.ErrorMessage())
	}
	if body, err = req.MarshalJSON(); err != nil {
		t.Fatal(err)
	}
	if status, h, said := post(t, srv.URL+otlpPath, map[string]string{"Content-Type": "application/json"}, body); status != http.StatusOK || h.Get("Content-Type") != "application/json" ||
		!strings.Contains(said, "rejectedDataPoints") {
		t.Errorf("%d %s", status, said)
	}
	if got := ask(t, srv.URL, `jobs_done_total{job="billing"}`); !strings.Contains(got, `"5"`) {
		t.Error(got)
	}
}

// Remote read gives what remote write took, in the older of its two forms.
func TestRemoteRead(t *testing.T) {
	srv := serve(t)
	now := time.Now().UnixMilli()
	if status, _, said := post(t, srv.URL+writePath, v1Header, snappy.Encode(nil, marshal(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{series(now, "__name__", "up", "job", "x")}}))); status/100 != 2 {
		t.Fatalf("%d %s", status, said)
	}
	status, _, body := post(t, srv.URL+"/api/v1/read", map[string]string{"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Read-Version": "0.1.0"},
		snappy.Encode(nil, marshal(t, &prompb.ReadRequest{Queries: []*prompb.Query{{
			StartTimestampMs: now - 1000, EndTimestampMs: now + 1000,
			Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "up"}},
		}}})))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	plain, err := snappy.Decode(nil, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	var resp prompb.ReadResponse
	if err := resp.Unmarshal(plain); err != nil {
		t.Fatal(err)
	}
	if len(resp.Results) != 1 || len(resp.Results[0].Timeseries) != 1 || resp.Results[0].Timeseries[0].Samples[0].Value != 42 {
		t.Errorf("%v", &resp)
	}
}
