package tulleapi

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/tap"
	"github.com/tulle-mesh/tulle/store/why"
)

func mux(t *testing.T) (*http.ServeMux, *dashboardtest.Spans) {
	t.Helper()
	s, stop, err := dashboardtest.Sources("", func() time.Time { return dashboardtest.Epoch })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	m := http.NewServeMux()
	Register(m, &s, func() map[string]any { return map[string]any{"nodes": "must not replace", "more": 1} })
	return m, s.Spans.(*dashboardtest.Spans)
}

func get(m http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestEndpoints(t *testing.T) {
	m, _ := mux(t)
	id := dashboardtest.TraceID(3).String()
	for _, c := range []struct {
		path   string
		status int
		has    []string
	}{
		{"/api/tulle/v1/graph", 200, []string{`"nodes":[`, `"id":"catalog"`, `"errorRatio"`}},
		{"/api/tulle/v1/graph?at=2026-11-20T14:00:00Z", 200, []string{`"sequence":0`}},
		{"/api/tulle/v1/graph?at=yesterday", 400, []string{`"retry":false`, "yesterday"}},
		{"/api/tulle/v1/graph?at=2019-11-20T14:00:00Z", 404, []string{"nothing is known of that time"}},
		{"/api/tulle/v1/graph/diff?from=2026-11-20T14:00:00Z&to=2026-11-20T14:10:00Z", 200, []string{`"from":"2026-11-20T14:00:00Z"`, `"edges":[`}},
		{"/api/tulle/v1/graph/diff?from=2026-11-20T14:00:00Z", 200, []string{`"to":`, `"nodes":[`}},
		{"/api/tulle/v1/graph/diff?to=2026-11-20T14:00:00Z", 400, []string{"from", "2026-11-20T14:30:00Z"}},
		{"/api/tulle/v1/graph/diff?from=1.5", 404, []string{"nothing is known"}},
		{"/api/tulle/v1/traces?limit=2&status=error", 200, []string{`"traceId":"` + id, `"next":"`, `"errors":2`}},
		{"/api/tulle/v1/traces?source=web&destination=catalog&reason=upstream_5xx&min=1ms&tags=http.response.status_code%3D503", 200, []string{id}},
		{"/api/tulle/v1/traces?limit=0", 400, []string{"limit"}},
		{"/api/tulle/v1/traces/" + id, 200, []string{`"resourceSpans"`, `"tulle.reason"`}},
		{"/api/tulle/v1/traces/" + strings.Repeat("b", 32), 404, []string{"not found"}},
		{"/api/tulle/v1/traces/nope", 400, []string{"32 hex digits"}},
		{"/api/tulle/v1/events?limit=1", 200, []string{`"alert.firing"`, `"next":"01K`}},
		{"/api/tulle/v1/events?kind=endpoint.ejected&service=catalog", 200, []string{`"evidence"`}},
		{"/api/tulle/v1/events?limit=x", 400, nil},
		{"/api/tulle/v1/alerts", 200, []string{`"firing"`}},
		{"/api/tulle/v1/alerts/deliveries", 200, []string{`"state":"retrying"`, `"attempts":4`, `"receiver":"on-call"`}},
		{"/api/tulle/v1/rules", 200, []string{`"ServiceErrorRatio"`}},
		{"/api/tulle/v1/proxies", 200, []string{`"acked":"r42"`, `"partial":false`}},
		{"/api/tulle/v1/services", 200, []string{`"catalog"`, `"stock-db"`}},
		{"/api/tulle/v1/services/catalog", 200, []string{`"callers":[{`, `"state":"ejected"`, `"operations":[{`}},
		{"/api/tulle/v1/services/nobody", 404, []string{"nobody"}},
		{"/api/tulle/v1/stats", 200, []string{`"bytesPerSpan"`, `"nodes":18`, `"more":1`}},
		{"/api/tulle/v1/why/" + id, 200, []string{`"outcome":"recovered"`, `"reason":"upstream_5xx"`, `"by":"application"`, `"tries":[`}},
		{"/api/tulle/v1/why/" + id + "?span=zz", 400, []string{"16 hex digits"}},
		{"/api/tulle/v1/why/" + id + "?span=ffffffffffffffff", 404, []string{"no Record of a sidecar with span ffffffffffffffff"}},
		{"/api/tulle/v1/why/" + strings.Repeat("b", 32), 404, []string{"not found"}},
		{"/api/tulle/v1/why/bbbbbbbbbbbbbbbb", 404, []string{"no stored span"}},
		{"/api/tulle/v1/why/no-such-request", 404, []string{"no stored span has it as trace id, span id or x-request-id"}},
		{"/api/tulle/v1/why/" + strings.Repeat("x", 300), 400, []string{"a trace id, a span id or an x-request-id"}},
		{"/api/tulle/v1/traces?limit=2&match=" + url.QueryEscape(`path~"^/" and status>=500`), 200, []string{`"traceId":"`, `"next":"`}},
		{"/api/tulle/v1/traces?match=" + url.QueryEscape(`trace=`+id), 200, []string{id}},
		{"/api/tulle/v1/traces?match=colour", 400, []string{"column 1"}},
		{"/api/tulle/v1/requests?last=1h&limit=3&match=failed", 200, []string{`"failed":true`, `"looked":`}},
		{"/api/tulle/v1/requests?last=-1h", 400, []string{"last"}},
		{"/api/tulle/v1/requests?side=left", 400, []string{"client, server or both"}},
		{"/api/tulle/v1/requests?budget=0", 400, []string{"budget"}},
		{"/api/tulle/v1/requests/count?last=1h&by=dst,reason&sort=errors", 200, []string{`"by":["dst","reason"]`, `"errorRatio":`}},
		{"/api/tulle/v1/requests/count?by=colour", 400, []string{"there is no such field"}},
		{"/api/tulle/v1/tap?match=(", 400, []string{"column"}},
		{"/api/tulle/v1/tap", 500, []string{"cannot be watched here"}},
		{"/api/tulle/v1/other", 404, []string{"http-api.md"}},
	} {
		w := get(m, c.path)
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d: %.200s", c.path, w.Code, c.status, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: not JSON", c.path)
		}
		for _, want := range c.has {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: no %s in %.400s", c.path, want, w.Body)
			}
		}
	}
}

