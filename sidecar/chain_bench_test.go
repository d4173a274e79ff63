package sidecar

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// nobody is a Recorder that keeps nothing: what recording costs is measured in telemetry.
type nobody struct{}

func (nobody) Record(*flow.Record)          {}
func (nobody) Active(flow.ActiveKey, int64) {}
func (nobody) TraceContext(bool)            {}
func (nobody) Detected(flow.Detection)      {}

// whole is a Downstream whose request has no body.
type whole struct{}

func (whole) Answer(*exchange.Exchange) bool { return true }
func (whole) Replayable() bool               { return true }

// chainOf is the outbound chain of a sidecar before a service of three endpoints, for which nothing is configured; its sender answers at once.
func chainOf(t testing.TB) (h exchange.Handler, begin func(x *exchange.Exchange)) {
	s, err := New(Config{Policy: testmesh.NewSource(nil), Identity: &identity.Holder{}, Recorder: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	var at []netip.AddrPort
	for i := range 3 {
		at = append(at, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 8080))
	}
	snap := clientSnapshot(policy.Service{Name: "catalog", Namespace: "shop", Protocol: flow.ProtocolHTTP}, at...)
	b := s.bindings(snap)[0]
	peer := &exchange.Peer{Addr: at[0]}
	return s.outbound(exchange.HandlerFunc(func(x *exchange.Exchange) {
			x.Legs.Sent = x.Since()
			x.FirstByte(x.Legs.Sent)
			x.Outcome = exchange.Outcome{Status: 200, Delivered: true, Committed: true, Answered: true}
		})), func(x *exchange.Exchange) {
			x.Reset()
			x.Kind, x.Side, x.Protocol = flow.KindExchange, flow.SideClient, flow.ProtocolHTTP1
			x.Peer, x.Binding, x.Downstream, x.Start = peer, b, whole{}, time.Now()
			x.Head = exchange.Head{Method: "GET", Path: "/items/7", Authority: "catalog", Idempotent: true, Safe: true}
		}
}

// A request for which nothing is configured makes no garbage on its way through all steps.
func TestChainAllocatesNothing(t *testing.T) {
	h, begin := chainOf(t)
	var x exchange.Exchange
	if allocs := testing.AllocsPerRun(2000, func() {
		begin(&x)
		h.Handle(&x)
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if x.Outcome.Status != 200 || x.Tries != 1 || x.Choice.Endpoint == nil {
		t.Errorf("%+v after %d tries", x.Outcome, x.Tries)
	}
}

// BenchmarkChain is all steps of the outbound path, without speakers, sockets and telemetry.
func BenchmarkChain(b *testing.B) {
	h, begin := chainOf(b)
	var x exchange.Exchange
	b.ReportAllocs()
	for b.Loop() {
		begin(&x)
		h.Handle(&x)
	}
}
