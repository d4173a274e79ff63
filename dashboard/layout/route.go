package layout

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// clearance is how far a line stays from a node it passes; lanePitch how far apart lines in one gap run.
const (
	clearance = 8
	lanePitch = 6
)

// path is an edge's line as a list of cubic pieces, kept to find places for the label.
type path struct {
	turned bool // swap the axes on the way out
	data   []byte
	pieces [][4]Point // cubic pieces between columns
}

func (p *path) move(a Point) { p.data = append(p.data, 'M'); p.point(a) }
func (p *path) line(a Point) { p.data = append(p.data, 'L'); p.point(a) }
func (p *path) cubic(a, b, c, d Point) {
	p.data = append(p.data, 'C')
	p.point(b)
	p.data = append(p.data, ' ')
	p.point(c)
	p.data = append(p.data, ' ')
	p.point(d)
	p.pieces = append(p.pieces, [4]Point{a, b, c, d})
}

func (p *path) point(a Point) {
	if p.turned {
		a = Point{a.Y, a.X}
	}
	p.data = strconv.AppendFloat(p.data, math.Round(a.X*10)/10, 'f', -1, 64)
	p.data = append(p.data, ' ')
	p.data = strconv.AppendFloat(p.data, math.Round(a.Y*10)/10, 'f', -1, 64)
}

func bezier(c [4]Point, t float64) Point {
	u := 1 - t
	a, b, d, e := u*u*u, 3*u*u*t, 3*u*t*t, t*t*t
	return Point{a*c[0].X + b*c[1].X + d*c[2].X + e*c[3].X, a*c[0].Y + b*c[1].Y + d*c[2].Y + e*c[3].Y}
}

// line is how an edge was drawn: what its path rests on, so that the next drawing can tell whether it still holds. Never turned.
type line struct {
	from, to   Point
	layers     [2]int
	pieces     [][4]Point
	lanes      []float64 // by columns passed
	labelPlace Point
}

// holds reports whether a line still fits between the same ends with nothing of fresh in its way.
func (l *line) holds(from, to Point, a, b Place, fresh []Place, w *work) bool {
	if l.from != from || l.to != to || l.layers != [2]int{a.Layer, b.Layer} {
		return false
	}
	for _, n := range fresh {
		x0, y0, x1, y1 := n.X-clearance, n.Y-clearance, n.X+w.opt.NodeW+clearance, n.Y+w.opt.NodeH+clearance
		if lw, lh := w.opt.LabelW/2+2, w.opt.LabelH/2+2; l.labelPlace.X+lw > n.X && l.labelPlace.X-lw < n.X+w.opt.NodeW && l.labelPlace.Y+lh > n.Y && l.labelPlace.Y-lh < n.Y+w.opt.NodeH {
			return false
		}
		for i, c := range l.pieces {
			end := c[3]
			if i+1 < len(l.pieces) {
				end = l.pieces[i+1][0] // and straight on through the column
			}
			left, right, top, bottom := min(c[0].X, c[1].X, c[2].X, end.X), max(c[0].X, c[1].X, c[2].X, end.X), min(c[0].Y, c[3].Y, end.Y), max(c[0].Y, c[3].Y, end.Y)
			if left < x1 && right > x0 && top < y1 && bottom > y0 {
				return false
			}
		}
	}
	return true
}

