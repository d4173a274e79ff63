package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually polls until f says yes.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// mesh is a controller in this process and what tests need to reach it.
type mesh struct {
	t                *testing.T
	data, config     string
	addr, admin      string
	bundle           string
	controllerID, ob identity.ID
	stop             func()
}

const shopYAML = `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec:
  service: web
  version: v1
  ports: [{listen: 127.0.0.1:21001, target: 127.0.0.1:21002}]
  upstreams: [{service: catalog, listen: 127.0.0.1:21003}]
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-1, namespace: shop}
spec:
  service: catalog
  ports: [{listen: 127.0.0.1:21011, target: 127.0.0.1:21012}]
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-2, namespace: shop}
spec:
  service: catalog
  ports: [{listen: 127.0.0.1:21021, target: 127.0.0.1:21022}]
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-3, namespace: shop}
spec:
  service: catalog
  ports: [{listen: 127.0.0.1:21031, target: 127.0.0.1:21032}]
`

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{t: t, data: t.TempDir(), config: t.TempDir()}
	m.write("shop.yaml", shopYAML)
	var err error
	if m.bundle, err = EnsureCA(m.data, ""); err != nil {
		t.Fatal(err)
	}
	m.controllerID, _ = identity.Controller(DefaultTrustDomain)
	m.ob, _ = identity.Observer(DefaultTrustDomain)
	m.start()
	return m
}

func (m *mesh) write(name, content string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.config, name), []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// start runs a controller, on the address of the one before if there was one.
func (m *mesh) start() {
	m.t.Helper()
	at := m.addr
	if at == "" {
		at = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		m.t.Fatal(err)
	}
	al, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.addr, m.admin = l.Addr().String(), al.Addr().String()
	c, err := New(Config{DataDir: m.data, ConfigDir: m.config, GRPCListener: l, AdminListener: al, Log: testLog(m.t)})
	if err != nil {
		m.t.Fatal(err)
	}
	m.stop = actor(m.t, c.Run)
}

// actor runs a until the returned function, or the end of the test; it waits for ready.
func actor(t *testing.T, a func(context.Context, func()) error) (stop func()) {
	t.Helper()
	stop, ready, done := background(t, a)
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("ended before it was ready: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("not ready after 20 s")
	}
	return stop
}

func background(t *testing.T, a func(context.Context, func()) error) (stop func(), ready chan struct{}, done chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	ready, done = make(chan struct{}), make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		var once bool
		err := a(ctx, func() {
			if !once {
				once = true
				close(ready)
			}
		})
		done <- err
		if err != nil && ctx.Err() != nil {
			t.Errorf("stopped with %v", err)
		}
		close(finished)
	}()
	stop = func() { cancel(); <-finished }
	t.Cleanup(stop)
	return stop, ready, done
}

// joined is an identity obtained with a fresh token.
func (m *mesh) joined(namespace, account string) *identity.Holder {
	m.t.Helper()
	token, err := IssueToken(m.data, namespace, account, time.Minute)
	if err != nil {
		m.t.Fatal(err)
	}
	id, err := identity.Workload(DefaultTrustDomain, namespace, account)
	if err != nil {
		m.t.Fatal(err)
	}
	holder := &identity.Holder{}
	c, err := join.New(join.Config{
		Controller: m.addr, ControllerID: m.controllerID, ID: id, Token: token, BundleFile: m.bundle, StateDir: m.t.TempDir(),
		Holder: holder, Log: testLog(m.t),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	actor(m.t, c.Run)
	return holder
}

func (m *mesh) watcher(instance string, holder *identity.Holder, state string) *watch.Watcher {
	m.t.Helper()
	w, err := watch.New(watch.Config{
		Controller: m.addr, ControllerID: m.controllerID, Identity: holder, Workload: policy.Workload{Instance: instance}, Version: "test",
		StateDir: state, Log: testLog(m.t).With("watcher", instance),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return w
}

// observer is the other end of the evidence stream, keeping what it was told.
type observer struct {
	stream grpc.BidiStreamingClient[tullev1.Observed, tullev1.Told]
	told   chan *tullev1.Told
}

func (m *mesh) dial(holder *identity.Holder) *grpc.ClientConn {
	m.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.addr, grpc.WithTransportCredentials(credentials.NewTLS(holder.ClientTLS(m.controllerID))))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return conn
}

func (m *mesh) observer() *observer {
	m.t.Helper()
	conn := m.dial(m.joined(identity.SystemNamespace, "observer"))
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := tullev1.NewEvidenceClient(conn).Exchange(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	o := &observer{stream: stream, told: make(chan *tullev1.Told, 1024)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			told, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case o.told <- told:
			case <-ctx.Done():
				return
			}
		}
	}()
	m.t.Cleanup(func() { cancel(); <-done })
	return o
}

// event waits for one of a kind.
func (o *observer) event(t *testing.T, kind string) *tullev1.Event {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case told := <-o.told:
			if e := told.GetEvent(); e.GetKind() == kind {
				return e
			}
		case <-timeout:
			t.Fatalf("no event %s within 20 s", kind)
		}
	}
}

