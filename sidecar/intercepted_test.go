package sidecar

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/detect"
)

// redirected is a sidecar with one listener of redirected connections, in memory and in virtual time. Its policy knows "shop" at shop1 and shop2, of protocol http, and
// "queue" at queue1 and queue2, of tcp; outside is no service.
type redirected struct {
	*randomWorld
	*running
	at   netip.AddrPort // the listener's
	mu   sync.Mutex
	to   map[netip.AddrPort]netip.AddrPort // by the caller's address
	rest netip.AddrPort                    // of other callers
	port map[netip.AddrPort]net.Listener
	wg   sync.WaitGroup
}

var (
	shop1, shop2   = netip.AddrPortFrom(host(1, 1), 80), netip.AddrPortFrom(host(1, 2), 80)
	queue1, queue2 = netip.AddrPortFrom(host(2, 1), 6379), netip.AddrPortFrom(host(2, 2), 6379)
	outside        = netip.AddrPortFrom(host(9, 9), 443)
)

func redirectedSnapshot(at netip.AddrPort, i policy.Interception) *policy.Snapshot {
	s := &policy.Snapshot{
		Revision: "i1", Workload: policy.Workload{Service: "web", Namespace: "shop", Version: "v1", Instance: "web-1"},
		Listeners: []policy.Listener{{Name: "intercept:outbound", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Interception: &i}},
		Services: map[string]policy.Service{
			"shop":  {Name: "shop", Protocol: flow.ProtocolHTTP, External: true},
			"queue": {Name: "queue", Protocol: flow.ProtocolTCP, External: true},
		},
		Endpoints: map[string][]policy.Endpoint{},
	}
	for name, list := range map[string][]netip.AddrPort{"shop": {shop1, shop2}, "queue": {queue1, queue2}} {
		for _, a := range list {
			s.Endpoints[name] = append(s.Endpoints[name], policy.Endpoint{Address: a, Weight: 100})
		}
	}
	return s
}

// withRedirected runs test beside a sidecar whose outbound connections are redirected.
func withRedirected(t *testing.T, i policy.Interception, test func(t *testing.T, r *redirected)) {
	withSnapshot(t, redirectedSnapshot(redirectedAt, i), test)
}

var redirectedAt = netip.AddrPortFrom(host(0, 1), 15001)

// withSnapshot runs test beside a sidecar that listens at redirectedAt.
func withSnapshot(t *testing.T, snap *policy.Snapshot, test func(t *testing.T, r *redirected)) {
	withDirectory(t, snap, nil, test)
}

// withDirectory is withSnapshot where the sidecar can ask for what the Snapshot does not have.
func withDirectory(t *testing.T, snap *policy.Snapshot, d policy.Directory, test func(t *testing.T, r *redirected)) {
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		r := &redirected{
			randomWorld: &randomWorld{t: t, net: testmesh.NewNet(), directory: d}, at: redirectedAt,
			to: map[netip.AddrPort]netip.AddrPort{}, port: map[netip.AddrPort]net.Listener{},
		}
		r.original = func(c net.Conn) (netip.AddrPort, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			to, ok := r.to[c.RemoteAddr().(*net.TCPAddr).AddrPort()]
			if !ok && r.rest.IsValid() {
				return r.rest, nil
			}
			if !ok {
				return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: no such entry")
			}
			return to, nil
		}
		r.running = r.launch(r.checked(snap), &identity.Holder{}, host(0, 1), time.Second)
		test(t, r)
		r.running.stop()
		for _, l := range r.port {
			_ = l.Close()
		}
		r.wg.Wait()
		if n := r.net.Open(); n != 0 {
			t.Errorf("%d ends of connections are left open", n)
		}
		if n := r.Room().Used(); n != 0 {
			t.Errorf("%d bytes of buffers are left in use", n)
		}
	})
}

// serve answers connections to a.
func (r *redirected) serve(a netip.AddrPort, script func(c net.Conn, in *bufio.Reader)) {
	l, err := r.net.Listen(a)
	if err != nil {
		r.randomWorld.t.Fatal(err)
	}
	r.port[a] = l
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() {
				defer c.Close()
				script(c, bufio.NewReader(c))
			})
		}
	})
}

