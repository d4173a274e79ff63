package telemetry

import (
	"sync"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// A chunk is full, and makes a batch, at chunkRecords Records or chunkText bytes of request text, whichever comes first.
const (
	chunkRecords = 512
	chunkText    = 256 << 10
)

// Longest texts kept, in bytes. Views cut further; this bounds the ring.
const (
	keepPath = 1024
	keepText = 512
)

// chunk is Records with the texts that alias the data path's buffers copied aside: one copy into text per Record, and one string per chunk
// in place of seven per Record.
type chunk struct {
	n    int
	recs [chunkRecords]flow.Record
	ends [chunkRecords][borrowed]uint32 // where each text of a Record ends in text
	text []byte
}

const borrowed = 7

// borrowedTexts are the fields that flow.Recorder declares borrowed.
func borrowedTexts(r *flow.Record) [borrowed]*string {
	return [...]*string{&r.Method, &r.Path, &r.Authority, &r.UserAgent, &r.RequestID, &r.Detail, (*string)(&r.Headers)}
}

func (c *chunk) add(r *flow.Record) {
	kept := &c.recs[c.n]
	*kept = *r
	for i, s := range borrowedTexts(kept) {
		limit := keepText
		switch i {
		case 1:
			limit = keepPath
		case 6:
			limit = flow.MaxHeaders
		}
		c.text = append(c.text, (*s)[:min(len(*s), limit)]...)
		c.ends[c.n][i] = uint32(len(c.text))
		*s = ""
	}
	c.n++
}

func (c *chunk) full() bool { return c.n == chunkRecords || len(c.text) >= chunkText }

// records gives the texts back and returns the Records, which are valid until release.
func (c *chunk) records() []flow.Record {
	text, from := unsafe.String(unsafe.SliceData(c.text), len(c.text)), uint32(0)
	for i := range c.n {
		for k, s := range borrowedTexts(&c.recs[i]) {
			*s = text[from:c.ends[i][k]]
			from = c.ends[i][k]
		}
	}
	return c.recs[:c.n]
}

// chunks are reused; an idle sidecar gives them back to the garbage collector.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

func (c *chunk) release() {
	clear(c.recs[:c.n]) // let go of the strings
	c.n, c.text = 0, c.text[:0]
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
	g.cur.add(r)
	first, full := g.cur.n == 1, g.cur.full()
	if full {
		g.full = append(g.full, g.cur)
		g.cur = nil
	}
	g.mu.Unlock()
	switch {
	case full:
		tell(g.now)
	case first:
		tell(g.some)
	}
	return true
}

// take hands over the full chunks, oldest first, and the one being filled too if all is set.
func (g *ring) take(all bool) []*chunk {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.full
	g.full = nil
	if g.cur != nil && all {
		out = append(out, g.cur)
		g.cur = nil
	}
	return out
}

// empty reports whether nothing waits.
func (g *ring) empty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cur == nil && len(g.full) == 0
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
