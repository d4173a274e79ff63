package tempoapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/span/local"
	"github.com/tulle-mesh/tulle/store/storetest"
)

var epoch = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// mux serves a real store with three traces: 1 of web and cart, with a failure, a second later 2 of web, and 3, of which the root is missing.
func mux(t *testing.T) *http.ServeMux {
	t.Helper()
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, s := range []storetest.Span{
		{Trace: 1, ID: 1, Service: "web", Name: "GET /", Kind: ptrace.SpanKindServer, Start: epoch, Duration: 200 * time.Millisecond, Attrs: map[string]any{"http.response.status_code": int64(200), "tenant": "blue"}, Res: map[string]any{"zone": "a"}},
		{Trace: 1, ID: 2, Parent: 1, Service: "cart", Name: "GET /cart", Kind: ptrace.SpanKindServer, Start: epoch.Add(time.Millisecond), Duration: 150 * time.Millisecond, Error: true, Attrs: map[string]any{"http.response.status_code": int64(503)}},
		{Trace: 2, ID: 3, Service: "web", Name: "GET /", Kind: ptrace.SpanKindServer, Start: epoch.Add(time.Second), Duration: 20 * time.Millisecond, Attrs: map[string]any{"http.response.status_code": int64(200), "tenant": "a \"b\""}},
		{Trace: 3, ID: 4, Parent: 9, Service: "job", Name: "work", Kind: ptrace.SpanKindInternal, Start: epoch.Add(2 * time.Second), Duration: 2 * time.Millisecond},
	} {
		if err := db.Write(t.Context(), storetest.Batch(s)); err != nil {
			t.Fatal(err)
		}
	}
	m := http.NewServeMux()
	Register(m, &source.Sources{Spans: db, Now: func() time.Time { return epoch.Add(time.Minute) }})
	return m
}

