package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// maxReplay is how much of a body is kept beyond what arrived with its head, so that the request can be sent again.
const maxReplay = 64 << 10

// body is the body of the request in flight. Its bytes are raw, framing included.
type body struct {
	chunked bool
	left    int64 // Content-Length: not yet read
	chunks  chunks
	first   []byte // what arrived with the head; aliases the connection's buffer
	replay  []byte // what was read after that
	lost    bool   // more was read than replay holds: the request cannot be sent again
	done    bool   // the whole body was read from the caller
	fault   *fault // the caller broke the framing, or a limit
	room    *exchange.Room
	bridge  *bridge // another speaker sends the request; nil: not so far
}

func (b *body) release() {
	b.forget()
	*b = body{}
}

// forget gives up what was kept for another try.
func (b *body) forget() {
	if b.replay != nil {
		b.room.Give(cap(b.replay))
		putBytes(b.replay)
		b.replay = nil
	}
}

// beginBody takes the part of the body that arrived with the head.
func (c *conn) beginBody() {
	w := c.w
	b := &w.body
	b.release()
	b.room = c.room
	h := &w.req
	have := c.in.unread()
	switch {
	case h.chunked:
		b.chunked = true
		n, data, f := b.chunks.scan(have)
		b.first, b.fault = have[:n:n], f
		b.done = b.chunks.done()
		w.x.BytesIn.Add(uint64(data))
		c.in.r += n
	case h.length > 0:
		n := int(min(h.length, int64(len(have))))
		b.first = have[:n:n]
		b.left = h.length - int64(n)
		b.done = b.left == 0
		w.x.BytesIn.Add(uint64(n))
		c.in.r += n
	default:
		b.done = true
	}
}

// upload is how the uploading of a body ended.
type upload struct {
	reason   flow.Reason // ReasonNone: complete, or stopped by stopUpload
	err      error
	upstream bool // writing upstream failed; the response may still come
	sent     time.Duration
	leftover []byte // bytes of the next request; from getBytes
}

// startUpload sends the rest of the body to up in its own goroutine. stopUpload or the result on w.uploaded ends it.
func (c *conn) startUpload(up net.Conn) {
	w := c.w
	w.uploading = true
	w.stopping.Store(false)
	c.readBy(w.x.End())
	go func() {
		u := c.upload(up)
		if u.reason != flow.ReasonNone && !u.upstream && !w.stopping.Load() {
			w.x.Wake() // nothing more will come of this try; before the result, after which a next try may have begun
		}
		w.uploaded <- u
	}()
}

// upload runs in the uploader, which owns w.body and the reading side of c.nc meanwhile.
func (c *conn) upload(up net.Conn) (u upload) {
	w := c.w
	b := &w.body
	if len(b.replay) > 0 {
		if _, err := up.Write(b.replay); err != nil {
			return upload{reason: flow.ReasonUpstreamReset, err: err, upstream: true}
		}
	}
	buf := getBytes(mediumBuffer)
	c.room.Need(mediumBuffer)
	defer func() {
		c.room.Give(mediumBuffer)
		putBytes(buf)
	}()
	stall := stall{c: c, after: c.set.BodyTimeout}
	for !b.done {
		var p []byte
		p, u = c.readBody(buf, &stall)
		if len(p) > 0 {
			if _, err := up.Write(p); err != nil {
				u.reason, u.err, u.upstream = flow.ReasonUpstreamReset, err, true
				return u
			}
		}
		if u.reason != flow.ReasonNone {
			return u
		}
	}
	u.sent = w.x.Since()
	return u
}

// readBody reads once on in the body, into buf, and keeps what it has read for another try. p is what of buf belongs to the body, framing included;
// u says why no more will come before its end, and what came behind it.
func (c *conn) readBody(buf []byte, s *stall) (p []byte, u upload) {
	w := c.w
	b := &w.body
	if !b.chunked && b.left < int64(len(buf)) {
		buf = buf[:b.left]
	}
	s.arm()
	n, err := c.nc.Read(buf)
	if k := b.bridge; k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
	}
	if n > 0 {
		s.began = true
		p = buf[:n]
		data := n
		if b.chunked {
			var f *fault
			n, data, f = b.chunks.scan(p)
			if f != nil {
				b.fault = f
				return nil, upload{reason: flow.ReasonBadRequest, err: f}
			}
			b.done = b.chunks.done()
			if n < len(p) {
				u.leftover = append(getBytes(len(p) - n)[:0], p[n:]...)
			}
			p = p[:n]
		} else {
			b.left -= int64(n)
			b.done = b.left == 0
		}
		w.x.BytesIn.Add(uint64(data))
		b.keep(p, w.x.Gate != nil || w.x.After != nil)
	}
	if err != nil && !b.done {
		u.err = err
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && s.passed():
			b.fault = faultStalledBody
			c.room.Reached(exchange.LimitBodyTimeout)
			u.reason, u.err = flow.ReasonBadRequest, b.fault
		case errors.Is(err, os.ErrDeadlineExceeded) && s.goesOn():
			u.err = nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			u.reason = flow.ReasonRequestTimeout
		case errors.Is(err, io.EOF):
			u.reason, u.err = flow.ReasonDownstreamReset, errGone
		default:
			u.reason = flow.ReasonDownstreamReset
		}
	}
	return p, u
}

