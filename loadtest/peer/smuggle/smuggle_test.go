//go:build unix

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar"
)

// A server of net/http lingers for half a second behind a connection that it refused.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// run runs a sidecar in this process until the test ends and returns the address of its one listener.
func run(t *testing.T, snap *policy.Snapshot, holder *identity.Holder) netip.AddrPort {
	t.Helper()
	s, err := sidecar.New(sidecar.Config{
		Policy: testmesh.NewSource(snap), Identity: holder, Recorder: &testmesh.Recorder{}, Log: slog.New(slog.DiscardHandler), DrainTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-ready
	a := s.Addresses()["l"]
	if a == nil {
		t.Fatal(s.Problems())
	}
	return a.(*net.TCPAddr).AddrPort()
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func outbound(t *testing.T, sv policy.Service, holder *identity.Holder, to netip.AddrPort) netip.AddrPort {
	return run(t, &policy.Snapshot{
		Revision: "c", Workload: policy.Workload{Service: "web", Namespace: "shop", Instance: "web-1"},
		Listeners: []policy.Listener{{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: loopback, Service: sv.Name}},
		Services:  map[string]policy.Service{sv.Name: sv},
		Endpoints: map[string][]policy.Endpoint{sv.Name: {{Address: to, Instance: "e", Weight: 100}}},
	}, holder)
}

// paths are the ways to a service: through one sidecar, through two with mTLS between them, and over two bridges, from HTTP/1.1 to HTTP/2 and back.
func paths(t *testing.T, to netip.AddrPort) map[string]netip.AddrPort {
	ca := testmesh.NewCA(t)
	inbound := run(t, &policy.Snapshot{
		Revision: "s", Workload: policy.Workload{Service: "app", Namespace: "shop", Instance: "app-1"},
		Listeners: []policy.Listener{{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: loopback, Target: to, Service: "app"}},
	}, ca.Holder("app"))
	down := run(t, &policy.Snapshot{
		Revision: "b", Workload: policy.Workload{Service: "app", Namespace: "shop", Instance: "app-2"},
		Listeners: []policy.Listener{{Name: "l", Side: flow.SideServer, Mode: policy.ModePermissive, Protocol: flow.ProtocolHTTP1, Address: loopback, Target: to, Service: "app"}},
	}, &identity.Holder{})
	meshed := policy.Service{Name: "app", Namespace: "shop", Protocol: flow.ProtocolHTTP, MTLS: true, Identities: []string{testmesh.ID("app").String()}}
	return map[string]netip.AddrPort{
		"one sidecar":  outbound(t, policy.Service{Name: "ext", Protocol: flow.ProtocolHTTP, External: true}, &identity.Holder{}, to),
		"two sidecars": outbound(t, meshed, ca.Holder("web"), inbound),
		"bridges":      outbound(t, policy.Service{Name: "ext", Protocol: flow.ProtocolHTTP2, External: true}, &identity.Holder{}, down),
	}
}

// TestRequests: no case of the corpus makes Tulle and net/http's server disagree.
func TestRequests(t *testing.T) {
	all, err := cases("request")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 150 {
		t.Fatalf("%d cases: the corpus has shrunk", len(all))
	}
	s, err := startGo()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	for name, addr := range paths(t, netip.MustParseAddrPort(s.addr)) {
		t.Run(name, func(t *testing.T) {
			for i, c := range all {
				if err := attack(t.Context(), addr.String(), s, c, fmt.Sprintf("/canary/%s/%d", name[:3], i)); err != nil {
					t.Errorf("%s: %s: %v", c.file, c.name, err)
				}
			}
		})
	}
}

// TestResponses: whatever a service sends, the caller never takes a part for a whole, nor one response for another.
func TestResponses(t *testing.T) {
	all, err := cases("response")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("%d cases: the corpus has shrunk", len(all))
	}
	e, err := startEvil()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.stop)
	for name, addr := range paths(t, e.l.Addr().(*net.TCPAddr).AddrPort()) {
		t.Run(name, func(t *testing.T) {
			for i, c := range all {
				e.arm(c)
				if err := split(addr.String(), c, fmt.Sprintf("/canary/%s/%d", name[:3], i)); err != nil {
					t.Errorf("%s: %s: %v", c.file, c.name, err)
				}
			}
		})
	}
}

// TestOracle: the checks of this package can fail. A relay that passes on every byte, as a careless proxy would, is found out.
func TestOracle(t *testing.T) {
	all, err := cases("request")
	if err != nil {
		t.Fatal(err)
	}
	s, err := startGo()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	found := map[string]bool{}
	for i, c := range all {
		if err := attack(t.Context(), s.addr, s, c, fmt.Sprintf("/canary/%d", i)); err != nil {
			found[c.name] = true
		}
	}
	for _, name := range []string{"CL.TE", "path: dot segments", "TE twice", "bare LF behind a field", "connect with length"} {
		if !found[name] {
			t.Errorf("%s: nothing was found, though nobody stands before the service", name)
		}
	}
}
