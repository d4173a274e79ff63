package dashboard

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shop(t *testing.T, dir string) source.Sources {
	t.Helper()
	s, stop, err := dashboardtest.Sources(dir, func() time.Time { return dashboardtest.Epoch })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func handler(t *testing.T, s source.Sources) http.Handler {
	t.Helper()
	d, err := New(Config{Sources: s})
	if err != nil {
		t.Fatal(err)
	}
	return d.Handler()
}

func get(t *testing.T, h http.Handler, path string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "127.0.0.1:8640"
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var everyPage = []string{
	"/", "/?at=2026-11-20T14:00:00Z", "/service/catalog", "/service/unmeshed", "/service/stock-db", "/edge?source=web&destination=catalog",
	"/edge?source=unmeshed&destination=gateway", "/edge?source=checkout&destination=mail", "/edge?source=reviews&destination=stock-db&protocol=tcp",
	"/edge?source=catalog&destination=pricing&protocol=grpc", "/traces?protocol=grpc&grpc=UNAVAILABLE", "/trace/" + dashboardtest.TraceID(7).String(),
	"/edge?source=gone&destination=gone", "/traces", "/traces?status=error&tags=http.response.status_code%3D503", "/events", "/events?kind=endpoint.ejected&service=catalog",
	"/alerts", "/proxies", "/trace/" + dashboardtest.TraceID(3).String(), "/trace/" + dashboardtest.TraceID(5).String(),
}

// inline finds what the content security policy would refuse.
var inline = regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script[^>]*>[^<]|javascript:`)

func TestEveryPage(t *testing.T) {
	h := handler(t, shop(t, t.TempDir()))
	for _, p := range everyPage {
		t.Run(p, func(t *testing.T) {
			w := get(t, h, p)
			body := w.Body.String()
			if w.Code != http.StatusOK {
				t.Fatalf("status %d: %.300s", w.Code, body)
			}
			if m := inline.FindString(body); m != "" {
				t.Errorf("the page has inline script or style: %q", m)
			}
			if !strings.Contains(body, "</html>") {
				t.Error("the page was cut off")
			}
			if n := strings.Count(body, "<h1"); n != 1 {
				t.Errorf("%d h1 elements", n)
			}
			if !strings.Contains(w.Header().Get("Content-Security-Policy"), "script-src 'self'") {
				t.Error("no content security policy")
			}
			seen := map[string]bool{}
			for _, m := range regexp.MustCompile(`\sid="([^"]+)"`).FindAllStringSubmatch(body, -1) {
				if seen[m[1]] {
					t.Errorf("id %q is used twice", m[1])
				}
				seen[m[1]] = true
			}
		})
	}
}

// A gRPC call that fails has the HTTP status 200: every page that shows calls says its gRPC status.
func TestGRPCIsShown(t *testing.T) {
	h := handler(t, shop(t, t.TempDir()))
	for path, want := range map[string][]string{
		"/": {`class="label-mark"`, ">gRPC</text>", `<td class="muted">grpc</td>`},
		"/edge?source=catalog&destination=pricing&protocol=grpc": {"How gRPC calls ended", "grpc=UNAVAILABLE", `<span class="tag bad">failure</span>`, "NOT_FOUND", "Messages in"},
		"/service/catalog": {`<td class="muted">grpc</td>`, `<td class="muted">http/1.1</td>`},
		"/trace/" + dashboardtest.TraceID(7).String():     {`<span class="tag bad">UNAVAILABLE</span>`, `<span class="tag">NOT_FOUND</span>`, "<dt>gRPC status</dt>", "<dt>Messages</dt><dd>1 in, 0 out</dd>", "rpc.method"},
		"/traces?status=error":                            {"matching spans", "a bar", `class="when-failed"`, "/traces?end=", "status=error"},
		"/traces?start=1000000000&end=2000000000":         {"Only ", `href="/traces">Any time`, `name="start" value="1000000000"`},
		"/traces?grpc=UNAVAILABLE&limit=1":                {`<option value="UNAVAILABLE" selected>`, "1 trace", dashboardtest.TraceID(7).String()},
		"/api/tulle/v1/traces?protocol=grpc&grpc=ABORTED": {`"traces":[]`},
	} {
		body := get(t, h, path).Body.String()
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: no %s", path, w)
			}
		}
	}
	if body := get(t, h, "/edge?source=web&destination=catalog").Body.String(); strings.Contains(body, "gRPC calls") || strings.Contains(body, "Messages in") {
		t.Error("an edge of HTTP speaks of gRPC")
	}
}

