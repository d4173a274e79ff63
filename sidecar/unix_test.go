//go:build linux

package sidecar

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// sockets is a directory for Unix sockets; t.TempDir is too long for them.
func sockets(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// unixPair is two sidecars over mTLS: the application of the first calls by the Unix socket call, that of the second listens at serve.
func unixPair(t *testing.T, protocol flow.Protocol, call, serve *policy.Unix) (web, server *running) {
	t.Helper()
	ca := testmesh.NewCA(t)
	in := serverSnapshot("catalog", loopback, policy.ModeStrict, protocol)
	in.Listeners[0].Target, in.Listeners[0].Unix = netip.AddrPort{}, serve
	server = start(t, in, ca.Holder("catalog"), time.Second)
	sv := mesh("catalog")
	sv.Protocol = protocol
	out := clientSnapshot(sv, server.addr(t, "inbound"))
	out.Listeners[0].Address, out.Listeners[0].Unix = netip.AddrPort{}, call
	web = start(t, out, ca.Holder("web"), time.Second)
	if p := web.Problems(); len(p) != 0 {
		t.Fatal(p)
	}
	return web, server
}

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// unixClient calls whatever host by one Unix socket.
func unixClient(t *testing.T, path string, protocols *http.Protocols) *http.Client {
	tr := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func protocols(set func(*http.Protocols)) *http.Protocols {
	p := &http.Protocols{}
	set(p)
	return p
}

// self is this process, as its peers see it.
func self(socket string) flow.Application {
	return flow.Application{Socket: socket, Known: true, PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

// TestUnixHTTP: net/http to net/http, HTTP/1.1 and HTTP/2, by files and by abstract sockets; many connections at a time, with bodies. Records say which
// process called and which answered.
func TestUnixHTTP(t *testing.T) {
	for _, c := range []struct {
		name        string
		call, serve string
		protocols   *http.Protocols
		version     string
	}{
		{"HTTP/1.1", "/call", "/serve", protocols(func(p *http.Protocols) { p.SetHTTP1(true) }), "HTTP/1.1"},
		{"HTTP/2", "/call", "/serve", protocols(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }), "HTTP/2.0"},
		{"abstract", "@", "@", protocols(func(p *http.Protocols) { p.SetHTTP1(true) }), "HTTP/1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := sockets(t)
			call, serve := dir+c.call, dir+c.serve
			if c.call == "@" {
				call, serve = "@"+dir+"/call", "@"+dir+"/serve"
			}
			srv := &http.Server{Protocols: c.protocols, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, b)
			})}
			l := listenUnix(t, serve)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = srv.Serve(l)
			}()
			t.Cleanup(func() {
				_ = srv.Close()
				<-done
			})
			web, server := unixPair(t, flow.ProtocolHTTP, &policy.Unix{Path: call}, &policy.Unix{Path: serve})
			client := unixClient(t, call, c.protocols)
			const n = 40
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					body := strings.Repeat(fmt.Sprint(i), 30_000)
					resp, err := client.Post("http://catalog/items", "text/plain", strings.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					b, _ := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if want := c.version + " catalog " + body; string(b) != want {
						t.Errorf("got %d, %d bytes %.40q, want %d bytes", resp.StatusCode, len(b), b, len(want))
					}
				})
			}
			wg.Wait()
			client.CloseIdleConnections()
			if sat := server.Saturation(); len(sat) == 0 || sat[0].Open == 0 {
				t.Errorf("connections by the application's socket do not show: %+v", sat)
			}
			web.stop()
			server.stop()
			ex, se := web.rec.Closed(flow.KindExchange), server.rec.Closed(flow.KindExchange)
			if len(ex) != n || len(se) != n {
				t.Fatalf("%d and %d exchanges", len(ex), len(se))
			}
			for i := range n {
				if ex[i].Application != self("") || ex[i].Source.Addr.IsValid() || ex[i].Destination.Identity != testmesh.ID("catalog").String() {
					t.Fatalf("the caller's side: %+v", ex[i])
				}
				if se[i].Application != self(serve) || se[i].Endpoint.IsValid() || se[i].Source.Identity != testmesh.ID("web").String() {
					t.Fatalf("the service's side: %+v", se[i])
				}
			}
			if _, err := os.Lstat(call); err == nil {
				t.Error("the sidecar left its socket behind")
			}
		})
	}
}