// dial is a connection of the application to a, redirected to the sidecar.
func (r *redirected) dial(a netip.AddrPort) (net.Conn, *bufio.Reader) {
	r.mu.Lock()
	defer r.mu.Unlock() // the sidecar asks after this
	c, err := r.net.Dialer(host(0, 2))(r.randomWorld.t.Context(), r.at)
	if err != nil {
		r.randomWorld.t.Fatal(err)
	}
	if a.IsValid() {
		r.to[c.LocalAddr().(*net.TCPAddr).AddrPort()] = a
	}
	return c, bufio.NewReader(c)
}

// web answers HTTP with who it is and the authority that it was asked for.
func web(name string) func(c net.Conn, in *bufio.Reader) {
	return func(c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body := name + " as " + req.Host
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
}

// greeter speaks first, then echoes a line.
func greeter(greeting string) func(c net.Conn, in *bufio.Reader) {
	return func(c net.Conn, in *bufio.Reader) {
		fmt.Fprint(c, greeting+"\r\n")
		if line, err := in.ReadString('\n'); err == nil {
			fmt.Fprint(c, "250 "+line)
		}
	}
}

func line(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	s, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(s, "\r\n")
}

// HTTP to an endpoint of a service goes to the service, request by request, with the authority that the caller gave.
func TestRedirectedHTTP(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		r.serve(shop1, web("one"))
		r.serve(shop2, web("two"))
		c, in := r.dial(shop1)
		answered := map[string]int{}
		for range 40 {
			fmt.Fprint(c, "GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			answered[string(body)]++
		}
		if answered["one as shop.example"] == 0 || answered["two as shop.example"] == 0 || len(answered) != 2 {
			t.Errorf("answers: %v; want both endpoints of the service", answered)
		}
		// What is open follows the policy as an explicit connection does.
		next := redirectedSnapshot(r.at, policy.Interception{})
		next.Revision = "i2"
		next.Endpoints["shop"] = next.Endpoints["shop"][1:] // not the one that was meant
		r.source.Set(r.checked(next))
		synctest.Wait()
		fmt.Fprint(c, "GET /b HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); string(body) != "two as shop.example" {
			t.Errorf("after the endpoint has gone: %q", body)
		}
		_ = c.Close()
		synctest.Wait()
		records := r.rec.Closed(flow.KindExchange)
		if len(records) != 41 {
			t.Fatalf("%d Records, want 41", len(records))
		}
		// Once the service is gone, there is nowhere to go; a service that comes again is called again.
		c, in = r.dial(shop2)
		for i, want := range []string{"HTTP/1.1 200 OK", "HTTP/1.1 502 Bad Gateway", "HTTP/1.1 502 Bad Gateway", "HTTP/1.1 200 OK"} {
			now := redirectedSnapshot(r.at, policy.Interception{})
			if now.Revision = fmt.Sprintf("i%d", 3+i); strings.Contains(want, "502") {
				delete(now.Services, "shop")
				delete(now.Endpoints, "shop")
			}
			r.source.Set(r.checked(now))
			synctest.Wait()
			fmt.Fprint(c, "GET /c HTTP/1.1\r\nHost: shop.example\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			synctest.Wait()
			list := r.rec.Closed(flow.KindExchange)
			x := list[len(list)-1]
			if got := "HTTP/1.1 " + resp.Status; got != want || x.Status != resp.StatusCode || (x.Reason == flow.ReasonUnknownDest) != (x.Status == 502) {
				t.Errorf("%d: %q, want %q; Record %+v", i, got, want, x)
			}
		}
		_ = c.Close()
		synctest.Wait()
		if x := records[40]; x.Destination.Service != "shop" || x.Protocol != flow.ProtocolHTTP1 || x.Status != 200 || x.Revision != "i2" || x.Endpoint != shop2 || x.Authority != "shop.example" {
			t.Errorf("Record %+v", x)
		}
	})
}

func TestRedirectedHTTP2(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		r.serve(shop1, func(c net.Conn, in *bufio.Reader) {
			head := make([]byte, 24)
			if _, err := io.ReadFull(in, head); err != nil || string(head) != "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
				t.Errorf("upstream got %q, %v", head, err)
			}
		})
		r.serve(shop2, r.scriptNothing)
		c, in := r.dial(shop1)
		fmt.Fprint(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		frame := make([]byte, 9)
		if _, err := io.ReadFull(in, frame); err != nil || frame[3] != 4 { // SETTINGS
			t.Errorf("the sidecar does not speak HTTP/2: %x, %v", frame, err)
		}
		_ = c.Close()
		_, _ = io.Copy(io.Discard, in)
	})
}

