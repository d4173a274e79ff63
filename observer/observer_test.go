package observer_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/observer"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

const trust = "tulle.test"

// mesh is a controller and an observer as they run in one machine, and sidecars that are only their reports.
type mesh struct {
	t        testing.TB
	dir      string
	bundle   string
	token    string
	grpcAddr string
}

func newMesh(t testing.TB) *mesh {
	m := &mesh{t: t, dir: t.TempDir()}
	config := `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {service: web, upstreams: [{service: catalog, listen: "127.0.0.1:21001"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop}
spec: {service: web, upstreams: [{service: catalog, listen: "127.0.0.1:21002"}]}
`
	for i := 1; i <= 3; i++ {
		config += fmt.Sprintf(`---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-%d, namespace: shop}
spec: {service: catalog, version: v1, ports: [{listen: "127.0.0.1:2200%d", target: "127.0.0.1:2300%d"}]}
`, i, i, i)
	}
	m.must(os.MkdirAll(m.path("config"), 0o755))
	m.must(os.WriteFile(m.path("config/shop.yaml"), []byte(config), 0o644))
	var err error
	m.bundle, err = controller.EnsureCA(m.path("controller"), trust)
	m.must(err)
	m.token, err = controller.IssueToken(m.path("controller"), identity.SystemNamespace, "observer", time.Hour)
	m.must(err)
	return m
}

func (m *mesh) path(p string) string { return filepath.Join(m.dir, p) }

func (m *mesh) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// actor runs f until stop is called, and waits for it to be ready.
func (m *mesh) actor(name string, f func(ctx context.Context, ready func()) error) (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() { done <- f(ctx, func() { once.Do(func() { close(ready) }) }) }()
	select {
	case <-ready:
	case err := <-done:
		m.t.Fatalf("%s ended: %v", name, err)
	case <-time.After(30 * time.Second):
		m.t.Fatalf("%s is not ready after 30 s", name)
	}
	var stopped sync.Once
	stop = func() {
		stopped.Do(func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				m.t.Errorf("%s: %v", name, err)
			}
		})
	}
	m.t.Cleanup(stop)
	return stop
}

// controller starts a controller, the first time on a port of its own, then on the same.
func (m *mesh) controller() (stop func()) {
	addr := m.grpcAddr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	m.must(err)
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	m.must(err)
	m.grpcAddr = l.Addr().String()
	c, err := controller.New(controller.Config{
		DataDir: m.path("controller"), ConfigDir: m.path("config"), TrustDomain: trust, GRPCListener: l, AdminListener: admin, Log: m.log("controller"),
	})
	m.must(err)
	return m.actor("controller", c.Run)
}

func (m *mesh) log(part string) *slog.Logger {
	return slog.New(slog.NewTextHandler(writer{m.t}, &slog.HandlerOptions{Level: slog.LevelWarn})).With("process", part)
}

type writer struct{ t testing.TB }

