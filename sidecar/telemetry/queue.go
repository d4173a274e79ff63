package telemetry

import (
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// batch is one encoded request body with the sequence that it keeps however often it is sent. The queue owns a reference of the body; the
// transport holds others as long as it may still read it, and the memory is used again when the last is freed.
type batch struct {
	sequence uint64
	body     mem.Buffer
	records  int
}

// bodies recycles the memory of batches. Without it a sidecar under load would collect garbage all the time, for the sake of bytes that live
// for a few milliseconds.
type bodies struct {
	pool  sync.Pool
	bytes int // of a Record in the latest body
}

// encode is the body of recs, which has at least half its length in use. Not for concurrent use.
func (s *bodies) encode(recs []flow.Record) mem.Buffer {
	b := s.Get(len(recs)*s.bytes + len(recs)*s.bytes/16)
	*b = flow.AppendSpanBody((*b)[:0], recs)
	s.bytes = len(*b) / len(recs)
	if cap(*b)/2 > len(*b) {
		fits := s.Get(len(*b))
		copy(*fits, *b)
		s.Put(b)
		b = fits
	}
	return mem.NewBuffer(b, s)
}

// Get implements mem.BufferPool. What it gives is at most twice as large as asked for: bodies may wait for long, and the queue counts their
// length.
func (s *bodies) Get(n int) *[]byte {
	if b, ok := s.pool.Get().(*[]byte); ok && cap(*b) >= n && cap(*b)/2 <= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, n+n/8)
	return &b
}

// Put implements mem.BufferPool.
func (s *bodies) Put(b *[]byte) { s.pool.Put(b) }

// queue holds span batches until the observer has acknowledged them: bounded in bytes and in batches. When it is full the oldest batches that
// are not being sent are dropped, for what happened last explains most; the hole in the sequence tells the observer. The caller counts what
// push returns.
type queue struct {
	mu         sync.Mutex
	items      []batch
	bytes      int
	sending    bool // items[0] is being sent and must stay
	maxBytes   int
	maxBatches int
	more       chan struct{} // told after a push
}

func newQueue(maxBytes, maxBatches int) *queue {
	return &queue{maxBytes: maxBytes, maxBatches: maxBatches, more: make(chan struct{}, 1)}
}

// push adds b at the end and returns how many records had to go for it (b's own, when it fits nowhere).
func (q *queue) push(b batch) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := 0
	if q.sending {
		first = 1
	}
	for len(q.items) > first && (q.bytes+b.body.Len() > q.maxBytes || len(q.items) >= q.maxBatches) {
		old := q.items[first]
		dropped += old.records
		q.bytes -= old.body.Len()
		old.body.Free()
		q.items = append(q.items[:first], q.items[first+1:]...)
	}
	if q.bytes+b.body.Len() > q.maxBytes || len(q.items) >= q.maxBatches {
		b.body.Free()
		return dropped + b.records
	}
	q.items = append(q.items, b)
	q.bytes += b.body.Len()
	tell(q.more)
	return dropped
}

// next is the oldest batch, which stays in the queue until done; so does its body.
func (q *queue) next() (batch, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return batch{}, false
	}
	q.sending = true
	return q.items[0], true
}

// done removes the batch that next returned.
func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= q.items[0].body.Len()
	q.items[0].body.Free()
	q.items[0] = batch{}
	q.items = q.items[1:]
	q.sending = false
}

// drop empties the queue and returns how many records were in it.
func (q *queue) drop() (records int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range q.items {
		records += b.records
		b.body.Free()
	}
	q.items, q.bytes, q.sending = nil, 0, false
	return records
}

func (q *queue) size() (bytes, batches int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes, len(q.items)
}
