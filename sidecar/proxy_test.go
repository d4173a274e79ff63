package sidecar

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// proxying is the Snapshot of a workload whose application is told of a forward proxy.
func proxying(unknown policy.Unknown) *policy.Snapshot {
	return &policy.Snapshot{
		Revision: "p1", Workload: policy.Workload{Service: "web", Namespace: "shop", Version: "v1", Instance: "web-1"},
		Listeners: []policy.Listener{{Name: "proxy", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: loopback, Proxy: &policy.Proxy{Unknown: unknown}}},
		Services:  map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
	}
}

// startProxy is start, with names in place of DNS.
func startProxy(t *testing.T, snap *policy.Snapshot, holder *identity.Holder, dns map[string][]netip.Addr) *running {
	t.Helper()
	r := &running{rec: &testmesh.Recorder{}, source: testmesh.NewSource(snap)}
	var err error
	r.Sidecar, err = New(Config{
		Policy: r.source, Identity: holder, Recorder: r.rec, Log: slog.New(slog.DiscardHandler), DrainTimeout: time.Second,
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if a, ok := dns[host]; ok {
				return a, nil
			}
			return nil, fmt.Errorf("lookup %s: no such host", host)
		},
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
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(r.stop)
	<-ready
	return r
}

// behind is a client of the proxy r.
func (r *running) behind(t *testing.T, config *tls.Config) *http.Client {
	proxy := &url.URL{Scheme: "http", Host: r.addr(t, "proxy").String()}
	tr := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: config, DisableCompression: true, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func TestProxy(t *testing.T) {
	w := newGatewayWorld(t)
	anchors := filepath.Join(w.dir, "ca.pem")
	w.web.WriteRoots(anchors)
	catalog := start(t, serverSnapshot("catalog", app(t, describe("catalog")), policy.ModeStrict, flow.ProtocolHTTP), w.mesh.Holder("catalog"), time.Second)
	bank := https(t, &tls.Config{Certificates: []tls.Certificate{w.web.Web("api.bank.example")}}, []string{"h2", "http/1.1"}, describe("bank"))
	other := https(t, &tls.Config{Certificates: []tls.Certificate{w.web.Web("other.example")}}, []string{"h2", "http/1.1"}, describe("other"))
	plain := app(t, describe("plain"))
	here := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	dns := map[string][]netip.Addr{"other.example": here, "img.cdn.example": here, "nowhere.example": {netip.MustParseAddr("127.0.0.9"), here[0]}, "self.example": here}

	for _, unknown := range []policy.Unknown{policy.UnknownPass, policy.UnknownRefuse} {
		t.Run(unknown.String(), func(t *testing.T) {
			snap := proxying(unknown)
			w.serve(snap, "catalog", mesh("catalog"), catalog.addr(t, "inbound"))
			w.serve(snap, "bank", policy.Service{
				External: true, Protocol: flow.ProtocolHTTP, Hosts: []string{"api.bank.example"}, TLS: &policy.ClientTLS{ServerName: "api.bank.example", CAFile: anchors},
			}, bank.addr)
			snap.Services["cdn"] = policy.Service{Name: "cdn", External: true, Protocol: flow.ProtocolHTTP, Hosts: []string{"*.cdn.example"}}
			r := startProxy(t, snap, w.mesh.Holder("web"), dns)
			c := r.behind(t, &tls.Config{RootCAs: w.web.Roots()})
			passed := func(want string) string {
				if unknown == policy.UnknownRefuse {
					return "502 unknown_destination"
				}
				return want
			}
			for _, v := range [][3]string{
				{"http://catalog/items?id=7", "200 catalog HTTP/1.1 catalog/items?id=7", "catalog"},
				{"http://catalog.shop:8080/", "200 catalog HTTP/1.1 catalog.shop:8080/", "catalog"},
				{"http://" + catalog.addr(t, "inbound").String() + "/x", "200 catalog HTTP/1.1 " + catalog.addr(t, "inbound").String() + "/x", "catalog"},
				{"http://api.bank.example/balance", "200 bank HTTP/1.1 api.bank.example/balance", "bank"},                                                                    // the sidecar originates TLS
				{fmt.Sprintf("https://api.bank.example:%d/balance", bank.addr.Port()), "200 bank HTTP/2.0 api.bank.example", ""},                                             // the application speaks it
				{fmt.Sprintf("http://img.cdn.example:%d/1.png", plain.Port()), "200 plain HTTP/1.1 img.cdn.example", "cdn"},                                                  // by name alone
				{fmt.Sprintf("http://nowhere.example:%d/", plain.Port()), passed("200 plain HTTP/1.1 nowhere.example"), ""},                                                  // the first address refuses
				{"http://" + plain.String() + "/y", passed("200 plain HTTP/1.1 " + plain.String() + "/y"), ""},                                                               // no name at all
				{"http://lost.example/", passed("503 no_endpoint"), ""},                                                                                                      // DNS has none
				{"http://" + r.addr(t, "proxy").String() + "/", passed("400 bad_request"), ""},                                                                               // itself
				{fmt.Sprintf("http://self.example:%d/", r.addr(t, "proxy").Port()), passed("400 bad_request"), ""},                                                           // itself, by name
				{fmt.Sprintf("https://other.example:%d/z", other.addr.Port()), map[bool]string{true: "200 other HTTP/2.0 other.example"}[unknown == policy.UnknownPass], ""}, // CONNECT
			} {
				exchanges := func() []flow.Record { return r.rec.Closed(flow.KindExchange) }
				before := len(exchanges())
				resp, err := c.Get(v[0])
				if err != nil {
					if v[1] != "" {
						t.Errorf("%s: %v", v[0], err)
					}
					continue
				}
				b, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				got := fmt.Sprintf("%d %s", resp.StatusCode, b)
				if reason := resp.Header.Get("x-tulle-reason"); reason != "" {
					got = fmt.Sprintf("%d %s", resp.StatusCode, reason)
				}
				if v[1] == "" || !strings.HasPrefix(got, v[1]) {
					t.Errorf("%s: got %q, want %q", v[0], got, v[1])
				}
				if strings.HasPrefix(v[0], "http:") {
					for by := time.Now().Add(10 * time.Second); len(exchanges()) == before && time.Now().Before(by); {
						time.Sleep(time.Millisecond) // the caller has its answer before the Record is written
					}
					list := exchanges()
					if len(list) != before+1 || list[before].Destination.Service != v[2] {
						t.Errorf("%s: Records %+v", v[0], list[before:])
					} else if x := list[before]; (x.Route == "passthrough") != (v[2] == "" && x.Status == 200) {
						t.Errorf("%s has the route %q", v[0], x.Route)
					}
				}
			}
			addr := r.addr(t, "proxy")
			for send, want := range map[string]string{
				"GET / HTTP/1.1\r\nHost: catalog\r\n":                                                               "HTTP/1.1 400 Bad Request",
				"CONNECT catalog:0 HTTP/1.1\r\nHost: catalog:80\r\n":                                                "HTTP/1.1 400 Bad Request",
				"GET https://lost.example/ HTTP/1.1\r\nHost: lost.example\r\n":                                      map[policy.Unknown]string{policy.UnknownPass: "HTTP/1.1 400 ", policy.UnknownRefuse: "HTTP/1.1 502 "}[unknown],
				"GET https://img.cdn.example/ HTTP/1.1\r\nHost: a\r\n":                                              "HTTP/1.1 400 ",
				"GET https://api.bank.example/s HTTP/1.1\r\nHost: a\r\n":                                            "HTTP/1.1 200 ",
				"GET http://catalog/p HTTP/1.1\r\nHost: a\r\nProxy-Authorization: x\r\nProxy-Connection: close\r\n": "HTTP/1.1 200 ",
			} {
				if got := raw(t, addr, send+"Connection: close\r\n\r\n"); !strings.HasPrefix(got, want) {
					t.Errorf("%q got %q, want %q…", send, got, want)
				}
			}
			c.CloseIdleConnections()
			r.stop()
			for _, x := range r.rec.Closed(flow.KindConnection) {
				if x.Method != "CONNECT" || x.Authority == "" || x.Status != 0 || x.Side != flow.SideClient {
					t.Errorf("connection %+v", x)
				}
				switch {
				case strings.HasPrefix(x.Authority, "api.bank"):
					if x.Destination.Service != "bank" || x.Reason != flow.ReasonNone || x.BytesIn == 0 || x.BytesOut == 0 {
						t.Errorf("connection %+v", x)
					}
				case strings.HasPrefix(x.Authority, "other"):
					if want := map[policy.Unknown]flow.Reason{policy.UnknownRefuse: flow.ReasonUnknownDest}[unknown]; x.Reason != want || x.Destination.Service != "" {
						t.Errorf("connection %+v", x)
					}
				}
			}
			if n := r.rec.Live(); n != 0 {
				t.Errorf("%d live counts are left", n)
			}
			if n := r.Room().Used(); n != 0 {
				t.Errorf("%d bytes of buffers are left in use", n)
			}
		})
	}
	catalog.stop()
	if n := len(catalog.rec.Closed(flow.KindExchange)); n != 8 {
		t.Errorf("%d exchanges were served, want 4 of each proxy", n)
	}
}

// CONNECT is a connection to a service of the mesh that is no HTTP: byte for byte, with half-close, and what came with the request is not lost.
func TestProxyConnect(t *testing.T) {
	ca := testmesh.NewCA(t)
	app := scripted(t, func(c net.Conn, _ *bufio.Reader) {
		b, _ := io.ReadAll(c) // to the caller's half-close
		_, _ = fmt.Fprintf(c, "%d bytes", len(b))
	})
	db := start(t, serverSnapshot("db", app, policy.ModeStrict, flow.ProtocolTCP), ca.Holder("db"), time.Second)
	snap := proxying(policy.UnknownRefuse)
	sv := mesh("db")
	sv.Protocol = flow.ProtocolTCP
	(&gatewayWorld{}).serve(snap, "db", sv, db.addr(t, "inbound"))
	r := startProxy(t, snap, ca.Holder("web"), nil)
	c, err := net.Dial("tcp", r.addr(t, "proxy").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	big := strings.Repeat("x", 300_000)
	if _, err := io.WriteString(c, "CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\nat once"+big); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, &http.Request{Method: "CONNECT"})
	if err != nil || resp.StatusCode != 200 || resp.ContentLength > 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
	if b, err := io.ReadAll(in); err != nil || string(b) != "300007 bytes" {
		t.Errorf("got %q, %v", b, err)
	}
	if got := raw(t, r.addr(t, "proxy"), "GET http://db/ HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "call it by CONNECT") {
		t.Errorf("got %q", got)
	}
	r.stop()
	db.stop()
	sent, served := r.rec.Closed(flow.KindConnection), db.rec.Closed(flow.KindConnection)
	if len(sent) != 1 || len(served) != 1 || sent[0].Destination.Service != "db" || sent[0].BytesIn != 300_007 || served[0].BytesIn != 300_007 || served[0].Source.Service != "web" ||
		sent[0].Reason != flow.ReasonNone || sent[0].Authority != "db.shop:5432" {
		t.Errorf("Records %+v\n%+v", sent, served)
	}
}

// Names are asked for once in a while, whether or not they exist.
// What a proxy is told of its caller's rights is not for the origin, whatever the caller speaks.
func TestProxyAuthorizationStays(t *testing.T) {
	here := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	for _, two := range []bool{false, true} {
		serve := map[bool]func(testing.TB, http.HandlerFunc) netip.AddrPort{false: app, true: h2app}[two]
		origin := serve(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%q", r.Header.Values("Proxy-Authorization"))
		})
		r := startProxy(t, proxying(policy.UnknownPass), &identity.Holder{}, map[string][]netip.Addr{"a.example": here})
		c := r.behind(t, nil)
		if two {
			c = h2c(t)
			c.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", r.addr(t, "proxy").String())
			}
		}
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://a.example:%d/", origin.Port()), nil)
		req.Header.Set("Proxy-Authorization", "Basic c2VjcmV0")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if _ = resp.Body.Close(); resp.StatusCode != 200 || string(b) != "[]" {
			t.Errorf("HTTP/2 %v: %d, the origin got %s", two, resp.StatusCode, b)
		}
		r.stop()
	}
}