// TestUnixGRPC: grpc-go to grpc-go, with its own unix: scheme, and a Unix socket of each end.
func TestUnixGRPC(t *testing.T) {
	dir := sockets(t)
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	l := listenUnix(t, dir+"/serve")
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	web, server := unixPair(t, flow.ProtocolGRPC, &policy.Unix{Path: dir + "/call"}, &policy.Unix{Path: dir + "/serve"})
	conn, err := grpc.NewClient("unix:"+dir+"/call", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	c := healthpb.NewHealthClient(conn)
	if r, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", r, err)
	}
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
	_ = conn.Close()
	web.stop()
	server.stop()
	if ex := server.rec.Closed(flow.KindExchange); len(ex) != 2 || ex[0].Application != self(dir+"/serve") || ex[0].Protocol != flow.ProtocolGRPC {
		t.Errorf("server exchanges: %+v", ex)
	}
}

// TestUnixTCP: bytes both ways with half-close, a server that speaks first, and 1 MiB.
func TestUnixTCP(t *testing.T) {
	dir := sockets(t)
	l := listenUnix(t, dir+"/serve")
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "220 hello\r\n")
		_, _ = io.Copy(c, c)
	})
	t.Cleanup(wg.Wait)
	web, server := unixPair(t, flow.ProtocolTCP, &policy.Unix{Path: dir + "/call"}, &policy.Unix{Path: dir + "/serve"})
	c, err := net.Dial("unix", dir+"/call")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	hello := make([]byte, 11)
	if _, err := io.ReadFull(c, hello); err != nil || string(hello) != "220 hello\r\n" {
		t.Fatalf("got %q, %v", hello, err)
	}
	sent := []byte(strings.Repeat("0123456789abcdef", 1<<16))
	wg.Go(func() {
		_, _ = c.Write(sent)
		_ = c.(*net.UnixConn).CloseWrite()
	})
	if got, err := io.ReadAll(c); err != nil || string(got) != string(sent) {
		t.Errorf("%d bytes came back of %d: %v", len(got), len(sent), err)
	}
	web.stop()
	server.stop()
	r := server.rec.Closed(flow.KindConnection)
	if len(r) != 1 || r[0].Reason != flow.ReasonNone || r[0].BytesIn != uint64(len(sent)) || r[0].BytesOut != uint64(len(sent)+len(hello)) || r[0].Application != self(dir+"/serve") {
		t.Errorf("the relay's Record: %+v", r)
	}
}

