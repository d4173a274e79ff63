package filter

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// caller is a Downstream that keeps what it is answered with.
type caller struct {
	fields   map[string][]string
	query    string
	gone     bool
	answered int
}

func (c *caller) Answer(*exchange.Exchange) bool {
	c.answered++
	return !c.gone
}
func (c *caller) Replayable() bool { return true }
func (c *caller) Query() string    { return c.query }
func (c *caller) Field(name string, i int) (string, bool) {
	if v := c.fields[name]; i < len(v) {
		return v[i], true
	}
	return "", false
}

// asking is an exchange that a rule has matched.
func asking(a *route.Action, c *caller) *exchange.Exchange {
	if c == nil {
		c = &caller{}
	}
	x := &exchange.Exchange{
		Kind: flow.KindExchange, Side: flow.SideClient, Protocol: flow.ProtocolHTTP1, Start: time.Now(), Peer: &exchange.Peer{}, Downstream: c,
		Binding: &exchange.Binding{Snapshot: &policy.Snapshot{}},
	}
	x.Reset()
	x.Head.Method, x.Head.Path, x.Head.Authority = "GET", "/a/b", "shop.example:8080"
	x.Destination = &exchange.Destination{Service: policy.Service{Name: "shop"}}
	x.Decision = route.Decision{Service: "shop", Route: "r", Action: a}
	return x
}

// passes reports whether x comes to the end of the filters' steps.
func passes(f *Filters, x *exchange.Exchange) (on bool) {
	f.Admit(f.Shape(exchange.HandlerFunc(func(*exchange.Exchange) { on = true }))).Handle(x)
	return on
}

// A filter is asked only where a rule asks for it, and each is told apart by its name.
func TestTables(t *testing.T) {
	seen := map[string]bool{}
	for _, table := range [][]filter{admission, shaping} {
		for _, e := range table {
			if seen[e.name] || e.name == "" {
				t.Errorf("%q is listed twice", e.name)
			}
			seen[e.name] = true
			if e.asked(&route.Decision{Action: &route.Action{}}) || e.asked(&route.Decision{Action: &route.Action{}, Backend: &route.Backend{}}) {
				t.Errorf("%s is asked though the rule asks for nothing", e.name)
			}
		}
	}
}

// Relayed connections have no fields, and nobody to answer.
func TestConnectionsPass(t *testing.T) {
	x := asking(&route.Action{Respond: &route.Respond{Status: 200}}, nil)
	if x.Kind = flow.KindConnection; !passes(New(nil), x) || x.Reply != nil {
		t.Error("a connection was answered")
	}
}

// Nothing that is not asked for costs an allocation.
func TestFree(t *testing.T) {
	h := New(nil).Admit(New(nil).Shape(exchange.HandlerFunc(func(*exchange.Exchange) {})))
	for _, a := range []*route.Action{nil, {}} {
		x := asking(a, nil)
		if n := testing.AllocsPerRun(100, func() { h.Handle(x) }); n != 0 {
			t.Errorf("%v: %v allocations", a, n)
		}
	}
}

func BenchmarkFilters(b *testing.B) {
	h := New(nil).Admit(New(nil).Shape(exchange.HandlerFunc(func(*exchange.Exchange) {})))
	for name, a := range map[string]*route.Action{
		"no rule": nil, "empty": {},
		"headers": {Request: route.Edits{Set: []route.Field{{Name: "x-a", Value: "1"}}, Remove: []string{"x-b"}}},
	} {
		b.Run(name, func(b *testing.B) {
			x := asking(a, nil)
			b.ReportAllocs()
			for b.Loop() {
				x.Sent.Reset()
				h.Handle(x)
			}
		})
	}
}