// TestDeliveriesOnTheAlertsPage: what is tried again and what a receiver refused stand out, with the error; of what arrived it is said what went before.
func TestDeliveriesOnTheAlertsPage(t *testing.T) {
	body := get(t, handler(t, shop(t, t.TempDir())), "/alerts").Body.String()
	for _, want := range []string{"retrying", "unexpected status code 503: the pager is down for maintenance", "unexpected status code 401", "before: connection refused", "1 firing · 2 resolved", "service=catalog · 1 firing"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q on the page", want)
		}
	}
}

// TestEveryPageWithoutAnything: a mesh that has just started, and an observer with nothing but spans and graph.
func TestEveryPageWithoutAnything(t *testing.T) {
	h := handler(t, source.Sources{Spans: dashboardtest.NewSpans(), Graph: &dashboardtest.Graph{Empty: true}})
	for p, want := range map[string]string{
		"/": "No traffic yet", "/traces": "No trace matches", "/events": "Nothing has happened", "/alerts": "evaluates no rules", "/proxies": "No sidecar is known",
	} {
		if w := get(t, h, p); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: status %d, no %q", p, w.Code, want)
		}
	}
	for p, status := range map[string]int{
		"/service/nobody": 404, "/trace/" + strings.Repeat("a", 32): 404, "/trace/zz": 400, "/edge": 400, "/nowhere": 404, "/traces?min=soon": 400,
		"/traces?tags=%3Dx": 400, "/traces/find?id=nothing": 404, "/api/v1/query?query=1": 503, "/api/tulle/v1/nothing": 404,
	} {
		if w := get(t, h, p); w.Code != status {
			t.Errorf("%s: status %d, want %d", p, w.Code, status)
		}
	}
}

func TestNastyNamesAreText(t *testing.T) {
	nasty := dashboardtest.Nasty
	h := handler(t, dashboardtest.NastySources(dashboardtest.Epoch))
	paths := []string{"/", "/traces?service=" + url.QueryEscape(nasty[0]), "/events?service=" + url.QueryEscape(nasty[0]), "/proxies", "/alerts"}
	for i, n := range nasty {
		paths = append(paths, "/service/"+url.PathEscape(n), "/edge?"+url.Values{"source": {n}, "destination": {nasty[0]}}.Encode(), "/trace/"+dashboardtest.TraceID(i).String(),
			"/traces/find?id="+url.QueryEscape(n+"none"), "/traces?tags="+url.QueryEscape(n), "/?at="+url.QueryEscape(n))
	}
	for _, p := range paths {
		body := get(t, h, p).Body.String()
		for _, bad := range []string{"<script>alert", "<img src=x", "<svg onload", "'onmouseover='alert", `href="javascript:`} {
			if strings.Contains(body, bad) {
				t.Errorf("%.80s: %q came through as markup", p, bad)
			}
		}
	}
}

