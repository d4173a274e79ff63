package sidecar

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// gateway is the Snapshot of an edge with services of the mesh behind it.
func gateway(listeners ...policy.Listener) *policy.Snapshot {
	s := &policy.Snapshot{
		Revision: "g1", Workload: policy.Workload{Service: "gateway", Namespace: "shop", Version: "v1", Instance: "gateway-1"},
		Services: map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
	}
	for i, l := range listeners { // each with an address of its own, because all have port 0
		l.Side, l.Service, l.Address = flow.SideServer, "gateway", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)}), 0)
		s.Listeners = append(s.Listeners, l)
	}
	return s
}

func (w *gatewayWorld) serve(s *policy.Snapshot, name string, sv policy.Service, at netip.AddrPort) {
	sv.Name = name
	s.Services[name] = sv
	s.Endpoints[name] = []policy.Endpoint{{Address: at, Weight: 100, Instance: name + "-1"}}
}

// gatewayWorld is a CA of the mesh, one of the world, and files with what the latter signs.
type gatewayWorld struct {
	mesh, web *testmesh.CA
	dir       string
}

func newGatewayWorld(t testing.TB) *gatewayWorld {
	return &gatewayWorld{mesh: testmesh.NewCA(t), web: testmesh.NewCA(t), dir: t.TempDir()}
}

// pair writes a certificate for names.
func (w *gatewayWorld) pair(file string, names ...string) policy.CertificateFiles {
	f := policy.CertificateFiles{CertFile: filepath.Join(w.dir, file+".pem"), KeyFile: filepath.Join(w.dir, file+".key")}
	w.web.WritePair(w.web.Web(names...), f.CertFile, f.KeyFile)
	return f
}

// client calls addr, whatever the URL says, and speaks HTTP/2 where TLS agrees if it is asked to.
func (w *gatewayWorld) client(t testing.TB, addr netip.AddrPort, two bool, certs ...tls.Certificate) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
		},
		TLSClientConfig: &tls.Config{RootCAs: w.web.Roots(), Certificates: certs}, Protocols: new(http.Protocols), DisableCompression: true,
	}
	tr.Protocols.SetHTTP1(!two)
	tr.Protocols.SetHTTP2(two)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func host1(service string, hosts ...string) policy.VirtualHost {
	return policy.VirtualHost{Name: service + "-hosts", Hosts: hosts, Service: service}
}

// describe answers with what came.
func describe(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h := r.Header
		fmt.Fprintf(w, "%s %s %s%s for=%q proto=%q other=%q%q%q %d", name, r.Proto, r.Host, r.URL.RequestURI(), h.Get("X-Forwarded-For"), h.Get("X-Forwarded-Proto"),
			h.Get("X-Forwarded-Host"), h.Get("Forwarded"), h.Get("X-Real-Ip"), len(b))
	}
}

