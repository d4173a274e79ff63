// Package layout draws a service graph as layers from left to right: callers left, callees right. It is pure and deterministic: the same
// graph and the same remembered places give the same drawing, byte for byte.
//
// Compute runs in two phases that know nothing of each other. Placement gives every node a rectangle: fresh (cycle breaking, capped
// longest-path layers, barycentre ordering, exact one-dimensional alignment) or, when most nodes have a remembered place, by leaving those where
// they are and putting each new node into the free gap nearest its neighbours. Routing then draws every edge around the rectangles and
// looks for a place for its label.
//
// What must stay true, and is tested: no two nodes overlap; a label marked as fitting overlaps no node and no other such label; a node with
// a remembered place does not move unless the drawing is fresh.
package layout

import (
	"cmp"
	"math"
	"slices"
)

// Node is a box to place; all boxes have Options' size.
type Node struct{ ID string }

// Edge is an arrow between two nodes. Edges whose ends are not among the nodes are ignored; From == To is drawn as a loop.
type Edge struct{ ID, From, To string }

// Graph is the input; order does not matter.
type Graph struct {
	Nodes []Node
	Edges []Edge
}

// Place is the top left corner of a node, and its column.
type Place struct {
	X, Y  float64
	Layer int
}

// Point is a position in the drawing, pixels at scale 1.
type Point struct{ X, Y float64 }

// Route is one edge's line: SVG path data, the centre of its label and whether the label fits there without covering anything.
type Route struct {
	Path  string
	Label Point
	Fits  bool
}

// Drawing is the result.
type Drawing struct {
	Width, Height float64
	Nodes         map[string]Place
	Edges         map[string]Route
	Fresh         bool // placement started over
}

// Options are sizes in pixels. Zero fields take Defaults.
type Options struct {
	NodeW, NodeH   float64
	GapX, GapY     float64
	LabelW, LabelH float64
	Margin         float64
	MaxLayers      int // longest paths are compressed into this many columns
	MaxRows        int // 0: by the number of nodes, so that the drawing stays wider than tall
	// Vertical draws callers above callees instead of left of them.
	Vertical bool
}

// Defaults are the sizes the topology page draws with.
var Defaults = Options{NodeW: 168, NodeH: 64, GapX: 112, GapY: 24, LabelW: 84, LabelH: 28, Margin: 24, MaxLayers: 10}

const grid = 4 // node corners are multiples of it

func (o Options) withDefaults() Options {
	d := Defaults
	for _, f := range []struct{ v, d *float64 }{
		{&o.NodeW, &d.NodeW},
		{&o.NodeH, &d.NodeH},
		{&o.GapX, &d.GapX},
		{&o.GapY, &d.GapY},
		{&o.LabelW, &d.LabelW},
		{&o.LabelH, &d.LabelH},
		{&o.Margin, &d.Margin},
	} {
		if *f.v <= 0 {
			*f.v = *f.d
		}
	}
	if o.MaxLayers <= 0 {
		o.MaxLayers = d.MaxLayers
	}
	return o
}

func (o Options) columnX(layer int) float64 { return o.Margin + float64(layer)*(o.NodeW+o.GapX) }

// Compute draws g. Nodes found in old keep their place when they are at least half of g; otherwise, and when old is empty, the drawing is
// fresh.
func Compute(g Graph, old map[string]Place, opt Options) Drawing {
	opt = opt.withDefaults()
	if opt.Vertical {
		opt = opt.transposed()
		turned := make(map[string]Place, len(old))
		for id, p := range old {
			turned[id] = p.turned()
		}
		old = turned
	}
	w := newWork(g, opt)
	d := Drawing{Nodes: make(map[string]Place, len(w.ids)), Edges: make(map[string]Route, len(w.edges))}
	kept := w.keep(old)
	if len(kept) == 0 || 2*len(kept) < len(w.ids) {
		d.Fresh = true
		w.placeFresh()
	} else {
		w.placeAround(kept)
	}
	for i, id := range w.ids {
		d.Nodes[id] = w.place[i]
		d.Width = max(d.Width, w.place[i].X+opt.NodeW+opt.Margin)
		d.Height = max(d.Height, w.place[i].Y+opt.NodeH+opt.Margin)
	}
	w.route(&d)
	if opt.Vertical {
		d.Width, d.Height = d.Height, d.Width
		for id, p := range d.Nodes {
			d.Nodes[id] = p.turned()
		}
	}
	return d
}

// transposed swaps the axes: a vertical drawing is a horizontal one of turned boxes, turned back at the end.
func (o Options) transposed() Options {
	o.NodeW, o.NodeH = o.NodeH, o.NodeW
	o.LabelW, o.LabelH = o.LabelH, o.LabelW
	o.GapX *= 0.75 // a label is lower than it is wide
	return o
}

func (p Place) turned() Place { p.X, p.Y = p.Y, p.X; return p }

// link is an edge by node index.
type link struct {
	id       string
	from, to int
}

type work struct {
	opt   Options
	ids   []string
	index map[string]int
	edges []link // sorted by (from, to, id), no dangling ends
	out   [][]int
	in    [][]int // neighbours, deduplicated, self excluded
	place []Place
}

