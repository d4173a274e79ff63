package layout

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// shop is the demo's shape: four tiers, a fan-in, a long edge and a cycle.
func shop() Graph {
	return graphOf(
		"load>gateway", "gateway>web", "gateway>cart", "web>catalog", "web>search", "web>cart", "cart>pricing", "cart>stock", "catalog>stock",
		"catalog>pricing", "search>catalog", "pricing>rates", "checkout>payment", "web>checkout", "checkout>stock", "checkout>mail", "payment>bank",
		"stock>db", "mail>smtp", "web>reviews", "reviews>db", "stock>catalog",
	)
}

func graphOf(edges ...string) Graph {
	var g Graph
	seen := map[string]bool{}
	add := func(id string) {
		if !seen[id] {
			seen[id] = true
			g.Nodes = append(g.Nodes, Node{id})
		}
	}
	for _, e := range edges {
		var a, b string
		for i := range e {
			if e[i] == '>' {
				a, b = e[:i], e[i+1:]
			}
		}
		add(a)
		add(b)
		g.Edges = append(g.Edges, Edge{ID: e, From: a, To: b})
	}
	return g
}

func random(r *rand.Rand, nodes, edges int) Graph {
	var g Graph
	for i := range nodes {
		g.Nodes = append(g.Nodes, Node{fmt.Sprintf("svc-%04d", i)})
	}
	for i := range edges {
		a, b := r.IntN(nodes), r.IntN(nodes)
		g.Edges = append(g.Edges, Edge{fmt.Sprintf("e%d", i), g.Nodes[a].ID, g.Nodes[b].ID})
	}
	return g
}

// check fails when boxes or fitting labels overlap, or when an edge has no line.
func check(t *testing.T, g Graph, d Drawing) {
	t.Helper()
	o := Defaults
	type box struct {
		id         string
		x, y, w, h float64
	}
	var boxes []box
	for id, p := range d.Nodes {
		boxes = append(boxes, box{id, p.X, p.Y, o.NodeW, o.NodeH})
		if p.X+o.NodeW > d.Width || p.Y+o.NodeH > d.Height || p.X < 0 || p.Y < 0 {
			t.Errorf("node %s at %v is outside the drawing %gx%g", id, p, d.Width, d.Height)
		}
	}
	for id, e := range d.Edges {
		if e.Path == "" {
			t.Errorf("edge %s has no line", id)
		}
		if e.Fits {
			boxes = append(boxes, box{"label " + id, e.Label.X - o.LabelW/2, e.Label.Y - o.LabelH/2, o.LabelW, o.LabelH})
		}
	}
	for i, a := range boxes {
		for _, b := range boxes[i+1:] {
			if a.x < b.x+b.w && b.x < a.x+a.w && a.y < b.y+b.h && b.y < a.y+a.h {
				t.Errorf("%s and %s overlap", a.id, b.id)
			}
		}
	}
	if len(d.Nodes) != len(g.Nodes) || len(d.Edges) != len(g.Edges) {
		t.Errorf("drew %d of %d nodes and %d of %d edges", len(d.Nodes), len(g.Nodes), len(d.Edges), len(g.Edges))
	}
}

func TestShop(t *testing.T) {
	g := shop()
	d := Compute(g, nil, Options{})
	check(t, g, d)
	if d.Nodes["load"].Layer != 0 || d.Nodes["gateway"].Layer != 1 || d.Nodes["db"].Layer <= d.Nodes["stock"].Layer {
		t.Errorf("callers do not stand left of callees: %v", d.Nodes)
	}
	hidden := 0
	for _, e := range d.Edges {
		if !e.Fits {
			hidden++
		}
	}
	if hidden > 2 {
		t.Errorf("%d of %d labels found no place", hidden, len(d.Edges))
	}
}

