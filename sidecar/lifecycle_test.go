package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

func dial(t *testing.T, addr netip.AddrPort) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, bufio.NewReader(c)
}

func get(t *testing.T, c net.Conn, br *bufio.Reader, path string) *http.Response {
	t.Helper()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp
}

// TestDrain: idle connections close, what is in flight finishes and says so, nothing new is accepted.
func TestDrain(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	target := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			close(arrived)
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})
	r, addr := front(t, nil, target)
	idle, idleReader := dial(t, addr)
	get(t, idle, idleReader, "/")
	busy, busyReader := dial(t, addr)
	fmt.Fprint(busy, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	if _, err := idleReader.ReadByte(); err != io.EOF {
		t.Errorf("idle connection: %v, want EOF", err)
	}
	if c, err := net.Dial("tcp", addr.String()); err == nil {
		_ = c.Close()
		t.Error("a draining sidecar accepts connections")
	}
	close(release)
	resp, err := http.ReadResponse(busyReader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "ok" || !resp.Close {
		t.Errorf("got %q, connection: close %v", b, resp.Close)
	}
	<-stopped
}

// TestDrainTimeout: what does not finish in time is answered by the sidecar, never just cut: otherwise its caller would take the attempt as
// never delivered.
func TestDrainTimeout(t *testing.T) {
	arrived := make(chan struct{})
	target := scripted(t, func(_ net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		close(arrived)
		_, _ = io.Copy(io.Discard, r)
	})
	ca := testmesh.NewCA(t)
	server := start(t, serverSnapshot("catalog", target, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), 50*time.Millisecond)
	web := start(t, clientSnapshot(mesh("catalog"), server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	c, br := dial(t, web.addr(t, "outbound"))
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	<-arrived
	server.stop()
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("x-tulle-reason") != "draining" {
		t.Errorf("got %d, reason %q", resp.StatusCode, resp.Header.Get("x-tulle-reason"))
	}
	web.stop()
	if ex := server.rec.Closed(flow.KindExchange); len(ex) != 1 || ex[0].Reason != flow.ReasonDraining || !ex[0].Answered {
		t.Errorf("server exchanges %+v", ex)
	}
	if at := web.rec.Closed(flow.KindAttempt); len(at) != 1 || !at[0].Delivered {
		t.Errorf("attempts %+v", at)
	}
}

// TestSnapshotChange: an unchanged listener keeps its connections, new exchanges take the new Snapshot, a removed listener closes.
func TestSnapshotChange(t *testing.T) {
	one := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "one") })
	two := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "two") })
	first := clientSnapshot(external(nil), one)
	fixed := refused(t) // a free port that stays the same
	first.Listeners[0].Address = fixed
	gone := first.Listeners[0]
	gone.Name, gone.Address = "gone", refused(t)
	first.Listeners = append(first.Listeners, gone)
	r := start(t, first, &identity.Holder{}, time.Second)
	c, br := dial(t, fixed)
	g, gr := dial(t, gone.Address)
	get(t, g, gr, "/")
	body := func() string {
		b, _ := io.ReadAll(get(t, c, br, "/").Body)
		return string(b)
	}
	if got := body(); got != "one" {
		t.Fatalf("got %q", got)
	}
	second := clientSnapshot(external(nil), two)
	second.Revision = "c2"
	second.Listeners[0].Address = fixed
	r.source.Set(second)
	testmesh.Eventually(t, "the second snapshot is applied", func() bool { return r.Snapshot() == second })
	if got := body(); got != "two" {
		t.Errorf("on the connection that was kept: got %q", got)
	}
	if _, err := gr.ReadByte(); err != io.EOF {
		t.Errorf("connection of the removed listener: %v, want EOF", err)
	}
	_ = c.Close()
	r.stop()
	ex := r.rec.Closed(flow.KindExchange)
	if len(ex) != 3 || ex[1].Revision != "c1" || ex[2].Revision != "c2" {
		t.Errorf("exchanges %+v", ex)
	}
}

// TestPortInUse: a listener that cannot bind is a problem that says what to do, and ends when the port is free.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	snap := clientSnapshot(external(nil), refused(t))
	snap.Listeners[0].Address = l.Addr().(*net.TCPAddr).AddrPort()
	r := start(t, snap, &identity.Holder{}, time.Second)
	ps := r.Problems()
	if r.Ready() || len(ps) != 1 || ps[0].Listener != "outbound" || !strings.Contains(ps[0].Err, "stop it, or give the listener another port") {
		t.Errorf("ready %v, problems %+v", r.Ready(), ps)
	}
	_ = l.Close()
	testmesh.Eventually(t, "the listener binds", r.Ready)
}

