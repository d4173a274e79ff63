//go:build linux && testnet

package handover_test

import (
	"context"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/sidecar/handover"
)

// A TPROXY listener's socket keeps what makes it one (it takes CAP_NET_ADMIN to have it), and is no other listener's.
func TestTransparentSocketIsHandedOver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	_ = l.Close()
	snap := &policy.Snapshot{
		Revision: "s1", Workload: policy.Workload{Service: "cart", Namespace: "shop", Instance: "cart-1"},
		Listeners: []policy.Listener{{
			Name: "intercepted", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: addr, Service: "cart", Mode: policy.ModePermissive,
			Interception: &policy.Interception{Transparent: true, Unknown: policy.UnknownRefuse},
		}},
	}
	run := func(inherit func(string, bool) (net.Listener, error)) *sidecar.Sidecar {
		s, err := sidecar.New(sidecar.Config{
			Policy: testmesh.NewSource(snap), Identity: &identity.Holder{}, Recorder: &testmesh.Recorder{}, Log: slog.New(slog.DiscardHandler),
			DrainTimeout: time.Second, Inherit: inherit,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ready, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Run(ctx, func() { close(ready) })
		}()
		<-ready
		t.Cleanup(func() {
			cancel()
			<-done
		})
		return s
	}
	old := run(nil)
	if p := old.Problems(); len(p) > 0 {
		t.Fatalf("%+v: run this as root (sudo make test-net)", p)
	}
	cfg := handover.Config{
		Dir: t.TempDir(), Workload: "cart-1", Begin: func() {}, Cancel: func() {}, Left: old.HandOver,
		Socket: func(q handover.Socket) syscall.Conn {
			return old.Socket(q.Address, q.Transparent)
		},
	}
	door, _, err := handover.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		door.Run(ctx)
	}()
	defer func() {
		cancel()
		<-answered
	}()
	next, taking, err := handover.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	fresh := run(func(at string, transparent bool) (net.Listener, error) {
		return taking.Socket(handover.Socket{Kind: handover.Listener, Address: at, Transparent: transparent})
	})
	if p := fresh.Problems(); len(p) > 0 { // its address is taken: it can only have been handed over
		t.Fatalf("%+v", p)
	}
	if old.Socket(addr.String(), false) != nil {
		t.Error("a transparent socket passes for one that is not")
	}
	raw, err := fresh.Socket(addr.String(), true).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if v, err := unix.GetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT); v != 1 || err != nil {
			t.Errorf("IP_TRANSPARENT is %d, %v", v, err)
		}
	})
	if err := taking.Commit(); err != nil {
		t.Error(err)
	}
}