func TestConfigurationReachesSidecars(t *testing.T) {
	m := newMesh(t)
	web := m.watcher("web-1", m.joined("shop", "web"), t.TempDir())
	catalog := m.watcher("catalog-2", m.joined("shop", "catalog"), t.TempDir())
	actor(t, web.Run)
	actor(t, catalog.Run)

	s := web.Current()
	if len(s.Endpoints["catalog"]) != 3 || !s.Services["catalog"].MTLS || s.Workload.Service != "web" {
		t.Fatalf("web-1 was told %+v", s)
	}
	if l := catalog.Current().Listeners; len(l) != 1 || l[0].Target != netip.MustParseAddrPort("127.0.0.1:21022") {
		t.Fatalf("catalog-2 was told to listen on %+v", l)
	}

	m.write("policy.yaml", `
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog, namespace: shop}
spec: {targetService: catalog, requestTimeout: 3s, retry: {attempts: 1}}
`)
	eventually(t, "the timeout of 3 s in web-1", func() bool {
		s := web.Current().Services["catalog"]
		return s.RequestTimeout == 3*time.Second && s.Retry.Attempts == 1
	})

	// A mistake is refused, said with its line, and changes nothing.
	o := m.observer()
	if err := o.stream.Send(&tullev1.Observed{}); err != nil {
		t.Fatal(err)
	}
	before := web.Current().Revision
	m.write("policy.yaml", `
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog, namespace: shop}
spec: {targetService: catalog, requestTimeuot: 4s}
`)
	e := o.event(t, "config.refused")
	for _, want := range []string{"policy.yaml:5", `unknown field; did you mean "requestTimeout"?`, "last valid version stays in force"} {
		if !strings.Contains(e.GetMessage(), want) {
			t.Errorf("event says %q, want it to contain %q", e.GetMessage(), want)
		}
	}
	if r := web.Current().Revision; r != before {
		t.Errorf("revision went from %s to %s", before, r)
	}
	eventually(t, "both proxies acknowledged", func() bool {
		acked := 0
		for _, p := range m.status().Proxies {
			if p.Connected && p.Acked != "" {
				acked++
			}
		}
		return acked == 2
	})

	// What is said of a route stands in the status.
	m.write("route.yaml", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules: [{backendRefs: [{name: katalog}]}]
`)
	eventually(t, "the route's condition ResolvedRefs", func() bool {
		for _, g := range m.status().GatewayAPI {
			if g.Resource == "HTTPRoute shop/catalog" && len(g.Parents) == 1 && g.Parents[0].Parent == "Service shop/catalog" {
				c := g.Parents[0].Conditions
				return len(c) == 2 && c[0].Type == "Accepted" && c[0].Status == "True" && c[1].Status == "False" && c[1].Reason == "BackendNotFound"
			}
		}
		return false
	})

	for _, want := range []string{`"code": "missing_backend"`, `"code": "refused"`, `"resource": "HTTPRoute shop/catalog"`, `"errors": 2`} {
		if found := m.get("/lint"); !strings.Contains(found, want) {
			t.Errorf("/lint lacks %s: %s", want, found)
		}
	}

	for _, want := range []string{`"field": "requestTimeout",`, `"value": "3s",`, `"level": "service",`, `"resource": "TrafficPolicy shop/catalog",`} {
		if answer := m.get("/explain?service=catalog&namespace=shop"); !strings.Contains(answer, want) {
			t.Errorf("/explain lacks %s: %s", want, answer)
		}
	}

	// Destinations are answered on demand.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d, err := web.Destination(ctx, "", netip.MustParseAddrPort("127.0.0.1:21021"))
	if err != nil || d.Service != "catalog" || !d.Known {
		t.Errorf("destination: %+v, %v", d, err)
	}
	d, err = web.Destination(ctx, "", netip.MustParseAddrPort("127.0.0.1:1"))
	if err != nil || d.Known {
		t.Errorf("unknown destination: %+v, %v", d, err)
	}
}

type statusPage struct {
	Revision string
	Proxies  []struct {
		Instance, Acked, LastNack string
		Connected                 bool
	}
	Resources  []struct{ Resource, State, Message string }
	GatewayAPI []struct {
		Resource string
		Parents  []struct {
			Parent     string
			Conditions []struct{ Type, Status, Reason string }
		}
	}
}

func (m *mesh) status() (s statusPage) {
	m.t.Helper()
	body := m.get("/status")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *mesh) get(path string) string {
	m.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + m.admin + path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		m.t.Fatalf("GET %s: %d %s %v", path, resp.StatusCode, body, err)
	}
	return string(body)
}

// window is one second in which two callers and the endpoints' own sidecars saw catalog-2 fail.
func window(end time.Time, bad string, failing bool) *tullev1.Observed {
	id := func(sa string) string { return "spiffe://tulle.local/ns/shop/sa/" + sa }
	w := &tullev1.Observed{WindowStartUnixNano: end.Add(-time.Second).UnixNano(), WindowEndUnixNano: end.UnixNano()}
	for i, addr := range []string{"127.0.0.1:21011", "127.0.0.1:21021", "127.0.0.1:21031"} {
		for _, server := range []bool{false, true} {
			o := &tullev1.EndpointObservation{
				Service: "catalog", Endpoint: addr, Reporter: "web-1", ReporterIdentity: id("web"), Source: "web",
				Requests: 50, LatencyP50Seconds: 0.004, Contiguous: true, Traces: []string{"0123456789abcdef0123456789abcdef"},
			}
			if server {
				o.ServerSide, o.Reporter, o.ReporterIdentity, o.Source = true, fmt.Sprintf("catalog-%d", i+1), id("catalog"), ""
			}
			if addr == bad && failing {
				o.Failures, o.Reasons = 40, map[string]uint64{"upstream_5xx": 40}
			}
			w.Endpoints = append(w.Endpoints, o)
		}
	}
	return w
}

func TestEvidenceEjectsWithinASecond(t *testing.T) {
	m := newMesh(t)
	web := m.watcher("web-1", m.joined("shop", "web"), t.TempDir())
	actor(t, web.Run)
	o := m.observer()
	base := time.Now().Add(-3 * time.Second)
	for i := range 3 {
		if i == 2 { // the deciding window
			base = base.Add(0)
		}
		if err := o.stream.Send(window(base.Add(time.Duration(i)*time.Second), "127.0.0.1:21021", true)); err != nil {
			t.Fatal(err)
		}
	}
	sent := time.Now()
	var override *policy.Override
	eventually(t, "an override in web-1", func() bool {
		for _, e := range web.Current().Endpoints["catalog"] {
			if e.Override != nil && e.Address.Port() == 21021 {
				override = e.Override
			}
		}
		return override != nil
	})
	if took := time.Since(sent); took > time.Second {
		t.Errorf("the override took %s, want less than 1 s", took)
	}
	if override.Kind != policy.OverrideEject || !override.InForce(time.Now()) {
		t.Errorf("override is %+v", override)
	}
	e := o.event(t, "endpoint.ejected")
	if e.GetOverrideId() != override.ID || e.GetInstance() != "catalog-2" || len(e.GetTraces()) == 0 || e.GetRevision() == "" {
		t.Errorf("event is %v", e)
	}
	for _, want := range []string{"catalog-2 of catalog", "upstream_5xx", "seen by catalog-2, web-1"} {
		if !strings.Contains(e.GetMessage(), want) {
			t.Errorf("message %q does not say %q", e.GetMessage(), want)
		}
	}
	timeout := time.After(10 * time.Second)
	for {
		select {
		case told := <-o.told:
			if r := told.GetRegistry(); r == nil || len(r.GetOverrides()) != 1 {
				continue
			} else if len(r.GetWorkloads()) != 4 || len(r.GetServices()) != 2 || r.GetOverrides()[0].GetId() != override.ID {
				t.Errorf("registry is %v", r)
			}
			return
		case <-timeout:
			t.Fatal("no registry with the override")
		}
	}
}

func TestSidecarServesWithoutController(t *testing.T) {
	m := newMesh(t)
	holder, state := m.joined("shop", "web"), t.TempDir()
	web := m.watcher("web-1", holder, state)
	stop := actor(t, web.Run)
	revision := web.Current().Revision
	m.stop()
	eventually(t, "the loss to be noticed", func() bool { return !web.Status().Connected })
	if web.Current() == nil || web.Current().Revision != revision {
		t.Fatal("the policy is gone with the controller")
	}
	if e := web.Status().LastError; !strings.Contains(e, m.addr) {
		t.Errorf("status says %q, want the controller's address in it", e)
	}

	// Restarted without a controller it serves from disk.
	stop()
	web = m.watcher("web-1", holder, state)
	actor(t, web.Run)
	if s := web.Status(); !s.FromDisk || s.Revision != revision {
		t.Fatalf("after the restart: %+v, want revision %s from disk", s, revision)
	}

	// The controller comes back with another configuration.
	m.write("shop.yaml", strings.Replace(shopYAML, "version: v1", "version: v2", 1))
	m.start()
	eventually(t, "the new configuration", func() bool { return web.Current().Workload.Version == "v2" })
	if s := web.Status(); s.FromDisk || !s.Connected || s.LastError != "" {
		t.Errorf("status is %+v", s)
	}
}

func TestOnlyTheWorkloadItself(t *testing.T) {
	m := newMesh(t)
	for _, tc := range []struct{ instance, account, want string }{
		{"catalog-1", "web", `Workload "catalog-1" belongs to spiffe://tulle.local/ns/shop/sa/catalog, the caller is spiffe://tulle.local/ns/shop/sa/web`},
		{"nobody-1", "web", `no Workload named "nobody-1"`},
	} {
		w := m.watcher(tc.instance, m.joined("shop", tc.account), t.TempDir())
		stop, _, _ := background(t, w.Run)
		eventually(t, "a refusal", func() bool { return strings.Contains(w.Status().LastError, tc.want) })
		stop()
		if w.Current() != nil {
			t.Errorf("%s got a policy", tc.instance)
		}
	}
	stream, err := tullev1.NewEvidenceClient(m.dial(m.joined("shop", "web"))).Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("evidence of a sidecar: %v, want PermissionDenied", err)
	}
}

