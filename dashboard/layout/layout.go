// Package layout draws a service graph as layers from left to right: callers left, callees right. It is pure and deterministic: the same
// graph and the same remembered places give the same drawing, byte for byte.
//
// Compute runs in two phases that know nothing of each other. Placement gives every node a rectangle: fresh (cycle breaking, capped
// longest-path layers, barycentre ordering, exact one-dimensional alignment) or, when most nodes have a remembered place, by leaving those where
// they are and putting each new node into the free gap nearest its neighbours. Routing then draws every edge around the rectangles and
// looks for a place for its label. A drawing that is Bundled has no routes: hundreds of lines are told apart by where they end, not by how
// they go around others, so who shows it draws them as Curve says.
//
// What must stay true, and is tested: no two nodes overlap; a label marked as fitting overlaps no node and no other such label; a node with
// a remembered place does not move unless the drawing is fresh; a line whose ends stay and that nothing new stands in the way of stays too.
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
	Edges         map[string]Route // nil of a Bundled one
	Fresh         bool             // placement started over
	Vertical      bool             // callers stand above callees

	lines map[string]line // how Edges were drawn, for the next drawing
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
	// Bundled leaves the lines to who shows the drawing (Curve); it is for graphs of many nodes.
	Bundled bool
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
func Compute(g Graph, old map[string]Place, opt Options) Drawing { return Redraw(g, old, nil, opt) }

// Redraw is Compute where the drawing before is known: lines of it that still fit are taken over. last may be nil; it must have been made with the same
// sizes and is only read.
func Redraw(g Graph, old map[string]Place, last *Drawing, opt Options) Drawing {
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
	d := Drawing{Nodes: make(map[string]Place, len(w.ids)), Vertical: opt.Vertical}
	kept := w.keep(old)
	count := 0
	for _, k := range kept {
		if k {
			count++
		}
	}
	if count == 0 || 2*count < len(w.ids) {
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
	if !opt.Bundled {
		if d.Fresh {
			last = nil
		}
		w.route(&d, last)
	}
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
	w := &work{opt: opt, index: make(map[string]int, len(g.Nodes)), ids: make([]string, 0, len(g.Nodes)), edges: make([]link, 0, len(g.Edges))}
	for _, n := range g.Nodes {
		w.ids = append(w.ids, n.ID)
	}
	if !slices.IsSorted(w.ids) {
		slices.Sort(w.ids)
	}
	w.ids = slices.Compact(w.ids)
	for i, id := range w.ids {
		w.index[id] = i
	}
	n := len(w.ids)
	w.place = make([]Place, n)
	from, fromIndex := "", -1
	for i, e := range g.Edges {
		if e.From != from || i == 0 {
			from = e.From
			var ok bool
			if fromIndex, ok = w.index[from]; !ok {
				fromIndex = -1
			}
		}
		if t, ok := w.index[e.To]; ok && fromIndex >= 0 {
			w.edges = append(w.edges, link{e.ID, fromIndex, t})
		}
	}
	order := func(a, b link) int { return cmp.Or(a.from-b.from, a.to-b.to, cmp.Compare(a.id, b.id)) }
	if !slices.IsSortedFunc(w.edges, order) {
		slices.SortFunc(w.edges, order)
	}
	w.out, w.in = w.neighbours()
	return w
}

// neighbours are the callees and the callers of every node, each once and in the order of nodes.
func (w *work) neighbours() (out, in [][]int) {
	n := len(w.ids)
	single := func(i int) bool { // not a loop, and not the same as the edge before
		e := &w.edges[i]
		return e.from != e.to && (i == 0 || w.edges[i-1].from != e.from || w.edges[i-1].to != e.to)
	}
	outs, ins, total := make([]int, n), make([]int, n), 0
	for i := range w.edges {
		if single(i) {
			outs[w.edges[i].from]++
			ins[w.edges[i].to]++
			total++
		}
	}
	flat := make([]int, 2*total)
	cut := func(counts []int) [][]int {
		lists := make([][]int, n)
		for v, c := range counts {
			lists[v], flat = flat[:0:c], flat[c:]
		}
		return lists
	}
	out, in = cut(outs), cut(ins)
	for i := range w.edges {
		if e := &w.edges[i]; single(i) {
			out[e.from] = append(out[e.from], e.to)
			in[e.to] = append(in[e.to], e.from)
		}
	}
	return out, in
}

// keep takes over the remembered places that are still usable: known nodes, on the grid of columns, not on top of each other; it reports which.
func (w *work) keep(old map[string]Place) []bool {
	kept := make([]bool, len(w.ids))
	if len(old) == 0 {
		return kept
	}
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
		kept[i], w.place[i] = true, p
	}
	return kept
}

// placeAround keeps the given places and puts every other node into the free gap nearest its placed neighbours, those with placed
// neighbours first.
func (w *work) placeAround(kept []bool) {
	var todo []int
	column := map[int][]float64{}
	for i, k := range kept {
		if k {
			column[w.place[i].Layer] = append(column[w.place[i].Layer], w.place[i].Y)
		} else {
			todo = append(todo, i)
		}
	}
	placed := func(u int) bool { return kept[u] }
	for len(todo) > 0 {
		at := 0 // first node with a placed neighbour, else the first of all
		for k, v := range todo {
			if slices.ContainsFunc(w.in[v], placed) || slices.ContainsFunc(w.out[v], placed) {
				at = k
				break
			}
		}
		v := todo[at]
		todo = slices.Delete(todo, at, at+1)
		layer, sum, n := -1, 0.0, 0
		for _, u := range w.in[v] {
			if kept[u] {
				layer, sum, n = max(layer, w.place[u].Layer+1), sum+w.place[u].Y, n+1
			}
		}
		if layer < 0 {
			lowest := math.MaxInt
			for _, u := range w.out[v] {
				if kept[u] {
					lowest, sum, n = min(lowest, w.place[u].Layer-1), sum+w.place[u].Y, n+1
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
		kept[v], w.place[v] = true, p
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
	rows := 1.4
	if w.opt.Bundled {
		rows = 1.9 // it is seen as a whole, in a window that is not that much wider than high
	}
	return max(8, int(math.Ceil(rows*math.Sqrt(float64(len(w.ids))))))
}