func TestGuard(t *testing.T) {
	d, err := New(Config{Addr: "127.0.0.1:0", Hosts: []string{"mesh.example.com"}, Sources: shop(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, origin string
		want         int
	}{
		{"127.0.0.1:8640", "", 200},
		{"localhost", "", 200},
		{"[::1]:8640", "", 200},
		{"LOCALHOST:1", "", 200},
		{"mesh.example.com", "", 200},
		{"evil.example.com", "", 421},
		{"", "", 421},
		{"127.0.0.1.evil.com:8640", "", 421},
		{"localhost.evil.com", "", 421},
		{"localhost:8640", "http://localhost:8640", 200},
		{"localhost:8640", "http://127.0.0.1:3000", 200},
		{"localhost:8640", "https://evil.example.com", 403},
		{"localhost:8640", "null", 403},
		{"localhost:8640", "garbage", 403},
	} {
		w := get(t, d.Handler(), "/healthz", func(r *http.Request) {
			r.Host = c.host
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
		})
		if w.Code != c.want {
			t.Errorf("host %q, origin %q: status %d, want %d", c.host, c.origin, w.Code, c.want)
		}
	}
}

func TestAssetsAreImmutableAndCompressed(t *testing.T) {
	h := handler(t, shop(t, ""))
	style := regexp.MustCompile(`href="(/assets/app-[^"]+\.css)"`).FindStringSubmatch(get(t, h, "/alerts").Body.String())
	if style == nil {
		t.Fatal("the page links no style sheet")
	}
	w := get(t, h, style[1], func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") })
	if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || w.Header().Get("Content-Encoding") != "gzip" {
		t.Errorf("status %d, headers %v", w.Code, w.Header())
	}
	etag := w.Header().Get("ETag")
	if w = get(t, h, style[1], func(r *http.Request) { r.Header.Set("If-None-Match", etag) }); w.Code != http.StatusNotModified {
		t.Errorf("If-None-Match %s: status %d", etag, w.Code)
	}
	w = get(t, h, "/", func(r *http.Request) { r.Header.Set("Accept-Encoding", "br, gzip;q=0.9") })
	zr, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(zr); err != nil || !strings.Contains(string(b), "</html>") {
		t.Errorf("the page does not survive compression: %v", err)
	}
	if w = get(t, h, "/", func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip;q=0") }); w.Header().Get("Content-Encoding") != "" {
		t.Error("compressed for a client that refuses it")
	}
	if w = get(t, h, "/assets/nothing.js"); w.Code != 404 {
		t.Errorf("unknown asset: status %d", w.Code)
	}
}

// TestHomePageIsSmall: with its scripts and styles it is at most 120 kB on the wire, at 50 services, at 300, and at 1,000, which are drawn together.
func TestHomePageIsSmall(t *testing.T) {
	for _, size := range []int{0, 50, 300, 1000} {
		s := shop(t, "")
		if size > 0 {
			s.Graph = &dashboardtest.Large{Size: size, Graph: dashboardtest.Graph{Now: func() time.Time { return dashboardtest.Epoch }}}
		}
		h := handler(t, s)
		wire := func(path string) int {
			w := get(t, h, path, func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") })
			if w.Code != 200 || w.Header().Get("Content-Encoding") != "gzip" && !strings.HasSuffix(path, ".svg") {
				t.Errorf("%s: status %d, %s", path, w.Code, w.Header().Get("Content-Encoding"))
			}
			return w.Body.Len()
		}
		total := wire("/")
		for _, m := range regexp.MustCompile(`(?:href|src)="(/assets/[^"]+)"`).FindAllStringSubmatch(get(t, h, "/").Body.String(), -1) {
			total += wire(m[1])
		}
		t.Logf("%d services: %d bytes", size, total)
		if total > 120_000 {
			t.Errorf("at %d services it takes %d bytes", size, total)
		}
	}
}

func TestProbes(t *testing.T) {
	s := shop(t, "")
	s.Ready = func() error { return errors.New("the graph is not open yet") }
	h := handler(t, s)
	if w := get(t, h, "/healthz"); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("healthz: %d %q", w.Code, w.Body)
	}
	if w := get(t, h, "/readyz"); w.Code != 503 || !strings.Contains(w.Body.String(), "graph is not open") {
		t.Errorf("readyz: %d %q", w.Code, w.Body)
	}
}

func TestMetricsArePrometheusText(t *testing.T) {
	s := shop(t, "")
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "tulle_test_total", Help: "For the test."}))
	for _, misnamed := range []string{"prometheus_tsdb_head_native_histogram_series", "prometheus_rule_evaluation_duration_histogram_seconds"} {
		reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: misnamed, Help: "Promtool would mind it."}))
	}
	s.Self = append(s.Self, Gatherer(reg))
	h := handler(t, s)
	get(t, h, "/")
	text := get(t, h, "/metrics").Body.String()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus' parser refuses the metrics: %v\n%s", err, text)
	}
	for name, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
	if families["tulle_test_total"] == nil || families["tulle_store_spans"] == nil {
		t.Error("families are missing")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, pr := range problems {
		t.Errorf("%s: %s", pr.Metric, pr.Text)
	}
	if v := families["tulle_dashboard_http_requests_total"].GetMetric()[1].GetCounter().GetValue(); v != 1 {
		t.Errorf("counted %v requests, want 1", v)
	}
}

