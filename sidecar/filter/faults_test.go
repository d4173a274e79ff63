package filter

import (
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// leaving is a caller that can leave.
type leaving struct {
	caller
	gone atomic.Uint32
}

func (l *leaving) Left() (flow.Reason, string) { return flow.Reason(l.gone.Load()), "left" }

// A delay ends by itself, or by the deadline, an abort, or the caller's leaving, whichever comes first.
func TestDelay(t *testing.T) {
	always := &route.Action{Faults: []route.Fault{{Delay: 2 * time.Second, DelayPPM: route.Million}}}
	for _, c := range []struct {
		name   string
		during func(x *exchange.Exchange, l *leaving)
		took   time.Duration
		reason flow.Reason
	}{
		{"whole", func(*exchange.Exchange, *leaving) {}, 2 * time.Second, flow.ReasonNone},
		{"woken for nothing", func(x *exchange.Exchange, _ *leaving) { x.Wake() }, 2 * time.Second, flow.ReasonNone},
		{"aborted", func(x *exchange.Exchange, _ *leaving) { x.Abort(flow.ReasonDraining) }, time.Second, flow.ReasonDraining},
		{"left", func(x *exchange.Exchange, l *leaving) { l.gone.Store(uint32(flow.ReasonDownstreamReset)); x.Wake() }, time.Second, flow.ReasonDownstreamReset},
		{"deadline", nil, 500 * time.Millisecond, flow.ReasonRequestTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &leaving{}
				x := asking(always, nil)
				x.Downstream = l
				if c.during == nil {
					x.Deadline = x.Start.Add(c.took)
				} else {
					time.AfterFunc(time.Second, func() { c.during(x, l) })
				}
				if on := passes(New(nil), x); on != (c.reason == flow.ReasonNone) || x.Outcome.Reason != c.reason || time.Since(x.Start) != c.took {
					t.Errorf("went on: %v, %s after %s", on, x.Outcome.Reason, time.Since(x.Start))
				}
				if x.Note == "" {
					t.Error("the Record says nothing of it")
				}
				synctest.Wait()
			})
		})
	}
}

// As many requests fail as the rule says, and the first fault whose fields match is the one.
func TestAbort(t *testing.T) {
	v := func(kind route.ValueKind, value string) []route.Value {
		return []route.Value{{Name: "x-user", Kind: kind, Value: value}}
	}
	a := &route.Action{Faults: []route.Fault{
		{Headers: v(route.ValueExact, "ann"), Status: 418, AbortPPM: route.Million},
		{Headers: v(route.ValueRegex, "b.b|c"), Status: 404, GRPC: 5, AbortPPM: route.Million},
		{Headers: v(route.ValuePresent, ""), Delay: time.Hour, DelayPPM: 0, GRPC: 14, AbortPPM: route.Million},
		{Status: 503, AbortPPM: 250_000},
	}}
	f := New(nil)
	for _, c := range []struct {
		user     string
		protocol flow.Protocol
		status   int
		grpc     int
	}{
		{"ann", flow.ProtocolHTTP1, 418, 0},
		{"ann", flow.ProtocolGRPC, 418, 0},
		{"bob", flow.ProtocolHTTP2, 404, 0},
		{"bob", flow.ProtocolGRPC, 200, 5},
		{"bobc", flow.ProtocolHTTP2, 0, 0},
		{"dan", flow.ProtocolHTTP1, 0, 0},
		{"dan", flow.ProtocolGRPC, 200, 14},
	} {
		x := asking(a, &caller{fields: map[string][]string{"x-user": {c.user}}})
		x.Protocol = c.protocol
		on := passes(f, x)
		switch {
		case c.status == 0 && (!on || x.Reply != nil):
			t.Errorf("%+v: %+v", c, x.Outcome)
		case c.status != 0 && (on || x.Reply == nil || x.Reply.Status != c.status || x.Reply.GRPC != c.grpc || x.Outcome.Reason != flow.ReasonFaultInjected || !strings.Contains(x.Outcome.Detail, "rule r")):
			t.Errorf("%+v: %v %+v %+v", c, on, x.Outcome, x.Reply)
		}
	}
	const n = 20_000
	failed := 0
	for range n {
		if !passes(f, asking(a, nil)) {
			failed++
		}
	}
	if want := n * 0.25; math.Abs(float64(failed)-want) > 6*math.Sqrt(want*0.75) {
		t.Errorf("%d of %d failed, want a quarter", failed, n)
	}
}
