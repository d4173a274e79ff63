package cardinality

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// rig is a guard, what came out of it and what it said.
type rig struct {
	processor.Traces
	names   map[string]map[string]bool // by service
	keys    map[string]map[string]bool
	altered map[string]int
	told    []Overflow
	now     time.Time
	last    ptrace.Traces
}

func (*rig) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (r *rig) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	r.last = td
	for _, rs := range td.ResourceSpans().All() {
		v, _ := rs.Resource().Attributes().Get(flow.AttrServiceName)
		service := v.AsString()
		if r.names[service] == nil {
			r.names[service], r.keys[service] = map[string]bool{}, map[string]bool{}
		}
		for k := range rs.Resource().Attributes().All() {
			r.keys[service][k] = true
		}
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				r.names[service][sp.Name()] = true
				for k := range sp.Attributes().All() {
					r.keys[service][k] = true
				}
			}
		}
	}
	return nil
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{names: map[string]map[string]bool{}, keys: map[string]map[string]bool{}, altered: map[string]int{}, now: time.Unix(1_700_000_000, 0)}
	f := NewFactory(Hooks{
		Altered:  func(reason string, n int) { r.altered[reason] += n },
		Overflow: func(o Overflow) { r.told = append(r.told, o) },
	}, func() time.Time { return r.now })
	p, err := f.CreateTraces(t.Context(), processortest.NewNopSettings(Type), &cfg, r)
	if err != nil {
		t.Fatal(err)
	}
	r.Traces = p
	return r
}

func (r *rig) send(t testing.TB, service, name string, keys ...string) ptrace.Span {
	t.Helper()
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, service)
	sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	sp.SetName(name)
	for _, k := range keys {
		sp.Attributes().PutStr(k, "v")
	}
	if err := r.Traces.ConsumeTraces(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	return sp
}

func TestNamesBeyondTheBudgetBecomeOther(t *testing.T) {
	r := newRig(t, Config{Services: 2, Names: 3, Keys: 2})
	for i := range 10 {
		r.send(t, "shop", fmt.Sprint("GET /", i), "a", fmt.Sprint("user.", i))
	}
	if got := r.names["shop"]; len(got) != 4 || !got[Other] || !got["GET /2"] || got["GET /3"] {
		t.Errorf("names %v", got)
	}
	sp := r.send(t, "shop", "GET /77")
	if v, _ := sp.Attributes().Get(AttrSpanName); sp.Name() != Other || v.Str() != "GET /77" {
		t.Errorf("%s, %v", sp.Name(), sp.Attributes().AsRaw())
	}
	if sp = r.send(t, "shop", "GET /1"); sp.Name() != "GET /1" {
		t.Errorf("a name within the budget became %s", sp.Name())
	}
	r.send(t, "cart", "GET")
	r.send(t, "pay", "POST")
	v, _ := r.last.ResourceSpans().At(0).Resource().Attributes().Get(AttrService)
	if r.names["pay"] != nil || !r.names[Other]["POST"] || v.Str() != "pay" {
		t.Errorf("services %v, original %q", r.names, v.Str())
	}
	if want := (map[string]int{ReasonNames: 8, ReasonKeys: 9, ReasonServices: 1}); !maps.Equal(r.altered, want) {
		t.Errorf("counted %v, want %v", r.altered, want)
	}
	if len(r.told) != 3 || r.told[0] != (Overflow{"shop", ReasonKeys, 2, "user.1"}) || r.told[1] != (Overflow{"shop", ReasonNames, 3, "GET /3"}) ||
		r.told[2] != (Overflow{"", ReasonServices, 2, "pay"}) {
		t.Errorf("told %+v", r.told)
	}
}

func TestWhatIsNotSeenMakesRoom(t *testing.T) {
	r := newRig(t, Config{Services: 1, Names: 1, Keys: 10})
	r.send(t, "shop", "a")
	if r.send(t, "shop", "b"); r.names["shop"]["b"] {
		t.Fatal("b is beyond the budget")
	}
	for range 3 {
		r.now = r.now.Add(generation)
		r.send(t, "shop", "a") // seen again and again: it keeps its place
	}
	if r.send(t, "shop", "b"); r.names["shop"]["b"] {
		t.Fatal("a was forgotten while it was in use")
	}
	for range 2 {
		r.now = r.now.Add(generation)
		r.send(t, Other, "")
	}
	r.send(t, "cart", "b")
	if !r.names["cart"]["b"] {
		t.Error("what was not seen for two generations still has its place")
	}
}

