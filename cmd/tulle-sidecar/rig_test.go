package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

const domain = "tulle.local"

// ports are counted through, from a place of this process's own, below those that the kernel gives away by itself: one of these would be taken by the next
// listener on port 0.
var ports = func() *atomic.Uint32 {
	p := &atomic.Uint32{}
	p.Store(uint32(os.Getpid() * 97)) // processes that start one after another begin far apart
	return p
}()

// free is an address nobody listens on, or will without being told to.
func free(t *testing.T) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 24_000+ports.Add(1)%8_000))
		if err == nil {
			_ = l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port from 24000 to 31999 is free")
	return ""
}

// observed is what an OTLP server was told: how many spans of each kind, and the counts of each reporter's last export.
type observed struct {
	collectortrace.UnimplementedTraceServiceServer
	metrics observedMetrics

	mu    sync.Mutex
	spans map[string]int // "service kind side"
	raw   bytes.Buffer   // everything, to look for what must not be there

	reporters map[string][]string // who sent what is of a service, as its TLS connection proved
}

// reportedLocked notes who sent what is said to be of service.
func (o *observed) reportedLocked(ctx context.Context, service string) {
	p, _ := peer.FromContext(ctx)
	state := p.AuthInfo.(credentials.TLSInfo).State
	if id := identity.PeerID(state).String(); !slices.Contains(o.reporters[service], id) {
		o.reporters[service] = append(o.reporters[service], id)
	}
}

type observedMetrics struct {
	collectormetrics.UnimplementedMetricsServiceServer
	o       *observed
	last    map[string]map[string]int64 // by boot id, then "service metric side": of the last export
	counts  map[string]int64            // "service metric side": of the last exports of all boots
	before  map[string]string           // boot id → that of the process that handed over
	goodbye map[string]bool             // by service and by boot id
}

func text(attrs []*common.KeyValue, key string) string {
	for _, kv := range attrs {
		if kv.Key == key {
			return kv.Value.GetStringValue()
		}
	}
	return ""
}

func (o *observed) Export(ctx context.Context, req *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, _ := proto.Marshal(req)
	o.raw.Write(b)
	for _, rs := range req.ResourceSpans {
		o.reportedLocked(ctx, text(rs.Resource.Attributes, flow.AttrServiceName))
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				o.spans[strings.Join([]string{text(rs.Resource.Attributes, flow.AttrServiceName), text(s.Attributes, flow.AttrKind), text(s.Attributes, flow.AttrSide)}, " ")]++
			}
		}
	}
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

func (m *observedMetrics) Export(ctx context.Context, req *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	m.o.mu.Lock()
	defer m.o.mu.Unlock()
	b, _ := proto.Marshal(req)
	m.o.raw.Write(b)
	for _, rm := range req.ResourceMetrics {
		service := text(rm.Resource.Attributes, flow.AttrServiceName)
		m.o.reportedLocked(ctx, service)
		boot := text(rm.Resource.Attributes, flow.AttrBootID)
		if p := text(rm.Resource.Attributes, flow.AttrPredecessor); p != "" {
			m.before[boot] = p
		}
		for _, kv := range rm.Resource.Attributes {
			if kv.Key == flow.AttrGoodbye {
				m.goodbye[service], m.goodbye[boot] = true, true
			}
		}
		for _, metric := range rm.ScopeMetrics[0].Metrics {
			sums := map[string]int64{}
			for _, p := range metric.GetSum().GetDataPoints() {
				sums[text(p.Attributes, flow.AttrSide)] += p.GetAsInt()
			}
			if m.last[boot] == nil {
				m.last[boot] = map[string]int64{}
			}
			for side, n := range sums {
				what := strings.TrimSpace(service + " " + metric.Name + " " + side)
				m.counts[what] += n - m.last[boot][what]
				m.last[boot][what] = n
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

// mesh is a real controller and a real OTLP server with the observer's identity, for sidecars to join.
type mesh struct {
	t                       *testing.T
	dir, controller, bundle string
	otlp                    string
	observed                *observed
	stopController          func()
}

func newMesh(t *testing.T, config string) *mesh {
	t.Helper()
	m := &mesh{t: t, dir: t.TempDir()}
	configDir := filepath.Join(m.dir, "config")
	if err := os.MkdirAll(configDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(configDir, "mesh.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	grpcListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.controller = grpcListener.Addr().String()
	adminListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &output{}
	c, err := controller.New(controller.Config{
		DataDir: m.dataDir(), ConfigDir: configDir, TrustDomain: domain, GRPCListener: grpcListener, AdminListener: adminListener,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	m.stopController = start(t, "controller", func(ctx context.Context) error { return c.Run(ctx, func() { close(up) }) })
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		t.Fatalf("the controller is not ready:\n%s", log)
	}
	bundles, err := filepath.Glob(filepath.Join(m.dataDir(), "*", "bundle.pem"))
	if err != nil || len(bundles) != 1 {
		t.Fatalf("bundle: %v %v", bundles, err)
	}
	m.bundle = bundles[0]

	controllerID, _ := identity.Controller(domain)
	observerID, _ := identity.Observer(domain)
	holder := &identity.Holder{}
	joining, err := join.New(join.Config{
		Controller: m.controller, ControllerID: controllerID, ID: observerID, Token: m.token(identity.SystemNamespace, "observer"),
		BundleFile: m.bundle, StateDir: filepath.Join(m.dir, "observer"), Holder: holder,
	})
	if err != nil {
		t.Fatal(err)
	}
	joined := make(chan struct{})
	start(t, "observer's identity", func(ctx context.Context) error { return joining.Run(ctx, func() { close(joined) }) })
	<-joined
	m.observed = &observed{spans: map[string]int{}, reporters: map[string][]string{}}
	m.observed.metrics = observedMetrics{o: m.observed, last: map[string]map[string]int64{}, counts: map[string]int64{}, before: map[string]string{}, goodbye: map[string]bool{}}
	otlp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.otlp = otlp.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(holder.ServerTLS())))
	collectortrace.RegisterTraceServiceServer(server, m.observed)
	collectormetrics.RegisterMetricsServiceServer(server, &m.observed.metrics)
	go func() { _ = server.Serve(otlp) }()
	t.Cleanup(server.Stop)
	return m
}

func (m *mesh) dataDir() string { return filepath.Join(m.dir, "controller") }

func (m *mesh) token(namespace, account string) string {
	m.t.Helper()
	token, err := controller.IssueToken(m.dataDir(), namespace, account, time.Hour)
	if err != nil {
		m.t.Fatal(err)
	}
	return token
}

// flags of the sidecar of SERVICE-1.
func (m *mesh) flags(service, admin string) []string {
	return []string{
		"--instance", service + "-1", "--service", service, "--namespace", "shop", "--bundle", m.bundle, "--state-dir", filepath.Join(m.dir, service),
		"--admin", admin, "--controller", m.controller, "--otlp", m.otlp,
	}
}

// readyz is what the sidecar's page says of its readiness; 0 when nobody answers.
func readyz(admin string) (code int, body string) {
	res, err := http.Get("http://" + admin + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

func waitReady(t *testing.T, admin string, log *output) {
	t.Helper()
	testmesh.Eventually(t, "the sidecar at "+admin+" is ready", func() bool { code, _ := readyz(admin); return code == 200 },
		func() string { _, why := readyz(admin); return why + "\n" + log.String() })
}
