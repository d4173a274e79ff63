package http2

import (
	"sync"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	smallChunk = 1 << 10 // part of the call
	chunkSize  = 16 << 10
	// maxReplay is how much of a request's body is kept, so that it can be sent again.
	maxReplay = 64 << 10
)

var chunkPool = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// queue is bytes that have arrived and not gone on, and, while keep is set, those that have gone on before them. It belongs to its call's lock.
type queue struct {
	small  [smallChunk]byte
	chunks [][]byte // len: filled; the first one may be small
	at     int      // chunk of the next byte to go on
	off    int      // and its place there
	unsent int
	total  int // bytes in chunks
	keep   bool
	lost   bool // something has gone on that is not kept: q cannot go on from its beginning again
	taken  int  // of the room
	room   *exchange.Room
}

// begin makes q ready for a new stream.
func (q *queue) begin(keep bool, room *exchange.Room) {
	q.keep, q.lost, q.room = keep, false, room
}

// append adds p behind what is there.
func (q *queue) append(p []byte) {
	if q.keep && (q.total+len(p) > maxReplay || q.taken > 0 && q.room.Tight()) {
		q.forget()
	}
	q.unsent += len(p)
	q.total += len(p)
	for len(p) > 0 {
		last := len(q.chunks) - 1
		if last < 0 {
			q.chunks = append(q.chunks, q.small[:0])
			last = 0
		}
		c := q.chunks[last]
		if len(c) == cap(c) {
			q.chunks = append(q.chunks, chunkPool.Get().(*[chunkSize]byte)[:0])
			q.taken += chunkSize
			q.room.Need(chunkSize)
			continue
		}
		n := min(len(p), cap(c)-len(c))
		q.chunks[last] = append(c, p[:n]...)
		p = p[n:]
	}
}

// peek returns at most n of the next bytes to go on, and at least one if there are any.
func (q *queue) peek(n int) []byte {
	if q.unsent == 0 {
		return nil
	}
	for q.off == len(q.chunks[q.at]) {
		q.at++
		q.off = 0
	}
	c := q.chunks[q.at][q.off:]
	return c[:min(n, len(c))]
}

// advance says that n bytes that peek has returned have gone on.
func (q *queue) advance(n int) {
	q.off += n
	q.unsent -= n
	q.lost = q.lost || !q.keep
	if q.unsent == 0 && !q.keep {
		q.free()
	} else if !q.keep && q.off == len(q.chunks[q.at]) && q.at+1 < len(q.chunks) {
		q.at++
		q.off = 0
		q.shed()
	}
}

// forget stops keeping what has gone on.
func (q *queue) forget() {
	if !q.keep {
		return
	}
	q.keep = false
	q.lost = q.at > 0 || q.off > 0
	if q.unsent == 0 {
		q.free()
	} else {
		q.shed()
	}
}

// drop gives up everything, for nobody wants it.
func (q *queue) drop() {
	q.keep, q.lost = false, true
	q.free()
}

// rewind makes everything unsent again; nothing may be lost.
func (q *queue) rewind() {
	q.at, q.off, q.unsent = 0, 0, q.total
}

// shed gives up the chunks before the next byte to go on.
func (q *queue) shed() {
	if q.at == 0 {
		return
	}
	for _, c := range q.chunks[:q.at] {
		q.total -= len(c)
		q.put(c)
	}
	n := copy(q.chunks, q.chunks[q.at:])
	clear(q.chunks[n:])
	q.chunks, q.at = q.chunks[:n], 0
}

// free gives up everything.
func (q *queue) free() {
	for i, c := range q.chunks {
		q.put(c)
		q.chunks[i] = nil
	}
	q.chunks = q.chunks[:0]
	q.at, q.off, q.unsent, q.total = 0, 0, 0, 0
}

func (q *queue) put(c []byte) {
	if cap(c) != chunkSize {
		return
	}
	chunkPool.Put((*[chunkSize]byte)(c[:chunkSize]))
	q.taken -= chunkSize
	q.room.Give(chunkSize)
}
