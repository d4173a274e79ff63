package balance

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// What a try says about its endpoint, in HTTP's words and in gRPC's.
func TestResult(t *testing.T) {
	grpc := func(code uint64) exchange.Outcome {
		return exchange.Outcome{Status: 200, GRPC: flow.NewGRPCStatus(code)}
	}
	want := map[exchange.Result][]exchange.Outcome{
		exchange.ResultOK: {
			{Status: 200}, {Status: 404}, grpc(0), grpc(3), grpc(5), grpc(7), grpc(9), grpc(10), grpc(16),
		},
		exchange.ResultFailed: {
			{Status: 500, Reason: flow.ReasonUpstreamStatus},
			{Reason: flow.ReasonUpstreamReset},
			{Reason: flow.ReasonTryTimeout},
			grpc(2), grpc(4), grpc(12), grpc(13), grpc(15),
		},
		exchange.ResultOverloaded: {
			{Status: 503, Reason: flow.ReasonUpstreamStatus}, {Status: 503, Reason: flow.ReasonUpstreamStatus, Again: true}, {Status: 429}, grpc(8), grpc(14),
		},
		exchange.ResultShed:        {{Status: 503, Reason: flow.ReasonUpstreamStatus, Told: flow.ReasonShed}},
		exchange.ResultUnreachable: {{Reason: flow.ReasonConnectRefused}},
		exchange.ResultUnknown:     {{Reason: flow.ReasonDownstreamReset}, {Reason: flow.ReasonUpstreamReset, Stale: true}, grpc(1)},
	}
	for expected, outcomes := range want {
		for _, o := range outcomes {
			if got := result(&o); got != expected {
				t.Errorf("status %d, gRPC %q, reason %q: result %d, want %d", o.Status, o.GRPC, o.Reason, got, expected)
			}
		}
	}
}

// A try that was given up before it was connected is as good as one that found no connection; a pooled connection, or one that was made, is one.
func TestUnconnected(t *testing.T) {
	for _, c := range []struct {
		x    exchange.Outcome
		legs func(*flow.Legs)
		want bool
	}{
		{exchange.Outcome{Reason: flow.ReasonTryTimeout}, func(*flow.Legs) {}, true},
		{exchange.Outcome{Reason: flow.ReasonTryTimeout}, func(l *flow.Legs) { l.Connected = 1 }, false},
		{exchange.Outcome{Reason: flow.ReasonTryTimeout, Delivered: true}, func(l *flow.Legs) { l.Sent = 1 }, false},
		{exchange.Outcome{Reason: flow.ReasonRequestTimeout}, func(*flow.Legs) {}, false},
	} {
		x := exchange.Exchange{Outcome: c.x, Legs: exchange.NoLegs}
		if c.legs(&x.Legs); unconnected(&x) != c.want {
			t.Errorf("%+v, %+v: %v", c.x, x.Legs, !c.want)
		}
	}
}