func get(t *testing.T, m http.Handler, path string, header ...string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, Prefix+path, nil)
	if len(header) > 0 {
		r.Header.Set("Accept", header[0])
	}
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestAnswers(t *testing.T) {
	m := mux(t)
	one, two := storetest.TraceID(1).String(), storetest.TraceID(2).String()
	for path, want := range map[string]string{
		"/api/echo":             "echo",
		"/ready":                "ready\n",
		"/api/status/buildinfo": `{"branch":"tulle","revision":"tulle","version":"2.6.0"}`,
		"/api/search?q=" + url.QueryEscape(`{ status = error } | select(span.http.response.status_code, resource.service.name)`) + "&limit=5&spss=1": `{"traces":[{"traceID":"` + one +
			`","rootServiceName":"web","rootTraceName":"GET /","startTimeUnixNano":"1795176000000000000","durationMs":200,"spanSet":{"spans":[{"spanID":"0000000000000002","name":"GET /cart","startTimeUnixNano":"1795176000001000000","durationNanos":"150000000","attributes":[{"key":"status","value":{"stringValue":"error"}},{"key":"http.response.status_code","value":{"intValue":"503"}},{"key":"service.name","value":{"stringValue":"cart"}}]}],"matched":1},"spanSets":[{"spans":[{"spanID":"0000000000000002","name":"GET /cart","startTimeUnixNano":"1795176000001000000","durationNanos":"150000000","attributes":[{"key":"status","value":{"stringValue":"error"}},{"key":"http.response.status_code","value":{"intValue":"503"}},{"key":"service.name","value":{"stringValue":"cart"}}]}],"matched":1}],"serviceStats":{"cart":{"spanCount":1,"errorCount":1},"web":{"spanCount":1}}}],"metrics":{"inspectedTraces":1,"completedJobs":1,"totalJobs":1}}`,
		"/api/search?tags=" + url.QueryEscape(`tenant="a \"b\"" http.response.status_code=200 service.name=web`): `{"traces":[{"traceID":"` + two +
			`","rootServiceName":"web","rootTraceName":"GET /","startTimeUnixNano":"1795176001000000000","durationMs":20,"serviceStats":{"web":{"spanCount":1}}}],"metrics":{"inspectedTraces":1,"completedJobs":1,"totalJobs":1}}`,
		"/api/search/tags":                                         `{"metrics":{},"tagNames":["http.response.status_code","service.name","tenant","zone"]}`,
		"/api/search/tags?scope=resource":                          `{"metrics":{},"tagNames":["service.name","zone"]}`,
		"/api/v2/search/tags?scope=span":                           `{"metrics":{},"scopes":[{"name":"span","tags":["http.response.status_code","tenant"]}]}`,
		"/api/search/tag/service.name/values":                      `{"metrics":{},"tagValues":["cart","job","web"]}`,
		"/api/search/tag/http.response.status_code/values":         `{"metrics":{},"tagValues":["200","503"]}`,
		"/api/v2/search/tag/span.http.response.status_code/values": `{"metrics":{},"tagValues":[{"type":"int","value":"200"},{"type":"int","value":"503"}]}`,
		"/api/v2/search/tag/.tenant/values?limit=1":                `{"metrics":{},"tagValues":[{"type":"string","value":"a \"b\""}]}`,
		"/api/v2/search/tag/status/values":                         `{"metrics":{},"tagValues":[{"type":"keyword","value":"error"},{"type":"keyword","value":"ok"},{"type":"keyword","value":"unset"}]}`,
		"/api/v2/search/tag/name/values?q=" + url.QueryEscape(`{ resource.service.name = "cart" }`):                                                  `{"metrics":{},"tagValues":[{"type":"string","value":"GET /cart"}]}`,
		"/api/v2/search/tag/span.nowhere/values":                                                                                                     `{"metrics":{},"tagValues":[]}`,
		"/api/metrics/query_range?start=1795176000&end=1795176004&step=2s&q=" + url.QueryEscape(`{} | count_over_time() by (resource.service.name)`): `{"series":[{"labels":[{"key":"resource.service.name","value":{"stringValue":"cart"}}],"samples":[{"timestampMs":"1795176000000","value":1},{"timestampMs":"1795176002000","value":0}],"promLabels":"{resource.service.name=\"cart\"}"},{"labels":[{"key":"resource.service.name","value":{"stringValue":"job"}}],"samples":[{"timestampMs":"1795176000000","value":0},{"timestampMs":"1795176002000","value":1}],"promLabels":"{resource.service.name=\"job\"}"},{"labels":[{"key":"resource.service.name","value":{"stringValue":"web"}}],"samples":[{"timestampMs":"1795176000000","value":2},{"timestampMs":"1795176002000","value":0}],"promLabels":"{resource.service.name=\"web\"}"}],"metrics":{"inspectedTraces":3,"completedJobs":1,"totalJobs":1}}`,
		"/api/metrics/query?start=1795176000&end=1795176004&q=" + url.QueryEscape(`{} | rate()`):                                                     `{"series":[{"labels":[],"promLabels":"{}","value":1}],"metrics":{"inspectedTraces":3,"completedJobs":1,"totalJobs":1}}`,
	} {
		if code, got := get(t, m, path); code != http.StatusOK || got != want {
			t.Errorf("%s: %d\n got %s\nwant %s", path, code, got, want)
		}
	}
}

func TestSearchBounds(t *testing.T) {
	m := mux(t)
	for path, want := range map[string]int{
		"/api/search":                                 3,
		"/api/search?limit=2":                         2,
		"/api/search?q={}&limit=100000":               3,
		"/api/search?minDuration=100ms":               1,
		"/api/search?maxDuration=50ms":                2,
		"/api/search?start=1795176001&end=1795176002": 1,
		"/api/search?start=2026-11-20T12:00:01Z":      2,
		"/api/search?tags=error%3Dtrue":               1,
		"/api/search?tags=status%3Derror":             1,
		"/api/search?tags=root.service.name%3Dweb":    2,
	} {
		code, body := get(t, m, path)
		var a struct {
			Traces []struct{ TraceID, RootServiceName string }
		}
		if err := json.Unmarshal([]byte(body), &a); err != nil || code != http.StatusOK || len(a.Traces) != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
		if path == "/api/search" && (a.Traces[0].RootServiceName != rootMissing || a.Traces[2].TraceID != storetest.TraceID(1).String()) {
			t.Errorf("newest first, and without its root: %s", body)
		}
	}
}