func TestConfigErrorsSayWhatToDo(t *testing.T) {
	s := shop(t, "")
	for want, cfg := range map[string]Config{
		"host:port": {Addr: "8640", Sources: s}, "Spans": {}, "Graph": {Sources: source.Sources{Spans: s.Spans}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not mention %q", err, want)
		}
	}
}

// TestRunServesAndStops runs the real server: live feed included, stopped with a browser connected.
func TestRunServesAndStops(t *testing.T) {
	d, err := New(Config{Addr: "127.0.0.1:0", Sources: shop(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.Run(ctx, func() { close(ready) }) }()
	<-ready
	addr := d.Addr(ctx)

	conn, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/live", http.Header{"Origin": {"http://" + addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.WriteJSON(map[string]any{"type": "subscribe", "topics": []string{"graph"}}); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	var m struct {
		Type, Topic string
		Items       map[string]json.RawMessage
	}
	if err := conn.ReadJSON(&m); err != nil {
		t.Fatal(err)
	}
	if m.Type != "snapshot" || m.Items["n:catalog"] == nil || m.Items["s:rps"] == nil || m.Items["structure"] == nil {
		t.Errorf("first message is %s with %d items", m.Type, len(m.Items))
	}
	if _, resp, err := websocket.DefaultDialer.Dial("ws://"+addr+"/live", http.Header{"Origin": {"https://evil.example.com"}}); err == nil {
		t.Error("a foreign page may connect")
	} else {
		_ = resp.Body.Close()
	}

	d2, err := New(Config{Addr: addr, Sources: shop(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := d2.Run(ctx, nil); err == nil || !strings.Contains(err.Error(), "stop what uses the port") {
		t.Errorf("port in use: %v", err)
	}

	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Run did not stop")
	}
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
				t.Errorf("the browser was not told that the server stops: %v", err)
			}
			break
		}
	}
}

// TestNodesKeepTheirPlace: what is drawn twice is drawn alike.
func TestNodesKeepTheirPlace(t *testing.T) {
	h := handler(t, shop(t, ""))
	place := regexp.MustCompile(`data-key="n:catalog"[^>]*transform="([^"]+)"`)
	a, b := place.FindStringSubmatch(get(t, h, "/").Body.String()), place.FindStringSubmatch(get(t, h, "/").Body.String())
	if a == nil || b == nil || a[1] != b[1] {
		t.Errorf("catalog is at %v, then at %v", a, b)
	}
}

func TestFindRedirects(t *testing.T) {
	h := handler(t, shop(t, ""))
	id := dashboardtest.TraceID(3).String()
	for q, want := range map[string]string{id: "/trace/" + id, "catalog": "/service/catalog", "Cata": "/service/catalog", "talo": "/service/catalog"} {
		if w := get(t, h, "/traces/find?id="+q); w.Code != http.StatusSeeOther || w.Header().Get("Location") != want {
			t.Errorf("%s: %d to %q, want %q", q, w.Code, w.Header().Get("Location"), want)
		}
	}
}
