package sidecar

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/proxyproto"
)

var (
	lbSource = netip.MustParseAddrPort("203.0.113.7:4321")
	lbTarget = netip.MustParseAddrPort("192.0.2.1:443")
)

// balanced is a snapshot whose port takes headers from the whole of loopback.
func balanced(service string, target netip.AddrPort, mode policy.ListenerMode, protocol flow.Protocol, timeout time.Duration) *policy.Snapshot {
	snap := serverSnapshot(service, target, mode, protocol)
	snap.Listeners[0].ProxyProtocol = &policy.ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: timeout}
	return snap
}

// TestProxyProtocol: callers behind a load balancer are who its header names, in plaintext and over mTLS, for HTTP and for bytes, with both versions; a LOCAL
// connection is the load balancer's own.
func TestProxyProtocol(t *testing.T) {
	ca := testmesh.NewCA(t)
	echo := scripted(t, func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r); _ = c.(*net.TCPConn).CloseWrite() })
	web := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	for _, h := range []proxyproto.Header{
		{Version: 1, Source: lbSource, Destination: lbTarget}, {Version: 2, Source: lbSource, Destination: lbTarget, Authority: "DB.shop"}, {Version: 2, Local: true}, {Version: 1, Local: true},
	} {
		for _, mode := range []policy.ListenerMode{policy.ModePermissive, policy.ModeStrict} {
			for _, protocol := range []flow.Protocol{flow.ProtocolTCP, flow.ProtocolHTTP} {
				t.Run(fmt.Sprintf("v%d local %v/%v/%v", h.Version, h.Local, mode, protocol), func(t *testing.T) {
					target := echo
					if protocol == flow.ProtocolHTTP {
						target = web
					}
					r := start(t, balanced("db", target, mode, protocol, time.Minute), ca.Holder("db"), time.Second)
					c, _ := dial(t, r.addr(t, "inbound"))
					own := c.LocalAddr().(*net.TCPAddr).AddrPort()
					if _, err := c.Write(h.Append(nil)); err != nil {
						t.Fatal(err)
					}
					if mode == policy.ModeStrict {
						c = tls.Client(c, ca.Holder("web").ClientTLS(testmesh.ID("db")))
					}
					kind := flow.KindConnection
					if protocol == flow.ProtocolTCP {
						_, _ = c.Write([]byte("hello"))
						_ = c.(interface{ CloseWrite() error }).CloseWrite()
					} else {
						kind = flow.KindExchange
						_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
					}
					if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "hello") {
						t.Fatalf("got %q, %v", b, err)
					}
					_ = c.Close()
					r.stop()
					all := r.rec.Closed(kind)
					if len(all) != 1 {
						t.Fatalf("%d Records", len(all))
					}
					addr, via, name := lbSource, own, ""
					if h.Local {
						addr, via = own, netip.AddrPort{}
					}
					if protocol == flow.ProtocolTCP && h.Authority != "" {
						name = "db.shop"
					}
					if got := all[0]; got.Source.Addr != addr || got.Via != via || got.ServerName != name || got.Reason != flow.ReasonNone {
						t.Errorf("from %v via %v, name %q, %v; want %v via %v, %q", got.Source.Addr, got.Via, got.ServerName, got.Reason, addr, via, name)
					}
				})
			}
		}
	}
}