func TestVerticalIsTurned(t *testing.T) {
	g := shop()
	d := Compute(g, nil, Options{Vertical: true})
	if d.Nodes["load"].Y >= d.Nodes["gateway"].Y || d.Nodes["stock"].Y >= d.Nodes["db"].Y {
		t.Errorf("callers do not stand above callees: %v", d.Nodes)
	}
	check(t, g, d)
	g.Nodes = append(g.Nodes, Node{"late"})
	next := Compute(g, d.Nodes, Options{Vertical: true})
	check(t, g, next)
	for id, p := range d.Nodes {
		if next.Nodes[id] != p {
			t.Errorf("%s moved from %v to %v", id, p, next.Nodes[id])
		}
	}
}

func TestDeterministicWhateverTheOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		g := random(r, 5+r.IntN(40), r.IntN(120))
		want := Compute(g, nil, Options{})
		shuffled := Graph{append([]Node(nil), g.Nodes...), append([]Edge(nil), g.Edges...)}
		r.Shuffle(len(shuffled.Nodes), func(i, j int) { shuffled.Nodes[i], shuffled.Nodes[j] = shuffled.Nodes[j], shuffled.Nodes[i] })
		r.Shuffle(len(shuffled.Edges), func(i, j int) { shuffled.Edges[i], shuffled.Edges[j] = shuffled.Edges[j], shuffled.Edges[i] })
		if got := Compute(shuffled, nil, Options{}); !reflect.DeepEqual(got, want) {
			t.Fatal("the same graph in another order is drawn differently")
		}
		check(t, g, want)
	}
}

// TestOldNodesStay makes 100 random live changes: no node that stays may move, and nothing may ever overlap.
func TestOldNodesStay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	g := random(r, 30, 60)
	d := Compute(g, nil, Options{})
	for i := range 100 {
		switch r.IntN(3) {
		case 0:
			id := fmt.Sprintf("new-%03d", i)
			g.Nodes = append(g.Nodes, Node{id})
			g.Edges = append(g.Edges, Edge{"n" + id, g.Nodes[r.IntN(len(g.Nodes))].ID, id})
		case 1:
			k := r.IntN(len(g.Nodes))
			gone := g.Nodes[k].ID
			g.Nodes = append(append([]Node(nil), g.Nodes[:k]...), g.Nodes[k+1:]...)
			var edges []Edge
			for _, e := range g.Edges {
				if e.From != gone && e.To != gone {
					edges = append(edges, e)
				}
			}
			g.Edges = edges
		case 2:
			g.Edges = append(g.Edges, Edge{fmt.Sprintf("x%d", i), g.Nodes[r.IntN(len(g.Nodes))].ID, g.Nodes[r.IntN(len(g.Nodes))].ID})
		}
		next := Compute(g, d.Nodes, Options{})
		check(t, g, next)
		if next.Fresh {
			t.Fatalf("change %d started the drawing over", i)
		}
		for id, p := range next.Nodes {
			if old, ok := d.Nodes[id]; ok && (math.Abs(old.X-p.X) > 0 || math.Abs(old.Y-p.Y) > 0) {
				t.Fatalf("change %d moved %s from %v to %v", i, id, old, p)
			}
		}
		d = next
	}
}

func TestAwkwardGraphs(t *testing.T) {
	for name, g := range map[string]Graph{
		"empty":    {},
		"one":      graphOf("a>a"),
		"two-way":  graphOf("a>b", "b>a"),
		"ring":     graphOf("a>b", "b>c", "c>a"),
		"parallel": {Nodes: []Node{{"a"}, {"b"}}, Edges: []Edge{{"1", "a", "b"}, {"2", "a", "b"}}},
		"alone":    {Nodes: []Node{{"a"}, {"b"}, {"c"}}},
	} {
		t.Run(name, func(t *testing.T) { check(t, g, Compute(g, nil, Options{})) })
	}
	dangling := Graph{Nodes: []Node{{"a"}}, Edges: []Edge{{"x", "a", "ghost"}}}
	if d := Compute(dangling, nil, Options{}); len(d.Edges) != 0 {
		t.Error("an edge to nowhere was drawn")
	}
	chain := Graph{}
	for i := range 60 {
		chain.Nodes = append(chain.Nodes, Node{fmt.Sprintf("%02d", i)})
		if i > 0 {
			chain.Edges = append(chain.Edges, Edge{fmt.Sprint(i), fmt.Sprintf("%02d", i-1), fmt.Sprintf("%02d", i)})
		}
	}
	d := Compute(chain, nil, Options{})
	check(t, chain, d)
	if columns := d.Width / (Defaults.NodeW + Defaults.GapX); columns > float64(Defaults.MaxLayers)+1 {
		t.Errorf("a chain of 60 takes %.0f columns", columns)
	}
}