// route draws every edge and places labels, in the edges' order. Lines of last that hold are taken over.
func (w *work) route(d, last *Drawing) {
	d.Edges, d.lines = make(map[string]Route, len(w.edges)), make(map[string]line, len(w.edges))
	type ends struct{ from, to Point }
	pts := make([]ends, len(w.edges))
	w.ports(func(i int, from, to Point) { pts[i] = ends{from, to} })
	columns := map[int][]float64{} // sorted tops
	for _, p := range w.place {
		columns[p.Layer] = append(columns[p.Layer], p.Y)
	}
	for l := range columns {
		slices.Sort(columns[l])
	}
	lanes := map[int]map[int][]float64{} // by column, then by y in steps of lanePitch
	lanesOf := func(l int) map[int][]float64 {
		if lanes[l] == nil {
			lanes[l] = map[int][]float64{}
		}
		return lanes[l]
	}
	taken := &labels{w: w.opt.LabelW + 2, h: w.opt.LabelH + 2, at: map[[2]int][]Point{}}
	keep := func(id string, l line, r Route) {
		d.Edges[id], d.lines[id] = r, l
		if r.Fits {
			taken.add(l.labelPlace)
		}
		for _, c := range l.pieces {
			for _, q := range c {
				d.Width, d.Height = max(d.Width, q.X+w.opt.Margin), max(d.Height, q.Y+w.opt.Margin)
			}
		}
	}
	var fresh []Place
	if last != nil {
		for i, id := range w.ids {
			p := w.place[i]
			if w.opt.Vertical {
				p = p.turned()
			}
			if was, ok := last.Nodes[id]; !ok || was != p {
				fresh = append(fresh, w.place[i])
			}
		}
	}
	var todo []int
	for i, e := range w.edges {
		if last != nil {
			a, b := w.place[e.from], w.place[e.to]
			if l, ok := last.lines[e.id]; ok && l.holds(pts[i].from, pts[i].to, a, b, fresh, w) {
				step := 1
				if b.Layer < a.Layer {
					step = -1
				}
				for k, y := range l.lanes {
					used := lanesOf(a.Layer + step*(k+1))
					used[laneBucket(y)] = append(used[laneBucket(y)], y)
				}
				keep(e.id, l, last.Edges[e.id])
				continue
			}
		}
		todo = append(todo, i)
	}
	paths := make([]path, len(w.edges))
	drawn := make([]line, len(w.edges))
	for _, i := range todo {
		e := w.edges[i]
		a, b := w.place[e.from], w.place[e.to]
		p := &paths[i]
		p.turned = w.opt.Vertical
		from, to := pts[i].from, pts[i].to
		drawn[i] = line{from: from, to: to, layers: [2]int{a.Layer, b.Layer}}
		p.move(from)
		switch {
		case e.from == e.to:
			r := w.opt.GapX / 4
			p.cubic(from, Point{from.X + r, from.Y}, Point{to.X + r, to.Y}, to)
		case a.Layer == b.Layer:
			r := w.opt.GapX * 0.6
			p.cubic(from, Point{from.X + r, from.Y}, Point{to.X + r, to.Y}, to)
		default:
			step := 1
			if b.Layer < a.Layer {
				step = -1
			}
			at := from
			for l := a.Layer + step; l != b.Layer; l += step {
				x0 := w.opt.columnX(l)
				x1 := x0 + w.opt.NodeW
				if step < 0 {
					x0, x1 = x1, x0
				}
				straight := from.Y + (to.Y-from.Y)*(x0-from.X)/(to.X-from.X)
				y := w.lane(columns[l], lanesOf(l), straight)
				drawn[i].lanes = append(drawn[i].lanes, y)
				p.curve(at, Point{x0, y})
				p.line(Point{x1, y})
				at = Point{x1, y}
			}
			p.curve(at, to)
		}
		drawn[i].pieces = p.pieces
	}
	for _, i := range todo {
		label, fits := w.label(&paths[i], columns, taken)
		drawn[i].labelPlace = label
		if w.opt.Vertical {
			label = Point{label.Y, label.X}
		}
		keep(w.edges[i].id, drawn[i], Route{Path: string(paths[i].data), Label: label, Fits: fits})
	}
}

func (p *path) curve(a, b Point) {
	h := (b.X - a.X) * 0.5
	p.cubic(a, Point{a.X + h, a.Y}, Point{b.X - h, b.Y}, b)
}

