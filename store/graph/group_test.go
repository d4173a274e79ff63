package graph

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// What is drawn together loses nothing but what is inside: counts and rates of all edges between groups are those of the edges they stand for, whatever is open.
func TestGroupLosesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 8))
	for range 200 {
		s := &Snapshot{}
		for i := range 2 + r.IntN(30) {
			s.Nodes = append(s.Nodes, Node{ID: fmt.Sprintf("s%02d", i), Name: fmt.Sprintf("s%02d", i), Namespace: []string{"", "a", "b", "c"}[r.IntN(4)], Inbound: View{Requests: uint64(r.IntN(9)), Rate: 1}})
		}
		for i := range r.IntN(120) {
			a, b := &s.Nodes[r.IntN(len(s.Nodes))], &s.Nodes[r.IntN(len(s.Nodes))]
			n := uint64(r.IntN(100))
			v := &View{Requests: n, Errors: n / 3, Rate: float64(n) / 10, ErrorRatio: float64(n/3) / max(1, float64(n)), P99: r.Float64(), Reasons: map[string]uint64{"x": n / 3}}
			e := Edge{ID: fmt.Sprintf("e%d", i), Source: a.ID, Destination: b.ID, State: BothSides, MTLS: r.IntN(3) > 0, Client: v}
			if r.IntN(2) == 0 {
				e.Client, e.Server, e.State = nil, v, ServerOnly
			}
			s.Edges = append(s.Edges, e)
		}
		var open []string
		if r.IntN(2) == 0 {
			open = []string{"b", "nobody"}
		}
		before := fmt.Sprintf("%+v", *s)
		g := Group(s, ByNamespace, open)
		if fmt.Sprintf("%+v", *s) != before {
			t.Fatal("the snapshot was changed")
		}
		nodes, known := 0, map[string]*Node{}
		for i := range g.Nodes {
			n := &g.Nodes[i]
			known[n.ID] = n
			nodes += max(1, n.Members)
			if (n.Kind == KindGroup) != (n.Members > 1) || n.Kind == KindGroup && n.Name == "b" && open != nil {
				t.Errorf("%+v", n)
			}
		}
		if nodes != len(s.Nodes) {
			t.Errorf("%d services in groups of %d", nodes, len(s.Nodes))
		}
		type sum struct {
			requests, errors, reasons uint64
			rate, worst               float64
			plain                     bool
		}
		want, got := map[string]*sum{}, map[string]*sum{}
		add := func(m map[string]*sum, id string, e *Edge) {
			if m[id] == nil {
				m[id] = &sum{}
			}
			x := m[id]
			for _, v := range []*View{e.Client, e.Server} {
				if v != nil {
					x.requests, x.errors, x.reasons, x.rate, x.worst = x.requests+v.Requests, x.errors+v.Errors, x.reasons+v.Reasons["x"], x.rate+v.Rate, max(x.worst, v.P99)
				}
			}
			x.plain = x.plain || !e.MTLS
		}
		for i := range s.Edges {
			e := &s.Edges[i]
			id, from, to := g.EdgeOf[e.ID], g.Of[e.Source], g.Of[e.Destination]
			if (id == "") != (from == to && known[from].Kind == KindGroup) {
				t.Fatalf("%s from %s to %s is drawn as %q", e.ID, from, to, id)
			}
			if id != "" {
				add(want, id, e)
			}
		}
		for i := range g.Edges {
			e := &g.Edges[i]
			add(got, e.ID, e)
			if known[e.Source] == nil || known[e.Destination] == nil {
				t.Errorf("%s leads nowhere", e.ID)
			}
		}
		for id, w := range want {
			h := got[id]
			if h == nil || math.Abs(w.rate-h.rate) > 1e-9 {
				t.Fatalf("%s: %+v, want %+v", id, h, w)
			}
			w.rate = h.rate
			if !reflect.DeepEqual(w, h) {
				t.Errorf("%s: %+v, want %+v", id, h, w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d edges, want %d", len(got), len(want))
		}
	}
}

func TestGroupings(t *testing.T) {
	n := Node{ID: "x", Namespace: "shop", App: "store", Zones: []string{"eu/a", "eu/b"}, Hosts: []string{"m1"}, Versions: []Version{{Version: "v1"}, {Version: "v2"}}}
	for by, want := range map[Grouping]string{ByNamespace: "shop", ByApp: "store", ByZone: "eu/a + eu/b", ByNode: "m1", ByVersion: "v1 + v2", "": ""} {
		if got := by.of(&n); got != want {
			t.Errorf("by %s: %s", by, got)
		}
	}
	if len(Groupings()) != 5 {
		t.Error(Groupings())
	}
}
