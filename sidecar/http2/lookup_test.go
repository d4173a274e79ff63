package http2

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestRetryAfterOfGRPC(t *testing.T) {
	for _, tc := range []struct {
		fields []field
		status int
		grpc   bool
		want   time.Duration
	}{
		{[]field{{name: "grpc-retry-pushback-ms", value: "250"}}, 200, true, 250 * time.Millisecond},
		{[]field{{name: "grpc-retry-pushback-ms", value: "250"}}, 0, true, 250 * time.Millisecond}, // trailers
		{[]field{{name: "grpc-retry-pushback-ms", value: "-1"}}, 0, true, exchange.Never},
		{[]field{{name: "grpc-retry-pushback-ms", value: "250"}}, 200, false, 0},
		{[]field{{name: "retry-after", value: "3"}}, 503, false, 3 * time.Second},
		{[]field{{name: "retry-after", value: "3"}}, 302, false, 0},
	} {
		if got := retryAfter(tc.fields, tc.status, tc.grpc); got != tc.want {
			t.Errorf("%v of %d: %v, want %v", tc.fields, tc.status, got, tc.want)
		}
	}
}