// A gateway ends the TLS of callers outside the mesh, with the certificate of the host that they call, sends each host to its service by mTLS as itself, and writes
// down both edges.
func TestEdgeHTTPS(t *testing.T) {
	w := newGatewayWorld(t)
	web := start(t, serverSnapshot("web", app(t, describe("web")), policy.ModeStrict, flow.ProtocolHTTP1), w.mesh.Holder("web"), time.Second)
	stock := start(t, serverSnapshot("stock", app(t, describe("stock")), policy.ModeStrict, flow.ProtocolHTTP1), w.mesh.Holder("stock"), time.Second)
	snap := gateway(policy.Listener{Name: "https", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{
		TLS:   &policy.ServerTLS{Certificates: []policy.CertificateFiles{w.pair("a", "shop.example.com"), w.pair("b", "*.stock.example.com")}},
		Hosts: []policy.VirtualHost{host1("web", "shop.example.com"), host1("stock", "*.stock.example.com")},
	}})
	w.serve(snap, "web", mesh("web"), web.addr(t, "inbound"))
	w.serve(snap, "stock", mesh("stock"), stock.addr(t, "inbound"))
	g := start(t, snap, w.mesh.Holder("gateway"), time.Second)
	addr := g.addr(t, "https")
	for _, two := range []bool{false, true} {
		c := w.client(t, addr, two)
		for url, want := range map[string]string{
			"https://shop.example.com/cart?id=1":  "web HTTP/1.1 shop.example.com/cart?id=1",
			"https://eu.stock.example.com/":       "stock HTTP/1.1 eu.stock.example.com/",
			"https://shop.example.com:8443/ports": "web HTTP/1.1 shop.example.com:8443/ports",
		} {
			req, _ := http.NewRequest("POST", url, strings.NewReader("hello"))
			for name, v := range map[string]string{
				"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil", "Forwarded": "for=evil", "X-Real-Ip": "6.6.6.6", "X-Tulle-Reason": "denied",
			} {
				req.Header.Set(name, v)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", url, err)
			}
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if want += ` for="127.0.0.1" proto="https" other="""""" 5`; resp.StatusCode != 200 || string(b) != want {
				t.Errorf("%s: got %d %q\nwant %q", url, resp.StatusCode, b, want)
			}
		}
		// A host that the certificate is for and nobody serves; the certificate is the first one.
		req, _ := http.NewRequest("GET", "https://shop.example.com/", nil)
		req.Host = "other.example.com"
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if _ = resp.Body.Close(); resp.StatusCode != 404 || resp.Header.Get("x-tulle-reason") != "no_route" || !strings.Contains(string(b), "other.example.com") {
			t.Errorf("got %d %q", resp.StatusCode, b)
		}
	}
	if _, err := w.client(t, addr, false).Get("https://other.example.com/"); err == nil || !strings.Contains(err.Error(), "shop.example.com") {
		t.Errorf("a host without certificate: %v", err)
	}
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "call it by https") {
		t.Errorf("plaintext got %q", got)
	}
	g.stop()
	web.stop()
	stock.stop()

	came, went := w.split(g.rec.Closed(flow.KindExchange))
	if len(came) != 8 || len(went) != 6 {
		t.Fatalf("%d exchanges came and %d went on, want 8 and 6", len(came), len(went))
	}
	parents := map[flow.SpanID]flow.Record{}
	for _, x := range came {
		if x.Source.Service != "" || x.Source.Identity != "" || x.Destination.Service != "gateway" || x.Destination.Instance != "gateway-1" || !x.Answered || x.Endpoint.IsValid() {
			t.Errorf("what came: %+v", x)
		}
		if (x.Status == 404) != (x.Reason == flow.ReasonNoRoute) || x.Status == 200 && (x.BytesIn != 5 || x.Route == "") {
			t.Errorf("what came: %+v", x)
		}
		parents[x.Trace.SpanID] = x
	}
	served := append(web.rec.Closed(flow.KindExchange), stock.rec.Closed(flow.KindExchange)...)
	if len(served) != 6 {
		t.Errorf("%d exchanges were served, want 6", len(served))
	}
	for _, x := range went {
		p, ok := parents[x.Trace.ParentID]
		if x.Source.Service != "gateway" || x.Source.Identity != testmesh.ID("gateway").String() || x.Destination.Identity != testmesh.ID(x.Destination.Service).String() ||
			x.Route != x.Destination.Service+"-hosts" || x.Status != 200 || !ok || p.Trace.TraceID != x.Trace.TraceID || x.Trace.SpanID == x.Trace.ParentID {
			t.Errorf("what went on: %+v", x)
		}
		if !slices.ContainsFunc(served, func(s flow.Record) bool { return s.Trace.ParentID == x.Trace.SpanID && s.Source.Service == "gateway" }) {
			t.Errorf("nobody has served what went on: %+v", x)
		}
	}
	reasons := map[flow.Reason]int{}
	for _, x := range g.rec.Closed(flow.KindConnection) {
		if reasons[x.Reason]++; x.Side != flow.SideServer || x.Destination.Service != "gateway" {
			t.Errorf("connection %+v", x)
		}
	}
	if reasons[flow.ReasonTLSFailed] != 1 || reasons[flow.ReasonBadRequest] != 1 {
		t.Errorf("connections %v, want one that did not like the certificate and one without TLS", reasons)
	}
	if n := g.rec.Live() + web.rec.Live() + stock.rec.Live(); n != 0 {
		t.Errorf("%d live counts are left", n)
	}
}

func (*gatewayWorld) split(records []flow.Record) (came, went []flow.Record) {
	for _, x := range records {
		if x.Side == flow.SideServer {
			came = append(came, x)
		} else {
			went = append(went, x)
		}
	}
	return came, went
}

