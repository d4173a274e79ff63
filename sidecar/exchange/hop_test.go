package exchange

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
)

func TestHopFields(t *testing.T) {
	for v, want := range map[string]int{"2": 2, "99": 99, "1": 0, "0": 0, "100": 0, "-2": 0, "x": 0, "": 0, "+2": 0} {
		if got := ParseAttempt(v); got != want {
			t.Errorf("attempt %q: %d", v, got)
		}
	}
	for v, want := range map[string]time.Duration{"1": time.Millisecond, "1500": 1500 * time.Millisecond, "0": 0, "86400000": 24 * time.Hour, "86400001": 0, "99999999999": 0, "1.5": 0, "-1": 0, "": 0, "1s": 0} {
		if got := ParseMillis(v); got != want {
			t.Errorf("timeout %q: %v", v, got)
		}
	}
	now := time.Now()
	for _, c := range []struct {
		name  string
		x     func(x *Exchange)
		tells []string
	}{
		{"nothing", func(*Exchange) {}, nil},
		{"a first try of a caller that waits", func(x *Exchange) { x.Head.TakeTimeout(TimedHTTP, "500") }, []string{"x-request-timeout-ms: 400"}},
		{"rounded up, and of Envoy", func(x *Exchange) {
			x.Head.TakeTimeout(TimedEnvoy, "500")
			x.Deadline = now.Add(10*time.Millisecond + 1)
		}, []string{"x-envoy-expected-rq-timeout-ms: 11"}},
		{"the sooner one in both words", func(x *Exchange) {
			x.Head.TakeTimeout(TimedEnvoy, "500")
			x.Head.TakeTimeout(TimedHTTP, "300")
		}, []string{"x-request-timeout-ms: 200", "x-envoy-expected-rq-timeout-ms: 200"}},
		{"over", func(x *Exchange) { x.Head.TakeTimeout(TimedHTTP, "1") }, []string{"x-request-timeout-ms: 1"}},
		{"a retry", func(x *Exchange) { x.Retries = 1 }, []string{"x-tulle-attempt: 2"}},
		{"a retry of a retry", func(x *Exchange) { x.Head.Attempt, x.Retries = 2, 1 }, []string{"x-tulle-attempt: 3"}},
		{"a retry to who is no sidecar", func(x *Exchange) { x.Retries, x.Destination = 1, &Destination{} }, nil},
		{"gRPC has a field of its own", func(x *Exchange) { x.Head.Timeout, x.Head.Timed = time.Second, TimedGRPC }, nil},
	} {
		x := &Exchange{Start: now.Add(-100 * time.Millisecond), Destination: &Destination{Service: policy.Service{MTLS: true}}}
		c.x(x)
		var got []string
		if x.Hops() {
			x.EachHop(now, func(name, value string) { got = append(got, fmt.Sprint(name, ": ", value)) })
		}
		if !slices.Equal(got, c.tells) {
			t.Errorf("%s: %q, want %q", c.name, got, c.tells)
		}
	}
	var h Head
	if h.TakeTimeout(TimedHTTP, "soon") || h.Timed != 0 || h.Timeout != 0 {
		t.Errorf("%+v of what is no timeout", h)
	}
}