func (r *redirected) scriptNothing(net.Conn, *bufio.Reader) {}

// Where the server speaks first a first connection waits for the time-out, and no other one.
func TestRedirectedServerFirst(t *testing.T) {
	for _, c := range []struct {
		name  string
		i     policy.Interception
		waits [3]time.Duration
	}{
		{"default", policy.Interception{}, [3]time.Duration{time.Second, 0, 0}},
		{"shorter", policy.Interception{DetectTimeout: 20 * time.Millisecond}, [3]time.Duration{20 * time.Millisecond, 0, 0}},
		{"opaque", policy.Interception{OpaquePorts: []uint16{25, 80}}, [3]time.Duration{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			withRedirected(t, c.i, func(t *testing.T, r *redirected) {
				r.serve(shop1, greeter("220 shop"))
				for i, wait := range c.waits {
					begin := time.Now()
					conn, in := r.dial(shop1)
					if got := line(t, in); got != "220 shop" {
						t.Errorf("greeting %q", got)
					}
					if took := time.Since(begin); took != wait {
						t.Errorf("connection %d waited %s, want %s", i, took, wait)
					}
					fmt.Fprint(conn, "EHLO web\r\n")
					if got := line(t, in); got != "250 EHLO web" {
						t.Errorf("answer %q", got)
					}
					_ = conn.Close()
					synctest.Wait()
				}
				for _, x := range r.rec.Closed(flow.KindConnection) {
					if x.Destination.Service != "shop" || x.Protocol != flow.ProtocolTCP || x.Endpoint != shop1 || x.Reason != flow.ReasonNone || x.BytesIn != 10 {
						t.Errorf("Record %+v", x)
					}
				}
				if n := len(r.rec.Closed(flow.KindConnection)); n != 3 {
					t.Errorf("%d Records, want 3", n)
				}
			})
		})
	}
}

// A client that opens a connection before it needs it is no proof that the server speaks first: what it says at last is a request, on this connection and the next ones.
func TestRedirectedSilentClient(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		r.serve(shop1, web("one"))
		r.serve(shop2, web("two"))
		for _, pause := range []time.Duration{3 * time.Second, 3 * time.Second, 0} {
			c, in := r.dial(shop1)
			time.Sleep(pause)
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if got := line(t, in); got != "HTTP/1.1 200 OK" {
				t.Errorf("answer %q", got)
			}
			_ = c.Close()
			synctest.Wait()
		}
		if relayed, requests := r.rec.Closed(flow.KindConnection), len(r.rec.Closed(flow.KindExchange)); len(relayed) != 2 || requests != 3 {
			t.Errorf("%d relays and %d requests, want 2 and 3", len(relayed), requests)
		} else if x := relayed[0]; x.BytesIn != 0 || x.BytesOut != 0 || x.Reason != flow.ReasonNone {
			t.Errorf("Record %+v of a relay that nobody used", x)
		}
	})
}

