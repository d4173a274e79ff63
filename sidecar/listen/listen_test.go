package listen

import (
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestSources(t *testing.T) {
	of := func(side flow.Side, addr string) source {
		return sourceOf(side, netip.MustParseAddr(addr), flow.Application{})
	}
	user := func(uid uint32) source {
		return sourceOf(flow.SideClient, netip.Addr{}, flow.Application{Known: true, UID: uid})
	}
	for _, c := range []struct {
		what string
		a, b source
		same bool
	}{
		{"two IPv4 hosts", of(flow.SideServer, "10.0.0.1"), of(flow.SideServer, "10.0.0.2"), false},
		{"one IPv6 network", of(flow.SideServer, "fd00::1"), of(flow.SideServer, "fd00::ffff:2"), true},
		{"two IPv6 networks", of(flow.SideServer, "fd00::1"), of(flow.SideServer, "fd00:0:0:1::1"), false},
		{"zones", of(flow.SideServer, "fe80::1%eth0"), of(flow.SideServer, "fe80::2%eth1"), true},
		{"in and out", of(flow.SideServer, "127.0.0.1"), of(flow.SideClient, "127.0.0.1"), false},
		{"one user of a Unix socket", user(0), user(0), true},
		{"two users of a Unix socket", user(0), user(1000), false},
		{"root, and nobody known", user(0), sourceOf(flow.SideClient, netip.Addr{}, flow.Application{}), false},
		{"no address", sourceOf(flow.SideServer, netip.Addr{}, flow.Application{}), sourceOf(flow.SideServer, netip.Addr{}, flow.Application{}), true},
	} {
		if (c.a == c.b) != c.same {
			t.Errorf("%s: %v and %v", c.what, c.a, c.b)
		}
	}
}

// TestAdmit: one source cannot take what is left for others, nobody takes more than there is, and what has left is free again.
func TestAdmit(t *testing.T) {
	s := New(Config{})
	l := policy.SidecarLimits{Connections: 3, ConnectionsPerSource: 2}
	a, b := sourceOf(flow.SideServer, netip.MustParseAddr("10.0.0.1"), flow.Application{}), sourceOf(flow.SideServer, netip.MustParseAddr("10.0.0.2"), flow.Application{})
	for i, c := range []struct {
		src   source
		leave bool
		ok    bool
		limit exchange.Limit
		n     int
	}{
		{src: a, ok: true},
		{src: a, ok: true},
		{src: a, limit: exchange.LimitConnectionsPerSource, n: 2},
		{src: b, ok: true},
		{src: b, limit: exchange.LimitConnections, n: 3},
		{src: a, leave: true},
		{src: b, ok: true},
		{src: a, limit: exchange.LimitConnections, n: 3},
	} {
		if c.leave {
			s.leave(c.src)
			continue
		}
		if limit, n, ok := s.admit(c.src, l); ok != c.ok || !ok && (limit != c.limit || n != c.n) {
			t.Errorf("step %d: %v, %s of %d", i, ok, limit, n)
		}
	}
	s.leave(a)
	s.leave(b)
	s.leave(b)
	if s.Open() != 0 || len(s.sources) != 0 {
		t.Errorf("%d open, sources %v", s.Open(), s.sources)
	}
}