// What proxies in front say is believed as far as they are trusted, and no further.
func TestEdgeForwarded(t *testing.T) {
	target := app(t, describe("web"))
	for _, v := range []struct {
		hops         int
		came         []string // x-forwarded-for, one field each
		proto        string
		want, wanted string
	}{
		{0, nil, "", "127.0.0.1", "http"},
		{0, []string{"1.1.1.1"}, "https", "127.0.0.1", "http"},
		{1, []string{"6.6.6.6, 1.1.1.1"}, "https", "1.1.1.1, 127.0.0.1", "https"},
		{1, []string{"6.6.6.6", "1.1.1.1"}, "gopher", "1.1.1.1, 127.0.0.1", "http"},
		{2, []string{"6.6.6.6,2001:db8::1 ,1.1.1.1"}, "http", "2001:db8::1 ,1.1.1.1, 127.0.0.1", "http"},
		{2, []string{"1.1.1.1"}, "", "1.1.1.1, 127.0.0.1", "http"},
		{3, nil, "https", "127.0.0.1", "https"},
		{1, []string{""}, "", "127.0.0.1", "http"},
	} {
		for _, one := range []bool{true, false} { // how the application is called
			snap := gateway(policy.Listener{Name: "http", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{TrustedHops: v.hops, Hosts: []policy.VirtualHost{host1("web", "*")}}})
			sv := policy.Service{External: true, Protocol: flow.ProtocolHTTP}
			if !one {
				sv.Protocol = flow.ProtocolHTTP1
			}
			(&gatewayWorld{}).serve(snap, "web", sv, target)
			g := start(t, snap, &identity.Holder{}, time.Second)
			c := client(t)
			if !one {
				c = h2c(t)
			}
			req, _ := http.NewRequest("GET", "http://"+g.addr(t, "http").String()+"/", nil)
			req.Host = "a.example"
			req.Header["X-Forwarded-For"] = v.came
			if v.proto != "" {
				req.Header.Set("X-Forwarded-Proto", v.proto)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if want := fmt.Sprintf("for=%q proto=%q", v.want, v.wanted); !strings.Contains(string(b), want) {
				t.Errorf("%d hops, %q %q: got %q, want %s", v.hops, v.came, v.proto, b, want)
			}
			g.stop()
		}
	}
}

// A balancer in front says whose connections are by the PROXY protocol, before TLS and before HTTP.
func TestEdgeProxyProtocol(t *testing.T) {
	w := newGatewayWorld(t)
	taken := &policy.ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	snap := gateway(
		policy.Listener{Name: "http", Protocol: flow.ProtocolHTTP, ProxyProtocol: taken, Edge: &policy.Edge{Hosts: []policy.VirtualHost{host1("web", "*")}}},
		policy.Listener{Name: "https", Protocol: flow.ProtocolHTTP, ProxyProtocol: taken, Edge: &policy.Edge{
			TLS: &policy.ServerTLS{Certificates: []policy.CertificateFiles{w.pair("a", "a.example")}}, Hosts: []policy.VirtualHost{host1("web", "*")},
		}},
	)
	for i := range snap.Listeners {
		snap.Listeners[i] = snap.Listeners[i].WithDefaults()
	}
	w.serve(snap, "web", policy.Service{External: true, Protocol: flow.ProtocolHTTP1}, app(t, describe("web")))
	g := start(t, snap, &identity.Holder{}, time.Second)
	const header = "PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n"
	if got := raw(t, g.addr(t, "http"), header+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.Contains(got, `for="198.51.100.7" proto="http"`) {
		t.Errorf("got %q", got)
	}
	c := w.client(t, g.addr(t, "https"), true)
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.addr(t, "https").String())
		if err == nil {
			_, err = io.WriteString(conn, header)
		}
		return conn, err
	}
	if resp, body := fetch(t, c, "https://a.example/"); resp.StatusCode != 200 || !strings.Contains(body, `for="198.51.100.7" proto="https"`) {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	c.CloseIdleConnections()
	g.stop()
	came, _ := w.split(g.rec.Closed(flow.KindExchange))
	if len(came) != 2 || came[0].Source.Addr.String() != "198.51.100.7:4711" {
		t.Errorf("Records %+v", came)
	}
}

func TestEdgeRedirect(t *testing.T) {
	g := start(t, gateway(policy.Listener{Name: "http", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{RedirectHTTPS: 8443}}), &identity.Holder{}, time.Second)
	addr := g.addr(t, "http")
	for send, want := range map[string]string{
		"GET /a/b?c=d HTTP/1.1\r\nHost: shop.example.com\r\n":                            "HTTP/1.1 308 Permanent Redirect\r\nlocation: https://shop.example.com:8443/a/b?c=d\r\n",
		"POST http://shop.example.com:80/x HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n": "HTTP/1.1 308 Permanent Redirect\r\nlocation: https://shop.example.com:8443/x\r\n",
		"HEAD / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n":                                  "HTTP/1.1 308 Permanent Redirect\r\nlocation: https://[2001:db8::1]:8443/\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n":                                              "HTTP/1.1 308 Permanent Redirect\r\nlocation: https://a:8443\r\n",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n":                                          "HTTP/1.1 400 ",
		"GET / HTTP/1.0\r\n":                                                             "HTTP/1.1 400 ",
	} {
		if got := raw(t, addr, send+"Connection: close\r\n\r\n"); !strings.HasPrefix(got, want) {
			t.Errorf("%q got %q, want %q…", send, got, want)
		}
	}
	c := h2c(t)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Get("http://" + addr.String() + "/two?x=1")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if l := resp.Header.Get("Location"); resp.StatusCode != 308 || l != "https://127.0.0.1:8443/two?x=1" {
		t.Errorf("HTTP/2 got %d to %q", resp.StatusCode, l)
	}
	g.stop()
	came, went := (&gatewayWorld{}).split(g.rec.Closed(flow.KindExchange))
	if len(came) != 7 || len(went) != 0 {
		t.Fatalf("%d came and %d went on, want 7 and 0", len(came), len(went))
	}
	for _, x := range came {
		if !x.Answered || (x.Status == 308) != (x.Reason == flow.ReasonNone) {
			t.Errorf("Record %+v", x)
		}
	}
}

// Callers' certificates are asked for, or demanded, and verified by anchors in a file.
func TestEdgeClientCertificates(t *testing.T) {
	w := newGatewayWorld(t)
	other := testmesh.NewCA(t)
	anchors := filepath.Join(w.dir, "clients.pem")
	w.web.WriteRoots(anchors)
	for _, auth := range []policy.ClientAuth{policy.ClientAuthRequest, policy.ClientAuthRequire} {
		snap := gateway(policy.Listener{Name: "https", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{
			TLS:   &policy.ServerTLS{Certificates: []policy.CertificateFiles{w.pair("a", "a.example")}, ClientCAFile: anchors, ClientAuth: auth},
			Hosts: []policy.VirtualHost{host1("web", "*")},
		}})
		w.serve(snap, "web", policy.Service{External: true, Protocol: flow.ProtocolHTTP1}, app(t, describe("web")))
		g := start(t, snap, &identity.Holder{}, time.Second)
		for name, c := range map[string]struct {
			certs []tls.Certificate
			ok    bool
		}{
			"none":                 {nil, auth == policy.ClientAuthRequest},
			"a good one":           {[]tls.Certificate{w.web.Web("client")}, true},
			"one of somebody else": {[]tls.Certificate{other.Web("client")}, false},
		} {
			hc := w.client(t, g.addr(t, "https"), false)
			hc.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(c.certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &c.certs[0], nil
			}
			resp, err := hc.Get("https://a.example/")
			if (err == nil) != c.ok {
				t.Errorf("%s, %s: %v", auth, name, err)
			}
			if err == nil {
				_ = resp.Body.Close()
			}
		}
		g.stop()
	}
}

// TLS is passed through by the name that it asks for, and ended for bytes where the edge has the certificate.
func TestEdgeRelay(t *testing.T) {
	w := newGatewayWorld(t)
	plain := func(c net.Conn, in *bufio.Reader) {
		s, _ := in.ReadString('\n')
		_, _ = io.WriteString(c, "plain "+s)
	}
	db := start(t, serverSnapshot("db", scripted(t, tlsEcho(w.web, "db.example.com", "x.wild.example.com")), policy.ModeStrict, flow.ProtocolTLS), w.mesh.Holder("db"), time.Second)
	snap := gateway(
		policy.Listener{Name: "tls", Protocol: flow.ProtocolTLS, Edge: &policy.Edge{Hosts: []policy.VirtualHost{host1("db", "*.wild.example.com", "db.example.com")}}},
		policy.Listener{Name: "ended", Protocol: flow.ProtocolTCP, Edge: &policy.Edge{
			TLS:   &policy.ServerTLS{Certificates: []policy.CertificateFiles{w.pair("raw", "raw.example.com", "none.example.com")}, MinVersion: tls.VersionTLS13},
			Hosts: []policy.VirtualHost{host1("raw", "raw.example.com")},
		}},
		policy.Listener{Name: "tcp", Protocol: flow.ProtocolTCP, Edge: &policy.Edge{Hosts: []policy.VirtualHost{host1("raw", "*")}}},
	)
	sv := mesh("db")
	sv.Protocol = flow.ProtocolTLS
	w.serve(snap, "db", sv, db.addr(t, "inbound"))
	w.serve(snap, "raw", policy.Service{External: true, Protocol: flow.ProtocolTCP}, scripted(t, plain))
	g := start(t, snap, w.mesh.Holder("gateway"), time.Second)
	dial := func(listener string) net.Conn {
		c, err := net.Dial("tcp", g.addr(t, listener).String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for listener, names := range map[string]map[string]string{
		"tls":   {"db.example.com": "db.example.com hello", "x.wild.example.com": "x.wild.example.com hello"},
		"ended": {"raw.example.com": "plain hello"},
	} {
		for name, want := range names {
			if got := sayTLS(t, w.web, dial(listener), name, "hello"); got != want {
				t.Errorf("%s, %s: got %q, want %q", listener, name, got, want)
			}
		}
	}
	if got := raw(t, g.addr(t, "tcp"), "hello\n"); got != "plain hello\n" {
		t.Errorf("got %q", got)
	}
	// What is for nobody: the caller is told by TLS' own alert.
	c := tls.Client(dial("tls"), &tls.Config{ServerName: "other.example.com", RootCAs: w.web.Roots()})
	if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name that nobody serves: %v", err)
	}
	_ = c.Close()
	if got := raw(t, g.addr(t, "tls"), "GET / HTTP/1.1\r\n\r\n"); got != "" {
		t.Errorf("what is no TLS got %q", got)
	}
	c = tls.Client(dial("ended"), &tls.Config{ServerName: "none.example.com", RootCAs: w.web.Roots()})
	if err := c.Handshake(); err != nil {
		t.Errorf("its certificate is there: %v", err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d of what is nobody's", n)
	}
	_ = c.Close()
	c = tls.Client(dial("ended"), &tls.Config{ServerName: "raw.example.com", RootCAs: w.web.Roots(), MaxVersion: tls.VersionTLS12})
	if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2 to a listener of 1.3: %v", err)
	}
	_ = c.Close()
	g.stop()
	db.stop()
	came, went := w.split(g.rec.Closed(flow.KindConnection))
	reasons := map[flow.Reason]int{}
	for _, x := range came {
		if reasons[x.Reason]++; x.Destination.Service != "gateway" || x.Source.Service != "" {
			t.Errorf("what came: %+v", x)
		}
	}
	if reasons[flow.ReasonNone] != 4 || reasons[flow.ReasonNoRoute] != 2 || reasons[flow.ReasonBadRequest] != 1 || reasons[flow.ReasonTLSFailed] != 1 || len(went) != 4 {
		t.Errorf("came %v, and %d went on", reasons, len(went))
	}
	for _, x := range went {
		if x.Source.Service != "gateway" || x.Destination.Service != "raw" && (x.Destination.Service != "db" || x.Protocol != flow.ProtocolTLS || x.ServerName == "") {
			t.Errorf("what went on: %+v", x)
		}
	}
	// How each of the two connections of a relay was secured, and how it ended, is in both of its Records, each from its own side.
	for _, x := range went {
		i := slices.IndexFunc(came, func(c flow.Record) bool { return c.Trace.SpanID == x.Trace.ParentID })
		if i < 0 {
			t.Errorf("nothing came of which it is the child: %+v", x)
			continue
		}
		c := came[i]
		if c.Ended == flow.EndedNone || c.Ended != x.Ended {
			t.Errorf("what came ended by %v, what went on by %v", c.Ended, x.Ended)
		}
		if !reflect.DeepEqual(c.TLS, x.NearTLS) || !reflect.DeepEqual(c.NearTLS, x.TLS) {
			t.Errorf("what came says %+v and %+v, what went on %+v and %+v", c.TLS, c.NearTLS, x.TLS, x.NearTLS)
		}
		ended := x.ServerName == "raw.example.com" // by the edge, and not passed on
		if (c.TLS != nil) != ended || ended && c.TLS.Version != "1.3" || (x.TLS != nil) != (x.Destination.Service == "db") {
			t.Errorf("%s for %q: caller's %+v, upstream's %+v", x.Destination.Service, x.ServerName, c.TLS, x.TLS)
		}
	}
}

// While a relay through an edge lives, its progress names the same peers as its end will, on both of its sides.
func TestEdgeProgress(t *testing.T) {
	w := newGatewayWorld(t)
	db := start(t, serverSnapshot("db", scripted(t, func(c net.Conn, in *bufio.Reader) { _, _ = io.Copy(c, in) }), policy.ModeStrict, flow.ProtocolTCP), w.mesh.Holder("db"), time.Second)
	snap := gateway(policy.Listener{Name: "tcp", Protocol: flow.ProtocolTCP, Edge: &policy.Edge{Hosts: []policy.VirtualHost{host1("db", "*")}}})
	sv := mesh("db")
	sv.Protocol = flow.ProtocolTCP
	w.serve(snap, "db", sv, db.addr(t, "inbound"))
	g := start(t, snap, w.mesh.Holder("gateway"), time.Second)
	c, in := dial(t, g.addr(t, "tcp"))
	fmt.Fprint(c, "hello\n")
	if got := line(t, in); got != "hello" {
		t.Errorf("got %q", got)
	}
	g.observer.progress(time.Now().Add(flow.ProgressInterval + time.Second))
	_ = c.Close()
	g.stop()
	for side, progress := range map[flow.Side][]flow.Record{flow.SideServer: nil, flow.SideClient: nil} {
		for _, x := range g.rec.All(flow.KindConnection, flow.PhaseProgress) {
			if x.Side == side {
				progress = append(progress, x)
			}
		}
		for _, x := range g.rec.Closed(flow.KindConnection) {
			if x.Side == side && (len(progress) != 1 || progress[0].Source != x.Source || progress[0].Destination != x.Destination || progress[0].Endpoint != x.Endpoint) {
				t.Errorf("progress %+v\nend %+v", progress, x)
			}
		}
	}
	if came, _ := w.split(g.rec.All(flow.KindConnection, flow.PhaseProgress)); len(came) != 1 || came[0].Source.Identity != "" || came[0].Destination.Instance != "gateway-1" {
		t.Errorf("what came: %+v", came)
	}
}

// What a listener has begun to ask of its callers, a connection that was opened before does not escape.
func TestEdgeTightened(t *testing.T) {
	w := newGatewayWorld(t)
	web := app(t, describe("web"))
	certificates := []policy.CertificateFiles{w.pair("a", "shop.example.com")}
	anchors := filepath.Join(w.dir, "ca.pem")
	w.web.WriteRoots(anchors)
	for name, v := range map[string]struct{ before, after *policy.ServerTLS }{
		"TLS":           {nil, &policy.ServerTLS{Certificates: certificates}},
		"a certificate": {&policy.ServerTLS{Certificates: certificates}, &policy.ServerTLS{Certificates: certificates, ClientCAFile: anchors, ClientAuth: policy.ClientAuthRequire}},
	} {
		snapshot := func(revision string, c *policy.ServerTLS) *policy.Snapshot {
			snap := gateway(policy.Listener{Name: "http", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{TLS: c, Hosts: []policy.VirtualHost{host1("web", "shop.example.com")}}})
			snap.Revision = revision
			w.serve(snap, "web", policy.Service{External: true, Protocol: flow.ProtocolHTTP1}, web)
			return snap
		}
		g := start(t, snapshot("before", v.before), w.mesh.Holder("gateway"), time.Second)
		c := w.client(t, g.addr(t, "http"), false)
		url := map[bool]string{true: "http://shop.example.com/", false: "https://shop.example.com/"}[v.before == nil]
		if resp, body := fetch(t, c, url); resp.StatusCode != 200 {
			t.Fatalf("%s: %d %s", name, resp.StatusCode, body)
		}
		next := snapshot("after", v.after)
		g.source.Set(next)
		testmesh.Eventually(t, "it is applied", func() bool { return g.Snapshot() == next })
		resp, body := fetch(t, c, url)
		if resp.StatusCode != 403 || resp.Header.Get("x-tulle-reason") != "plaintext_refused" || !strings.Contains(body, name) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		g.stop()
	}
}

// Certificates are replaced under load, again and again: no request fails, and new connections get the new one.
func TestEdgeRotation(t *testing.T) {
	w := newGatewayWorld(t)
	files := w.pair("a", "a.example")
	snap := gateway(policy.Listener{Name: "https", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{
		TLS: &policy.ServerTLS{Certificates: []policy.CertificateFiles{files}}, Hosts: []policy.VirtualHost{host1("web", "*")},
	}})
	w.serve(snap, "web", policy.Service{External: true, Protocol: flow.ProtocolHTTP1}, app(t, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) }))
	g := start(t, snap, &identity.Holder{}, time.Second)
	addr := g.addr(t, "https")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sent, failed atomic.Int64
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			c := w.client(t, addr, i%2 == 1)
			for n := 0; ctx.Err() == nil; n++ {
				if n%5 == 4 { // a connection of its own
					c.CloseIdleConnections()
				}
				resp, err := c.Get("https://a.example/")
				if sent.Add(1); err != nil || resp.StatusCode != 204 {
					failed.Add(1)
					t.Errorf("request %d: %v", n, err)
					return
				}
				_ = resp.Body.Close()
			}
		})
	}
	presented := func() string {
		c, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: "a.example", RootCAs: w.web.Roots()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	for range 20 {
		next := w.web.Web("a.example")
		w.web.WritePair(next, files.CertFile, files.KeyFile)
		g.credentials.Refresh()
		leaf, err := x509.ParseCertificate(next.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := presented(); got != leaf.SerialNumber.String() {
			t.Errorf("certificate %s is presented, %s is in the file", got, leaf.SerialNumber)
		}
	}
	stop()
	load.Wait()
	if sent.Load() < 20 || failed.Load() != 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), sent.Load())
	}
	t.Logf("%d requests, none failed", sent.Load())
	g.stop()
}