// TestNackIsTracked speaks xDS itself, as a sidecar that refuses what it gets.
func TestNackIsTracked(t *testing.T) {
	m := newMesh(t)
	o := m.observer()
	if err := o.stream.Send(&tullev1.Observed{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ads, err := discoveryv3.NewAggregatedDiscoveryServiceClient(m.dial(m.joined("shop", "web"))).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := ads.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "web-1"}, TypeUrl: policy.TypeService}); err != nil {
		t.Fatal(err)
	}
	resp, err := ads.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetResources()) != 1 || resp.GetResources()[0].GetName() != "catalog" {
		t.Fatalf("got %v", resp)
	}
	if err := ads.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: policy.TypeService, ResponseNonce: resp.GetNonce(), ErrorDetail: &spb.Status{Code: 3, Message: "catalog: not to my liking"},
	}); err != nil {
		t.Fatal(err)
	}
	e := o.event(t, "proxy.nack")
	if e.GetInstance() != "web-1" || !strings.Contains(e.GetMessage(), "not to my liking") || e.GetReason() != "service" {
		t.Errorf("event is %v", e)
	}
	if p := m.status().Proxies; len(p) != 1 || p[0].LastNack != "catalog: not to my liking" {
		t.Errorf("status is %+v", p)
	}
	// What else of the revision is accepted does not make it acknowledged.
	if err := ads.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: policy.TypeEndpoints}); err != nil {
		t.Fatal(err)
	}
	if resp2, err := ads.Recv(); err != nil || ads.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: policy.TypeEndpoints, ResponseNonce: resp2.GetNonce()}) != nil {
		t.Fatal(err)
	}
	eventually(t, "the endpoints are acknowledged", func() bool { return strings.Contains(m.get("/metrics"), "xds_acks_total 1\n") })
	if p := m.status().Proxies; len(p) != 1 || p[0].LastNack == "" || p[0].Acked != "" {
		t.Errorf("status after a partial acknowledgement is %+v", p)
	}
	// Refused content is not sent again; changed content is.
	m.write("policy.yaml", "apiVersion: tulle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: c}\nspec: {targetService: catalog, requestTimeout: 2s}\n")
	next, err := ads.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if next.GetResources()[0].GetVersion() == resp.GetResources()[0].GetVersion() {
		t.Error("the refused version was sent again")
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	m := newMesh(t)
	body := m.get("/metrics")
	checkExposition(t, body)
	if !strings.Contains(body, "tulle_controller_resources 4\n") {
		t.Errorf("metrics do not count 4 resources:\n%s", body)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		m.get(path)
	}
	req, _ := http.NewRequest("GET", "http://"+m.admin+"/metrics", nil)
	for _, tc := range []struct{ host, origin string }{{"evil.example", ""}, {"", "http://evil.example"}} {
		r := req.Clone(t.Context())
		r.Host = tc.host
		if tc.origin != "" {
			r.Header.Set("Origin", tc.origin)
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("host %q origin %q: %d, want 403", tc.host, tc.origin, resp.StatusCode)
		}
	}
}