// ports spreads the ends of edges along the sides of each node, ordered by where they lead so that they do not cross at the node.
func (w *work) ports(set func(edge int, from, to Point)) {
	type end struct {
		edge  int
		first bool
		other float64 // y of the node at the other end
	}
	left, right := make([][]end, len(w.ids)), make([][]end, len(w.ids))
	for i, e := range w.edges {
		a, b := w.place[e.from], w.place[e.to]
		switch {
		case e.from == e.to:
			right[e.from] = append(right[e.from], end{i, true, math.Inf(-1)}, end{i, false, math.Inf(-1)})
		case a.Layer < b.Layer:
			right[e.from] = append(right[e.from], end{i, true, b.Y})
			left[e.to] = append(left[e.to], end{i, false, a.Y})
		case a.Layer > b.Layer:
			left[e.from] = append(left[e.from], end{i, true, b.Y})
			right[e.to] = append(right[e.to], end{i, false, a.Y})
		default:
			right[e.from] = append(right[e.from], end{i, true, b.Y})
			right[e.to] = append(right[e.to], end{i, false, a.Y})
		}
	}
	type ends struct{ from, to Point }
	got := make([]ends, len(w.edges))
	spread := func(v int, side []end, x float64) {
		slices.SortStableFunc(side, func(a, b end) int { return cmp.Or(cmp.Compare(a.other, b.other), cmp.Compare(a.edge, b.edge)) })
		pitch := min(w.opt.NodeH/5, (w.opt.NodeH-16)/float64(max(1, len(side))))
		y := w.place[v].Y + w.opt.NodeH/2 - pitch*float64(len(side)-1)/2
		for k, e := range side {
			pt := Point{x, y + pitch*float64(k)}
			if e.first {
				got[e.edge].from = pt
			} else {
				got[e.edge].to = pt
			}
		}
	}
	for v := range w.ids {
		spread(v, left[v], w.place[v].X)
		spread(v, right[v], w.place[v].X+w.opt.NodeW)
	}
	for i, g := range got {
		set(i, g.from, g.to)
	}
}

func laneBucket(y float64) int { return int(math.Floor(y / lanePitch)) }

// lane returns the y nearest to want at which a line passes a column without touching a node, apart from lines already there if the gap
// has room.
func (w *work) lane(tops []float64, used map[int][]float64, want float64) float64 {
	inside := func(y float64) bool {
		i, _ := slices.BinarySearch(tops, y-w.opt.NodeH-clearance)
		return i < len(tops) && tops[i] < y+clearance
	}
	crowded := func(y float64) bool {
		k := laneBucket(y)
		for _, list := range [3][]float64{used[k-1], used[k], used[k+1]} {
			if slices.ContainsFunc(list, func(u float64) bool { return math.Abs(u-y) < lanePitch-0.01 }) {
				return true
			}
		}
		return false
	}
	take := func(y float64) float64 {
		if k := laneBucket(y); len(used[k]) < 4 { // more would say nothing new
			used[k] = append(used[k], y)
		}
		return y
	}
	shared, foundAt := want, -1
	for k := range 1000 {
		if foundAt >= 0 && k > foundAt+3 {
			break // the gap is full: share its first lane
		}
		for _, y := range [2]float64{want + float64(k)*lanePitch, want - float64(k)*lanePitch} {
			if y < lanePitch || inside(y) {
				continue
			}
			if foundAt < 0 {
				shared, foundAt = y, k
			}
			if !crowded(y) && math.Abs(y-shared) < 3*lanePitch {
				return take(y)
			}
		}
	}
	return take(shared)
}

// labelAt are the places along a piece of line that are tried for a label, best first.
var labelAt = [...]float64{0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8}

// labelAside are the distances from the line, in label heights, at which a label still belongs to it.
var labelAside = [...]float64{0, 0.3, -0.3, 0.45, -0.45}