// A listener whose certificate cannot be read refuses handshakes and says why; the others go on, and it serves when the file is there.
func TestEdgeWithoutCertificate(t *testing.T) {
	w := newGatewayWorld(t)
	files := policy.CertificateFiles{CertFile: filepath.Join(w.dir, "late.pem"), KeyFile: filepath.Join(w.dir, "late.key")}
	snap := gateway(policy.Listener{Name: "https", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{
		TLS: &policy.ServerTLS{Certificates: []policy.CertificateFiles{files}}, Hosts: []policy.VirtualHost{host1("web", "*")},
	}})
	w.serve(snap, "web", policy.Service{External: true, Protocol: flow.ProtocolHTTP1}, app(t, describe("web")))
	g := start(t, snap, &identity.Holder{}, time.Second)
	c := w.client(t, g.addr(t, "https"), false)
	if _, err := c.Get("https://a.example/"); err == nil {
		t.Error("it was served without a certificate")
	}
	if p := g.CredentialProblems(); len(p) != 1 || !strings.Contains(p[0], files.CertFile) {
		t.Errorf("problems %q", p)
	}
	w.pair("late", "a.example")
	g.credentials.Refresh()
	if resp, _ := fetch(t, c, "https://a.example/"); resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}
	g.stop()
	if x := g.rec.Closed(flow.KindConnection); len(x) != 1 || x[0].Reason != flow.ReasonTLSFailed || !strings.Contains(x[0].Detail, "put it there") {
		t.Errorf("Records %+v", x)
	}
}