// TestUnixAttest: who is not named by the policy gets nothing through, in either direction, in all protocols, also on a connection that is older than the
// policy; and Records say who it was.
func TestUnixAttest(t *testing.T) {
	me := []uint32{uint32(os.Getuid())}
	other := []uint32{me[0] + 1}
	serving := func(t *testing.T, path string) {
		l := listenUnix(t, path)
		srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.Serve(l)
		}()
		t.Cleanup(func() {
			_ = srv.Close()
			<-done
		})
	}
	get := func(t *testing.T, c *http.Client) *http.Response {
		t.Helper()
		resp, err := c.Get("http://catalog/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp
	}
	says := fmt.Sprintf("pid %d at the other end of the Unix socket has uid %d and gid %d; spec.attest asks for uid %d", os.Getpid(), me[0], os.Getgid(), other[0])

	t.Run("caller", func(t *testing.T) {
		dir := sockets(t)
		serving(t, dir+"/serve")
		call := func(a policy.Attest) *policy.Unix { return &policy.Unix{Path: dir + "/call", Attest: a} }
		web, server := unixPair(t, flow.ProtocolHTTP, call(policy.Attest{UIDs: me}), &policy.Unix{Path: dir + "/serve", Attest: policy.Attest{UIDs: me}})
		c := unixClient(t, dir+"/call", nil)
		if resp := get(t, c); resp.StatusCode != 200 {
			t.Fatalf("got %s", resp.Status)
		}
		snap := *web.Snapshot()
		snap.Revision, snap.Listeners = "c2", slices.Clone(snap.Listeners)
		snap.Listeners[0].Unix = call(policy.Attest{UIDs: other})
		web.source.Set(&snap)
		testmesh.Eventually(t, "the policy is in force", func() bool { return web.Snapshot().Revision == "c2" })
		if resp := get(t, c); resp.StatusCode != 403 || resp.Header.Get("x-tulle-reason") != "denied" {
			t.Errorf("got %s, %v", resp.Status, resp.Header)
		}
		c.CloseIdleConnections()
		web.stop()
		server.stop()
		ex := web.rec.Closed(flow.KindExchange)
		if len(ex) != 2 || ex[1].Reason != flow.ReasonDenied || ex[1].Detail != says || ex[1].Application != self("") {
			t.Errorf("%+v", ex)
		}
		if se := server.rec.Closed(flow.KindExchange); len(se) != 1 {
			t.Errorf("%d exchanges came through", len(se))
		}
	})
	t.Run("caller of bytes", func(t *testing.T) {
		dir := sockets(t)
		web, _ := unixPair(t, flow.ProtocolTCP, &policy.Unix{Path: dir + "/call", Attest: policy.Attest{UIDs: other}}, &policy.Unix{Path: dir + "/serve"})
		c, err := net.Dial("unix", dir+"/call")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("got %q", b)
		}
		_ = c.Close()
		web.stop()
		if r := web.rec.Closed(flow.KindConnection); len(r) != 1 || r[0].Reason != flow.ReasonDenied || r[0].Detail != says {
			t.Errorf("%+v", r)
		}
	})
	t.Run("service", func(t *testing.T) {
		dir := sockets(t)
		serving(t, dir+"/serve")
		serve := func(a policy.Attest) *policy.Unix { return &policy.Unix{Path: dir + "/serve", Attest: a} }
		web, server := unixPair(t, flow.ProtocolHTTP, &policy.Unix{Path: dir + "/call"}, serve(policy.Attest{UIDs: me}))
		c := unixClient(t, dir+"/call", nil)
		if resp := get(t, c); resp.StatusCode != 200 { // its connection stays in the pool
			t.Fatalf("got %s", resp.Status)
		}
		snap := *server.Snapshot()
		snap.Revision, snap.Listeners = "s2", slices.Clone(snap.Listeners)
		snap.Listeners[0].Unix = serve(policy.Attest{UIDs: other})
		server.source.Set(&snap)
		testmesh.Eventually(t, "the policy is in force", func() bool { return server.Snapshot().Revision == "s2" })
		if resp := get(t, c); resp.StatusCode != 503 {
			t.Errorf("got %s", resp.Status)
		}
		c.CloseIdleConnections()
		web.stop()
		server.stop()
		se := server.rec.Closed(flow.KindExchange)
		last := se[len(se)-1]
		if last.Reason != flow.ReasonIdentityMismatch || last.Detail != "unix:"+dir+"/serve: "+says || last.Application != self(dir+"/serve") || last.Answered != true {
			t.Errorf("%+v", last)
		}
	})
}

// A Unix socket whose application has not begun to listen is refused as a port is; one that somebody else has keeps its listener from being ready, and the
// sidecar says who it is.
func TestUnixProblems(t *testing.T) {
	dir := sockets(t)
	web, server := unixPair(t, flow.ProtocolHTTP, &policy.Unix{Path: dir + "/call"}, &policy.Unix{Path: filepath.Join(dir, "none")})
	c := unixClient(t, dir+"/call", nil)
	resp, err := c.Get("http://catalog/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	c.CloseIdleConnections()
	web.stop()
	server.stop()
	if se := server.rec.Closed(flow.KindExchange); len(se) == 0 || se[0].Reason != flow.ReasonConnectRefused || se[0].Application.Socket != dir+"/none" {
		t.Errorf("%+v", se)
	}
	listenUnix(t, dir+"/call")
	snap := clientSnapshot(mesh("catalog"))
	snap.Listeners[0].Address, snap.Listeners[0].Unix = netip.AddrPort{}, &policy.Unix{Path: dir + "/call"}
	late := start(t, snap, testmesh.NewCA(t).Holder("web"), time.Second)
	p := late.Problems()
	if want := fmt.Sprintf("is taken by this process, pid %d", os.Getpid()); late.Ready() || len(p) != 1 || p[0].Address != "unix:"+dir+"/call" || !strings.Contains(p[0].Err, want) {
		t.Errorf("%+v", p)
	}
}
