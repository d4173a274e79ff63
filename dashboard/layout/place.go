package layout

import (
	"cmp"
	"math"
	"slices"
)

// placeFresh is the layered method of Sugiyama, Tagawa and Toda: break cycles, assign layers, order each layer to reduce crossings,
// align.
func (w *work) placeFresh() {
	layer := w.layers(w.backward())
	cells := w.order(layer)
	w.align(cells)
	if w.opt.Bundled {
		w.squeeze()
	}
}

// squeeze brings columns together that were aligned far up or down: where lines are not routed, room between nodes says nothing, and the whole should fit a window. Order
// in columns stays.
func (w *work) squeeze() {
	step := w.opt.NodeH + w.opt.GapY
	columns := map[int][]int{}
	top, bottom, most := math.Inf(1), 0.0, 0
	for v := range w.ids {
		p := w.place[v]
		columns[p.Layer] = append(columns[p.Layer], v)
		top, bottom, most = min(top, p.Y), max(bottom, p.Y), max(most, len(columns[p.Layer]))
	}
	wide := float64(len(columns)) * (w.opt.NodeW + w.opt.GapX)
	room := snap(max(1.4*step*float64(most), wide/1.7))
	if bottom-top <= room {
		return
	}
	for _, list := range columns {
		slices.SortFunc(list, func(a, b int) int { return cmp.Compare(w.place[a].Y, w.place[b].Y) })
		last := math.Inf(-1)
		for _, v := range list {
			p := &w.place[v]
			p.Y = max(w.opt.Margin+snap((p.Y-top)*room/(bottom-top)), last+step)
			last = p.Y
		}
		most := w.opt.Margin + room
		for _, v := range slices.Backward(list) {
			p := &w.place[v]
			p.Y = min(p.Y, most)
			most = p.Y - step
		}
	}
}

// backward marks edges (from, to) that close a cycle, found by depth-first search from the entry points in ID order.
func (w *work) backward() map[[2]int]bool {
	n := len(w.ids)
	back := map[[2]int]bool{}
	state := make([]uint8, n) // 0 new, 1 on the stack, 2 done
	type frame struct{ v, next int }
	visit := func(root int) {
		if state[root] != 0 {
			return
		}
		stack := []frame{{root, 0}}
		state[root] = 1
		for len(stack) > 0 {
			f := &stack[len(stack)-1]
			if f.next == len(w.out[f.v]) {
				state[f.v] = 2
				stack = stack[:len(stack)-1]
				continue
			}
			u := w.out[f.v][f.next]
			f.next++
			switch state[u] {
			case 0:
				state[u] = 1
				stack = append(stack, frame{u, 0})
			case 1:
				back[[2]int{f.v, u}] = true
			}
		}
	}
	for v := range n {
		if len(w.in[v]) == 0 {
			visit(v)
		}
	}
	for v := range n {
		visit(v)
	}
	return back
}

// layers gives every node its column: longest path from an entry point, entry points pulled next to what they call, the whole compressed
// into MaxLayers columns.
func (w *work) layers(back map[[2]int]bool) []int {
	n := len(w.ids)
	layer, indeg := make([]int, n), make([]int, n)
	for v := range n {
		for _, u := range w.out[v] {
			if !back[[2]int{v, u}] {
				indeg[u]++
			}
		}
	}
	roots := make([]bool, n)
	var queue []int
	for v := range n {
		if indeg[v] == 0 {
			roots[v] = true
			queue = append(queue, v)
		}
	}
	deepest := 0
	for len(queue) > 0 {
		v := queue[0]
		queue = queue[1:]
		deepest = max(deepest, layer[v])
		for _, u := range w.out[v] {
			if back[[2]int{v, u}] {
				continue
			}
			layer[u] = max(layer[u], layer[v]+1)
			if indeg[u]--; indeg[u] == 0 {
				queue = append(queue, u)
			}
		}
	}
	for v := range n {
		if !roots[v] || len(w.out[v]) == 0 {
			continue
		}
		nearest := math.MaxInt
		for _, u := range w.out[v] {
			nearest = min(nearest, layer[u])
		}
		layer[v] = max(0, nearest-1)
	}
	if columns := deepest + 1; columns > w.opt.MaxLayers {
		for v := range layer {
			layer[v] = layer[v] * w.opt.MaxLayers / columns
		}
	}
	return layer
}

// cell is one slot of a column: a node, or the lane of an edge that passes through.
type cell struct {
	node   int // -1 for a lane
	up     []int
	down   []int // indices of cells in the next layer
	y, h   float64
	weight float64
}

type column []*cell

