package security

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unwrap runs Unwrap against a caller, in virtual time.
func unwrap(t *testing.T, h *identity.Holder, mode policy.ListenerMode, protocol flow.Protocol, caller func(net.Conn)) (u Unwrapped, r *Refusal, took time.Duration) {
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		caller(b)
	}()
	wait := HandshakeTimeout
	if mode == policy.ModePermissive && protocol == flow.ProtocolTCP {
		wait = time.Second
	}
	start := time.Now()
	u, r = NewUnwrapper(h).Unwrap(a, mode, protocol, wait)
	took = time.Since(start)
	if u.Conn == nil {
		_ = a.Close()
	}
	_ = b.SetDeadline(time.Unix(1, 0))
	<-done
	_, _ = a.Close(), b.Close()
	return u, r, took
}

func TestUnwrap(t *testing.T) {
	ca := testmesh.NewCA(t)
	server, web, stranger := ca.Holder("catalog"), ca.Holder("web"), testmesh.NewCA(t).Holder("web")
	says := func(s string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, s) }
	}
	shakes := func(h *identity.Holder) func(net.Conn) {
		return func(c net.Conn) {
			tc := tls.Client(c, h.ClientTLS())
			if tc.Handshake() == nil {
				_, _ = tc.Read(make([]byte, 1))
			}
		}
	}
	silent := func(net.Conn) {}
	leaves := func(c net.Conn) { _ = c.Close() }
	for _, c := range []struct {
		name     string
		holder   *identity.Holder
		mode     policy.ListenerMode
		protocol flow.Protocol
		caller   func(net.Conn)
		reason   flow.Reason // ReasonNone: accepted, or gone
		peer     string
		buffered string
		took     time.Duration
		gone     bool
		silent   bool
	}{
		{name: "mTLS", holder: server, caller: shakes(web), peer: testmesh.ID("web").String()},
		{name: "mTLS, permissive", holder: server, mode: policy.ModePermissive, caller: shakes(web), peer: testmesh.ID("web").String()},
		{name: "another CA", holder: server, caller: shakes(stranger), reason: flow.ReasonTLSFailed},
		{name: "no certificate yet", holder: &identity.Holder{}, caller: shakes(web), reason: flow.ReasonTLSFailed},
		{name: "plaintext", holder: server, caller: says("GET / HTTP/1.1"), reason: flow.ReasonPlaintextRefused},
		{name: "plaintext, permissive", holder: server, mode: policy.ModePermissive, caller: says("GET /"), buffered: "GET /"},
		{name: "garbage that begins like TLS", holder: server, mode: policy.ModePermissive, caller: says("\x16garbage, and more of it"), reason: flow.ReasonTLSFailed},
		{name: "silent", holder: server, caller: silent, reason: flow.ReasonTLSFailed, took: HandshakeTimeout},
		{name: "silent TCP, permissive", holder: server, mode: policy.ModePermissive, protocol: flow.ProtocolTCP, caller: silent, took: time.Second, silent: true},
		{name: "leaves", holder: server, caller: leaves, gone: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			u, r, took := unwrap(t, c.holder, c.mode, c.protocol, c.caller)
			switch {
			case c.reason != flow.ReasonNone:
				if r == nil || r.Reason != c.reason || r.Error() == "" {
					t.Errorf("%s: refusal %+v, want %s", c.name, r, c.reason)
				}
			case r != nil:
				t.Errorf("%s: refused: %v", c.name, r)
			case (u.Conn == nil) != c.gone || u.Peer.String() != c.peer || string(u.Buffered) != c.buffered || u.Silent != c.silent:
				t.Errorf("%s: got %+v", c.name, u)
			}
			if took != c.took && (c.reason == flow.ReasonNone || c.took != 0) { // a refusal may wait for the unbuffered pipe to take its alert
				t.Errorf("%s: took %s, want %s", c.name, took, c.took)
			}
		})
	}
}

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		side  flow.Side
		mode  policy.ListenerMode
		peer  string
		calls int
	}{
		{flow.SideServer, policy.ModeStrict, "", 0},
		{flow.SideServer, policy.ModeStrict, "spiffe://x/ns/a/sa/b", 1},
		{flow.SideServer, policy.ModePermissive, "", 1},
		{flow.SideClient, policy.ModeStrict, "", 1},
	} {
		x := &exchange.Exchange{Side: c.side, Peer: &exchange.Peer{Identity: c.peer}, Binding: &exchange.Binding{Listener: policy.Listener{Mode: c.mode}}}
		calls := 0
		Guard(exchange.HandlerFunc(func(*exchange.Exchange) { calls++ })).Handle(x)
		if calls != c.calls || (calls == 0) != (x.Outcome.Reason == flow.ReasonPlaintextRefused) {
			t.Errorf("%+v: %d calls, outcome %+v", c, calls, x.Outcome)
		}
	}
}
