// Package chain is for tests only: real sidecars in this process, one after the other before an application. It stands beside testmesh because
// the sidecar's own tests import that one.
package chain

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar"
)

// Service and Caller are the names at the two ends, which holders of certificates must be made for.
const (
	Service = "app"
	Caller  = "web"
)

// Sidecar is one that serves until the test ends.
type Sidecar struct {
	*sidecar.Sidecar
	Records *testmesh.Recorder
	At      netip.AddrPort // its one listener
}

// Start starts a sidecar with a Snapshot that has one listener, and stops it when the test ends.
func Start(t testing.TB, snap *policy.Snapshot, holder *identity.Holder) *Sidecar {
	t.Helper()
	s := &Sidecar{Records: &testmesh.Recorder{}}
	name := snap.Listeners[0].Name
	var err error
	s.Sidecar, err = sidecar.New(sidecar.Config{Policy: testmesh.NewSource(snap), Identity: holder, Recorder: s.Records, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the sidecar with listener %s: %v", name, err)
		}
	})
	<-ready
	at, ok := s.Addresses()[name].(*net.TCPAddr)
	if !ok {
		t.Fatalf("listener %s is not bound: %v", name, s.Problems())
	}
	s.At = at.AddrPort()
	return s
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// Inbound starts a sidecar before an application. The holder's certificate is only used where the mode asks for one.
func Inbound(t testing.TB, holder *identity.Holder, app netip.AddrPort, mode policy.ListenerMode) *Sidecar {
	t.Helper()
	return Start(t, &policy.Snapshot{
		Revision: "in", Workload: policy.Workload{Service: Service, Namespace: "shop", Instance: Service + "-1"},
		Listeners: []policy.Listener{{Name: "in", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: loopback, Target: app, Service: Service, Mode: mode}},
	}, holder)
}

// Outbound starts a sidecar through which the application Caller calls Service: at an endpoint in the mesh, over mTLS, or outside of it, in plaintext.
func Outbound(t testing.TB, holder *identity.Holder, endpoint netip.AddrPort, mesh bool) *Sidecar {
	t.Helper()
	service := policy.Service{Name: Service, Namespace: "shop", Protocol: flow.ProtocolHTTP, MTLS: mesh}
	if mesh {
		service.Identities = []string{testmesh.ID(Service).String()}
	}
	return Start(t, &policy.Snapshot{
		Revision: "out", Workload: policy.Workload{Service: Caller, Namespace: "shop", Instance: Caller + "-1"},
		Listeners: []policy.Listener{{Name: "out", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: loopback, Service: Service}},
		Services:  map[string]policy.Service{Service: service},
		Endpoints: map[string][]policy.Endpoint{Service: {{Address: endpoint, Instance: Service + "-1", Weight: 100}}},
	}, holder)
}