func TestSidecarsPassUntouched(t *testing.T) {
	r := newRig(t, Config{Services: 1, Names: 1, Keys: 1})
	for i := range 5 {
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr(flow.AttrServiceName, fmt.Sprint("s", i))
		rs.Resource().Attributes().PutStr(flow.AttrReporterIdentity, "spiffe://mesh/ns/a/sa/b")
		sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		sp.SetName(fmt.Sprint("n", i))
		sp.Attributes().PutStr(fmt.Sprint("k", i), "")
		want := ptrace.NewTraces()
		td.CopyTo(want)
		if err := r.Traces.ConsumeTraces(t.Context(), td); err != nil {
			t.Fatal(err)
		}
		m := &ptrace.JSONMarshaler{}
		a, _ := m.MarshalTraces(want)
		b, _ := m.MarshalTraces(r.last)
		if string(a) != string(b) {
			t.Errorf("%s became %s", a, b)
		}
	}
	if len(r.altered)+len(r.told) != 0 {
		t.Errorf("%v %v", r.altered, r.told)
	}
}

// Whatever comes, budgets hold, nothing is lost but attributes that are counted, and each service is told of once for each budget.
func TestBudgetsHoldForAnything(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	cfg := Config{Services: 5, Names: 7, Keys: 9}
	r := newRig(t, cfg)
	removed := 0
	for range 20_000 {
		var keys []string
		for range rnd.IntN(4) {
			keys = append(keys, fmt.Sprint("k", rnd.IntN(30)))
		}
		name, service := fmt.Sprint("n", rnd.IntN(20)), fmt.Sprint("s", rnd.IntN(12))
		sp := r.send(t, service, name, keys...)
		if sp.Name() != name {
			if v, _ := sp.Attributes().Get(AttrSpanName); sp.Name() != Other || v.Str() != name {
				t.Fatalf("%s became %s, %v", name, sp.Name(), sp.Attributes().AsRaw())
			}
			sp.Attributes().Remove(AttrSpanName)
		}
		sp.Attributes().RemoveIf(func(k string, _ pcommon.Value) bool { return strings.HasPrefix(k, "tulle.") })
		removed += distinct(keys) - sp.Attributes().Len()
	}
	if len(r.names) > cfg.Services+1 {
		t.Errorf("%d services", len(r.names))
	}
	for s, names := range r.names {
		own := 0
		for k := range r.keys[s] {
			if !strings.HasPrefix(k, "tulle.") && k != flow.AttrServiceName {
				own++
			}
		}
		if len(names) > cfg.Names+1 || own > cfg.Keys {
			t.Errorf("%s has %d names and %d keys", s, len(names), own)
		}
	}
	if r.altered[ReasonKeys] != removed {
		t.Errorf("%d attributes are gone, %d counted", removed, r.altered[ReasonKeys])
	}
	seen := map[string]bool{}
	for _, o := range r.told {
		if k := o.Service + o.Reason; seen[k] {
			t.Errorf("told twice: %+v", o)
		} else {
			seen[k] = true
		}
	}
}

func distinct(s []string) int {
	m := map[string]bool{}
	for _, x := range s {
		m[x] = true
	}
	return len(m)
}

// One batch of an application as its SDK sends it: 100 spans of a service with ten attributes each.
func BenchmarkApplication(b *testing.B) {
	r := newRig(b, Default)
	g := r.Traces.(*guard)
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, "shop")
	ss := rs.ScopeSpans().AppendEmpty()
	for i := range 100 {
		sp := ss.Spans().AppendEmpty()
		sp.SetName(fmt.Sprint("GET /", i%20))
		for k := range 10 {
			sp.Attributes().PutStr(fmt.Sprint("http.request.attribute.", k), "v")
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		g.look(rs)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/span")
}
