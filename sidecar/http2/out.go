package http2

import (
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// maxOut is how many bytes a connection's buffer holds before bodies wait in their lanes.
const maxOut = 128 << 10

// maxHeads is how many bytes may wait for an endpoint that does not read before it gets no more heads.
const maxHeads = 1 << 20

// chunk is how many bytes are written at a time: a write is stuck when the peer does not take that many in PingTimeout.
const chunk = 32 << 10

// keptOut is the size above which a buffer is not kept for the next write.
const keptOut = 256 << 10

// dirty is the connections to which its owner has appended. Each is written once.
type dirty struct{ list []*conn }

func (d *dirty) add(c *conn) {
	for _, o := range d.list {
		if o == c {
			return
		}
	}
	d.list = append(d.list, c)
}

func (d *dirty) remove(c *conn) {
	if i := slices.Index(d.list, c); i >= 0 {
		d.list = slices.Delete(d.list, i, i+1)
	}
}

// flush writes all of them, and those that this makes dirty.
func (d *dirty) flush() {
	for n := len(d.list); n > 0; n = len(d.list) {
		c := d.list[n-1]
		d.list[n-1] = nil
		d.list = d.list[:n-1]
		c.flush(d)
	}
}

// flush writes what was appended to c, unless somebody does. It does not wait: what a socket does not take now is left to c's writer.
func (c *conn) flush(d *dirty) {
	for {
		c.mu.Lock()
		if c.writing || c.dead || len(c.out) == 0 {
			c.mu.Unlock()
			return
		}
		c.writing = true
		b := c.out
		c.out, c.spare = c.spare, nil
		c.written = c.nextID
		c.taken = c.acks
		c.mu.Unlock()
		n := 0
		if c.sock != nil {
			var err error
			if n, err = c.sock.WriteReady(b); err != nil {
				c.broken()
				n = len(b)
			}
		}
		if n < len(b) {
			c.handOver(b, n)
			return
		}
		c.wrote(b, d)
	}
}

// wrote takes b back, which was written, and moves on what had to wait for room.
func (c *conn) wrote(b []byte, d *dirty) {
	c.mu.Lock()
	c.writing = false
	if cap(b) <= keptOut {
		c.spare = b[:0]
	}
	c.acks -= c.taken // those of c.out still wait
	c.taken = 0
	if c.full != nil && len(c.out) <= 2*maxOut {
		close(c.full)
		c.full = nil
	}
	waiting := c.blocked.first != nil
	ended := c.mustEndLocked()
	c.mu.Unlock()
	if waiting {
		c.resume(d)
	}
	if ended {
		c.wake()
	}
}

// handOver leaves the rest of b to the writer, which exists from the first time on.
func (c *conn) handOver(b []byte, n int) {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	if c.handed == nil { // only who has set writing comes here
		c.handed = make(chan handed, 1)
		c.wg.Go(c.write)
	}
	c.stuck.Store(time.Now().UnixNano())
	if c.dozing && c.tick != nil {
		c.dozing = false
		c.tick.Reset(c.period())
	}
	c.mu.Unlock()
	c.handed <- handed{b, n} // has room: there is one who has set writing, and it may be the writer itself
}

// handed is a buffer of which n bytes were written.
type handed struct {
	b []byte
	n int
}

// write is the writer: it may wait.
func (c *conn) write() {
	var d dirty
	for {
		select {
		case h := <-c.handed:
			for b := h.b[h.n:]; len(b) > 0; {
				n := min(len(b), chunk)
				if _, err := c.nc.Write(b[:n]); err != nil {
					c.broken()
					break
				}
				b = b[n:]
				c.stuck.Store(time.Now().UnixNano())
			}
			c.stuck.Store(0) // first: the next write may begin in wrote
			c.wrote(h.b, &d)
			d.add(c)
			d.flush()
		case <-c.closed:
			return
		}
	}
}

// broken closes a connection that cannot be written to; its reader notices.
func (c *conn) broken() { _ = c.nc.Close() }

// bodyRoomLocked is how many bytes of bodies may be appended.
func (c *conn) bodyRoomLocked() int { return maxOut - len(c.out) }

// shareLocked is how much of c's window s may use. A stream whose reader stalls would use all of it, because many peers give it back only as they
// read. So none has more under way than the rest of the window, or three times that when it is the only one: one that stalls leaves a quarter to
// those that come.
func (c *conn) shareLocked(s *stream) int64 {
	times := int64(1)
	if c.open <= 1 {
		times = 3
	}
	// What s has not given back may have been given back to the connection.
	used := min(c.initial-s.window, c.top-c.window)
	return min(c.window, times*c.window-used)
}

// blockLocked makes s wait for its turn.
func (c *conn) blockLocked(s *stream) {
	if s.waiting {
		return
	}
	s.waiting, s.after = true, nil
	if c.blocked.last == nil {
		c.blocked.first = s
	} else {
		c.blocked.last.after = s
	}
	c.blocked.last = s
}

// turnLocked takes out the stream whose turn it is; nil: nobody can go on.
func (c *conn) turnLocked() *stream {
	s := c.blocked.first
	if s == nil || c.window <= 0 || c.bodyRoomLocked() <= 0 {
		return nil
	}
	if c.blocked.first = s.after; c.blocked.first == nil {
		c.blocked.last = nil
	}
	s.waiting, s.after = false, nil
	return s
}

// unblockLocked takes s out wherever it stands.
func (c *conn) unblockLocked(s *stream) {
	if !s.waiting {
		return
	}
	var before *stream
	for at := c.blocked.first; at != s; at = at.after {
		before = at
	}
	if before == nil {
		c.blocked.first = s.after
	} else {
		before.after = s.after
	}
	if c.blocked.last == s {
		c.blocked.last = before
	}
	s.waiting, s.after = false, nil
}

// widen lets streams go on that had used their share of c's window.
func (c *conn) widen(d *dirty) {
	c.mu.Lock()
	if !c.over {
		c.mu.Unlock()
		return
	}
	c.over = false
	var all []place
	c.table.each(func(s *stream) {
		if s.over {
			s.over, s.starved = false, false
			all = append(all, place{s, s.call, s.id})
		}
	})
	c.mu.Unlock()
	for _, at := range all {
		at.k.resume(at.s, c, at.id, d)
		d.add(c)
	}
}

// resume lets the streams that wait for c's window or buffer go on, in turns.
func (c *conn) resume(d *dirty) {
	for {
		c.mu.Lock()
		s := c.turnLocked()
		if s == nil {
			c.mu.Unlock()
			return
		}
		k, id := s.call, s.id
		c.mu.Unlock()
		k.resume(s, c, id, d)
		d.add(c)
	}
}

// encoder writes header blocks to c.out. It watches what the hpack.Encoder adds to its table, so that a field whose value seldom comes twice need not:
// its name is put into the table once, and its values refer to that.
type encoder struct {
	c     *conn
	h     *hpack.Encoder
	size  int    // of the table, as the peer wants it
	added uint64 // entries ever
	bytes uint64 // and what they took of the table
	names [numNamed]struct {
		added, bytes uint64 // when it was added; 0: it was not
	}
}

// named are the fields whose names are worth an entry.
type named uint8

const (
	namedTraceparent named = iota
	namedRequestID
	namedTiming
	namedTimeout
	numNamed
)

// Write implements io.Writer for the hpack.Encoder.
func (e *encoder) Write(p []byte) (int, error) {
	e.c.out = append(e.c.out, p...)
	return len(p), nil
}

var _ io.Writer = (*encoder)(nil)

// put writes a field, indexed.
func (e *encoder) put(name, value string) (added bool) {
	at := len(e.c.out)
	_ = e.h.WriteField(hpack.HeaderField{Name: name, Value: value})
	if e.c.resized {
		e.names = [numNamed]struct{ added, bytes uint64 }{}
		return false
	}
	if added = e.c.out[at]&0xc0 == 0x40; added { // RFC 7541, section 6.2.1
		e.added++
		e.bytes += uint64(len(name) + len(value) + 32)
	}
	return added
}

// putNamed writes a field without indexing its value (RFC 7541, section 6.2.2).
func (e *encoder) putNamed(n named, name, value string) {
	at := &e.names[n]
	if e.c.resized || at.added == 0 || e.bytes-at.bytes > uint64(e.size) {
		before := e.bytes
		if at.added = 0; e.put(name, strings.Clone(value)) { // the table keeps it
			at.added, at.bytes = e.added, before
		}
		return
	}
	b, index := e.c.out, 62+int(e.added-at.added)
	if index < 15 {
		b = append(b, byte(index))
	} else {
		b = append(b, 15)
		for index -= 15; index >= 128; index >>= 7 {
			b = append(b, byte(index)|0x80)
		}
		b = append(b, byte(index))
	}
	e.c.out = appendString(b, value)
}

// beginBlockLocked begins a HEADERS frame and returns its place. Until endBlockLocked nothing else may be appended.
func (c *conn) beginBlockLocked() int {
	at := len(c.out)
	c.out = append(c.out, 0, 0, 0, frameHeaders, 0, 0, 0, 0, 0)
	return at
}

func (c *conn) putLocked(name, value string) { c.enc.put(name, value) }

// putFieldLocked writes a field that came in, indexed if that promises to pay.
func (c *conn) putFieldLocked(f *field) {
	switch {
	case f.sensitive:
		_ = c.enc.h.WriteField(hpack.HeaderField{Name: f.name, Value: f.value, Sensitive: true})
	case f.id == fieldGRPCTimeout:
		c.enc.putNamed(namedTimeout, f.name, f.value)
	case f.id == fieldRequestID:
		c.enc.putNamed(namedRequestID, f.name, f.value)
	case f.id.varies():
		c.putPlainLocked(f.name, f.value)
	default:
		c.putLocked(f.name, f.value)
	}
}

// putPlainLocked writes a literal without indexing (RFC 7541, section 6.2.2), for what will not come again. The encoder does not know of it, so it is
// not used in a block in which the encoder has to announce its table's size, first of all.
func (c *conn) putPlainLocked(name, value string) {
	if c.resized {
		c.putLocked(name, value)
		return
	}
	c.out = appendString(appendString(append(c.out, 0), name), value)
}

// appendString appends a string literal without Huffman coding (RFC 7541, section 5.2).
func appendString(b []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		return append(append(b, byte(n)), s...)
	}
	b = append(b, 127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(append(b, byte(n)), s...)
}

// endBlockLocked ends the block that began at at, cutting it into CONTINUATION frames where it is too long for one.
func (c *conn) endBlockLocked(at int, id uint32, end bool) {
	flags := uint8(flagEndHeaders)
	if end {
		flags |= flagEnd
	}
	c.resized = false
	n := len(c.out) - at - frameHeader
	if n <= maxFrame {
		appendFrame(c.out[:at], n, frameHeaders, flags, id)
		return
	}
	block := append([]byte(nil), c.out[at+frameHeader:]...)
	c.out = append(appendFrame(c.out[:at], maxFrame, frameHeaders, flags&^flagEndHeaders, id), block[:maxFrame]...)
	for block = block[maxFrame:]; len(block) > 0; {
		p := block[:min(len(block), maxFrame)]
		block = block[len(p):]
		last := uint8(0)
		if len(block) == 0 {
			last = flagEndHeaders
		}
		c.out = append(appendFrame(c.out, len(p), frameContinuation, last, id), p...)
	}
}

// socketOf is the socket of a plaintext connection, nil when there is none.
func socketOf(nc net.Conn) *exchange.Socket {
	s, _ := nc.(*exchange.Socket)
	return s
}