// maxLaneEdges bounds the cost of ordering: beyond it long edges do not take part (they are still routed around nodes).
const maxLaneEdges = 1500

// order builds the columns and orders them by barycentre sweeps, keeping the order with the fewest crossings. Columns that are too tall are
// split afterwards.
func (w *work) order(layer []int) []column {
	count := 0
	for _, l := range layer {
		count = max(count, l+1)
	}
	cols := make([]column, count)
	at := make([]int, len(w.ids)) // index in its column
	for v, l := range layer {
		at[v] = len(cols[l])
		cols[l] = append(cols[l], &cell{node: v, h: w.opt.NodeH, weight: 1})
	}
	const laneHeight = 20
	for v := range w.ids {
		for _, u := range w.out[v] {
			a, b := v, u
			if layer[a] > layer[b] {
				a, b = b, a
			}
			if layer[a] == layer[b] || (len(w.edges) > maxLaneEdges && layer[b]-layer[a] > 1) {
				continue
			}
			prev := at[a]
			for l := layer[a] + 1; l < layer[b]; l++ {
				lane := &cell{node: -1, h: laneHeight, weight: 2}
				cols[l] = append(cols[l], lane)
				connect(cols, l-1, prev, len(cols[l])-1)
				prev = len(cols[l]) - 1
			}
			connect(cols, layer[b]-1, prev, at[b])
		}
	}
	best, fewest := ranks(cols), math.MaxInt
	rank := ranks(cols)
	for sweep := range 14 {
		if sweep%2 == 0 {
			for l := 1; l < len(cols); l++ {
				reorder(cols[l], rank[l], rank[l-1], func(c *cell) []int { return c.up })
			}
		} else {
			for l := len(cols) - 2; l >= 0; l-- {
				reorder(cols[l], rank[l], rank[l+1], func(c *cell) []int { return c.down })
			}
		}
		if x := crossings(cols, rank); x < fewest {
			fewest = x
			for l := range rank {
				copy(best[l], rank[l])
			}
			if x == 0 {
				break
			}
		}
	}
	out := make([]column, len(cols))
	for l, col := range cols {
		out[l] = make(column, len(col))
		for i, c := range col {
			out[l][best[l][i]] = c
		}
	}
	w.remap(out, best)
	return w.wrap(out)
}

func connect(cols []column, l, from, to int) {
	cols[l][from].down = append(cols[l][from].down, to)
	cols[l+1][to].up = append(cols[l+1][to].up, from)
}

// ranks is the identity order: rank[l][i] is the position of cell i of column l.
func ranks(cols []column) [][]int {
	r := make([][]int, len(cols))
	for l, col := range cols {
		r[l] = make([]int, len(col))
		for i := range col {
			r[l][i] = i
		}
	}
	return r
}

// reorder sorts one column by the mean position of its neighbours in a fixed column; cells without neighbours stay about where they are.
func reorder(col column, rank, fixed []int, neighbours func(*cell) []int) {
	type key struct {
		i    int
		mean float64
	}
	keys := make([]key, len(col))
	scale := float64(max(1, len(fixed))) / float64(max(1, len(col)))
	for i, c := range col {
		ns := neighbours(c)
		if len(ns) == 0 {
			keys[i] = key{i, float64(rank[i]) * scale}
			continue
		}
		sum := 0.0
		for _, n := range ns {
			sum += float64(fixed[n])
		}
		keys[i] = key{i, sum / float64(len(ns))}
	}
	slices.SortStableFunc(keys, func(a, b key) int { return cmp.Or(cmp.Compare(a.mean, b.mean), cmp.Compare(rank[a.i], rank[b.i])) })
	next := make([]int, len(col))
	for pos, k := range keys {
		next[k.i] = pos
	}
	copy(rank, next)
}