// TestPagingVisitsEverythingOnce walks the cursor to the end.
func TestPagingVisitsEverythingOnce(t *testing.T) {
	m, _ := mux(t)
	seen, cursor := map[string]bool{}, ""
	var last time.Time
	for pages := 0; ; pages++ {
		var p store.TracePage
		if err := json.Unmarshal(get(m, "/api/tulle/v1/traces?limit=50&cursor="+cursor).Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		for _, tr := range p.Traces {
			if seen[tr.ID] {
				t.Fatalf("%s came twice", tr.ID)
			}
			if !last.IsZero() && tr.Start.After(last) {
				t.Errorf("%s is newer than the one before", tr.ID)
			}
			seen[tr.ID], last = true, tr.Start
		}
		if cursor = p.Next; cursor == "" {
			break
		}
		if pages > 10 {
			t.Fatal("paging does not end")
		}
	}
	if len(seen) != 220 {
		t.Errorf("saw %d of 220 traces", len(seen))
	}
}

func TestErrorsMapToStatus(t *testing.T) {
	m, spans := mux(t)
	for err, want := range map[error]int{store.ErrBusy: 503, store.ErrClosed: 503, context.DeadlineExceeded: 503, store.ErrBadQuery: 400, store.ErrFull: 500} {
		spans.Fail = err
		w := get(m, "/api/tulle/v1/traces")
		var p Problem
		if e := json.Unmarshal(w.Body.Bytes(), &p); e != nil || w.Code != want || p.Error.Status != want || p.Error.Retry != (want == 503) {
			t.Errorf("%v: status %d, body %s", err, w.Code, w.Body)
		}
	}
}

func TestStreamIsOneSnapshotPerLine(t *testing.T) {
	tick := make(chan time.Time)
	m := http.NewServeMux()
	Register(m, &source.Sources{Spans: dashboardtest.NewSpans(), Graph: &dashboardtest.Graph{Ticks: tick}}, nil)
	srv := httptest.NewServer(m)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/api/tulle/v1/graph/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	for range 2 {
		if !sc.Scan() {
			t.Fatal(sc.Err())
		}
		var s graph.Snapshot
		if err := json.Unmarshal(sc.Bytes(), &s); err != nil || len(s.Nodes) == 0 {
			t.Fatalf("%v in %.100s", err, sc.Text())
		}
		select {
		case tick <- time.Time{}:
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
}

// A hop is asked about by the id of any of its spans, and of a request id the first hop is meant.
func TestWhyBySpanAndRequestID(t *testing.T) {
	m, spans := mux(t)
	td, err := spans.Trace(t.Context(), dashboardtest.TraceID(3))
	if err != nil {
		t.Fatal(err)
	}
	var whole, part why.Explanation
	if err := json.Unmarshal(get(m, "/api/tulle/v1/why/"+dashboardtest.TraceID(3).String()).Body.Bytes(), &whole); err != nil || len(whole.Hops) < 2 {
		t.Fatalf("%v: %+v", err, whole)
	}
	deeper := whole.Hops[1].Span
	if err := json.Unmarshal(get(m, "/api/tulle/v1/why/"+deeper).Body.Bytes(), &part); err != nil || part.TraceID != whole.TraceID || part.Hops[0].Span != deeper {
		t.Errorf("%v: by span %s: %+v", err, deeper, part)
	}
	td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().PutStr(flow.AttrRequestID, "the-request")
	if err := spans.Write(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	if w := get(m, "/api/tulle/v1/why/the-request"); w.Code != 200 || !strings.Contains(w.Body.String(), whole.TraceID) {
		t.Errorf("by request id: %d %s", w.Code, w.Body)
	}
}

// Live requests come one per line; what is too much is told.
func TestTap(t *testing.T) {
	live := tap.New(dashboardtest.NewSpans())
	m := http.NewServeMux()
	Register(m, &source.Sources{Spans: live, Tap: live, Graph: &dashboardtest.Graph{}}, nil)
	srv := httptest.NewServer(m)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/api/tulle/v1/tap?rate=2&match="+url.QueryEscape("dst=cart"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	sc := bufio.NewScanner(resp.Body)
	if !sc.Scan() || sc.Text() != "{}" {
		t.Fatalf("it does not begin: %q %v", sc.Text(), sc.Err())
	}
	td := ptrace.NewTraces()
	spans := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for i := range 6 {
		s := spans.AppendEmpty()
		s.SetTraceID([16]byte{1})
		s.SetSpanID([8]byte{1, byte(i)})
		s.Attributes().PutStr(flow.AttrKind, "exchange")
		s.Attributes().PutStr(flow.AttrSide, "client")
		s.Attributes().PutStr(flow.AttrDestService, []string{"cart", "catalog"}[i/4]) // four and two
	}
	if err := live.Write(ctx, td); err != nil {
		t.Fatal(err)
	}
	shown, dropped := 0, uint64(0)
	for dropped == 0 && sc.Scan() {
		var line struct {
			Request *struct {
				Dest string `json:"dst"`
			} `json:"request"`
			Dropped uint64 `json:"dropped"`
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", sc.Text(), err)
		}
		if line.Request != nil {
			if shown++; line.Request.Dest != "cart" {
				t.Errorf("shown: %s", sc.Text())
			}
		}
		dropped += line.Dropped
	}
	if shown != 2 || dropped != 2 {
		t.Errorf("%d shown, %d told to be dropped; want 2 and 2: %v", shown, dropped, sc.Err())
	}
}