// stall bounds the time without a byte of a body, until the exchange becomes a stream, which may pause. A caller that waits for a 100 (RFC 9110, section 10.1.1) owes nothing before its first byte.
type stall struct {
	c     *conn
	after time.Duration // ≤ 0: off
	armed time.Time     // when the deadline in force was set
	until time.Time     // the deadline in force; zero when it is that of the whole exchange
	began bool          // a byte has arrived
}

// arm sets the deadline of the next read, at most once per eighth of the time-out. A deadline of stopUpload stands, whoever is first.
func (s *stall) arm() {
	if s.after <= 0 || s.c.w.req.expect && !s.began || s.c.w.x.Streams() {
		return
	}
	now := time.Now()
	if now.Sub(s.armed) < s.after/8 {
		return
	}
	s.armed = now
	deadline := now.Add(s.after + s.after/8)
	s.until = deadline
	if by := s.c.w.x.End(); !by.IsZero() && by.Before(deadline) {
		deadline, s.until = by, time.Time{}
	}
	s.set(deadline)
}

// set sets the deadline of the next read, unless there is to be none.
func (s *stall) set(deadline time.Time) {
	_ = s.c.nc.SetReadDeadline(deadline)
	if s.c.w.stopping.Load() || s.c.w.x.Silenced() {
		_ = s.c.nc.SetReadDeadline(aLongTimeAgo)
	}
}

// goesOn reports whether a read has timed out by a deadline of before the exchange has become a stream, and moves it.
func (s *stall) goesOn() bool {
	x := &s.c.w.x
	if !x.Streams() || s.c.w.stopping.Load() || x.Ceased() {
		return false
	}
	s.until = time.Time{}
	s.set(x.End())
	return true
}

// passed reports whether a read ended because of this deadline, and not another one.
func (s *stall) passed() bool {
	return !s.until.IsZero() && !s.c.w.stopping.Load() && !s.c.w.x.Streams() && !time.Now().Before(s.until)
}

// keep remembers p for another try, while it fits and anyone might ask.
func (b *body) keep(p []byte, wanted bool) {
	if b.lost {
		return
	}
	if !wanted || len(b.replay)+len(p) > maxReplay || b.room.Tight() {
		b.lost = true
		b.forget()
		return
	}
	if need := len(b.replay) + len(p); need > cap(b.replay) {
		n := mediumBuffer
		if need > n {
			n = largeBuffer
		}
		if !b.room.TakeSpare(n) {
			b.lost = true
			b.forget()
			return
		}
		r := append(getBytes(n)[:0], b.replay...)
		b.forget()
		b.replay = r
	}
	b.replay = append(b.replay, p...)
}

// uploadResult takes the uploader's result if it has ended.
func (c *conn) uploadResult() (u upload, ended bool) {
	select {
	case u = <-c.w.uploaded:
		c.uploadEnded(u)
		return u, true
	default:
		return u, false
	}
}

// stopUpload makes the uploader end, waits for it, and returns its result. up must be closed, or its deadline passed, if the uploader may be
// writing to it.
func (c *conn) stopUpload() upload {
	c.w.stopping.Store(true) // before the deadline, which the uploader may be about to move
	_ = c.nc.SetReadDeadline(aLongTimeAgo)
	return c.awaitUpload()
}

func (c *conn) awaitUpload() upload {
	u := <-c.w.uploaded
	c.uploadEnded(u)
	return u
}

func (c *conn) uploadEnded(u upload) {
	w := c.w
	w.uploading = false
	w.ended = u
	w.broken = w.broken || u.reason != flow.ReasonNone
	c.readBy(w.x.End())
	if u.leftover != nil {
		// It goes back to c.in when the exchange has ended: before that, heads alias c.in.
		w.leftover = append(w.leftover[:0], u.leftover...)
		putBytes(u.leftover)
	}
	if u.sent > 0 {
		w.x.Legs.Sent = u.sent
	}
}

var aLongTimeAgo = time.Unix(1, 0)
