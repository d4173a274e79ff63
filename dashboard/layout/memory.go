package layout

import (
	"math"
	"sync"
	"time"
)

// Memory remembers where nodes were drawn, so that a graph that changes keeps its shape. While the graph is younger than Settle the
// drawing starts over with each structural change: a mesh that is just being discovered has no shape to keep. Safe for concurrent use.
type Memory struct {
	// Settle is how long after the first drawing it may still start over; 0 means at once fixed.
	Settle time.Duration

	mu     sync.Mutex
	first  time.Time
	places map[string]Place
	last   Graph
	turned bool
	drawn  *Drawing
}

// maxRemembered bounds the memory; beyond it only the nodes of the current graph are remembered.
const maxRemembered = 5000

// Draw returns the drawing of g at the time now. The result is shared: do not change it. All drawings of one Memory have the same sizes in their Options.
func (m *Memory) Draw(g Graph, now time.Time, opt Options) *Drawing {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.drawn != nil && same(m.last, g) {
		return m.drawn
	}
	if m.first.IsZero() && len(g.Nodes) > 0 {
		m.first = now
	}
	old := m.places
	if now.Sub(m.first) < m.Settle {
		old = nil
	}
	opt.Vertical = m.turned
	d := Redraw(g, old, m.drawn, opt)
	if d.Fresh && !opt.Bundled {
		d, m.turned = orient(g, d, opt)
	}
	if m.places == nil || d.Fresh || len(m.places) > maxRemembered {
		m.places = make(map[string]Place, len(d.Nodes))
	}
	for id, p := range d.Nodes {
		m.places[id] = p
	}
	m.vacate(&d, opt)
	m.last, m.drawn = g, &d
	return &d
}

// vacate forgets the places of nodes that are gone where another stands now: who comes back gives way to who stayed.
func (m *Memory) vacate(d *Drawing, opt Options) {
	if len(m.places) == len(d.Nodes) {
		return
	}
	opt = opt.withDefaults()
	for id, p := range m.places {
		if _, here := d.Nodes[id]; here {
			continue
		}
		for _, q := range d.Nodes {
			if p.Layer == q.Layer && math.Abs(p.X-q.X) < opt.NodeW+grid && math.Abs(p.Y-q.Y) < opt.NodeH+grid {
				delete(m.places, id)
				break
			}
		}
	}
}

// wide is the width up to which a drawing is read comfortably beside the panel of events.
const wide = 1280

// orient chooses the direction of a fresh drawing: from left to right while that is not too wide, else whichever way is narrower.
func orient(g Graph, d Drawing, opt Options) (Drawing, bool) {
	other := opt
	other.Vertical = !opt.Vertical
	across, down := d, Compute(g, nil, other)
	if opt.Vertical {
		across, down = down, across
	}
	if across.Width > wide && down.Width < across.Width {
		return down, true
	}
	return across, false
}

// Forget makes the next drawing start over ("tidy").
func (m *Memory) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.places, m.drawn = nil, nil
}

func same(a, b Graph) bool {
	if len(a.Nodes) != len(b.Nodes) || len(a.Edges) != len(b.Edges) {
		return false
	}
	for i := range a.Nodes {
		if a.Nodes[i] != b.Nodes[i] {
			return false
		}
	}
	for i := range a.Edges {
		if a.Edges[i] != b.Edges[i] {
			return false
		}
	}
	return true
}
