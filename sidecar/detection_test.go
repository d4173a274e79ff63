package sidecar

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/detect"
)

// hop is a service behind its sidecar and a caller of it behind another one, in memory and in virtual time.
type hop struct {
	*randomWorld
	web, shop *running
	app       net.Listener

	webHolder, shopHolder *identity.Holder
	wg                    sync.WaitGroup
}

var (
	hopFront = netip.AddrPortFrom(host(0, 1), 9001) // where web's sidecar listens for its application
	hopShop  = netip.AddrPortFrom(host(5, 1), 80)   // where shop's sidecar listens
	hopApp   = netip.AddrPortFrom(host(5, 1), 8080)
)

// hopPolicy is what both ends are told: what the caller's sidecar takes the service for, and what the service's own does.
type hopPolicy struct {
	out, in    flow.Protocol
	mode       policy.ListenerMode
	redirected bool // the caller's connections are redirected, to hopShop
}

func (p hopPolicy) snapshots() (web, shop *policy.Snapshot) {
	web = &policy.Snapshot{
		Revision: "w", Workload: policy.Workload{Service: "web", Namespace: "shop", Instance: "web-1"},
		Services:  map[string]policy.Service{"shop": {Name: "shop", Namespace: "shop", Protocol: p.out, MTLS: true, Identities: []string{testmesh.ID("shop").String()}}},
		Endpoints: map[string][]policy.Endpoint{"shop": {{Address: hopShop, Weight: 100}}},
		Listeners: []policy.Listener{{Name: "out", Side: flow.SideClient, Protocol: p.out, Address: hopFront, Service: "shop"}},
	}
	if p.redirected {
		web.Listeners[0] = policy.Listener{Name: "out", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: hopFront, Interception: &policy.Interception{}}
	}
	shop = &policy.Snapshot{
		Revision: "s", Workload: policy.Workload{Service: "shop", Namespace: "shop", Instance: "shop-1"},
		Listeners: []policy.Listener{{Name: "in", Side: flow.SideServer, Protocol: p.in, Address: hopShop, Target: hopApp, Service: "shop", Mode: p.mode}},
	}
	for _, s := range []*policy.Snapshot{web, shop} {
		for i := range s.Listeners {
			s.Listeners[i] = s.Listeners[i].WithDefaults()
		}
	}
	return web, shop
}

func withHop(t *testing.T, p hopPolicy, script func(c net.Conn, in *bufio.Reader), test func(t *testing.T, h *hop)) {
	t.Helper()
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		h := &hop{randomWorld: &randomWorld{t: t, net: testmesh.NewNet()}}
		h.original = func(c net.Conn) (netip.AddrPort, error) { return hopShop, nil }
		ca := testmesh.NewCA(t)
		h.webHolder, h.shopHolder = ca.Holder("web"), ca.Holder("shop")
		web, shop := p.snapshots()
		h.shop = h.launch(h.checked(shop), h.shopHolder, host(5, 1), time.Second)
		h.web = h.launch(h.checked(web), h.webHolder, host(0, 1), time.Second)
		var err error
		if h.app, err = h.net.Listen(hopApp); err != nil {
			t.Fatal(err)
		}
		h.wg.Go(func() {
			for {
				c, err := h.app.Accept()
				if err != nil {
					return
				}
				h.wg.Go(func() {
					defer c.Close()
					script(c, bufio.NewReader(c))
				})
			}
		})
		test(t, h)
		h.web.stop()
		h.shop.stop()
		_ = h.app.Close()
		h.wg.Wait()
		if n := h.net.Open(); n != 0 {
			t.Errorf("%d ends of connections are left open", n)
		}
		for _, r := range []*running{h.web, h.shop} {
			if n := r.Room().Used(); n != 0 {
				t.Errorf("%d bytes of buffers are left in use", n)
			}
		}
	})
}