// A server that was seen to speak first and is replaced by one that waits for its clients serves even the first of them as what it speaks.
func TestRedirectedForgets(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		r.serve(shop1, greeter("220 shop"))
		c, in := r.dial(shop1)
		_ = line(t, in)
		_ = c.Close()
		synctest.Wait()
		_ = r.port[shop1].Close()
		synctest.Wait()
		r.serve(shop1, web("one"))
		r.serve(shop2, web("two"))
		for range 2 {
			c, in := r.dial(shop1)
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if got := line(t, in); got != "HTTP/1.1 200 OK" {
				t.Errorf("answer %q", got)
			}
			_ = c.Close()
			synctest.Wait()
		}
		if relayed, requests := len(r.rec.Closed(flow.KindConnection)), len(r.rec.Closed(flow.KindExchange)); relayed != 2 || requests != 2 {
			t.Errorf("%d relays and %d requests, want 2 and 2", relayed, requests)
		}
		if r.serverFirst.Has(detect.Silent{To: shop1}) {
			t.Error("the server is remembered to speak first")
		}
	})
}

// Bytes go to the very endpoint that was meant, at once; what is not HTTP too.
func TestRedirectedBytes(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		for i, a := range []netip.AddrPort{queue1, queue2, shop2} {
			r.serve(a, func(c net.Conn, in *bufio.Reader) {
				if s, err := in.ReadString('\n'); err == nil {
					fmt.Fprintf(c, "%d %s", i, s)
				}
			})
		}
		begin := time.Now()
		for range 10 {
			for i, a := range []netip.AddrPort{queue1, queue2, shop2} {
				c, in := r.dial(a)
				fmt.Fprint(c, "*1 PING\n")
				if got, want := line(t, in), fmt.Sprint(i, " *1 PING"); got != want {
					t.Errorf("%s answered %q, want %q", a, got, want)
				}
				_ = c.Close()
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("detection took %s", took)
		}
		synctest.Wait()
		if n := len(r.rec.Closed(flow.KindConnection)); n != 30 {
			t.Errorf("%d Records, want 30", n)
		}
	})
}

// What is no service is passed through to where it was to go, and Records say so.
func TestRedirectedPassthrough(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		r.serve(outside, greeter("hello"))
		begin := time.Now()
		c, in := r.dial(outside)
		if got := line(t, in); got != "hello" || time.Since(begin) != nameTimeout {
			t.Errorf("%q after %s", got, time.Since(begin))
		}
		fmt.Fprint(c, "x\n")
		if got := line(t, in); got != "250 x" {
			t.Errorf("%q", got)
		}
		_ = c.Close()
		synctest.Wait()
		gone, in := r.dial(netip.AddrPortFrom(host(9, 8), 443)) // nobody is there
		if _, err := in.ReadByte(); err == nil {
			t.Error("a connection to nobody was answered")
		}
		_ = gone.Close()
		synctest.Wait()
		records := r.rec.Closed(flow.KindConnection)
		if len(records) != 2 {
			t.Fatalf("%d Records, want 2", len(records))
		}
		if x := records[0]; x.Route != "passthrough" || x.Destination.Service != "" || x.Destination.Addr != outside || x.Endpoint != outside || x.Protocol != flow.ProtocolTCP ||
			x.Reason != flow.ReasonNone || x.BytesIn != 2 || x.BytesOut != 13 || x.Attempts != 1 {
			t.Errorf("Record %+v", x)
		}
		if x := records[1]; x.Route != "passthrough" || x.Reason != flow.ReasonConnectRefused || x.Attempts != 1 {
			t.Errorf("Record %+v", x)
		}
	})
}

// What the sidecar opens and gets back, because the rules do not know its user, it does not open again.
func TestRedirectedLoop(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		r.mu.Lock()
		r.rest = outside
		r.mu.Unlock()
		r.net.Redirect(host(0, 1), r.at)
		c, in := r.dial(outside)
		fmt.Fprint(c, "hello\n")
		if _, err := in.ReadByte(); err == nil {
			t.Error("answered, by whom?")
		}
		_ = c.Close()
		synctest.Wait()
		records := r.rec.Closed(flow.KindConnection)
		if len(records) != 2 {
			t.Fatalf("%d connections, want the application's and the one that came back", len(records))
		}
		if x := records[0]; x.Reason != flow.ReasonUnknownDest || !strings.Contains(x.Detail, "--sidecar-uid") {
			t.Errorf("Record %+v", x)
		}
	})
}