func (w *work) label(p *path, columns map[int][]float64, taken *labels) (Point, bool) {
	free := func(c Point) bool {
		if c.Y < w.opt.LabelH/2+2 {
			return false
		}
		if taken.touches(c) {
			return false
		}
		pitch := w.opt.NodeW + w.opt.GapX
		for l := int((c.X-w.opt.LabelW/2-w.opt.Margin)/pitch) - 1; l <= int((c.X+w.opt.LabelW/2-w.opt.Margin)/pitch)+1; l++ {
			x := w.opt.columnX(l)
			if c.X+w.opt.LabelW/2+2 <= x || c.X-w.opt.LabelW/2-2 >= x+w.opt.NodeW {
				continue
			}
			tops := columns[l]
			first, _ := slices.BinarySearch(tops, c.Y-w.opt.LabelH/2-2-w.opt.NodeH)
			for _, y := range tops[first:] {
				if y >= c.Y+w.opt.LabelH/2+2 {
					break
				}
				if c.Y-w.opt.LabelH/2-2 < y+w.opt.NodeH {
					return false
				}
			}
		}
		return true
	}
	aside := labelAside[:]
	if len(w.edges) > maxLaneEdges {
		aside = aside[:1]
	}
	for _, aside := range aside {
		for i := len(p.pieces) - 1; i >= 0; i-- {
			for _, t := range labelAt {
				c := bezier(p.pieces[i], t)
				c.Y += aside * w.opt.LabelH
				if c = round(c); free(c) {
					return c, true
				}
			}
		}
	}
	return round(bezier(p.pieces[len(p.pieces)-1], 0.5)), false
}

// labels are the placed labels, by cells of one label's size.
type labels struct {
	w, h float64
	at   map[[2]int][]Point
}

func (l *labels) cell(p Point) [2]int {
	return [2]int{int(math.Floor(p.X / l.w)), int(math.Floor(p.Y / l.h))}
}

func (l *labels) add(p Point) { c := l.cell(p); l.at[c] = append(l.at[c], p) }

func (l *labels) touches(p Point) bool {
	c := l.cell(p)
	for dx := -1; dx <= 1; dx++ {
		for dy := -1; dy <= 1; dy++ {
			for _, t := range l.at[[2]int{c[0] + dx, c[1] + dy}] {
				if math.Abs(t.X-p.X) < l.w && math.Abs(t.Y-p.Y) < l.h {
					return true
				}
			}
		}
	}
	return false
}

func round(p Point) Point { return Point{math.Round(p.X), math.Round(p.Y)} }

// Curve is the line of an edge of a Bundled drawing, from the right side of a node to the left side of another, both at half height: all lines to a
// node end in one point and come together before it. A cubic: from, two handles, to.
func (d *Drawing) Curve(from, to string, opt Options) [4]Point {
	opt = opt.withDefaults()
	a, b := d.Nodes[from], d.Nodes[to]
	if d.Vertical {
		p, q := Point{a.X + opt.NodeW/2, a.Y + opt.NodeH}, Point{b.X + opt.NodeW/2, b.Y}
		h := bend(q.Y-p.Y, opt.GapY)
		return [4]Point{p, {p.X, p.Y + h}, {q.X, q.Y - h}, q}
	}
	p, q := Point{a.X + opt.NodeW, a.Y + opt.NodeH/2}, Point{b.X, b.Y + opt.NodeH/2}
	h := bend(q.X-p.X, opt.GapX)
	return [4]Point{p, {p.X + h, p.Y}, {q.X - h, q.Y}, q}
}

// CurveRoute is the same as a Route; its label is at the middle, and said not to fit.
func (d *Drawing) CurveRoute(from, to string, opt Options) Route {
	c := d.Curve(from, to, opt)
	p := path{}
	p.move(c[0])
	p.cubic(c[0], c[1], c[2], c[3])
	return Route{Path: string(p.data), Label: round(bezier(c, 0.5))}
}

// bend is how far the handles of a curve stand out: half of the way, and enough to be seen to turn back where the other end lies behind.
func bend(way, gap float64) float64 { return max(way/2, gap*0.6) }
