package jaegerapi

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

var epoch = dashboardtest.Epoch

func mux(t *testing.T) *http.ServeMux {
	t.Helper()
	s := dashboardtest.NewSpans()
	s.Put(dashboardtest.TraceID(1), epoch,
		dashboardtest.SpanSpec{ID: "a", Service: "web", Name: "GET catalog", Kind: ptrace.SpanKindClient, End: 30 * time.Millisecond, Attr: map[string]any{
			"http.response.status_code": 503, flow.AttrReason: "upstream_5xx", "ratio": 0.5, "ok": false,
		}, Error: "catalog answered 503"},
		dashboardtest.SpanSpec{ID: "b", Parent: "a", Service: "catalog", Name: "GET /items", Kind: ptrace.SpanKindServer, Start: 2 * time.Millisecond, End: 28 * time.Millisecond},
	)
	s.Put(dashboardtest.TraceID(2), epoch.Add(-time.Minute),
		dashboardtest.SpanSpec{ID: "a", Service: "web", Name: "GET cart", Kind: ptrace.SpanKindClient, End: 3 * time.Millisecond})
	extra := ptrace.NewTraces()
	rs := extra.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "app")
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName("net/http")
	ss.Scope().SetVersion("1.2")
	sp := ss.Spans().AppendEmpty()
	sp.SetTraceID(pcommon.TraceID(dashboardtest.TraceID(3)))
	sp.SetSpanID(pcommon.SpanID{1, 2, 3, 4, 5, 6, 7, 8})
	sp.SetName("work")
	sp.SetKind(ptrace.SpanKindInternal)
	sp.Status().SetCode(ptrace.StatusCodeOk)
	sp.TraceState().FromRaw("k=v")
	sp.SetStartTimestamp(pcommon.NewTimestampFromTime(epoch.Add(-time.Hour)))
	sp.SetEndTimestamp(pcommon.NewTimestampFromTime(epoch.Add(-time.Hour + 1500*time.Microsecond)))
	sp.Attributes().PutEmptyBytes("raw").FromRaw([]byte{1, 2})
	sp.Attributes().PutInt("big", 1<<60)
	e := sp.Events().AppendEmpty()
	e.SetName("cache miss")
	e.SetTimestamp(pcommon.NewTimestampFromTime(epoch.Add(-time.Hour + time.Millisecond)))
	e.Attributes().PutStr("key", "42")
	l := sp.Links().AppendEmpty()
	l.SetTraceID(pcommon.TraceID(dashboardtest.TraceID(1)))
	l.SetSpanID(pcommon.SpanID(dashboardtest.ID8(dashboardtest.TraceID(1), "a")))
	if err := s.Write(context.Background(), extra); err != nil {
		t.Fatal(err)
	}
	m := http.NewServeMux()
	Register(m, &source.Sources{Spans: s, Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch }})
	return m
}

const window = "query.startTimeMin=2026-11-20T00:00:00Z&query.startTimeMax=2026-11-21T00:00:00Z"