// crossings counts pairs of edges between neighbouring columns that cross, with a Fenwick tree.
func crossings(cols []column, rank [][]int) int {
	total := 0
	for l := 0; l+1 < len(cols); l++ {
		var pairs [][2]int
		for i, c := range cols[l] {
			for _, d := range c.down {
				pairs = append(pairs, [2]int{rank[l][i], rank[l+1][d]})
			}
		}
		slices.SortFunc(pairs, func(a, b [2]int) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
		tree := make([]int, len(cols[l+1])+1)
		for seen, p := range pairs {
			below := 0
			for i := p[1] + 1; i > 0; i -= i & -i {
				below += tree[i]
			}
			total += seen - below
			for i := p[1] + 1; i < len(tree); i += i & -i {
				tree[i]++
			}
		}
	}
	return total
}

// remap rewrites neighbour indices after the columns were reordered.
func (w *work) remap(cols []column, rank [][]int) {
	for l, col := range cols {
		for _, c := range col {
			for i, n := range c.up {
				c.up[i] = rank[l-1][n]
			}
			for i, n := range c.down {
				c.down[i] = rank[l+1][n]
			}
		}
	}
}

// wrap splits columns with too many nodes into neighbouring ones. Neighbour lists are dropped then (alignment of huge columns would not
// be readable anyway); columns that fit keep theirs.
func (w *work) wrap(cols []column) []column {
	limit := w.maxRows()
	tall := false
	for _, col := range cols {
		nodes := 0
		for _, c := range col {
			if c.node >= 0 {
				nodes++
			}
		}
		tall = tall || nodes > limit
	}
	if !tall {
		return cols
	}
	var out []column
	for _, col := range cols {
		var nodes column
		for _, c := range col {
			if c.node >= 0 {
				c.up, c.down = nil, nil
				nodes = append(nodes, c)
			}
		}
		parts := max(1, (len(nodes)+limit-1)/limit)
		size := (len(nodes) + parts - 1) / parts
		for chunk := range slices.Chunk(nodes, max(1, size)) {
			out = append(out, slices.Clone(chunk))
		}
	}
	return out
}

// align gives every cell its y: start stacked and centred, then alternately pull every column towards the mean of its neighbours on one
// side. Each pull is solved exactly, so order and separation always hold.
func (w *work) align(cols []column) {
	sep := func(a, b *cell) float64 { return a.h + w.gap(a, b) }
	tallest := 0.0
	for _, col := range cols {
		y := 0.0
		for i, c := range col {
			if i > 0 {
				y += sep(col[i-1], c)
			}
			c.y = y
		}
		if n := len(col); n > 0 {
			tallest = max(tallest, y+col[n-1].h)
		}
	}
	for _, col := range cols {
		if n := len(col); n > 0 {
			shift := (tallest - (col[n-1].y + col[n-1].h)) / 2
			for _, c := range col {
				c.y += shift
			}
		}
	}
	pull := func(col, other column, neighbours func(*cell) []int) {
		want := make([]float64, len(col))
		for i, c := range col {
			ns := neighbours(c)
			if len(ns) == 0 {
				want[i] = c.y
				continue
			}
			sum := 0.0
			for _, n := range ns {
				sum += other[n].y + other[n].h/2
			}
			want[i] = sum/float64(len(ns)) - c.h/2
		}
		separate(col, want, sep)
	}
	for range 10 {
		for l := 1; l < len(cols); l++ {
			pull(cols[l], cols[l-1], func(c *cell) []int { return c.up })
		}
		for l := len(cols) - 2; l >= 0; l-- {
			pull(cols[l], cols[l+1], func(c *cell) []int { return c.down })
		}
	}
	top := math.Inf(1)
	for _, col := range cols {
		for _, c := range col {
			top = min(top, c.y)
		}
	}
	for l, col := range cols {
		for _, c := range col {
			if c.node >= 0 {
				w.place[c.node] = Place{X: w.opt.columnX(l), Y: snap(c.y-top) + w.opt.Margin, Layer: l}
			}
		}
	}
}

// gap is the free space between two neighbours of a column, a multiple of grid so that snapping keeps it.
func (w *work) gap(a, b *cell) float64 {
	if a.node < 0 && b.node < 0 {
		return 0
	}
	if a.node < 0 || b.node < 0 {
		return snap(w.opt.GapY / 2)
	}
	return snap(w.opt.GapY)
}

// separate moves the cells of a column as near to want as their order and separation allow (least squares, by pooling adjacent
// violators).
func separate(col column, want []float64, sep func(a, b *cell) float64) {
	type block struct {
		sum, weight float64
		n           int
	}
	offset := make([]float64, len(col))
	var blocks []block
	for i, c := range col {
		if i > 0 {
			offset[i] = offset[i-1] + sep(col[i-1], c)
		}
		blocks = append(blocks, block{(want[i] - offset[i]) * c.weight, c.weight, 1})
		for len(blocks) > 1 {
			a, b := blocks[len(blocks)-2], blocks[len(blocks)-1]
			if a.sum/a.weight <= b.sum/b.weight {
				break
			}
			blocks = append(blocks[:len(blocks)-2], block{a.sum + b.sum, a.weight + b.weight, a.n + b.n})
		}
	}
	i := 0
	for _, b := range blocks {
		for range b.n {
			col[i].y = b.sum/b.weight + offset[i]
			i++
		}
	}
}