// Sidecars call a host outside the mesh by way of an edge: its identity is checked, the service is named by SNI, TLS is originated there, and both edges have both sides.
func TestEgress(t *testing.T) {
	w := newGatewayWorld(t)
	anchors := filepath.Join(w.dir, "ca.pem")
	w.web.WriteRoots(anchors)
	o := https(t, &tls.Config{Certificates: []tls.Certificate{w.web.Web("api.bank.example")}}, []string{"h2", "http/1.1"}, describe("bank"))
	echo := https(t, &tls.Config{Certificates: []tls.Certificate{w.web.Web("api.bank.example")}}, []string{"http/1.1"}, describe("mail"))
	snap := gateway(policy.Listener{Name: "egress", Protocol: flow.ProtocolTCP, Edge: &policy.Edge{Mesh: true, Hosts: []policy.VirtualHost{
		{Name: "bank", Hosts: []string{"bank"}, Service: "bank"}, {Name: "mail", Hosts: []string{"mail"}, Service: "mail"},
	}}})
	own := &policy.ClientTLS{ServerName: "api.bank.example", CAFile: anchors}
	w.serve(snap, "bank", policy.Service{External: true, Protocol: flow.ProtocolHTTP, TLS: own, Authority: "api.bank.example"}, o.addr)
	w.serve(snap, "mail", policy.Service{External: true, Protocol: flow.ProtocolTLS}, echo.addr)
	g := start(t, snap, w.mesh.Holder("gateway"), time.Second)
	via := func(name string, p flow.Protocol, account string) policy.Service {
		return policy.Service{
			Name: name, Namespace: "shop", Protocol: p, External: true, MTLS: true, Via: "gateway", Identities: []string{testmesh.ID(account).String()}, Retry: policy.Retry{Attempts: 1},
		}
	}
	caller := start(t, clientSnapshot(via("bank", flow.ProtocolHTTP, "gateway"), g.addr(t, "egress")), w.mesh.Holder("web"), time.Second)
	for i, c := range []*http.Client{client(t), h2c(t)} {
		resp, body := fetch(t, c, "http://"+caller.addr(t, "outbound").String()+"/balance")
		if want := []string{"bank HTTP/1.1", "bank HTTP/2.0"}[i] + ` api.bank.example/balance for="" proto=""`; resp.StatusCode != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("got %d %q, want %q", resp.StatusCode, body, want)
		}
	}
	// TLS of the application's own, to a service of HTTP whose TLS the edge would originate: it gets no second one.
	mail := start(t, clientSnapshot(via("mail", flow.ProtocolTLS, "gateway"), g.addr(t, "egress")), w.mesh.Holder("web"), time.Second)
	direct := w.client(t, mail.addr(t, "outbound"), false)
	if resp, body := fetch(t, direct, "https://api.bank.example/inbox"); resp.StatusCode != 200 || !strings.HasPrefix(body, "mail HTTP/1.1 api.bank.example/inbox") {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	direct.CloseIdleConnections()
	// Somebody else where the edge should be, and a service that is not called by way of it.
	wrong := start(t, clientSnapshot(via("bank", flow.ProtocolHTTP, "thief"), g.addr(t, "egress")), w.mesh.Holder("web"), time.Second)
	if resp, _ := fetch(t, client(t), "http://"+wrong.addr(t, "outbound").String()+"/"); resp.Header.Get("x-tulle-reason") != "identity_mismatch" {
		t.Errorf("another identity: %d %q", resp.StatusCode, resp.Header.Get("x-tulle-reason"))
	}
	lost := start(t, clientSnapshot(via("lost", flow.ProtocolHTTP, "gateway"), g.addr(t, "egress")), w.mesh.Holder("web"), time.Second)
	if resp, _ := fetch(t, client(t), "http://"+lost.addr(t, "outbound").String()+"/"); resp.StatusCode != 502 {
		t.Errorf("a service that the edge does not know: %d", resp.StatusCode)
	}
	for _, r := range []*running{caller, mail, wrong, lost, g} {
		r.stop()
	}
	sent := caller.rec.Closed(flow.KindExchange)
	came, went := w.split(g.rec.Closed(flow.KindExchange))
	if len(sent) != 2 || len(came) != 2 || len(went) != 2 {
		t.Fatalf("%d sent, %d came, %d went on", len(sent), len(came), len(went))
	}
	for i, x := range sent {
		if x.Source.Service != "web" || x.Destination.Service != "gateway" || x.Destination.Identity != testmesh.ID("gateway").String() || x.Route != "bank" || !x.Far.Known() {
			t.Errorf("what the caller says: %+v", x)
		}
		if y := came[i]; y.Source.Service != "web" || y.Source.Identity != testmesh.ID("web").String() || y.Destination.Service != "gateway" || y.Destination.Identity == "" || y.Trace.ParentID != x.Trace.SpanID {
			t.Errorf("what came: %+v", y)
		}
		if y := went[i]; y.Source.Service != "gateway" || y.Destination.Service != "bank" || y.Destination.Identity != "" || y.Trace.ParentID != came[i].Trace.SpanID || y.Authority == "" {
			t.Errorf("what went on: %+v", y)
		}
	}
	relayed := mail.rec.Closed(flow.KindConnection)
	inward, outward := w.split(g.rec.Closed(flow.KindConnection))
	inward = slices.DeleteFunc(inward, func(x flow.Record) bool { return x.Reason != flow.ReasonNone })
	if len(relayed) != 1 || len(inward) != 1 || len(outward) != 1 || relayed[0].ServerName != "api.bank.example" || outward[0].Destination.Service != "mail" || outward[0].Protocol != flow.ProtocolTLS ||
		relayed[0].Destination.Service != "gateway" || inward[0].Source.Service != "web" {
		t.Errorf("relays %+v\n%+v\n%+v", relayed, inward, outward)
	}
	for _, x := range lost.rec.Closed(flow.KindAttempt) {
		if x.Delivered {
			t.Errorf("nothing was delivered: %+v", x)
		}
	}
}