func TestLargeMeshStaysQuick(t *testing.T) {
	g := random(rand.New(rand.NewPCG(5, 6)), 1000, 5000)
	start := time.Now()
	d := Compute(g, nil, Options{})
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("1,000 nodes and 5,000 edges took %s", took)
	}
	if len(d.Nodes) != 1000 {
		t.Errorf("placed %d nodes", len(d.Nodes))
	}
	if d.Height > 3*d.Width {
		t.Errorf("drawing is a column: %gx%g", d.Width, d.Height)
	}
}

func TestMemory(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := &Memory{Settle: time.Minute}
	g := shop()
	a := m.Draw(g, now, Options{})
	if b := m.Draw(g, now.Add(time.Second), Options{}); a != b {
		t.Error("an unchanged graph was drawn anew")
	}
	g2 := g
	g2.Nodes = append(append([]Node(nil), g.Nodes...), Node{"late"})
	if b := m.Draw(g2, now.Add(2*time.Second), Options{}); !b.Fresh {
		t.Error("a graph that is still settling should start over")
	}
	if b := m.Draw(g, now.Add(2*time.Minute), Options{}); b.Fresh {
		t.Error("a settled graph should keep its places")
	}
	m.Forget()
	if b := m.Draw(g, now.Add(2*time.Minute), Options{}); !b.Fresh {
		t.Error("tidy should start over")
	}
}