func newWork(g Graph, opt Options) *work {
	w := &work{opt: opt, index: make(map[string]int, len(g.Nodes))}
	for _, n := range g.Nodes {
		w.ids = append(w.ids, n.ID)
	}
	slices.Sort(w.ids)
	w.ids = slices.Compact(w.ids)
	for i, id := range w.ids {
		w.index[id] = i
	}
	n := len(w.ids)
	w.out, w.in, w.place = make([][]int, n), make([][]int, n), make([]Place, n)
	for _, e := range g.Edges {
		f, ok1 := w.index[e.From]
		t, ok2 := w.index[e.To]
		if ok1 && ok2 {
			w.edges = append(w.edges, link{e.ID, f, t})
		}
	}
	slices.SortFunc(w.edges, func(a, b link) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.id, b.id))
	})
	for i, e := range w.edges {
		if e.from == e.to || (i > 0 && w.edges[i-1].from == e.from && w.edges[i-1].to == e.to) {
			continue
		}
		w.out[e.from] = append(w.out[e.from], e.to)
		w.in[e.to] = append(w.in[e.to], e.from)
	}
	return w
}

// keep returns the remembered places that are still usable: known nodes, on the grid of columns, not on top of each other.
func (w *work) keep(old map[string]Place) map[int]Place {
	kept := make(map[int]Place, len(old))
	byLayer := map[int][]float64{}
	for i, id := range w.ids {
		p, ok := old[id]
		if !ok || p.Layer < 0 || p.X != w.opt.columnX(p.Layer) || p.Y < 0 {
			continue
		}
		if slices.ContainsFunc(byLayer[p.Layer], func(y float64) bool { return math.Abs(y-p.Y) < w.opt.NodeH+grid }) {
			continue
		}
		byLayer[p.Layer] = append(byLayer[p.Layer], p.Y)
		kept[i] = p
	}
	return kept
}

// placeAround keeps the given places and puts every other node into the free gap nearest its placed neighbours, those with placed
// neighbours first.
func (w *work) placeAround(kept map[int]Place) {
	for i, p := range kept {
		w.place[i] = p
	}
	var todo []int
	for i := range w.ids {
		if _, ok := kept[i]; !ok {
			todo = append(todo, i)
		}
	}
	column := map[int][]float64{}
	for _, p := range kept {
		column[p.Layer] = append(column[p.Layer], p.Y)
	}
	for len(todo) > 0 {
		at := 0 // first node with a placed neighbour, else the first of all
		for k, v := range todo {
			if slices.ContainsFunc(w.in[v], func(u int) bool { _, ok := kept[u]; return ok }) ||
				slices.ContainsFunc(w.out[v], func(u int) bool { _, ok := kept[u]; return ok }) {
				at = k
				break
			}
		}
		v := todo[at]
		todo = slices.Delete(todo, at, at+1)
		layer, sum, n := -1, 0.0, 0
		for _, u := range w.in[v] {
			if p, ok := kept[u]; ok {
				layer, sum, n = max(layer, p.Layer+1), sum+p.Y, n+1
			}
		}
		if layer < 0 {
			lowest := math.MaxInt
			for _, u := range w.out[v] {
				if p, ok := kept[u]; ok {
					lowest, sum, n = min(lowest, p.Layer-1), sum+p.Y, n+1
				}
			}
			if n > 0 {
				layer = lowest
			}
		}
		layer = min(max(layer, 0), w.opt.MaxLayers-1+len(w.ids)/max(1, w.maxRows()))
		want := w.opt.Margin
		if n > 0 {
			want = sum / float64(n)
		}
		p := Place{X: w.opt.columnX(layer), Y: w.freeSlot(column[layer], want), Layer: layer}
		column[layer] = append(column[layer], p.Y)
		kept[v], w.place[v] = p, p
	}
}

// freeSlot returns the y nearest to want at which a node fits between the taken ones.
func (w *work) freeSlot(taken []float64, want float64) float64 {
	step := w.opt.NodeH + w.opt.GapY
	free := func(y float64) bool {
		return y >= w.opt.Margin && !slices.ContainsFunc(taken, func(t float64) bool { return math.Abs(t-y) < step-grid })
	}
	candidates := []float64{snap(max(want, w.opt.Margin)), w.opt.Margin}
	for _, t := range taken {
		candidates = append(candidates, t-step, t+step)
	}
	slices.SortFunc(candidates, func(a, b float64) int {
		return cmp.Or(cmp.Compare(math.Abs(a-want), math.Abs(b-want)), cmp.Compare(a, b))
	})
	for _, y := range candidates {
		if free(y) {
			return y
		}
	}
	return w.opt.Margin // not reached: below the lowest taken slot is always free
}

func snap(y float64) float64 { return math.Floor(y/grid) * grid }

func (w *work) maxRows() int {
	if w.opt.MaxRows > 0 {
		return w.opt.MaxRows
	}
	return max(8, int(math.Ceil(1.4*math.Sqrt(float64(len(w.ids))))))
}