// TestProxyProtocolRefused: what is no header from who must send one is refused, with its own reason; who leaves without a byte is no failure; and from
// elsewhere nothing is taken for a header.
func TestProxyProtocolRefused(t *testing.T) {
	target := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	for name, c := range map[string]struct {
		send string
		say  string // in the detail; "": there is no Record
		shut bool
	}{
		"a request":      {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", `it begins with "GET`, false},
		"cut":            {"PROXY TCP4 1.2.3.4", "the connection ended within it", true},
		"silence":        {"", "no PROXY protocol header came within 50ms", false},
		"half of one":    {"PROXY TCP4 1.2.3.4 ", "no PROXY protocol header came within 50ms", false},
		"left":           {"", "", true},
		"a wrong number": {"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n", `"99999" is no port`, false},
	} {
		t.Run(name, func(t *testing.T) {
			timeout := time.Minute
			if strings.Contains(c.say, "50ms") {
				timeout = 50 * time.Millisecond
			}
			r := start(t, balanced("web", target, policy.ModePermissive, flow.ProtocolHTTP, timeout), &identity.Holder{}, time.Second)
			conn, _ := dial(t, r.addr(t, "inbound"))
			_, _ = io.WriteString(conn, c.send)
			if c.shut {
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			if b, _ := io.ReadAll(conn); len(b) > 0 {
				t.Errorf("it was answered %q", b)
			}
			r.stop()
			all := r.rec.Closed(flow.KindConnection)
			if c.say == "" {
				if len(all) != 0 {
					t.Errorf("Records %+v", all)
				}
				return
			}
			if len(all) != 1 || all[0].Reason != flow.ReasonProxyHeader || !strings.Contains(all[0].Detail, c.say) || all[0].Failed() {
				t.Errorf("Records %+v", all)
			}
		})
	}
	snap := balanced("web", target, policy.ModePermissive, flow.ProtocolHTTP, time.Minute)
	snap.Listeners[0].ProxyProtocol.From = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	r := start(t, snap, &identity.Holder{}, time.Second)
	if got := raw(t, r.addr(t, "inbound"), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "hello") {
		t.Errorf("from elsewhere: %q", got)
	}
	if got := raw(t, r.addr(t, "inbound"), "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("a header from elsewhere: %q", got)
	}
}

// TestProxyProtocolSources: what counts per source are the clients, not the load balancer that stands for them.
func TestProxyProtocolSources(t *testing.T) {
	echo := scripted(t, func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) })
	snap := balanced("db", echo, policy.ModePermissive, flow.ProtocolTCP, time.Minute)
	snap.Workload.Limits = policy.SidecarLimits{ConnectionsPerSource: 2}
	r := start(t, snap, &identity.Holder{}, time.Second)
	from := func(client string) bool {
		c, br := dial(t, r.addr(t, "inbound"))
		h := proxyproto.Header{Version: 2, Source: netip.AddrPortFrom(netip.MustParseAddr(client), 1), Destination: lbTarget}
		_, _ = c.Write(append(h.Append(nil), 'x'))
		b, err := br.ReadByte()
		return err == nil && b == 'x'
	}
	for i := range 6 {
		if client := fmt.Sprintf("203.0.113.%d", i/2+1); !from(client) {
			t.Errorf("connection %d, of %s, was refused", i+1, client)
		}
	}
	if from("203.0.113.1") {
		t.Error("a third connection of one client was taken")
	}
	if n := r.ConnectionsOfOneSource(); n != 2 {
		t.Errorf("a source has %d connections", n)
	}
	r.stop()
	shed := 0
	for _, c := range r.rec.Closed(flow.KindConnection) {
		if c.Reason == flow.ReasonShed && c.Source.Addr.Addr() == netip.MustParseAddr("203.0.113.1") && c.Via.IsValid() {
			shed++
		}
	}
	if n := r.ConnectionsOfOneSource(); shed != 1 || n != 0 {
		t.Errorf("%d were shed, a source has %d connections", shed, n)
	}
}

// TestProxyProtocolSent: an application, and a service outside the mesh, are told who calls; with version 2 also who that is proven to be.
func TestProxyProtocolSent(t *testing.T) {
	for _, v := range []policy.ProxyVersion{1, 2} {
		t.Run(v.String(), func(t *testing.T) {
			var mu sync.Mutex
			var got []proxyproto.Header
			target := scripted(t, func(c net.Conn, _ *bufio.Reader) {
				h, err := proxyproto.Read(c)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				got = append(got, h)
				mu.Unlock()
				_, _ = io.Copy(c, c)
				_ = c.(*net.TCPConn).CloseWrite()
			})
			ca := testmesh.NewCA(t)
			snap := serverSnapshot("db", target, policy.ModeStrict, flow.ProtocolTCP)
			snap.Listeners[0].TargetProxy = v
			server := start(t, snap, ca.Holder("db"), time.Second)
			out := start(t, clientSnapshot(external(func(s *policy.Service) { s.Protocol, s.Proxy = flow.ProtocolTCP, v }), target), &identity.Holder{}, time.Second)
			var want [2]netip.AddrPort
			for i, r := range []*running{server, out} {
				name := []string{"inbound", "outbound"}[i]
				c, _ := dial(t, r.addr(t, name))
				want[i] = c.LocalAddr().(*net.TCPAddr).AddrPort()
				if i == 0 {
					c = tls.Client(c, ca.Holder("web").ClientTLS(testmesh.ID("db")))
				}
				_, _ = c.Write([]byte("hello"))
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
				if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
					t.Errorf("%s: got %q, %v", name, b, err)
				}
			}
			server.stop()
			out.stop()
			mu.Lock()
			defer mu.Unlock()
			if len(got) != 2 {
				t.Fatalf("%d headers", len(got))
			}
			for i, r := range []*running{server, out} {
				h, rec := got[i], r.rec.Closed(flow.KindConnection)[0]
				if h.Version != int(v) || h.Source != want[i] || rec.BytesIn != 5 || rec.BytesOut != 5 {
					t.Errorf("%d: %+v, want from %v; %d bytes in, %d out", i, h, want[i], rec.BytesIn, rec.BytesOut)
				}
				if v == 1 {
					continue
				}
				if id := rec.Trace.TraceID.String() + "-" + rec.Trace.SpanID.String(); string(h.UniqueID) != id {
					t.Errorf("%d: unique id %q, want %q", i, h.UniqueID, id)
				}
				if secure := i == 0; (h.TLS != nil) != secure || secure && (h.TLS.CN != testmesh.ID("web").String() || !h.TLS.Verified || h.TLS.Version != "TLSv1.3") {
					t.Errorf("%d: TLS %+v", i, h.TLS)
				}
			}
		})
	}
}