func (w writer) Write(b []byte) (int, error) {
	defer func() { _ = recover() }() // a late line after the test has ended is nobody's
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

type observed struct {
	*observer.Observer
	url, otlp string
	stop      func()
}

func (m *mesh) observer(webhook string) observed {
	cfg := observer.Config{
		DataDir: m.path("observer"), HTTP: "127.0.0.1:0", OTLPGRPC: "127.0.0.1:0", OTLPHTTP: "127.0.0.1:0", Controller: m.grpcAddr, TrustDomain: trust,
		Token: m.token, BundleFile: m.bundle, Log: m.log("observer"),
	}
	if webhook != "" {
		cfg.WebhookURLs = []string{webhook}
	}
	o, err := observer.New(cfg)
	m.must(err)
	stop := m.actor("observer", o.Run)
	h, g, _ := o.Addresses(m.t.Context())
	return observed{o, "http://" + h, g, stop}
}

func (o observed) get(t testing.TB, path string) (int, string) {
	t.Helper()
	r, err := http.Get(o.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func (m *mesh) eventually(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			m.t.Fatalf("never: %s", what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// sidecar is the reporting half of one.
type sidecar struct {
	m        *mesh
	service  string
	instance string
	boot     time.Time
	skew     time.Duration // its clock is ahead by this
	sequence int64
	client   pmetricotlp.GRPCClient
	counts   map[string]int64
	attrs    map[string]map[string]any
}

func (m *mesh) sidecar(service, instance, otlp string) *sidecar {
	token, err := controller.IssueToken(m.path("controller"), "shop", service, time.Hour)
	m.must(err)
	id, err := identity.Workload(trust, "shop", service)
	m.must(err)
	ctrl, err := identity.Controller(trust)
	m.must(err)
	holder := &identity.Holder{}
	j, err := join.New(join.Config{Controller: m.grpcAddr, ControllerID: ctrl, ID: id, Token: token, BundleFile: m.bundle, StateDir: m.path("sidecar-" + instance), Holder: holder})
	m.must(err)
	m.actor("join of "+instance, j.Run)
	obs, err := identity.Observer(trust)
	m.must(err)
	return m.dial(&sidecar{m: m, service: service, instance: instance, boot: time.Now(), counts: map[string]int64{}, attrs: map[string]map[string]any{}}, otlp, holder.ClientTLS(obs))
}

func (m *mesh) dial(s *sidecar, otlp string, cfg *tls.Config) *sidecar {
	conn, err := grpc.NewClient("passthrough:///"+otlp, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	m.must(err)
	m.t.Cleanup(func() { _ = conn.Close() })
	s.client = pmetricotlp.NewGRPCClient(conn)
	return s
}

func (s *sidecar) count(metric string, n int64, attrs map[string]any) {
	key := metric + fmt.Sprint(attrs)
	s.counts[key] += n
	attrs["metric"] = metric
	s.attrs[key] = attrs
}

// call counts n requests of s to endpoint i of catalog.
func (s *sidecar) call(to *sidecar, i int, n int64, failed bool) {
	class, reason := "2xx", ""
	if failed {
		class, reason = "5xx", "upstream_5xx"
	}
	edge := func(side string, more map[string]any) map[string]any {
		a := map[string]any{flow.AttrSourceService: "web", flow.AttrDestService: "catalog", flow.AttrProtocol: "http/1.1", flow.AttrCodeClass: class, flow.AttrReason: reason}
		if side != "" {
			a[flow.AttrSide] = side
		}
		for k, v := range more {
			a[k] = v
		}
		return a
	}
	s.count(flow.MetricExchanges, n, edge("client", map[string]any{flow.AttrAnswered: true}))
	s.count(flow.MetricAttempts, n, edge("", map[string]any{flow.AttrEndpoint: fmt.Sprintf("127.0.0.1:2200%d", i), flow.AttrDelivered: true}))
	to.count(flow.MetricExchanges, n, edge("server", map[string]any{flow.AttrAnswered: true}))
}

func (s *sidecar) export(ctx context.Context) error {
	s.sequence++
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr(flow.AttrServiceName, s.service)
	a.PutStr(flow.AttrServiceInstance, s.instance)
	a.PutStr(flow.AttrBootID, fmt.Sprintf("%016x", s.boot.UnixNano()))
	a.PutInt(flow.AttrSequence, s.sequence)
	now := time.Now().Add(s.skew)
	a.PutInt(flow.AttrClock, now.UnixNano())
	ms := rm.ScopeMetrics().AppendEmpty().Metrics()
	for key, v := range s.counts {
		m := ms.AppendEmpty()
		m.SetName(s.attrs[key]["metric"].(string))
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		dp := sum.DataPoints().AppendEmpty()
		dp.SetStartTimestamp(pcommon.NewTimestampFromTime(s.boot))
		dp.SetTimestamp(pcommon.NewTimestampFromTime(now))
		dp.SetIntValue(v)
		for k, x := range s.attrs[key] {
			switch x := x.(type) {
			case string:
				dp.Attributes().PutStr(k, x)
			case bool:
				dp.Attributes().PutBool(k, x)
			}
		}
	}
	_, err := s.client.Export(ctx, pmetricotlp.NewExportRequestFromMetrics(md))
	return err
}

func edgeOf(s *graph.Snapshot) *graph.Edge {
	for i := range s.Edges {
		if s.Edges[i].Source == "web" && s.Edges[i].Destination == "catalog" {
			return &s.Edges[i]
		}
	}
	return nil
}

func TestTheLoopClosesThroughTheObserver(t *testing.T) {
	m := newMesh(t)
	m.controller()
	notices := make(chan map[string]any, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b map[string]any
		_ = json.NewDecoder(r.Body).Decode(&b)
		select {
		case notices <- b:
		default:
		}
	}))
	defer hook.Close()
	o := m.observer(hook.URL)
	m.eventually("the observer is ready", func() bool { code, _ := o.get(t, "/readyz"); return code == 200 })

	callers := []*sidecar{m.sidecar("web", "web-1", o.otlp), m.sidecar("web", "web-2", o.otlp)}
	callees := []*sidecar{m.sidecar("catalog", "catalog-1", o.otlp), m.sidecar("catalog", "catalog-2", o.otlp), m.sidecar("catalog", "catalog-3", o.otlp)}
	// Traffic goes on in the background: one of the three endpoints fails from the start.
	m.actor("traffic", func(ctx context.Context, ready func()) error {
		ready()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			for _, c := range callers {
				for i, e := range callees {
					c.call(e, i+1, 30, i == 2)
				}
			}
			for _, s := range append(callers[:2:2], callees...) {
				if err := s.export(ctx); err != nil && ctx.Err() == nil {
					return fmt.Errorf("%s: %w", s.instance, err)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	began := time.Now()
	live := o.Graph()
	m.eventually("the edge is drawn from both sides", func() bool {
		e := edgeOf(live.Live())
		return e != nil && e.State == graph.BothSides && e.Client != nil && e.Server != nil && e.Client.Requests > 0 && e.Server.Requests > 0 && e.MTLS
	})
	t.Logf("edge after %s", time.Since(began).Round(time.Millisecond))
	m.eventually("the failing endpoint is shown as ejected", func() bool {
		for _, n := range live.Live().Nodes {
			for _, e := range n.Endpoints {
				if e.Instance == "catalog-3" && e.State == "ejected" {
					return true
				}
			}
		}
		return false
	})
	t.Logf("ejected after %s", time.Since(began).Round(time.Millisecond))
	m.eventually("the ejection is an event with evidence", func() bool {
		es, _, err := o.Events().Query(t.Context(), event.Query{Kind: event.KindEjected})
		return err == nil && len(es) == 1 && len(es[0].Evidence) > 0
	})
	select {
	case n := <-notices:
		if n["version"] != "4" || n["status"] != "firing" {
			t.Errorf("webhook got %v", n)
		}
		t.Logf("alert after %s", time.Since(began).Round(time.Millisecond))
	case <-time.After(40 * time.Second):
		t.Error("no alert came within 40 s")
	}

	code, text := o.get(t, "/metrics")
	if code != 200 || !strings.Contains(text, "tulle_evidence_connected 1") || !strings.Contains(text, "tulle_collector_points_accepted_total") {
		t.Errorf("/metrics: %d\n%.2000s", code, text)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Errorf("metrics cannot be parsed: %v", err)
	}
	for _, p := range problems {
		t.Errorf("metric %s: %s", p.Metric, p.Text)
	}
	for _, path := range []string{"/", "/healthz", "/api/v1/query?query=up"} {
		if code, body := o.get(t, path); code != 200 {
			t.Errorf("%s: %d %.300s", path, code, body)
		}
	}
}

func TestObserverWithoutItsController(t *testing.T) {
	m := newMesh(t)
	stopController := m.controller()
	o := m.observer("")
	web := m.sidecar("web", "web-1", o.otlp)
	catalog := m.sidecar("catalog", "catalog-1", o.otlp)
	report := func(what string) {
		m.eventually(what, func() bool {
			web.call(catalog, 1, 10, false)
			m.must(web.export(t.Context()))
			m.must(catalog.export(t.Context()))
			e := edgeOf(o.Graph().Live())
			return e != nil && e.Client != nil && e.Client.Requests > 0
		})
	}
	report("reports are counted")
	stopController()
	m.eventually("the page says that the controller is away", func() bool {
		_, body := o.get(t, "/")
		return strings.Contains(body, "The controller at")
	})
	if code, _ := o.get(t, "/readyz"); code != 200 {
		t.Errorf("not ready without a controller: %d", code)
	}
	report("reports are still counted")
	o.stop()

	// It restarts while the controller is away: its certificate and the registry are on disk.
	o = m.observer("")
	m.eventually("it is ready again", func() bool { code, _ := o.get(t, "/readyz"); return code == 200 })
	obs, err := identity.Observer(trust)
	m.must(err)
	for _, s := range []*sidecar{web, catalog} {
		holder := &identity.Holder{}
		id, err := identity.Workload(trust, "shop", s.service)
		m.must(err)
		ctrl, err := identity.Controller(trust)
		m.must(err)
		j, err := join.New(join.Config{Controller: m.grpcAddr, ControllerID: ctrl, ID: id, BundleFile: m.bundle, StateDir: m.path("sidecar-" + s.instance), Holder: holder})
		m.must(err)
		m.actor("join of "+s.instance, j.Run)
		m.dial(s, o.otlp, holder.ClientTLS(obs))
	}
	report("reports are counted after a restart without a controller")

	// The controller comes back on its address, and the stream with it.
	m.controller()
	m.eventually("the stream is up again", func() bool {
		_, text := o.get(t, "/metrics")
		return strings.Contains(text, "tulle_evidence_connected 1")
	})
}

func TestAClockOneHourOffIsOnEveryPage(t *testing.T) {
	m := newMesh(t)
	m.controller()
	o := m.observer("")
	web := m.sidecar("web", "web-1", o.otlp)
	catalog := m.sidecar("catalog", "catalog-1", o.otlp)
	web.skew, web.boot = time.Hour, web.boot.Add(time.Hour)
	m.eventually("a banner names the clock and says what to do", func() bool {
		web.call(catalog, 1, 10, false)
		m.must(web.export(t.Context()))
		m.must(catalog.export(t.Context()))
		_, body := o.get(t, "/")
		return strings.Contains(body, "The clocks of 1 of 2 sidecars differ") && strings.Contains(body, "web-1 is 1h0m0s ahead") && strings.Contains(body, "Set those clocks")
	})
	m.eventually("an event says so, too", func() bool {
		list, _, err := o.Events().Query(t.Context(), event.Query{Kind: event.KindClock})
		m.must(err)
		return len(list) == 1 && list[0].Instance == "web-1"
	})
	m.eventually("what it counts is in the picture, on both sides", func() bool {
		web.call(catalog, 1, 10, false)
		m.must(web.export(t.Context()))
		m.must(catalog.export(t.Context()))
		e := edgeOf(o.Graph().Live())
		return e != nil && e.Client != nil && e.Server != nil && e.Client.Requests > 0 && e.Server.Requests > 0
	})
}

// A tail of garbage in each of the three logs costs nothing that was acknowledged, and is told in events and banners.
func TestGarbageAtTheEndOfEveryLog(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	dir := t.TempDir()
	start := func(m *mesh) (o observed, otlp string) {
		x, err := observer.New(observer.Config{DataDir: dir, HTTP: "127.0.0.1:0", OTLPGRPC: "127.0.0.1:0", OTLPHTTP: "127.0.0.1:0", Log: m.log("observer")})
		m.must(err)
		stop := m.actor("observer", x.Run)
		h, _, otlp := x.Addresses(t.Context())
		return observed{x, "http://" + h, "", stop}, otlp
	}
	m := &mesh{t: t, dir: dir}
	o, otlp := start(m)
	now := time.Now().UnixNano()
	body := fmt.Sprintf(`{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"web"}}]},"scopeSpans":[{"spans":[
		{"traceId":%q,"spanId":"00000000000000a1","name":"GET","kind":2,"startTimeUnixNano":"%d","endTimeUnixNano":"%d"}]}]}]}`, id, now, now+1000)
	res, err := http.Post("http://"+otlp+"/v1/traces", "application/json", strings.NewReader(body))
	m.must(err)
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatalf("export: %s", res.Status)
	}
	m.must(o.Events().Append(t.Context(), event.Event{ID: event.NewID(time.Now()), Time: time.Now(), Kind: event.KindDeploy, Severity: "info", Message: "Before the damage."}))
	o.stop()
	for _, pattern := range []string{"spans/wal/*.wal", "metrics/wal/0*", "events/*.jsonl"} {
		files, err := filepath.Glob(m.path(pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v %v", pattern, files, err)
		}
		f, err := os.OpenFile(files[len(files)-1], os.O_APPEND|os.O_WRONLY, 0)
		m.must(err)
		_, err = f.WriteString(strings.Repeat("garbage", 20))
		m.must(errors.Join(err, f.Close()))
	}

	o, _ = start(m)
	if code, text := o.get(t, "/api/tulle/v1/traces/"+id); code != 200 {
		t.Errorf("the trace is gone: %d %s", code, text)
	}
	m.eventually("an event for each, and the one from before", func() bool {
		list, _, err := o.Events().Query(t.Context(), event.Query{})
		m.must(err)
		damage, before := 0, false
		for _, e := range list {
			if e.Kind == event.KindStore {
				damage++
			}
			before = before || e.Message == "Before the damage."
			if strings.Contains(e.Message, "\n") {
				t.Errorf("not one line: %q", e.Message)
			}
		}
		return damage == 3 && before
	})
	_, page := o.get(t, "/")
	for _, want := range []string{
		"The span store has a problem", "they were cut off and kept in", "if there was no crash, check the disk", "The write-ahead log of the metrics store was damaged", "The event log was damaged and has been repaired",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no banner says %q", want)
		}
	}
}

func TestBadConfigurationSaysWhat(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		cfg  observer.Config
		want string
	}{
		"no data directory":  {observer.Config{}, "--data-dir"},
		"little memory":      {observer.Config{DataDir: t.TempDir(), MemoryLimitMiB: 8}, "at least 64"},
		"little for queries": {observer.Config{DataDir: t.TempDir(), QueryMemoryMiB: 1}, "at least 16"},
		"token file":         {observer.Config{DataDir: t.TempDir(), TokenFile: "/nonexistent/token"}, "join token"},
		"no bundle":          {observer.Config{DataDir: t.TempDir(), Controller: "127.0.0.1:1"}, "BundleFile"},
		"port in use":        {observer.Config{DataDir: t.TempDir(), HTTP: taken.Addr().String(), OTLPGRPC: "127.0.0.1:0", OTLPHTTP: "off"}, taken.Addr().String()},
		"rules directory":    {observer.Config{DataDir: t.TempDir(), HTTP: "127.0.0.1:0", OTLPGRPC: "127.0.0.1:0", OTLPHTTP: "off", RulesDir: "/nonexistent"}, "rules directory"},
		"span backend":       {observer.Config{DataDir: t.TempDir(), SpanBackend: "paper"}, "paper"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := observer.Run(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that names %q", err, c.want)
			}
		})
	}
}
