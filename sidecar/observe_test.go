package sidecar

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// TestProgress: what lives for 35 s reports at 10, 20 and 30 s, cumulatively, and then closes once; in virtual time.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &testmesh.Recorder{}
		o := &observer{rec: rec, holder: &identity.Holder{}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			o.run(ctx)
		}()
		x := &exchange.Exchange{Kind: flow.KindExchange, Side: flow.SideClient, Protocol: flow.ProtocolHTTP1}
		x.Reset()
		x.Start, x.Peer = time.Now(), &exchange.Peer{}
		x.Binding = &exchange.Binding{Snapshot: &policy.Snapshot{Revision: "r"}}
		o.observe(o.attempt(exchange.HandlerFunc(func(x *exchange.Exchange) {
			x.Choice.Endpoint = &policy.Endpoint{}
			for range 35 {
				time.Sleep(time.Second)
				x.BytesOut.Add(100)
			}
			x.Outcome = exchange.Outcome{Status: 200, Committed: true, Answered: true, Delivered: true}
		}))).Handle(x)
		time.Sleep(time.Minute)
		cancel()
		<-done
		for _, kind := range []flow.Kind{flow.KindExchange, flow.KindAttempt} {
			ps, cs := rec.All(kind, flow.PhaseProgress), rec.Closed(kind)
			if len(ps) != 3 || len(cs) != 1 {
				t.Fatalf("kind %d: %d progress and %d closing Records, want 3 and 1", kind, len(ps), len(cs))
			}
			for i, p := range ps {
				at := time.Duration(i+1) * flow.ProgressInterval
				if p.Duration < at || p.Duration > at+2*time.Second || p.BytesOut < uint64(at/time.Second-1)*100 || p.Trace.SpanID != cs[0].Trace.SpanID {
					t.Errorf("kind %d: progress %d: %+v", kind, i, p)
				}
			}
			if cs[0].Duration != 35*time.Second || cs[0].BytesOut != 3500 {
				t.Errorf("kind %d: close: %+v", kind, cs[0])
			}
		}
	})
}

// TestFolding: an exchange and its only, successful try are one span, whose id the far side sees; with a second try each has its own.
func TestFolding(t *testing.T) {
	var seen []string
	calls := 0
	target := app(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("traceparent")[36:52])
		if calls++; calls == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	r, addr := front(t, func(s *policy.Service) { s.Retry.BackoffBase = time.Nanosecond }, target)
	_ = raw(t, addr, "GET /once HTTP/1.1\r\nHost: a\r\n\r\nGET /twice HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	r.stop()
	ex, at := r.rec.Closed(flow.KindExchange), r.rec.Closed(flow.KindAttempt)
	if len(ex) != 2 || len(at) != 3 || len(seen) != 3 {
		t.Fatalf("%d exchanges, %d attempts, %d requests", len(ex), len(at), len(seen))
	}
	if !at[0].Folded || ex[0].Trace.SpanID.String() != seen[0] {
		t.Errorf("one try: folded %v, exchange %s, the far side's parent %s", at[0].Folded, ex[0].Trace.SpanID, seen[0])
	}
	for _, a := range at[1:] {
		if a.Folded || a.Trace.ParentID != ex[1].Trace.SpanID || a.Trace.SpanID.String() != seen[a.Attempt] {
			t.Errorf("try %d of two: folded %v, span %s under %s, exchange %s, the far side's parent %s",
				a.Attempt, a.Folded, a.Trace.SpanID, a.Trace.ParentID, ex[1].Trace.SpanID, seen[a.Attempt])
		}
	}
}

// TestFailedGRPC: an answer whose gRPC status stands for a 5xx has the reason of a 5xx, and its try a span of its own; one that says NOT_FOUND is an answer, and one that says nothing is invalid.
func TestFailedGRPC(t *testing.T) {
	for status, want := range map[flow.GRPCStatus]flow.Reason{
		flow.NewGRPCStatus(0): flow.ReasonNone, flow.NewGRPCStatus(5): flow.ReasonNone, flow.NewGRPCStatus(14): flow.ReasonUpstreamStatus,
		flow.NewGRPCStatus(13): flow.ReasonUpstreamStatus, 0: flow.ReasonUpstreamProtocol,
	} {
		rec := &testmesh.Recorder{}
		o := &observer{rec: rec, holder: &identity.Holder{}}
		x := &exchange.Exchange{Kind: flow.KindExchange, Side: flow.SideClient, Protocol: flow.ProtocolGRPC}
		x.Reset()
		x.Start, x.Peer = time.Now(), &exchange.Peer{}
		x.Binding = &exchange.Binding{Snapshot: &policy.Snapshot{Revision: "r"}}
		o.observe(o.attempt(exchange.HandlerFunc(func(x *exchange.Exchange) {
			x.Tries = 1
			x.Choice.Endpoint = &policy.Endpoint{}
			x.Outcome = exchange.Outcome{Status: 200, GRPC: status, Committed: true, Answered: true, Delivered: true}
		}))).Handle(x)
		at, ex := rec.Closed(flow.KindAttempt), rec.Closed(flow.KindExchange)
		if len(at) != 1 || len(ex) != 1 || at[0].Reason != want || ex[0].Reason != want || at[0].Folded != (want == flow.ReasonNone) {
			t.Errorf("status %q: attempt %+v\nexchange %+v", status, at, ex)
		}
	}
}
