package filter

import (
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// copied is a caller whose request can be copied.
type copied struct {
	caller
	bare, whole bool
}

func (c *copied) CopyHead(*exchange.Exchange) (*exchange.Request, bool) {
	return &exchange.Request{Method: "GET", Target: "/a/b?c", Authority: "shop.example", Bare: c.bare}, true
}

func (c *copied) CopyBody(*exchange.Exchange) ([]byte, bool) { return []byte("body"), c.whole }

// As many requests are copied as the rule says, each to the services that it names, and nothing of a copy is the original's.
func TestMirrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		f := New(exchange.HandlerFunc(func(y *exchange.Exchange) {
			sent.Add(1)
			if !y.Head.Mirror || y.Decision.Service != "shadow" || y.Decision.Subset != "v2" || y.Decision.Route != "r" || y.Decision.Action != nil || y.Head.Path != "/a/b" || y.Destination.Retry.Attempts != 1 {
				t.Errorf("%+v %+v", y.Head, y.Decision)
			}
			caller := y.Downstream.(exchange.Caller)
			b := make([]byte, 10)
			caller.Rewind(y)
			if n, _ := caller.ReadBody(y, b); string(b[:n]) != "body" && n > 0 || caller.Request(y).Length != int64(n) {
				t.Errorf("%q of %d", b[:n], caller.Request(y).Length)
			}
		}))
		room := &exchange.Room{}
		a := &route.Action{Mirrors: []route.Mirror{{Service: "shadow", Subset: "v2", PPM: 500_000}, {Service: "gone", PPM: route.Million}, {Service: "shadow", Subset: "v2", PPM: 0}}}
		ask := func(c *copied, mirror bool) {
			x := asking(a, nil)
			x.Downstream, x.Head.Mirror = c, mirror
			x.Binding.Room, x.Binding.Destinations = room, map[string]*exchange.Destination{"shadow": {Service: policy.Service{Name: "shadow"}}}
			if !passes(f, x) || x.Outcome.Reason != flow.ReasonNone || x.After != nil {
				t.Fatalf("%+v", x.Outcome)
			}
			synctest.Wait()
		}
		const n = 10_000
		for range n {
			ask(&copied{bare: true}, false)
		}
		if want := n * 0.5; math.Abs(float64(sent.Load())-want) > 6*math.Sqrt(want*0.5) {
			t.Errorf("%d of %d were copied, want a half", sent.Load(), n)
		}
		sent.Store(0)
		ask(&copied{bare: true}, true)
		ask(&copied{}, false)
		if a.Mirrors[0].PPM = route.Million; sent.Load() != 0 || room.Count(exchange.LimitMirrorBody) != 1 {
			t.Errorf("%d copies of a copy, or of what is too large", sent.Load())
		}
		ask(&copied{whole: true}, false)
		f.Close()
		ask(&copied{whole: true}, false)
		if sent.Load() != 1 || room.Used() != 0 || room.Count(exchange.LimitMirrors) != 1 {
			t.Errorf("%d copies, %d bytes in use", sent.Load(), room.Used())
		}
	})
}
