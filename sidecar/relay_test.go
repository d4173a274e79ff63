package sidecar

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// relays starts two sidecars with mTLS between them in front of a TCP application.
func relays(t *testing.T, target netip.AddrPort) (web, server *running) {
	t.Helper()
	ca := testmesh.NewCA(t)
	server = start(t, serverSnapshot("db", target, policy.ModeStrict, flow.ProtocolTCP), ca.Holder("db"), time.Second)
	sv := mesh("db")
	sv.Protocol = flow.ProtocolTCP
	web = start(t, clientSnapshot(sv, server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	return web, server
}

// TestRelayRecords: the Record of a relay says how much went each way, when, by which handshake and between whom, and how it ended.
func TestRelayRecords(t *testing.T) {
	for name, c := range map[string]struct {
		application func(net.Conn, *bufio.Reader)
		caller      func(*net.TCPConn)
		ended       flow.Ended
		reason      flow.Reason
	}{
		"the caller ends first": {
			func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) },
			func(c *net.TCPConn) { _ = c.CloseWrite(); _, _ = io.Copy(io.Discard, c) },
			flow.EndedDownstreamFIN, flow.ReasonNone,
		},
		"the application ends first": {
			func(c net.Conn, r *bufio.Reader) {
				_, _ = io.ReadFull(r, make([]byte, 5))
				_, _ = c.Write([]byte("hello"))
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, r)
			},
			func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); _ = c.CloseWrite() },
			flow.EndedUpstreamFIN, flow.ReasonNone,
		},
		"the caller resets": {
			func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) },
			func(c *net.TCPConn) { _, _ = c.SetLinger(0), c.Close() },
			flow.EndedDownstreamReset, flow.ReasonDownstreamReset,
		},
	} {
		t.Run(name, func(t *testing.T) {
			web, server := relays(t, scripted(t, c.application))
			conn, _ := dial(t, web.addr(t, "outbound"))
			_, _ = conn.Write([]byte("hello"))
			if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			c.caller(conn.(*net.TCPConn))
			testmesh.Eventually(t, "both have recorded it", func() bool {
				return len(web.rec.Closed(flow.KindConnection)) == 1 && len(server.rec.Closed(flow.KindConnection)) == 1
			})
			for side, r := range map[flow.Side]flow.Record{flow.SideClient: web.rec.Closed(flow.KindConnection)[0], flow.SideServer: server.rec.Closed(flow.KindConnection)[0]} {
				if r.Ended != c.ended && (side == flow.SideClient || c.reason == flow.ReasonNone) || (r.Reason == flow.ReasonNone) != (c.reason == flow.ReasonNone) {
					t.Errorf("%v: ended %v, %v %s", side, r.Ended, r.Reason, r.Detail)
				}
				if r.BytesIn != 5 || r.BytesOut != 5 {
					t.Errorf("%v: %d bytes in, %d out", side, r.BytesIn, r.BytesOut)
				}
				if l := r.Legs; l.Connected < 0 || l.Sent < l.Connected || l.FirstByte < l.Sent || l.LastByte < l.FirstByte || l.LastByte > r.Duration {
					t.Errorf("%v: legs %+v of %v", side, l, r.Duration)
				}
				if s := r.TLS; s == nil || s.Version != "1.3" || s.Cipher == "" || s.Resumed || r.NearTLS != nil {
					t.Errorf("%v: TLS %+v, near %+v", side, s, r.NearTLS)
				}
				if r.Source.Identity != testmesh.ID("web").String() || r.Destination.Identity != testmesh.ID("db").String() {
					t.Errorf("%v: between %q and %q", side, r.Source.Identity, r.Destination.Identity)
				}
			}
		})
	}
}

// TestRelayProgress: a relay that lives for long says where it goes and what went so far every 10 s, is ended by silence, and all that in virtual time.
func TestRelayProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := testmesh.NewNet()
		target, own := netip.MustParseAddrPort("10.0.0.9:5432"), netip.MustParseAddr("10.0.0.1")
		l, err := network.Listen(target)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
			}
		}()
		snap := clientSnapshot(external(func(s *policy.Service) { s.Protocol, s.IdleTimeout = flow.ProtocolTCP, time.Minute }), target)
		snap.Listeners[0].Address = netip.AddrPortFrom(own, 9000)
		rec := &testmesh.Recorder{}
		s, err := New(Config{Policy: testmesh.NewSource(snap), Identity: &identity.Holder{}, Recorder: rec, Listen: network.Listen, Dial: network.Dialer(own)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done, ready := make(chan error, 1), make(chan struct{})
		go func() { done <- s.Run(ctx, func() { close(ready) }) }()
		<-ready
		c, err := network.Dialer(own)(ctx, snap.Listeners[0].Address)
		if err != nil {
			t.Fatal(err)
		}
		for range 25 {
			_, _ = c.Write(make([]byte, 100))
			if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		ps, cs := rec.All(flow.KindConnection, flow.PhaseProgress), rec.Closed(flow.KindConnection)
		if len(ps) != 8 || len(cs) != 1 {
			t.Fatalf("%d progress and %d closing Records, want 8 and 1", len(ps), len(cs))
		}
		for i, p := range ps[:2] {
			if n := uint64(10 * (i + 1)); p.BytesIn < (n-1)*100 || p.BytesIn > (n+2)*100 || p.Endpoint != target || p.Legs.Connected < 0 || p.Trace.SpanID != cs[0].Trace.SpanID {
				t.Errorf("progress %d: %+v", i, p)
			}
		}
		if r := cs[0]; r.Reason != flow.ReasonIdleTimeout || r.Ended != flow.EndedIdle || r.BytesIn != 2500 || r.BytesOut != 2500 || r.Duration < 84*time.Second || r.Duration > 85*time.Second {
			t.Errorf("close: %+v", r)
		}
		_ = c.Close()
		_ = l.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
