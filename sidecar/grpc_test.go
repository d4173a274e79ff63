package sidecar

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// healthApp starts grpc-go's health service behind an interceptor of unary calls.
func healthApp(t *testing.T, intercept grpc.UnaryServerInterceptor) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(intercept))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// TestGRPCTwoSidecars: grpc-go to grpc-go over mTLS. Both sidecars say of every call what its status was, whether it failed and how many messages
// passed; the service learns what is left of the caller's time; and only the status that policy lists is tried again.
func TestGRPCTwoSidecars(t *testing.T) {
	ca := testmesh.NewCA(t)
	var deadline atomic.Int64 // how long the service was given
	var refused atomic.Int64
	target := healthApp(t, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if by, ok := ctx.Deadline(); ok {
			deadline.Store(int64(time.Until(by)))
		}
		switch req.(*healthpb.HealthCheckRequest).Service {
		case "flaky":
			if refused.Add(1)%2 == 1 {
				return nil, status.Error(codes.Unavailable, "not yet")
			}
			return &healthpb.HealthCheckResponse{}, nil
		case "broken":
			return nil, status.Error(codes.Internal, "a bug")
		}
		return next(ctx, req)
	})
	sv := mesh("catalog")
	sv.Protocol = flow.ProtocolGRPC
	sv.Retry.GRPC, _ = policy.ParseGRPCStatuses([]string{"UNAVAILABLE"})
	server := start(t, serverSnapshot("catalog", target, policy.ModeStrict, flow.ProtocolGRPC), ca.Holder("catalog"), time.Second)
	web := start(t, clientSnapshot(sv, server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	conn, err := grpc.NewClient("passthrough:///"+web.addr(t, "outbound").String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	c := healthpb.NewHealthClient(conn)
	check := func(service string, want codes.Code) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: service}); status.Code(err) != want {
			t.Errorf("%q: %v, want %s", service, err, want)
		}
	}
	check("", codes.OK)
	if d := time.Duration(deadline.Load()); d <= 3*time.Second || d > 5*time.Second {
		t.Errorf("the service was given %s of 5 s", d)
	}
	check("nobody", codes.NotFound)
	check("broken", codes.Internal)
	check("flaky", codes.OK)
	if err := conn.Invoke(t.Context(), "/shop.v1.Cart/Add", &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("an unknown method: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watch, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	testmesh.Eventually(t, "every call is recorded on both sides", func() bool {
		return len(web.rec.Closed(flow.KindExchange)) == 6 && len(server.rec.Closed(flow.KindExchange)) == 7
	})
	_ = conn.Close()
	web.stop()
	server.stop()

	type seen struct {
		method, status, class string
		reason                flow.Reason
		in, out               uint64
		attempts              int
	}
	want := []seen{
		{"grpc.health.v1.Health/Check", "OK", "2xx", flow.ReasonNone, 1, 1, 1},
		{"grpc.health.v1.Health/Check", "NOT_FOUND", "4xx", flow.ReasonNone, 1, 0, 1},
		{"grpc.health.v1.Health/Check", "INTERNAL", "5xx", flow.ReasonUpstreamStatus, 1, 0, 1},
		{"grpc.health.v1.Health/Check", "OK", "2xx", flow.ReasonNone, 1, 1, 2},
		{"shop.v1.Cart/Add", "UNIMPLEMENTED", "5xx", flow.ReasonUpstreamStatus, 1, 0, 1},
		{"grpc.health.v1.Health/Watch", "", "2xx", flow.ReasonDownstreamReset, 1, 1, 1},
	}
	ex := web.rec.Closed(flow.KindExchange) // in the order of their ends
	slices.SortFunc(ex, func(a, b flow.Record) int { return a.Start.Compare(b.Start) })
	if len(ex) != len(want) {
		t.Fatalf("%d exchanges, want %d", len(ex), len(want))
	}
	for i, r := range ex {
		got := seen{r.RPCMethod(), r.GRPC.String(), r.Class().String(), r.Reason, r.MessagesIn, r.MessagesOut, r.Attempts}
		if got != want[i] || r.Protocol != flow.ProtocolGRPC {
			t.Errorf("call %d: %+v over %s, want %+v", i, got, r.Protocol, want[i])
		}
	}
	failed := 0
	for _, r := range web.rec.Closed(flow.KindAttempt) {
		if r.Failed() {
			failed++
		}
	}
	if failed != 3 {
		t.Errorf("%d attempts failed, want 3: INTERNAL, UNAVAILABLE, UNIMPLEMENTED", failed)
	}
	statuses := map[string]int{}
	for _, r := range server.rec.Closed(flow.KindExchange) {
		statuses[r.GRPC.String()]++
	}
	if statuses["OK"] != 2 || statuses["NOT_FOUND"] != 1 || statuses["INTERNAL"] != 1 || statuses["UNAVAILABLE"] != 1 || statuses["UNIMPLEMENTED"] != 1 {
		t.Errorf("the server's sidecar saw %v", statuses)
	}
}

// What becomes of UNAVAILABLE when nothing is configured: a call that the far sidecar could not deliver is made again elsewhere, though nobody knows whether it may be made twice; one that the
// service has answered is not; nor is one whose service wants no further try, where policy would have it.
func TestGRPCUnavailable(t *testing.T) {
	ca := testmesh.NewCA(t)
	var calls atomic.Int64
	target := healthApp(t, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		calls.Add(1)
		switch req.(*healthpb.HealthCheckRequest).Service {
		case "never":
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1"))
			return nil, status.Error(codes.Unavailable, "not again")
		case "busy":
			return nil, status.Error(codes.Unavailable, "busy")
		}
		return next(ctx, req)
	})
	good := start(t, serverSnapshot("catalog", target, policy.ModeStrict, flow.ProtocolGRPC), ca.Holder("catalog"), time.Second)
	dead := start(t, serverSnapshot("catalog", netip.MustParseAddrPort("127.0.0.1:1"), policy.ModeStrict, flow.ProtocolGRPC), ca.Holder("catalog"), time.Second)
	for _, listed := range []bool{false, true} {
		sv := mesh("catalog")
		sv.Protocol, sv.Balancer.Algorithm = flow.ProtocolGRPC, policy.BalanceRoundRobin
		endpoints := []netip.AddrPort{good.addr(t, "inbound"), dead.addr(t, "inbound")}
		if listed {
			sv.Retry.GRPC, _ = policy.ParseGRPCStatuses([]string{"UNAVAILABLE"})
			endpoints = endpoints[:1]
		}
		web := start(t, clientSnapshot(sv, endpoints...), ca.Holder("web"), time.Second)
		conn, err := grpc.NewClient("passthrough:///"+web.addr(t, "outbound").String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		check := func(service string) codes.Code {
			_, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			return status.Code(err)
		}
		for range 10 {
			if code := check(""); code != codes.OK {
				t.Errorf("listed %v: %s, where one endpoint has no application", listed, code)
			}
		}
		for service, want := range map[string]int64{"never": 1, "busy": map[bool]int64{false: 1, true: 2}[listed]} {
			before := calls.Load()
			if code := check(service); code != codes.Unavailable || calls.Load()-before != want {
				t.Errorf("listed %v, %s: %s after %d calls, want %d", listed, service, code, calls.Load()-before, want)
			}
		}
		_ = conn.Close()
		web.stop()
	}
}