func TestGolden(t *testing.T) {
	m := mux(t)
	id := func(n int) string { return dashboardtest.TraceID(n).String() }
	for _, c := range []struct{ name, path string }{
		{"services", "/api/services"},
		{"service_operations", "/api/services/web/operations"},
		{"operations", "/api/operations?service=web&spanKind=client"},
		{"operations_no_service", "/api/operations"},
		{"trace", "/api/traces/" + id(1)},
		{"trace_rich", "/api/traces/" + id(3)},
		{"trace_absent", "/api/traces/" + id(9)},
		{"trace_bad", "/api/traces/xyz"},
		{"search", "/api/traces?service=web&limit=1&lookback=1h&start=1700000000000000&minDuration=1ms&maxDuration=10s"},
		{"search_tags", `/api/traces?service=web&tags={"http.response.status_code":"503","error":"true"}&tag=tulle.reason:upstream_5xx`},
		{"search_ids", "/api/traces?traceID=" + id(2) + "&traceID=" + id(9)},
		{"search_none", "/api/traces?service=web&operation=none"},
		{"search_no_service", "/api/traces"},
		{"search_bad_tag", "/api/traces?service=web&tag=nocolon"},
		{"search_bad_range", "/api/traces?service=web&minDuration=2s&maxDuration=1s"},
		{"dependencies", "/api/dependencies?endTs=1795185127000&lookback=600000&service=checkout"},
		{"v3_services", "/api/v3/services"},
		{"v3_operations", "/api/v3/operations?service=catalog&span_kind=server"},
		{"v3_operations_no_service", "/api/v3/operations"},
		{"v3_trace", "/api/v3/traces/" + id(1)},
		{"v3_trace_absent", "/api/v3/traces/" + id(9)},
		{"v3_search", "/api/v3/traces?query.serviceName=web&query.searchDepth=1&" + window},
		{"v3_search_snake", "/api/v3/traces?query.service_name=web&query.num_traces=1&query.attributes={%22error%22:%22true%22}&" + window},
		{"v3_search_none", "/api/v3/traces?query.serviceName=none&" + window},
		{"v3_search_no_time", "/api/v3/traces?query.serviceName=web"},
		{"v3_summaries", "/api/v3/trace-summaries?query.serviceName=web&" + window},
		{"v3_summaries_none", "/api/v3/trace-summaries?query.serviceName=none&" + window},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, strings.NewReplacer(`{"`, "%7B%22", `"}`, "%22%7D", `"`, "%22").Replace(c.path), nil)
			w := httptest.NewRecorder()
			m.ServeHTTP(w, r)
			var buf bytes.Buffer
			fmt.Fprintf(&buf, "GET %s\n%d %s\n", c.path, w.Code, w.Header().Get("Content-Type"))
			if err := json.Indent(&buf, w.Body.Bytes(), "", "  "); err != nil {
				t.Fatalf("not JSON: %v\n%s", err, w.Body)
			}
			buf.WriteByte('\n')
			file := filepath.Join("testdata", c.name+".txt")
			if *rewrite {
				if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v; write it with: go test ./dashboard/jaegerapi -rewrite", err)
			}
			if !bytes.Equal(want, buf.Bytes()) {
				t.Errorf("differs from %s:\n%s", file, buf.Bytes())
			}
		})
	}
}

// What Jaeger's UI and Grafana see of a gRPC call: the conventions' attributes as tags, and an error although the HTTP status is 200.
func TestGRPCTags(t *testing.T) {
	s := dashboardtest.NewSpans()
	dashboardtest.Fill(s, 8, epoch)
	m := http.NewServeMux()
	Register(m, &source.Sources{Spans: s, Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch }})
	for _, path := range []string{
		"/api/traces/" + dashboardtest.TraceID(7).String(), `/api/traces?service=pricing&tags=%7B%22rpc.response.status_code%22:%22UNAVAILABLE%22%7D`,
	} {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		var got struct {
			Data []struct {
				Spans []struct {
					OperationName string
					Tags          []struct {
						Key   string
						Value any
					}
				}
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Data) != 1 {
			t.Fatalf("%s: %v: %s", path, err, w.Body.String())
		}
		failed := 0
		for _, sp := range got.Data[0].Spans {
			tags := map[string]any{}
			for _, tag := range sp.Tags {
				tags[tag.Key] = tag.Value
			}
			if tags["rpc.response.status_code"] == "UNAVAILABLE" {
				failed++
				if tags["rpc.system.name"] != "grpc" || tags["rpc.method"] != "shop.v1.Pricing/Quote" || tags["error"] != true || tags["http.response.status_code"] != 200.0 {
					t.Errorf("%s: %s has %v", path, sp.OperationName, tags)
				}
			}
		}
		if failed != 3 {
			t.Errorf("%s: %d spans failed, want 3", path, failed)
		}
	}
}