func (h *hop) dial(to netip.AddrPort) (net.Conn, *bufio.Reader) {
	h.t.Helper()
	c, err := h.net.Dialer(host(9, 9))(h.t.Context(), to)
	if err != nil {
		h.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// tlsClient and tlsServer are web's and shop's ends of mTLS as older sidecars have them: without a word of what follows, or with these.
func tlsClient(c net.Conn, h *hop) *tls.Conn { return tls.Client(c, h.webHolder.ClientTLS()) }

func tlsServer(c net.Conn, h *hop, offers ...string) *tls.Conn {
	config := h.shopHolder.ServerTLS()
	config.NextProtos = offers
	return tls.Server(c, config)
}

// answers speaks as its caller does: HTTP/1.1, or lines that are echoed.
func answers(c net.Conn, in *bufio.Reader) {
	if b, err := in.Peek(4); err == nil && string(b) == "GET " {
		web("shop")(c, in)
		return
	}
	for {
		l, err := in.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(c, "250 "+l)
	}
}

// spoken is what the closed Records of one side say was spoken, with "!" behind what failed.
func spoken(r *running) string {
	var out []string
	for _, kind := range []flow.Kind{flow.KindExchange, flow.KindConnection} {
		for _, x := range r.rec.Closed(kind) {
			s := x.Protocol.String()
			if x.Reason != flow.ReasonNone {
				s += "!" + x.Reason.String()
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, " ")
}

// Whatever both ends take the service for, as long as it may be HTTP: what its caller speaks arrives, at once unless the server speaks first, and both sides write down the same. A
// service of protocol tcp is bytes at both ends.
func TestHopIsTold(t *testing.T) {
	const auto = flow.ProtocolAuto
	declared := []flow.Protocol{flow.ProtocolHTTP, flow.ProtocolHTTP1, flow.ProtocolGRPC, auto}
	var cases []hopPolicy
	for _, mode := range []policy.ListenerMode{policy.ModeStrict, policy.ModePermissive} {
		for _, in := range declared {
			cases = append(cases, hopPolicy{out: auto, in: in, mode: mode})
			for _, out := range declared {
				cases = append(cases, hopPolicy{out: out, in: in, mode: mode, redirected: true})
			}
		}
		cases = append(cases, hopPolicy{out: flow.ProtocolTCP, in: flow.ProtocolTCP, mode: mode}, hopPolicy{out: flow.ProtocolTCP, in: auto, mode: mode})
	}
	for _, p := range cases {
		t.Run(fmt.Sprintf("%s to %s mode %d redirected %v", p.out, p.in, p.mode, p.redirected), func(t *testing.T) {
			withHop(t, p, answers, func(t *testing.T, h *hop) { // the client speaks first
				begun := time.Now()
				c, in := h.dial(hopFront)
				fmt.Fprint(c, "PING x\r\n")
				if got := line(t, in); got != "250 PING x" {
					t.Errorf("bytes: %q", got)
				}
				_ = c.Close()
				synctest.Wait()
				if web, shop := spoken(h.web), spoken(h.shop); web != "tcp" || shop != "tcp" {
					t.Errorf("bytes: web says %q, shop %q", web, shop)
				}
				if p.in != flow.ProtocolGRPC { // which it would have to turn into HTTP/2
					c, in = h.dial(hopFront)
					fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
					if got := line(t, in); got != "HTTP/1.1 200 OK" {
						t.Errorf("HTTP: %q", got)
					}
					_ = c.Close()
					synctest.Wait()
					want := "http/1.1 tcp"
					if p.out == flow.ProtocolTCP {
						want = "tcp tcp"
					}
					if web, shop := spoken(h.web), spoken(h.shop); web != want || shop != want {
						t.Errorf("HTTP: web says %q, shop %q; want %q", web, shop, want)
					}
				}
				if took := time.Since(begun); took != 0 {
					t.Errorf("it took %s", took)
				}
				if n := len(h.shop.rec.Detections()); n != 0 {
					t.Errorf("the far side has looked %d times", n)
				}
			})
			withHop(t, p, greeter("220 shop"), func(t *testing.T, h *hop) { // the server does
				for i, want := range []time.Duration{time.Second, 0, 0} {
					if p.out == flow.ProtocolTCP {
						want = 0
					}
					if p.out == flow.ProtocolTCP && p.mode == policy.ModePermissive {
						want = 0 // mTLS begins with the caller
					}
					begun := time.Now()
					c, in := h.dial(hopFront)
					if got := line(t, in); got != "220 shop" {
						t.Errorf("greeting %q", got)
					}
					if took := time.Since(begun); took != want {
						t.Errorf("connection %d waited %s, want %s", i, took, want)
					}
					fmt.Fprint(c, "EHLO web\r\n")
					if got := line(t, in); got != "250 EHLO web" {
						t.Errorf("answer %q", got)
					}
					_ = c.Close()
					synctest.Wait()
				}
				if web, shop := spoken(h.web), spoken(h.shop); web != "tcp tcp tcp" || shop != web {
					t.Errorf("web says %q, shop %q", web, shop)
				}
			})
		})
	}
}

// HTTP/2 with prior knowledge is told too.
func TestHopIsToldHTTP2(t *testing.T) {
	withHop(t, hopPolicy{out: flow.ProtocolAuto, in: flow.ProtocolAuto}, func(c net.Conn, in *bufio.Reader) {
		head := make([]byte, 24)
		if _, err := io.ReadFull(in, head); err != nil || string(head) != "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
			t.Errorf("the application got %q, %v", head, err)
		}
	}, func(t *testing.T, h *hop) {
		c, in := h.dial(hopFront)
		// SETTINGS; HEADERS of GET http:// shop /, END_STREAM and END_HEADERS (RFC 7541, appendix A and B: literals without indexing)
		fmt.Fprint(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00\x00\x09\x01\x05\x00\x00\x00\x01\x82\x86\x84\x01\x04shop")
		go func() { _, _ = io.Copy(io.Discard, in) }()
		time.Sleep(20 * time.Second)
		_ = c.Close()
		synctest.Wait()
		if web, shop := spoken(h.web), spoken(h.shop); !strings.HasPrefix(web, "h2") || !strings.HasPrefix(shop, "h2") {
			t.Errorf("web says %q, shop %q", web, shop)
		}
		if n := len(h.shop.rec.Detections()); n != 0 {
			t.Errorf("the far side has looked %d times", n)
		}
	})
}

// A peer that says nothing of what follows, an older sidecar or a foreign one, is looked at where the port is detected, and speaks HTTP where it is declared.
func TestPeerThatDoesNotTell(t *testing.T) {
	for _, c := range []struct {
		in     flow.Protocol
		says   string
		want   string // the first line of the answer
		record string
		took   time.Duration
	}{
		{flow.ProtocolAuto, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK", "http/1.1", 0},
		{flow.ProtocolAuto, "PING\r\n", "250 PING", "tcp", 0},
		{flow.ProtocolAuto, "PING", "250 PING", "tcp", time.Second}, // it may be a method
		{flow.ProtocolHTTP, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK", "http/1.1", 0},
		{flow.ProtocolHTTP, "PING\r\n\r\n", "HTTP/1.1 400 Bad Request", "http!bad_request", 0},
		{flow.ProtocolTCP, "PING\r\n", "250 PING", "tcp", 0},
	} {
		app := answers
		if c.says == "PING" {
			app = func(c net.Conn, in *bufio.Reader) {
				if b, err := in.Peek(4); err == nil {
					fmt.Fprintf(c, "250 %s\r\n", b)
				}
			}
		}
		withHop(t, hopPolicy{out: c.in, in: c.in}, app, func(t *testing.T, h *hop) {
			conn, _ := h.dial(hopShop)
			secure := tlsClient(conn, h)
			begun := time.Now()
			fmt.Fprint(secure, c.says)
			got, err := bufio.NewReader(secure).ReadString('\n')
			if strings.TrimRight(got, "\r\n") != c.want {
				t.Errorf("%s, %q: %q, %v", c.in, c.says, got, err)
			}
			if took := time.Since(begun); took != c.took {
				t.Errorf("%s, %q: it took %s", c.in, c.says, took)
			}
			_ = secure.Close()
			synctest.Wait()
			if got := spoken(h.shop); got != c.record {
				t.Errorf("%s, %q: Records say %q", c.in, c.says, got)
			}
		})
	}
}

// What an older sidecar is told by a new one: that one speaks bytes to a service which it takes for HTTP. It cannot know, and both ends say why nothing came of it.
func TestOlderSidecarIsToldBytes(t *testing.T) {
	withHop(t, hopPolicy{out: flow.ProtocolAuto, in: flow.ProtocolTCP}, answers, func(t *testing.T, h *hop) {
		h.shop.stop() // another takes its place, which offers HTTP alone
		l, err := h.net.Listen(hopShop)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = tlsServer(c, h, "h2", "http/1.1").Handshake()
				_ = c.Close()
			}
		})
		c, in := h.dial(hopFront)
		fmt.Fprint(c, "PING\r\n")
		if _, err := in.ReadByte(); err == nil {
			t.Error("there is an answer")
		}
		_ = c.Close()
		_ = l.Close()
		wg.Wait()
		synctest.Wait()
		records := h.web.rec.Closed(flow.KindConnection)
		if len(records) != 1 || records[0].Reason != flow.ReasonUpstreamProtocol || !strings.Contains(records[0].Detail, "upgrade it") {
			t.Errorf("Records %+v", records)
		}
	})
}

// Plaintext callers of a permissive port wait for a server that speaks first once each address; a meshed caller from the same address does not suffer from it.
func TestPermissiveServerFirst(t *testing.T) {
	for _, in := range []flow.Protocol{flow.ProtocolAuto, flow.ProtocolTCP} {
		withHop(t, hopPolicy{out: flow.ProtocolAuto, in: in, mode: policy.ModePermissive}, greeter("220 shop"), func(t *testing.T, h *hop) {
			for i, want := range []time.Duration{time.Second, knownGrace, knownGrace} {
				begun := time.Now()
				c, in := h.dial(hopShop)
				if got := line(t, in); got != "220 shop" || time.Since(begun) != want {
					t.Errorf("connection %d: %q after %s, want %s", i, got, time.Since(begun), want)
				}
				_ = c.Close()
				synctest.Wait()
			}
			conn, _ := h.dial(hopShop)
			secure := tlsClient(conn, h)
			if got := line(t, bufio.NewReader(secure)); got != "220 shop" {
				t.Errorf("by mTLS: %q", got)
			}
			_ = secure.Close()
			synctest.Wait()
			outcomes := ""
			for _, d := range h.shop.rec.Detections() {
				outcomes += fmt.Sprintf("%s %s %s:%d after %s; ", d.Outcome, d.Protocol, d.Destination, d.Port, d.Took)
			}
			want := ""
			if in == flow.ProtocolAuto {
				want = "timeout tcp shop:80 after 1s; remembered tcp shop:80 after 0s; remembered tcp shop:80 after 0s; timeout tcp shop:80 after 1s; "
			}
			if outcomes != want {
				t.Errorf("%s: %s", in, outcomes)
			}
		})
	}
}

// HTTP to a port that is detected is HTTP in plaintext too, however late it comes.
func TestPlaintextAuto(t *testing.T) {
	withHop(t, hopPolicy{out: flow.ProtocolAuto, in: flow.ProtocolAuto, mode: policy.ModePermissive}, answers, func(t *testing.T, h *hop) {
		for i, pause := range []time.Duration{0, 3 * time.Second, time.Minute, 0} {
			for _, pieces := range [][]string{{"GET / HTTP/1.1\r\nHost: a\r\n\r\n"}, {"G", "ET / HTTP/", "1.1\r\nHost: a\r\n\r\n"}} {
				c, in := h.dial(hopShop)
				time.Sleep(pause)
				for _, p := range pieces {
					fmt.Fprint(c, p)
					time.Sleep(100 * time.Millisecond)
				}
				if got := line(t, in); got != "HTTP/1.1 200 OK" {
					t.Errorf("%d: %q", i, got)
				}
				_ = c.Close()
				synctest.Wait()
			}
		}
		if got := strings.Count(spoken(h.shop), "http/1.1"); got != 8 {
			t.Errorf("Records say %q", spoken(h.shop))
		}
		for _, d := range h.shop.rec.Detections() {
			if d.Protocol != flow.ProtocolHTTP1 {
				t.Errorf("Detection %+v", d)
			}
		}
	})
}

// HTTP that comes late over a hop is HTTP at both ends, beside a relay that nobody used, which both have written down, too; so is TLS of the application's own, by its name.
func TestHopLate(t *testing.T) {
	withHop(t, hopPolicy{out: flow.ProtocolAuto, in: flow.ProtocolAuto}, answers, func(t *testing.T, h *hop) {
		c, in := h.dial(hopFront)
		time.Sleep(3 * time.Second)
		for range 2 {
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
			if got := line(t, in); got != "HTTP/1.1 200 OK" {
				t.Errorf("%q", got)
			}
			for got := "x"; got != ""; {
				got = line(t, in)
			}
			_, _ = in.Discard(len("shop as shop"))
		}
		_ = c.Close()
		synctest.Wait()
		const want = "http/1.1 http/1.1 tcp"
		if web, shop := spoken(h.web), spoken(h.shop); web != want || shop != want {
			t.Errorf("web says %q, shop %q", web, shop)
		}
		for _, r := range []*running{h.web, h.shop} {
			if x := r.rec.Closed(flow.KindConnection)[0]; x.BytesIn+x.BytesOut != 0 {
				t.Errorf("Record %+v", x)
			}
		}
	})
	for _, pause := range []time.Duration{0, 3 * time.Second} {
		withHop(t, hopPolicy{out: flow.ProtocolAuto, in: flow.ProtocolAuto}, func(_ net.Conn, in *bufio.Reader) { _, _ = in.ReadByte() }, func(t *testing.T, h *hop) {
			c, _ := h.dial(hopFront)
			time.Sleep(pause)
			go func() { _ = tls.Client(c, &tls.Config{ServerName: "db.example.com"}).HandshakeContext(t.Context()) }()
			time.Sleep(time.Second)
			_ = c.Close()
			synctest.Wait()
			for name, r := range map[string]*running{"web": h.web, "shop": h.shop} {
				records := r.rec.Closed(flow.KindConnection)
				if x := records[len(records)-1]; x.Protocol != flow.ProtocolTLS || x.ServerName != "db.example.com" {
					t.Errorf("%s after %s: Record %+v", name, pause, x)
				}
			}
		})
	}
}

// A drain ends connections on which nobody has spoken, also those that are connected already.
func TestSilentDrain(t *testing.T) {
	withHop(t, hopPolicy{out: flow.ProtocolAuto, in: flow.ProtocolAuto}, func(_ net.Conn, in *bufio.Reader) { _, _ = in.ReadByte() }, func(t *testing.T, h *hop) {
		c, in := h.dial(hopFront)
		time.Sleep(5 * time.Second)
		begun := time.Now()
		go h.web.stop()
		if _, err := in.ReadByte(); err == nil || time.Since(begun) != 0 {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		_ = c.Close()
		synctest.Wait()
		if web, shop := spoken(h.web), spoken(h.shop); web != "tcp" || shop != "tcp" {
			t.Errorf("web says %q, shop %q", web, shop)
		}
	})
}

// Nobody is there: a silent caller is reset, and the next one waits again.
func TestSilentRefused(t *testing.T) {
	withHop(t, hopPolicy{out: flow.ProtocolAuto, in: flow.ProtocolAuto}, answers, func(t *testing.T, h *hop) {
		_ = h.app.Close()
		c, in := h.dial(hopFront)
		if _, err := in.ReadByte(); err == nil {
			t.Error("there is an answer")
		}
		_ = c.Close()
		synctest.Wait()
		if h.web.serverFirst.Has(detect.Silent{To: hopFront}) {
			t.Error("a server that is not there is remembered to speak first")
		}
	})
}

// Whatever is sent, in whatever pieces and at whatever pace, and whoever speaks first: it arrives, whole and in order, at both ends, and both sides count the same.
func TestDetectionLosesNothing(t *testing.T) {
	for seed := range fromEnv(t, "RANDOM_SEEDS", 100) {
		seed += fromEnv(t, "RANDOM_SEED", 1)
		rng := rand.New(rand.NewPCG(seed, 77))
		p := hopPolicy{out: flow.ProtocolAuto, in: oneOf(rng, flow.ProtocolAuto, flow.ProtocolHTTP, flow.ProtocolTCP), mode: oneOf(rng, policy.ModeStrict, policy.ModePermissive)}
		if rng.IntN(2) == 0 {
			p.redirected, p.out = true, oneOf(rng, flow.ProtocolAuto, flow.ProtocolTCP)
		}
		direct := p.mode == policy.ModePermissive && p.in != flow.ProtocolHTTP && rng.IntN(3) == 0 // in plaintext to the far sidecar
		type script struct {
			pieces [][]byte
			pauses []time.Duration
		}
		random := func(first string) (s script, all []byte) {
			all = []byte(first)
			for range rng.IntN(oneOf(rng, 3, 40, 1500, 200_000)) {
				all = append(all, byte(rng.Uint32()))
			}
			cuts := []int{0, len(all)}
			for range rng.IntN(6) { // most of them where it is looked at
				cuts = append(cuts, rng.IntN(1+min(len(all), oneOf(rng, 8, 8, 30, 1100, len(all)))))
			}
			slices.Sort(cuts)
			for i := range cuts[1:] {
				s.pieces = append(s.pieces, all[cuts[i]:cuts[i+1]])
				s.pauses = append(s.pauses, time.Duration(rng.IntN(4))*oneOf(rng, 0, time.Millisecond, 499*time.Millisecond, time.Second))
			}
			return s, all
		}
		// None of them is HTTP in the end.
		client, asked := random(oneOf(rng, "", "\x00", "GET / HTPP\r\n", "PRI * HTTP/2.0\r\n\r\nSX", "\r\n\r\n\x01", "EHLO x\r\n", strings.Repeat("A", 40)))
		if direct && len(asked) > 0 && asked[0] == 0x16 {
			continue // which is TLS
		}
		server, answered := random("")
		send := func(c net.Conn, s script) (failed error) {
			for i, b := range s.pieces {
				time.Sleep(s.pauses[i])
				if _, err := c.Write(b); err != nil {
					failed = err
				}
			}
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			return failed
		}
		var served atomic.Int32
		withHop(t, p, func(c net.Conn, in *bufio.Reader) {
			sent := make(chan error, 1)
			go func() { sent <- send(c, server) }()
			got, err := io.ReadAll(in)
			failed := <-sent
			if len(got) == 0 && len(asked) > 0 { // its caller was silent, and has gone on by another connection, because what it said then might have been HTTP
				return
			}
			served.Add(1)
			if err != nil || failed != nil || !bytes.Equal(got, asked) {
				t.Errorf("seed %d %+v: the application got %d bytes of %d, %v; writing %v; first %q, %q were sent", seed, p, len(got), len(asked), err, failed, got[:min(len(got), 40)], asked[:min(len(asked), 40)])
			}
		}, func(t *testing.T, h *hop) {
			to := hopFront
			if direct {
				to = hopShop
			}
			for range 2 { // the second one is remembered
				c, in := h.dial(to)
				sent := make(chan error, 1)
				go func() { sent <- send(c, client) }()
				got, err := io.ReadAll(in)
				if failed := <-sent; err != nil || failed != nil || !bytes.Equal(got, answered) {
					t.Errorf("seed %d %+v direct %v: the caller got %d bytes of %d, %v; writing %v", seed, p, direct, len(got), len(answered), err, failed)
				}
				_ = c.Close()
				synctest.Wait()
			}
			if n := served.Load(); n != 2 {
				t.Errorf("seed %d %+v: the application has served %d callers", seed, p, n)
			}
			for _, r := range []*running{h.web, h.shop} {
				if direct && r == h.web {
					continue
				}
				whole := 0
				for _, x := range r.rec.Closed(flow.KindConnection) {
					if x.BytesIn == 0 && len(asked) > 0 {
						continue
					}
					whole++
					if x.BytesIn != uint64(len(asked)) || x.BytesOut != uint64(len(answered)) || x.Reason != flow.ReasonNone {
						t.Errorf("seed %d %+v: Record %+v", seed, p, x)
					}
				}
				if whole != 2 {
					t.Errorf("seed %d %+v: %d Records: %s", seed, p, whole, spoken(r))
				}
			}
			if web, shop := len(h.web.rec.Closed(flow.KindConnection)), len(h.shop.rec.Closed(flow.KindConnection)); web != shop && !direct {
				t.Errorf("seed %d %+v: web has %d Records, shop %d", seed, p, web, shop)
			}
		})
		if t.Failed() {
			return
		}
	}
}