// An address is the same with a zone, or mapped into IPv6.
func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1:80": "10.0.0.1:80", "[::ffff:10.0.0.1]:80": "10.0.0.1:80", "[fe80::1%eth0]:80": "[fe80::1]:80", "[fd00::1]:80": "[fd00::1]:80",
	} {
		if got := plain(netip.MustParseAddrPort(text)); got != netip.MustParseAddrPort(want) {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	withRedirected(t, policy.Interception{Unknown: policy.UnknownRefuse}, func(t *testing.T, r *redirected) {
		next := redirectedSnapshot(r.at, policy.Interception{Unknown: policy.UnknownRefuse})
		for _, list := range next.Endpoints {
			for i, e := range list {
				list[i].Address = netip.AddrPortFrom(netip.AddrFrom16(e.Address.Addr().As16()), e.Address.Port())
			}
		}
		r.serve(next.Endpoints["queue"][0].Address, greeter("known"))
		r.source.Set(r.checked(next))
		synctest.Wait()
		c, in := r.dial(queue1)
		if got := line(t, in); got != "known" {
			t.Errorf("%q", got)
		}
		_ = c.Close()
	})
}

func TestRedirectedRefused(t *testing.T) {
	withRedirected(t, policy.Interception{Unknown: policy.UnknownRefuse}, func(t *testing.T, r *redirected) {
		r.serve(outside, greeter("hello"))
		r.serve(queue1, greeter("known"))
		for to, want := range map[netip.AddrPort]string{outside: "is no service", r.at: "not redirected", {}: "no original destination"} {
			before := len(r.rec.Closed(flow.KindConnection))
			c, in := r.dial(to)
			if _, err := in.ReadByte(); err == nil {
				t.Errorf("%s was answered", to)
			}
			_ = c.Close()
			synctest.Wait()
			records := r.rec.Closed(flow.KindConnection)
			if len(records) != before+1 {
				t.Fatalf("%d Records, want %d", len(records), before+1)
			}
			x := records[before]
			if x.Reason != flow.ReasonUnknownDest || !strings.Contains(x.Detail, want) || x.Destination.Service != "" || to.IsValid() && x.Destination.Addr != to {
				t.Errorf("Record %+v, want %q", x, want)
			}
			if from := map[bool]string{true: "web"}[to == outside]; x.Source.Service != from || !x.Source.Addr.IsValid() { // what was not redirected is anybody's
				t.Errorf("Record of %s: source %+v, want %q", to, x.Source, from)
			}
		}
		c, in := r.dial(queue1)
		if got := line(t, in); got != "known" {
			t.Errorf("%q", got)
		}
		_ = c.Close()
	})
}

// A drain ends connections that wait to be detected.
func TestRedirectedDrain(t *testing.T) {
	withRedirected(t, policy.Interception{DetectTimeout: 30 * time.Second}, func(t *testing.T, r *redirected) {
		c, in := r.dial(shop1)
		synctest.Wait()
		begin := time.Now()
		r.running.stop()
		if _, err := in.ReadByte(); err == nil || time.Since(begin) != 0 {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		_ = c.Close()
	})
}

// What comes in is served as the port says that was meant; other ports as the listener says.
func TestRedirectedInbound(t *testing.T) {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(host(5, 5), port) } // what callers call
	app := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(host(0, 9), port) }
	snapshot := func(unknown policy.Unknown, second bool) *policy.Snapshot {
		s := &policy.Snapshot{
			Revision: "i1", Workload: policy.Workload{Service: "shop", Namespace: "shop", Instance: "shop-1"},
			Listeners: []policy.Listener{
				{
					Name: "intercept:inbound", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Service: "shop", Address: redirectedAt, Mode: policy.ModePermissive,
					Interception: &policy.Interception{Unknown: unknown},
				},
				{Name: "inbound:80", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Service: "shop", Address: at(80), Target: app(8080), Mode: policy.ModePermissive, Unbound: true},
				{Name: "inbound:443", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Service: "shop", Address: at(443), Target: app(8080), Unbound: true},
			},
		}
		if second {
			s.Listeners = append(s.Listeners, policy.Listener{
				Name: "inbound:6379", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Service: "shop", Address: at(6379), Target: app(6379), Mode: policy.ModePermissive, Unbound: true,
			})
		}
		return s
	}
	withSnapshot(t, snapshot(policy.UnknownPass, true), func(t *testing.T, r *redirected) {
		r.serve(app(8080), web("application"))
		r.serve(app(6379), greeter("queue"))
		r.serve(at(7), greeter("other"))
		const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
		r.serve(at(8443), func(c net.Conn, in *bufio.Reader) { _, _ = io.Copy(c, in) })
		get := func(to netip.AddrPort) string {
			c, in := r.dial(to)
			defer c.Close()
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
			b, _ := io.ReadAll(in)
			return string(b)
		}
		if got := get(at(80)); !strings.HasSuffix(got, "application as shop.example") {
			t.Errorf("port 80: %q", got)
		}
		if got := get(at(443)); !strings.HasPrefix(got, "HTTP/1.1 403 ") || !strings.Contains(got, "plaintext_refused") {
			t.Errorf("port 443, which is strict: %q", got)
		}
		talk := func(to netip.AddrPort, greeting string) {
			t.Helper()
			c, in := r.dial(to)
			defer c.Close()
			fmt.Fprint(c, "PING\n")
			if got := line(t, in); got != greeting {
				t.Errorf("%s: %q", to, got)
			}
			if got := line(t, in); got != "250 PING" {
				t.Errorf("%s: %q", to, got)
			}
		}
		talk(at(6379), "queue")
		talk(at(7), "other")
		own, theirs := r.dial(at(8443)) // an application's own TLS, which is none of the sidecar's business
		fmt.Fprint(own, hello)
		b := make([]byte, len(hello))
		if _, err := io.ReadFull(theirs, b); err != nil || string(b) != hello {
			t.Errorf("port 8443: %q, %v", b, err)
		}
		_ = own.Close()
		n := 0
		for _, x := range r.Saturation() { // three ports, one destination
			if x.Side == flow.SideServer && x.Destination == "shop" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d figures of the own service: %+v", n, r.Saturation())
		}
		kept, in := r.dial(at(80)) // a connection that outlives its port's place in the policy
		synctest.Wait()
		r.source.Set(r.checked(snapshot(policy.UnknownRefuse, false)))
		synctest.Wait()
		fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if got := line(t, in); got != "HTTP/1.1 200 OK" {
			t.Errorf("kept: %q", got)
		}
		_ = kept.Close()
		kept, in = r.dial(at(80))
		fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 200 {
			t.Fatalf("kept: %v, %v", resp, err)
		} else if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		less := snapshot(policy.UnknownRefuse, false)
		less.Listeners = slices.DeleteFunc(less.Listeners, func(l policy.Listener) bool { return l.Name == "inbound:80" })
		r.source.Set(r.checked(less))
		synctest.Wait()
		fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(in); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") || !strings.Contains(string(b), "no_endpoint") {
			t.Errorf("kept, its port gone: %q, %v", b, err)
		}
		_ = kept.Close()
		for _, to := range []netip.AddrPort{at(6379), at(7), r.at} {
			c, in := r.dial(to)
			if _, err := in.ReadByte(); err == nil {
				t.Errorf("%s was answered", to)
			}
			_ = c.Close()
			synctest.Wait()
			records := r.rec.Closed(flow.KindConnection)
			if x := records[len(records)-1]; x.Side != flow.SideServer || x.Reason != flow.ReasonUnknownDest || x.Destination.Addr != to || x.Destination.Service != "shop" {
				t.Errorf("Record %+v", x)
			}
		}
		for _, x := range r.rec.Closed(flow.KindExchange) {
			if x.Destination.Service != "shop" || x.Endpoint != app(8080) && x.Reason != flow.ReasonNoEndpoint || x.Destination.Addr != at(80) {
				t.Errorf("Record %+v", x)
			}
		}
	})
}
