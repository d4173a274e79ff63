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