// checkExposition holds every sample to a HELP and a TYPE before it, as promtool does.
func checkExposition(t *testing.T, body string) {
	t.Helper()
	help, kind := map[string]bool{}, map[string]string{}
	for line := range strings.Lines(body) {
		f := strings.Fields(line)
		switch {
		case len(f) > 3 && f[1] == "HELP":
			help[f[2]] = true
		case len(f) == 4 && f[1] == "TYPE":
			kind[f[2]] = f[3]
		default:
			name, _, _ := strings.Cut(f[0], "{")
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base := strings.TrimSuffix(name, suffix); kind[base] == "histogram" {
					name = base
				}
			}
			if !help[name] || kind[name] == "" {
				t.Errorf("%s has no HELP or no TYPE", name)
			}
			if (kind[name] == "counter") != strings.HasSuffix(name, "_total") {
				t.Errorf("%s is a %s", name, kind[name])
			}
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	other := t.TempDir()
	if _, err := EnsureCA(other, "other.domain"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "DataDir must be set"},
		{Config{DataDir: t.TempDir()}, "ConfigDir must be set"},
		{Config{DataDir: t.TempDir(), ConfigDir: t.TempDir(), GRPC: taken.Addr().String()}, "is another controller running?"},
		{Config{DataDir: t.TempDir(), ConfigDir: filepath.Join(t.TempDir(), "none"), GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"}, "create it, or name another"},
		{Config{DataDir: other, ConfigDir: t.TempDir(), GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"}, `is of trust domain "other.domain"`},
		{Config{DataDir: t.TempDir(), ConfigDir: t.TempDir(), TrustDomain: "No"}, "TrustDomain"},
	} {
		err := Run(t.Context(), tc.cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v\nwant one line with %s", err, tc.want)
		}
	}
}