func TestTraceByID(t *testing.T) {
	m := mux(t)
	id := storetest.TraceID(1).String()
	var um ptrace.JSONUnmarshaler
	code, body := get(t, m, "/api/traces/"+id)
	if !strings.HasPrefix(body, `{"batches":`) {
		t.Fatalf("%d %s", code, body)
	}
	td, err := um.UnmarshalTraces([]byte(strings.Replace(body, "batches", "resourceSpans", 1)))
	if err != nil || td.SpanCount() != 2 {
		t.Errorf("%v %s", err, body)
	}
	var v2 struct {
		Trace  json.RawMessage
		Status string
	}
	_, body = get(t, m, "/api/v2/traces/"+id)
	if err := json.Unmarshal([]byte(body), &v2); err != nil || v2.Status != "COMPLETE" {
		t.Fatalf("%v %s", err, body)
	}
	if td, err = um.UnmarshalTraces(v2.Trace); err != nil || td.SpanCount() != 2 {
		t.Errorf("%v %s", err, body)
	}
	var pum ptrace.ProtoUnmarshaler
	_, body = get(t, m, "/api/traces/"+id, "application/protobuf")
	if td, err = pum.UnmarshalTraces([]byte(body)); err != nil || td.SpanCount() != 2 {
		t.Errorf("%v", err)
	}
	_, body = get(t, m, "/api/v2/traces/"+id, "application/protobuf")
	num, typ, n := protowire.ConsumeTag([]byte(body))
	inner, k := protowire.ConsumeBytes([]byte(body)[max(n, 0):])
	if num != 1 || typ != protowire.BytesType || n+k != len(body) {
		t.Fatalf("field %d, %d of %d bytes", num, n+k, len(body))
	}
	if td, err = pum.UnmarshalTraces(inner); err != nil || td.SpanCount() != 2 {
		t.Errorf("%v", err)
	}
}

func TestErrors(t *testing.T) {
	m := mux(t)
	for path, want := range map[string]struct {
		code int
		part string
	}{
		"/api/traces/xyz":                                 {400, "hex digits"},
		"/api/traces/0123":                                {404, "not found"},
		"/api/v2/traces/0123":                             {404, "not found"},
		"/api/search?limit=x":                             {400, `invalid limit "x"`},
		"/api/search?start=x":                             {400, "unix seconds"},
		"/api/search?minDuration=x":                       {400, "250ms"},
		"/api/search?tags=x":                              {400, "key=value"},
		"/api/search?tags=x%3D%22y":                       {400, "not closed"},
		"/api/search?q=%7B%20foo%20%7D":                   {400, "column 3"},
		"/api/search?q=rate()":                            {400, "query_range"},
		"/api/search/tags?scope=x":                        {400, "resource"},
		"/api/v2/search/tag/tenant/values":                {400, "span.http.route"},
		"/api/metrics/query_range?q=%7B%7D":               {400, "rate()"},
		"/api/metrics/query_range?q=rate()&start=5&end=4": {400, "before end"},
		"/api/metrics/query_range?q=rate()&step=1ms":      {400, "step"},
	} {
		code, body := get(t, m, path)
		if code != want.code || !strings.Contains(body, want.part) {
			t.Errorf("%s: %d %s, want %d %q", path, code, body, want.code, want.part)
		}
	}
}

func FuzzTagQuery(f *testing.F) {
	f.Add(`a=b c="d e" status=error`)
	f.Fuzz(func(_ *testing.T, s string) { _, _ = tagQuery(s) })
}
