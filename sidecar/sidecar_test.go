package sidecar

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a sidecar under test.
type running struct {
	*Sidecar
	rec    *testmesh.Recorder
	source *testmesh.Source
	stop   func() // drains and waits
}

func start(t *testing.T, snap *policy.Snapshot, holder *identity.Holder, drain time.Duration) *running {
	t.Helper()
	r := &running{rec: &testmesh.Recorder{}, source: testmesh.NewSource(snap)}
	var err error
	r.Sidecar, err = New(Config{
		Policy: r.source, Identity: holder, Recorder: r.rec, Log: slog.New(slog.DiscardHandler), DrainTimeout: drain,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- r.Run(ctx, func() { close(ready) }) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run did not return 20 s after its context was done")
		}
	}
	t.Cleanup(r.stop)
	if snap != nil {
		<-ready
	}
	return r
}

func (r *running) addr(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	a := r.Addresses()[name]
	if a == nil {
		t.Fatalf("listener %q is not bound; problems: %v", name, r.Problems())
	}
	return a.(*net.TCPAddr).AddrPort()
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// serverSnapshot is that of a sidecar in front of an application at app.
func serverSnapshot(service string, app netip.AddrPort, mode policy.ListenerMode, protocol flow.Protocol) *policy.Snapshot {
	return &policy.Snapshot{
		Revision: "s1", Workload: policy.Workload{Service: service, Namespace: "shop", Version: "v1", Instance: service + "-1"},
		Listeners: []policy.Listener{{Name: "inbound", Side: flow.SideServer, Protocol: protocol, Address: loopback, Target: app, Service: service, Mode: mode}},
	}
}

// clientSnapshot is that of a sidecar whose application calls one service.
func clientSnapshot(sv policy.Service, endpoints ...netip.AddrPort) *policy.Snapshot {
	s := &policy.Snapshot{
		Revision: "c1", Workload: policy.Workload{Service: "web", Namespace: "shop", Version: "v1", Instance: "web-1"},
		Listeners: []policy.Listener{{Name: "outbound", Side: flow.SideClient, Protocol: sv.Protocol, Address: loopback, Service: sv.Name}},
		Services:  map[string]policy.Service{sv.Name: sv},
		Endpoints: map[string][]policy.Endpoint{},
	}
	for i, a := range endpoints {
		s.Endpoints[sv.Name] = append(s.Endpoints[sv.Name], policy.Endpoint{Address: a, Version: "v1", Instance: fmt.Sprint("e", i), Weight: 100})
	}
	return s
}

func mesh(name string) policy.Service {
	return policy.Service{Name: name, Namespace: "shop", Protocol: flow.ProtocolHTTP, MTLS: true, Identities: []string{testmesh.ID(name).String()}}
}

// app starts an HTTP application and returns its address.
func app(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func client(t testing.TB) *http.Client {
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func TestTwoSidecars(t *testing.T) {
	ca := testmesh.NewCA(t)
	var seen http.Header
	var path string
	target := app(t, func(w http.ResponseWriter, r *http.Request) {
		seen, path = r.Header.Clone(), r.URL.String()
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("x-tulle-reason", "denied") // an application may not speak for a sidecar
		fmt.Fprintf(w, "%s %d", r.Method, len(body))
	})
	server := start(t, serverSnapshot("catalog", target, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), 0)
	web := start(t, clientSnapshot(mesh("catalog"), server.addr(t, "inbound")), ca.Holder("web"), 0)
	c := client(t)

	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req, _ := http.NewRequest("POST", "http://"+web.addr(t, "outbound").String()+"/items/7?secret=1", strings.NewReader("hello"))
	req.Header.Set("traceparent", parent)
	req.Header.Set("x-tulle-reason", "spoofed")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 200 || string(body) != "POST 5" {
		t.Fatalf("got %d %q", resp.StatusCode, body)
	}
	if v := resp.Header.Get("x-tulle-reason"); v != "" {
		t.Errorf("the application's x-tulle-reason %q reached the caller", v)
	}
	if v := seen.Get("x-tulle-reason"); v != "" {
		t.Errorf("the caller's x-tulle-reason %q reached the application", v)
	}
	if path != "/items/7?secret=1" {
		t.Errorf("the application saw %q", path)
	}
	web.stop()
	server.stop()

	ex, at, se := web.rec.Closed(flow.KindExchange), web.rec.Closed(flow.KindAttempt), server.rec.Closed(flow.KindExchange)
	if len(ex) != 1 || len(at) != 1 || len(se) != 1 {
		t.Fatalf("got %d client exchanges, %d attempts, %d server exchanges", len(ex), len(at), len(se))
	}
	if got := ex[0].Trace; got.TraceID.String() != parent[3:35] || got.ParentID.String() != parent[36:52] || got.Started {
		t.Errorf("client exchange's trace: %+v", got)
	}
	if !at[0].Folded || se[0].Trace.ParentID != ex[0].Trace.SpanID { // the only try has no span; the exchange stands for it
		t.Errorf("spans are not linked: exchange %s, attempt folded: %v, server %s under %s",
			ex[0].Trace.SpanID, at[0].Folded, se[0].Trace.SpanID, se[0].Trace.ParentID)
	}
	if want := "00-" + parent[3:35] + "-" + se[0].Trace.SpanID.String() + "-01"; seen.Get("traceparent") != want {
		t.Errorf("the application saw traceparent %q, want %q", seen.Get("traceparent"), want)
	}
	e := ex[0]
	if e.Path != "/items/7" || e.Method != "POST" || e.Status != 200 || !e.Answered || e.BytesIn != 5 || e.BytesOut != 6 || e.Attempts != 1 {
		t.Errorf("client exchange: %+v", e)
	}
	if e.Source.Service != "web" || e.Destination.Service != "catalog" || e.Destination.Identity != testmesh.ID("catalog").String() || e.Revision != "c1" {
		t.Errorf("client edge: %+v -> %+v at %q", e.Source, e.Destination, e.Revision)
	}
	if s := se[0]; s.Source.Service != "web" || s.Source.Identity != testmesh.ID("web").String() || s.Destination.Service != "catalog" || s.RequestID != e.RequestID || s.RequestID == "" {
		t.Errorf("server edge: %+v -> %+v, request id %q", s.Source, s.Destination, s.RequestID)
	}
	if a := at[0]; !a.Delivered || a.Attempt != 1 || a.Legs.Secured < 0 || a.Legs.FirstByte < 0 || a.Endpoint != server.serverAddr(a) {
		t.Errorf("attempt: %+v", a)
	}
	if kept, broken := web.rec.Traces(); kept != 1 || broken != 0 {
		t.Errorf("traces kept %d, broken %d", kept, broken)
	}
	if n := web.rec.Live() + server.rec.Live(); n != 0 {
		t.Errorf("%d live counts are left", n)
	}
}

func (r *running) serverAddr(a flow.Record) netip.AddrPort { return a.Destination.Addr }

// raw sends bytes to addr and returns all that comes back.
func raw(t *testing.T, addr netip.AddrPort, send string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(bufio.NewReader(c))
	if err != nil {
		t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}
