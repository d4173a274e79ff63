package telemetry

import (
	"sync"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// chunkRecords is how many Records make a full batch.
const chunkRecords = 512

type chunk struct {
	n    int
	recs [chunkRecords]flow.Record
}

// chunks are reused; an idle sidecar gives them back to the garbage collector.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

func (c *chunk) release() {
	clear(c.recs[:c.n]) // let go of the strings
	c.n = 0
	chunks.Put(c)
}

// ring is where Records wait for the encoder: one chunk being filled and at most limit full ones. When all are full, new Records are
// refused (and counted by the caller): the data path never waits.
type ring struct {
	mu     sync.Mutex
	cur    *chunk
	full   []*chunk
	limit  int
	closed bool

	some chan struct{} // told when the first Record of a chunk arrives
	now  chan struct{} // told when a chunk is full
}

func newRing(limit int) *ring {
	return &ring{limit: limit, some: make(chan struct{}, 1), now: make(chan struct{}, 1)}
}

// add copies r in; false when there is no room.
func (g *ring) add(r *flow.Record) bool {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return false
	}
	if g.cur == nil {
		if len(g.full) >= g.limit {
			g.mu.Unlock()
			return false
		}
		g.cur = chunks.Get().(*chunk)
	}
	g.cur.recs[g.cur.n] = *r
	g.cur.n++
	n := g.cur.n
	if n == chunkRecords {
		g.full = append(g.full, g.cur)
		g.cur = nil
	}
	g.mu.Unlock()
	switch n {
	case 1:
		tell(g.some)
	case chunkRecords:
		tell(g.now)
	}
	return true
}

// take hands over everything, oldest first.
func (g *ring) take() []*chunk {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.full
	g.full = nil
	if g.cur != nil {
		out = append(out, g.cur)
		g.cur = nil
	}
	return out
}

// close makes add refuse from now on.
func (g *ring) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