// A service of https that has no address of its own is called at the port of https.
func TestProxyOriginatesAtItsPort(t *testing.T) {
	dialled := make(chan netip.AddrPort, 4)
	snap := proxying(policy.UnknownRefuse)
	snap.Services["bank"] = policy.Service{Name: "bank", External: true, Protocol: flow.ProtocolHTTP, Hosts: []string{"bank.example"}, TLS: &policy.ClientTLS{ServerName: "bank.example"}}
	s, err := New(Config{
		Policy: testmesh.NewSource(snap), Identity: &identity.Holder{}, Recorder: &testmesh.Recorder{}, Log: slog.New(slog.DiscardHandler),
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		},
		Dial: func(_ context.Context, a netip.AddrPort) (net.Conn, error) {
			dialled <- a
			return nil, errors.New("refused")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	r := &running{Sidecar: s}
	for url, want := range map[string]string{"http://bank.example/": "192.0.2.1:443", "http://bank.example:80/": "192.0.2.1:80", "http://bank.example:8443/": "192.0.2.1:8443"} {
		resp, err := r.behind(t, nil).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := (<-dialled).String(); got != want {
			t.Errorf("%s went to %s, want %s", url, got, want)
		}
		for len(dialled) > 0 {
			<-dialled
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestProxyNames(t *testing.T) {
	asked := 0
	n := &names{resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
		asked++
		switch host {
		case "a.example":
			return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, nil
		case "none.example":
			return nil, nil
		}
		return nil, errors.New("no such host")
	}}
	for range 3 {
		got, err := n.lookup(new(exchange.Exchange), "a.example", 443)
		if err != nil || len(got) != 2 || got[0].String() != "192.0.2.1:443" || got[1].String() != "[2001:db8::1]:443" {
			t.Errorf("%v, %v", got, err)
		}
		if _, err := n.lookup(new(exchange.Exchange), "lost.example", 1); err == nil {
			t.Error("it exists")
		}
		if _, err := n.lookup(new(exchange.Exchange), "none.example", 1); err == nil {
			t.Error("it has an address")
		}
	}
	if got, err := n.lookup(new(exchange.Exchange), "::1", 80); err != nil || got[0].String() != "[::1]:80" {
		t.Errorf("%v, %v", got, err)
	}
	if asked != 3 {
		t.Errorf("it was asked %d times, want once for each name", asked)
	}
	for i := range 2 * maxNames {
		_, _ = n.lookup(new(exchange.Exchange), fmt.Sprint("h", i, ".example"), 1)
	}
	if len(n.m) > maxNames {
		t.Errorf("%d names are remembered", len(n.m))
	}
}

// A name that is remembered is not part of the buffer in which it came, which the next request overwrites.
func TestProxyNamesAreKept(t *testing.T) {
	n := names{resolve: func(_ context.Context, host string) ([]netip.Addr, error) { return nil, errors.New(host + " is lost") }}
	buf := []byte("lost.example")
	if _, err := n.lookup(new(exchange.Exchange), unsafe.String(&buf[0], len(buf)), 80); err == nil {
		t.Fatal("it was found")
	}
	copy(buf, "self.example")
	for host := range n.m {
		if host != "lost.example" {
			t.Errorf("%q is remembered", host)
		}
	}
}