// TestNoSnapshot: a sidecar without a Snapshot waits for one, and stops when told.
func TestNoSnapshot(t *testing.T) {
	r := start(t, nil, &identity.Holder{}, time.Second)
	if r.Ready() {
		t.Error("ready without a snapshot")
	}
	r.source.Set(clientSnapshot(external(nil)))
	testmesh.Eventually(t, "ready", r.Ready)
	c, br := dial(t, r.addr(t, "outbound"))
	if resp := get(t, c, br, "/"); resp.StatusCode != 503 || resp.Header.Get("x-tulle-reason") != "no_endpoint" {
		t.Errorf("got %+v", resp)
	}
	_ = c.Close()
}

// TestPermissive: plaintext callers are served without an identity, mTLS callers with theirs; a strict listener refuses plaintext.
func TestPermissive(t *testing.T) {
	ca := testmesh.NewCA(t)
	target := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	server := start(t, serverSnapshot("catalog", target, policy.ModePermissive, flow.ProtocolHTTP), ca.Holder("catalog"), time.Second)
	strict := start(t, serverSnapshot("catalog", target, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), time.Second)
	if got := raw(t, server.addr(t, "inbound"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasSuffix(got, "ok") {
		t.Errorf("plaintext: got %q", got)
	}
	if got := raw(t, strict.addr(t, "inbound"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Errorf("plaintext to a strict listener: got %q", got)
	}
	web := start(t, clientSnapshot(mesh("catalog"), server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	c, br := dial(t, web.addr(t, "outbound"))
	get(t, c, br, "/")
	_ = c.Close()
	web.stop()
	server.stop()
	strict.stop()
	ex := server.rec.Closed(flow.KindExchange)
	if len(ex) != 2 || ex[0].Source.Service != "" || ex[1].Source.Service != "web" || ex[1].Source.Namespace != "shop" {
		t.Errorf("server exchanges %+v", ex)
	}
	if cs := strict.rec.Closed(flow.KindConnection); len(cs) != 1 || cs[0].Reason != flow.ReasonPlaintextRefused {
		t.Errorf("connection Records %+v", cs)
	}
}

// TestRefusalArrives: a plaintext caller of a strict listener reads why it was turned away, however much it has sent.
func TestRefusalArrives(t *testing.T) {
	server := start(t, serverSnapshot("a", refused(t), policy.ModeStrict, flow.ProtocolHTTP), testmesh.NewCA(t).Holder("a"), 0)
	got := raw(t, server.addr(t, "inbound"), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100_000))
	if !strings.HasPrefix(got, "HTTP/1.1 403 ") || !strings.Contains(got, "x-tulle-reason: plaintext_refused\r\n") {
		t.Errorf("got %q", got)
	}
}

// TestTCP: bytes pass exactly through two sidecars, half-close included, and each writes one connection Record.
func TestTCP(t *testing.T) {
	ca := testmesh.NewCA(t)
	target := scripted(t, func(c net.Conn, r *bufio.Reader) {
		b, _ := io.ReadAll(r)
		_, _ = c.Write(b)
	})
	server := start(t, serverSnapshot("db", target, policy.ModeStrict, flow.ProtocolTCP), ca.Holder("db"), time.Second)
	sv := mesh("db")
	sv.Protocol = flow.ProtocolTCP
	web := start(t, clientSnapshot(sv, refused(t), server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	payload := make([]byte, 2<<20)
	_, _ = rand.Read(payload)
	c, br := dial(t, web.addr(t, "outbound"))
	if _, err := c.Write(payload); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(br); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	web.stop()
	server.stop()
	for _, r := range []*running{web, server} {
		cs := r.rec.Closed(flow.KindConnection)
		if len(cs) != 1 || cs[0].Reason != flow.ReasonNone || cs[0].BytesIn != uint64(len(payload)) || cs[0].BytesOut != uint64(len(payload)) {
			t.Errorf("connection Records %+v", cs)
		}
		if n := len(r.rec.Closed(flow.KindExchange)) + len(r.rec.Closed(flow.KindAttempt)); n != 0 {
			t.Errorf("%d exchanges and attempts of a TCP relay", n)
		}
	}
}

// TestTraceBreaks: an outbound request without a traceparent while an inbound one is in flight is a broken trace.
func TestTraceBreaks(t *testing.T) {
	var out netip.AddrPort
	backend := app(t, func(w http.ResponseWriter, _ *http.Request) {})
	target := app(t, func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequest("GET", "http://"+out.String(), nil)
		if r.URL.Path == "/keep" {
			req.Header.Set("traceparent", r.Header.Get("traceparent"))
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	})
	defer http.DefaultClient.CloseIdleConnections()
	snap := clientSnapshot(external(nil), backend)
	snap.Listeners = append(snap.Listeners, policy.Listener{Name: "inbound", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: refused(t), Target: target, Service: "web", Mode: policy.ModePermissive})
	r := start(t, snap, &identity.Holder{}, time.Second)
	out = r.addr(t, "outbound")
	c, br := dial(t, r.addr(t, "inbound"))
	get(t, c, br, "/keep")
	get(t, c, br, "/break")
	if kept, broken := r.rec.Traces(); kept != 1 || broken != 1 {
		t.Errorf("kept %d, broken %d", kept, broken)
	}
	testmesh.Eventually(t, "the inbound exchanges to end", func() bool {
		n := 0
		for _, e := range r.rec.Closed(flow.KindExchange) {
			if e.Side == flow.SideServer {
				n++
			}
		}
		return n == 2
	})
	c2, br2 := dial(t, out)
	get(t, c2, br2, "/") // nothing inbound is in flight: neither
	if kept, broken := r.rec.Traces(); kept != 1 || broken != 1 {
		t.Errorf("kept %d, broken %d", kept, broken)
	}
	_, _ = c.Close(), c2.Close()
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{}, {Policy: policy.Static{}}, {Policy: policy.Static{}, Identity: &identity.Holder{}}} {
		if _, err := New(c); err == nil {
			t.Errorf("New(%+v) succeeded", c)
		}
	}
}

// BenchmarkKeepAlive is one request through one sidecar over loopback, caller and upstream included; allocs are of all three.
func BenchmarkKeepAlive(b *testing.B) {
	c, up := benchConn(b)
	_ = up
	req := []byte("GET /items/7 HTTP/1.1\r\nHost: catalog\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, c, req, buf)
	}
}

// TestAllocations: the steady keep-alive path allocates nothing.
func TestAllocations(t *testing.T) {
	c, _ := benchConn(t)
	req := []byte("GET /items/7 HTTP/1.1\r\nHost: catalog\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4096)
	for range 50 {
		roundTrip(t, c, req, buf)
	}
	n := testing.AllocsPerRun(500, func() { roundTrip(t, c, req, buf) })
	t.Logf("%v allocations per request", n)
	if n >= 1 && !raceEnabled { // the race detector makes sync.Pool forget
		t.Errorf("%v allocations per request, want 0", n)
	}
}

// TestIdleStacks: a connection that waits for a request holds a stack of 4 KiB, not what its requests have needed.
func TestIdleStacks(t *testing.T) {
	if raceEnabled {
		t.Log("frames are larger under the race detector: make test runs this once more without it")
		return
	}
	first, addr := benchConn(t)
	req := []byte("GET /items/7 HTTP/1.1\r\nHost: catalog\r\n\r\n")
	buf := make([]byte, 4096)
	roundTrip(t, first, req, buf)
	stacks := func() uint64 {
		runtime.GC() // each collection halves a stack at most once
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.StackInuse
	}
	const conns = 400
	before := stacks()
	for range conns {
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		roundTrip(t, c, req, buf)
	}
	if per := (stacks() - before) / conns; per > 5<<10 {
		t.Errorf("%d bytes of stack for each idle connection; something large stands below the waiting (see Sidecar.serve)", per)
	}
}

func roundTrip(t testing.TB, c net.Conn, req, buf []byte) {
	if _, err := c.Write(req); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); err != nil || !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200")) {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
}

// nothing is a Recorder that keeps nothing.
type nothing struct{}

func (nothing) Record(*flow.Record)          {}
func (nothing) Active(flow.ActiveKey, int64) {}
func (nothing) TraceContext(bool)            {}
func (nothing) Detected(flow.Detection)      {}

func benchConn(t testing.TB) (net.Conn, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	upDone := make(chan struct{})
	resp := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	go func() {
		defer close(upDone)
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(resp); err != nil {
						return
					}
				}
			})
		}
	}()
	snap := clientSnapshot(external(nil), l.Addr().(*net.TCPAddr).AddrPort())
	s, err := New(Config{Policy: policy.Static{Snapshot: snap}, Identity: &identity.Holder{}, Recorder: nothing{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, func() { close(ready) })
	}()
	<-ready
	addr := s.Addresses()["outbound"]
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = l.Close()
		cancel()
		<-done
		<-upDone
	})
	return c, addr.(*net.TCPAddr).AddrPort()
}