// change makes one of the changes of a live mesh: a service comes, goes, comes back, or calls another.
func change(r *rand.Rand, g *Graph, gone *[]Node, i int) {
	switch r.IntN(4) {
	case 0:
		id := fmt.Sprintf("new-%03d", i)
		g.Edges = append(g.Edges, Edge{"n" + id, g.Nodes[r.IntN(len(g.Nodes))].ID, id})
		g.Nodes = append(g.Nodes, Node{id})
	case 1:
		k := r.IntN(len(g.Nodes))
		id := g.Nodes[k].ID
		*gone = append(*gone, g.Nodes[k])
		g.Nodes = slices.Delete(slices.Clone(g.Nodes), k, k+1)
		g.Edges = slices.DeleteFunc(slices.Clone(g.Edges), func(e Edge) bool { return e.From == id || e.To == id })
	case 2:
		g.Edges = append(g.Edges, Edge{fmt.Sprintf("x%d", i), g.Nodes[r.IntN(len(g.Nodes))].ID, g.Nodes[r.IntN(len(g.Nodes))].ID})
	case 3:
		if n := len(*gone); n > 0 {
			g.Edges = append(g.Edges, Edge{fmt.Sprintf("b%d", i), g.Nodes[r.IntN(len(g.Nodes))].ID, (*gone)[n-1].ID})
			g.Nodes = append(g.Nodes, (*gone)[n-1])
			*gone = (*gone)[:n-1]
		}
	}
	slices.SortFunc(g.Nodes, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
}

// TestLiveMeshStays makes 100 random changes of a mesh that is watched, small and routed or large and bundled: a node that is there before and after
// stands where it stood (the bar is 5 px; it is 0), even when one that was gone comes back, and nothing ever overlaps.
func TestLiveMeshStays(t *testing.T) {
	for _, c := range []struct {
		nodes, edges int
		opt          Options
	}{{40, 90, Options{}}, {400, 1600, Options{Bundled: true}}} {
		for seed := range uint64(5) {
			r := rand.New(rand.NewPCG(seed, 9))
			m, g, gone := &Memory{}, random(r, c.nodes, c.edges), []Node(nil)
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			before := m.Draw(g, now, c.opt)
			for i := range 100 {
				change(r, &g, &gone, i)
				after := m.Draw(g, now, c.opt)
				if after != before && after.Fresh {
					t.Fatalf("change %d started the drawing over", i)
				}
				for id, p := range after.Nodes {
					if old, ok := before.Nodes[id]; ok && old != p {
						t.Fatalf("seed %d: change %d moved %s from %v to %v", seed, i, id, old, p)
					}
				}
				if !c.opt.Bundled {
					check(t, g, *after)
				}
				before = after
			}
		}
	}
}

// TestLinesStay: what nothing new stands in the way of is drawn as it was.
func TestLinesStay(t *testing.T) {
	g := shop()
	d := Compute(g, nil, Options{})
	g.Nodes = append(g.Nodes, Node{"zz"})
	g.Edges = append(g.Edges, Edge{"bank>zz", "bank", "zz"})
	next := Redraw(g, d.Nodes, &d, Options{})
	check(t, g, next)
	same := 0
	for id, e := range d.Edges {
		if next.Edges[id] == e {
			same++
		}
	}
	if same < len(d.Edges)-4 {
		t.Errorf("%d of %d lines stayed when a node came at the edge of the drawing", same, len(d.Edges))
	}
}

func TestBundledHasPlacesOnly(t *testing.T) {
	g := random(rand.New(rand.NewPCG(5, 6)), 1000, 5000)
	d := Compute(g, nil, Options{Bundled: true})
	if len(d.Nodes) != 1000 || d.Edges != nil {
		t.Errorf("%d nodes, %d lines", len(d.Nodes), len(d.Edges))
	}
	if shape := d.Width / d.Height; shape < 0.8 || shape > 4 {
		t.Errorf("the drawing of 1,000 nodes is %gx%g", d.Width, d.Height)
	}
	columns := map[int]int{}
	for _, p := range d.Nodes {
		columns[p.Layer]++
	}
	for l, n := range columns {
		if n > 62 {
			t.Errorf("column %d has %d nodes", l, n)
		}
	}
	// The line leaves the one at its right and reaches the other at its left, and stands out even where it goes back.
	a, b := g.Edges[0].From, g.Edges[0].To
	for _, c := range [][4]Point{d.Curve(a, b, Options{}), d.Curve(b, a, Options{})} {
		if c[1].X <= c[0].X || c[2].X >= c[3].X {
			t.Errorf("%v", c)
		}
	}
	if r := d.CurveRoute(a, b, Options{}); r.Path == "" || r.Fits {
		t.Errorf("%+v", r)
	}
}

// A layout of 1,000 services and 5,000 edges; the bar is 100 ms.
func BenchmarkCompute1000(b *testing.B) {
	g := random(rand.New(rand.NewPCG(5, 6)), 1000, 5000)
	for b.Loop() {
		Compute(g, nil, Options{Bundled: true})
	}
}

// The same with lines, for the drawing that is exported.
func BenchmarkComputeRouted100(b *testing.B) {
	g := random(rand.New(rand.NewPCG(5, 6)), 100, 250)
	for b.Loop() {
		Compute(g, nil, Options{})
	}
}

// One service comes into a drawing that is watched; the bar is 1 ms.
func BenchmarkInsertOne(b *testing.B) {
	for _, c := range []struct {
		name         string
		nodes, edges int
		opt          Options
	}{{"100routed", 100, 250, Options{}}, {"300bundled", 300, 1500, Options{Bundled: true}}, {"1000bundled", 1000, 5000, Options{Bundled: true}}} {
		b.Run(c.name, func(b *testing.B) {
			g := random(rand.New(rand.NewPCG(5, 6)), c.nodes, c.edges)
			slices.SortFunc(g.Edges, func(a, b Edge) int {
				return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To), strings.Compare(a.ID, b.ID))
			})
			d := Compute(g, nil, c.opt)
			g.Nodes = append(g.Nodes, Node{"zz"})
			g.Edges = append(g.Edges, Edge{"zz", g.Nodes[c.nodes/2].ID, "zz"})
			for b.Loop() {
				Redraw(g, d.Nodes, &d, c.opt)
			}
		})
	}
}
