package main

import (
	"bytes"
	"context"
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

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
)

const domain = "tulle.local"

// free is an address nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// observed is what an OTLP server was told: how many spans of each kind, and the counts of each reporter's last export.
type observed struct {
	collectortrace.UnimplementedTraceServiceServer
	metrics observedMetrics

	mu    sync.Mutex
	spans map[string]int // "service kind side"
	raw   bytes.Buffer   // everything, to look for what must not be there
}

type observedMetrics struct {
	collectormetrics.UnimplementedMetricsServiceServer
	o       *observed
	counts  map[string]int64 // "service metric side", of the last export
	goodbye map[string]bool
}

func text(attrs []*common.KeyValue, key string) string {
	for _, kv := range attrs {
		if kv.Key == key {
			return kv.Value.GetStringValue()
		}
	}
	return ""
}

func (o *observed) Export(_ context.Context, req *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, _ := proto.Marshal(req)
	o.raw.Write(b)
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				o.spans[strings.Join([]string{text(rs.Resource.Attributes, flow.AttrServiceName), text(s.Attributes, flow.AttrKind), text(s.Attributes, flow.AttrSide)}, " ")]++
			}
		}
	}
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

func (m *observedMetrics) Export(_ context.Context, req *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	m.o.mu.Lock()
	defer m.o.mu.Unlock()
	b, _ := proto.Marshal(req)
	m.o.raw.Write(b)
	for _, rm := range req.ResourceMetrics {
		service := text(rm.Resource.Attributes, flow.AttrServiceName)
		for _, kv := range rm.Resource.Attributes {
			if kv.Key == flow.AttrGoodbye {
				m.goodbye[service] = true
			}
		}
		for _, metric := range rm.ScopeMetrics[0].Metrics {
			sums := map[string]int64{}
			for _, p := range metric.GetSum().GetDataPoints() {
				sums[text(p.Attributes, flow.AttrSide)] += p.GetAsInt()
			}
			for side, n := range sums {
				m.counts[strings.TrimSpace(service+" "+metric.Name+" "+side)] = n
			}
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

// start runs something until stop, which waits for it and fails the test on an error.
func start(t *testing.T, what string, f func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			case <-time.After(40 * time.Second):
				t.Errorf("%s did not stop", what)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// The whole sidecar against a real controller and a real OTLP server, all over mTLS: two sidecars join by token, get their policy, carry
// requests, and what they say adds up exactly; then both restart without controller and token and still serve.
func TestTwoSidecars(t *testing.T) {
	dir := t.TempDir()
	dataDir, configDir := filepath.Join(dir, "controller"), filepath.Join(dir, "config")
	if err := os.MkdirAll(configDir, 0o700); err != nil {
		t.Fatal(err)
	}
	var appSaw sync.Map
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		appSaw.Store(r.URL.RawQuery, r.Header.Get("Traceparent"))
		if strings.HasPrefix(r.URL.Path, "/fail") {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, "hello")
	}))
	defer app.Close()
	inbound, outbound := free(t), free(t)
	config := fmt.Sprintf(`apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec:
  service: web
  upstreams: [{service: cart, listen: %q}]
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec:
  service: cart
  version: v1
  ports: [{listen: %q, target: %q}]
`, outbound, inbound, app.Listener.Addr())
	if err := os.WriteFile(filepath.Join(configDir, "mesh.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	grpcListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	adminListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	controllerLog := &output{}
	c, err := controller.New(controller.Config{
		DataDir: dataDir, ConfigDir: configDir, TrustDomain: domain, GRPCListener: grpcListener, AdminListener: adminListener,
		Log: slog.New(slog.NewTextHandler(controllerLog, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	stopController := start(t, "controller", func(ctx context.Context) error { return c.Run(ctx, func() { close(up) }) })
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		t.Fatalf("the controller is not ready:\n%s", controllerLog)
	}
	bundles, err := filepath.Glob(filepath.Join(dataDir, "*", "bundle.pem"))
	if err != nil || len(bundles) != 1 {
		t.Fatalf("bundle: %v %v", bundles, err)
	}
	token := func(namespace, account string) string {
		token, err := controller.IssueToken(dataDir, namespace, account, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}

	// The observer: an OTLP server with the observer's own identity.
	controllerID, _ := identity.Controller(domain)
	observerID, _ := identity.Observer(domain)
	holder := &identity.Holder{}
	joining, err := join.New(join.Config{
		Controller: grpcListener.Addr().String(), ControllerID: controllerID, ID: observerID, Token: token(identity.SystemNamespace, "observer"),
		BundleFile: bundles[0], StateDir: filepath.Join(dir, "observer"), Holder: holder,
	})
	if err != nil {
		t.Fatal(err)
	}
	joined := make(chan struct{})
	defer start(t, "observer's identity", func(ctx context.Context) error { return joining.Run(ctx, func() { close(joined) }) })()
	<-joined
	o := &observed{spans: map[string]int{}}
	o.metrics = observedMetrics{o: o, counts: map[string]int64{}, goodbye: map[string]bool{}}
	otlp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(holder.ServerTLS())))
	collectortrace.RegisterTraceServiceServer(server, o)
	collectormetrics.RegisterMetricsServiceServer(server, &o.metrics)
	go func() { _ = server.Serve(otlp) }()
	defer server.Stop()

	log := &output{}
	sidecar := func(service, token string) (stop func()) {
		admin := free(t)
		env := func(k string) (string, bool) { return token, k == "TULLE_JOIN_TOKEN" && token != "" }
		cfg, err := parse([]string{
			"--instance", service + "-1", "--service", service, "--namespace", "shop", "--bundle", bundles[0], "--state-dir", filepath.Join(dir, service),
			"--admin", admin, "--controller", grpcListener.Addr().String(), "--otlp", otlp.Addr().String(),
		}, env, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		stop = start(t, service, func(ctx context.Context) error { return serve(ctx, cfg, io.Discard, log) })
		last := ""
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if res, err := http.Get("http://" + admin + "/readyz"); err == nil {
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode == 200 {
					return stop
				}
				last = string(b)
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is not ready: %s\n%s", service, last, log)
			}
		}
	}
	stopCart := sidecar("cart", token("shop", "cart"))
	stopWeb := sidecar("web", token("shop", "web"))

	client := &http.Client{Transport: &http.Transport{}}
	get := func(path string) (int, string) {
		t.Helper()
		res, err := client.Get("http://" + outbound + path)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	const requests, failing = 60, 7
	for i := range requests {
		path, want := fmt.Sprintf("/items/%d?card=SECRET%d", i, i), 200
		if i < failing {
			path, want = "/fail"+path, 500
		}
		if code, body := get(path); code != want || body != "hello" {
			t.Fatalf("request %d: %d %q\n%s", i, code, body, log)
		}
	}
	if v, ok := appSaw.Load("card=SECRET9"); !ok || v == "" {
		t.Errorf("the application must see the query and a traceparent: %v %v", v, ok)
	}
	client.CloseIdleConnections()
	stopWeb()
	stopCart()

	o.mu.Lock()
	for what, want := range map[string]int{"web exchange client": requests, "web attempt client": failing, "cart exchange server": requests} {
		if o.spans[what] != want {
			t.Errorf("%d spans of %q, want %d (all: %v)", o.spans[what], what, want, o.spans)
		}
	}
	for what, want := range map[string]int64{
		"web tulle.exchanges client": requests, "web tulle.attempts": requests, "cart tulle.exchanges server": requests,
		"web tulle.version.exchanges client": requests,
	} {
		if got := o.metrics.counts[what]; got != want {
			t.Errorf("%s = %d, want %d (all: %v)", what, got, want, o.metrics.counts)
		}
	}
	if !o.metrics.goodbye["web"] || !o.metrics.goodbye["cart"] {
		t.Errorf("goodbyes: %v", o.metrics.goodbye)
	}
	if bytes.Contains(o.raw.Bytes(), []byte("SECRET")) || strings.Contains(log.String(), "SECRET") {
		t.Error("a query string left a sidecar")
	}
	o.mu.Unlock()

	// Both again, with neither controller nor token: key, certificate and policy come from the state directory.
	stopController()
	stopCart = sidecar("cart", "")
	stopWeb = sidecar("web", "")
	if code, body := get("/items/again"); code != 200 || body != "hello" {
		t.Errorf("after a restart without controller: %d %q\n%s", code, body, log)
	}
	client.CloseIdleConnections()
	stopWeb()
	stopCart()
}
