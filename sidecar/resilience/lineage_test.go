package resilience

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// What the application calls while it serves a retry is part of the retry, if it says so by its trace; and of the one that was tried most often.
func TestLineage(t *testing.T) {
	var l Lineage
	trace := func(b byte) flow.Trace { return flow.Trace{TraceID: flow.TraceID{b}} }
	calls := func(b byte, own int) (attempt int) {
		x := &exchange.Exchange{Trace: trace(b)}
		x.Head.Attempt = own
		l.Call(exchange.HandlerFunc(func(x *exchange.Exchange) { attempt = x.Head.Attempt })).Handle(x)
		return attempt
	}
	serves := func(b byte, attempt int, during func()) {
		x := &exchange.Exchange{Trace: trace(b)}
		x.Head.Attempt = attempt
		l.Serve(exchange.HandlerFunc(func(*exchange.Exchange) { during() })).Handle(x)
	}
	serves(1, 0, func() {
		if n := calls(1, 0); n != 0 {
			t.Errorf("a first try: %d", n)
		}
	})
	serves(1, 2, func() {
		serves(1, 3, func() {
			for _, c := range []struct {
				trace     byte
				own, want int
			}{{1, 0, 3}, {2, 0, 0}, {1, 2, 2}} {
				if n := calls(c.trace, c.own); n != c.want {
					t.Errorf("%+v: %d", c, n)
				}
			}
		})
	})
	if n := calls(1, 0); n != 0 || len(l.m) != 0 || l.n.Load() != 0 {
		t.Errorf("%d after all have ended, %d are left", n, len(l.m))
	}
}
