package http2

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// A call as an exchange.Caller: its request is sent by the sender of another version. The lane in is not open, so that what the caller sends waits in it,
// at most its window, until ReadBody takes it; the caller is granted what was taken. The lane out is filled by WriteBody, which waits as long as the
// caller's windows, or its connection's buffer, have no room. The Exchange belongs to the sender throughout: frames touch only its counters.
var _ exchange.Caller = (*call)(nil)

// lend gives the lanes to another sender. k.mu is held.
func (k *call) lend() *bridge {
	if k.b == nil {
		k.b = newBridge()
	}
	if b := k.b; k.in.mover == nil { // the first of the exchange
		k.in.mover, k.out.mover = b.wake, k.done
		k.tunnel, k.final = false, false
		b.described, b.stopped, b.eof = false, false, false
	}
	return k.b
}

// fallen says why nothing more can come of the caller's side; nil: not that it is known. k.mu is held.
func (k *call) fallen() *exchange.BodyError {
	switch {
	case k.gone != flow.ReasonNone:
		return &exchange.BodyError{Reason: k.gone, Text: k.goneText}
	case k.fault != nil:
		return &exchange.BodyError{Reason: flow.ReasonBadRequest, Text: k.fault.Text}
	}
	return nil
}

// tellSender makes everybody look who may wait for the caller. k.mu is held.
func (k *call) tellSender() {
	poke(k.in.mover)
	k.signal()
	if !k.tunnel { // whose relay reads, and is told by its read
		k.x.Wake()
	}
}

// Fault implements exchange.Caller.
func (k *call) Fault(*exchange.Exchange) *exchange.BodyError {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fallen()
}

// Refuse implements exchange.Caller.
func (k *call) Refuse(x *exchange.Exchange, f *exchange.Fault) {
	k.mu.Lock()
	k.fault = f
	k.mu.Unlock()
	x.Outcome.Fail(flow.ReasonBadRequest, f.Text)
}

// Request implements exchange.Caller.
func (k *call) Request(x *exchange.Exchange) *exchange.Request {
	k.mu.Lock()
	b := k.lend()
	if !b.described {
		b.described = true
		b.timeout = k.describe(x, &b.request)
	}
	k.mu.Unlock()
	if b.timeout >= 0 {
		b.request.Fields[b.timeout].Value = string(appendTimeout(nil, x.Left(time.Now())))
	}
	return &b.request
}

// describe makes q of the head, whose fields were checked, and says where in its fields grpc-timeout is, -1: nowhere.
func (k *call) describe(x *exchange.Exchange, q *exchange.Request) (timeout int) {
	r := &k.req
	clear(q.Fields)
	*q = exchange.Request{
		Method: r.method, Target: r.target, Authority: r.authority, Protocol: r.protocol,
		Fields: q.Fields[:0], Length: r.length, Bare: k.bare,
	}
	if r.connect {
		q.Length, q.Bare = -1, true
	}
	if r.protocol != "" {
		q.Method = "GET" // RFC 8441, section 5
	}
	if x.Path != "" && r.target != "" {
		q.Target = x.Path + r.target[len(r.path):]
	}
	if own := x.Rewrites(); own != "" && (!r.connect || r.protocol != "") {
		q.Authority = own
	}
	timeout = -1
	var cookies []string
	cookie := -1
	for i := range r.fields {
		f := &r.fields[i]
		switch {
		case f.drop || f.id >= fieldMethod && f.id <= fieldStatus || f.id == fieldContentLength || f.id == fieldHost || f.name == "http2-settings" || f.omitted(&x.Sent):
			continue
		case f.id == fieldTE:
			q.Trailers = true
			continue
		case f.id == fieldExpect:
			q.Expect = q.Expect || strings.EqualFold(f.value, "100-continue")
			continue
		case f.id == fieldGRPCTimeout && x.Head.Timeout > 0: // what is left of it, once
			if timeout >= 0 {
				continue
			}
			timeout = len(q.Fields)
		case f.name == "cookie":
			if f.value != "" { // an empty one would leave white space at an end
				cookies = append(cookies, f.value)
			}
			if cookie >= 0 {
				q.Fields[cookie].Sensitive = q.Fields[cookie].Sensitive || f.sensitive
				continue
			}
			cookie = len(q.Fields)
		}
		q.Fields = append(q.Fields, exchange.Field{Name: f.name, Value: f.value, Sensitive: f.sensitive})
	}
	if len(cookies) > 0 {
		q.Fields[cookie].Value = strings.Join(cookies, "; ") // RFC 9113, section 8.2.3
	}
	for i := range x.Sent.Append {
		q.Fields = append(q.Fields, exchange.Field{Name: x.Sent.Append[i].Name, Value: x.Sent.Append[i].Value})
	}
	if r.requestID < 0 {
		q.Fields = append(q.Fields, exchange.Field{Name: "x-request-id", Value: strings.Clone(x.Head.RequestID)})
	}
	return timeout
}

// CopyHead implements exchange.Copier.
func (k *call) CopyHead(x *exchange.Exchange) (*exchange.Request, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.req.connect || k.fallen() != nil {
		return nil, false
	}
	q := &exchange.Request{}
	if at := k.describe(x, q); at >= 0 {
		q.Fields = slices.Delete(q.Fields, at, at+1)
	}
	return q, true
}

// CopyBody implements exchange.Copier.
func (k *call) CopyBody(*exchange.Exchange) ([]byte, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := &k.in
	if l.q.lost || !l.q.keep || !l.ended {
		return nil, false
	}
	l.q.rewind()
	body := make([]byte, 0, l.q.total)
	for l.q.unsent > 0 {
		p := l.q.peek(chunkSize)
		body = append(body, p...)
		l.q.advance(len(p))
	}
	return body, true
}

// ReadBody implements exchange.Caller. What it reads was counted when it arrived.
func (k *call) ReadBody(x *exchange.Exchange, p []byte) (int, error) {
	k.mu.Lock()
	b, l := k.lend(), &k.in
	var err *exchange.BodyError
	for {
		if b.stopped {
			k.mu.Unlock()
			return 0, exchange.ErrStopped
		}
		if err = k.fallen(); err != nil {
			break
		}
		if l.q.unsent > 0 {
			n := k.take(l, p, &b.in)
			k.mu.Unlock()
			b.in.flush()
			return n, nil
		}
		if l.ended {
			b.eof = true
			k.mu.Unlock()
			return 0, io.EOF
		}
		if k.wait(l, &b.in, &b.reading, x.End()) && l.q.unsent == 0 && !l.ended && !b.stopped && x.Ceased() { // else x has become a stream
			err = outOfTime(x)
			break
		}
	}
	k.mu.Unlock()
	x.Wake()
	return 0, err
}

// Rewind implements exchange.Caller.
func (k *call) Rewind(*exchange.Exchange) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.lend()
	b.stopped, b.eof = false, false
	if !k.in.q.lost {
		k.in.q.rewind()
		k.in.sent = 0
	}
}

// StopBody implements exchange.Caller.
func (k *call) StopBody() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lend().stopped = true
	poke(k.in.mover)
}

// BodyDone implements exchange.Caller.
func (k *call) BodyDone() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bare || k.req.connect || k.lend().eof
}

// RequestTrailers implements exchange.Caller.
func (k *call) RequestTrailers() []exchange.Field {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.lend()
	b.trailers = fromTrailers(b.trailers[:0], k.in.trailers)
	return b.trailers
}

// WriteHead implements exchange.Caller. The head of a tunnel has the status 200 here (RFC 8441, section 5).
func (k *call) WriteHead(x *exchange.Exchange, r *exchange.Response, end bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lend()
	if e := k.fallen(); e != nil {
		return e
	}
	status := r.Status
	if r.Tunnel && status < 200 {
		status = 200
	}
	c := k.down.c
	c.mu.Lock()
	if c.dead || k.down.localDone {
		c.mu.Unlock()
		return errClosed
	}
	if status < 200 && len(c.out) > maxOut { // as in interim
		c.mu.Unlock()
		return nil
	}
	at := c.beginBlockLocked()
	c.putLocked(":status", statusText(status))
	for i := range r.Fields {
		if f := foreign(&r.Fields[i]); !f.drop && (status >= 200 && !f.omitted(&x.Passed) || status < 200 && f.id != fieldTulle) {
			c.putFieldLocked(&f)
		}
	}
	if status < 200 {
		c.endBlockLocked(at, k.down.id, false)
		c.mu.Unlock()
		k.d.add(c)
		return nil
	}
	if r.Length >= 0 && !r.Tunnel {
		c.putPlainLocked("content-length", strconv.FormatInt(r.Length, 10))
	}
	c.putCookieLocked(x)
	c.putAddedLocked(x.Passed.Append)
	k.tellLocked(c, x)
	c.endBlockLocked(at, k.down.id, end)
	if end {
		k.down.localDone = true
		c.closedLocked(&k.down)
	}
	c.mu.Unlock()
	k.d.add(c)
	x.Outcome.Status, x.Outcome.Committed = status, true
	if x.After == nil {
		k.in.q.forget()
	}
	k.final, k.out.open, k.out.passed = true, true, end
	return nil
}

// errClosed is of a stream, or its connection, that has ended and whose call is about to learn why.
var errClosed = &exchange.BodyError{Reason: flow.ReasonDownstreamReset, Text: "the caller's stream has ended"}

// WriteBody implements exchange.Caller.
func (k *call) WriteBody(x *exchange.Exchange, p []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.fallen(); e != nil {
		return e
	}
	l := &k.out
	x.BytesOut.Add(uint64(len(p)))
	if k.req.grpc {
		x.MessagesOut.Add(l.messages.walk(p))
	}
	k.pump(l, p, false, &k.d)
	if l.q.unsent == 0 {
		return nil
	}
	if !x.Await(k) {
		reason, text := x.WhyAborted()
		return &exchange.BodyError{Reason: reason, Text: text}
	}
	defer x.Awaited()
	for l.q.unsent > 0 {
		late := k.wait(l, &k.d, &k.b.writing, x.End())
		if e := k.fallen(); e != nil {
			return e
		}
		if x.Aborted() != flow.ReasonNone {
			reason, text := x.WhyAborted()
			return &exchange.BodyError{Reason: reason, Text: text}
		}
		if late && l.q.unsent > 0 {
			return outOfTime(x)
		}
	}
	return nil
}

// WriteEnd implements exchange.Caller.
func (k *call) WriteEnd(x *exchange.Exchange, trailers []exchange.Field) error {
	k.mu.Lock()
	l := &k.out
	if e := k.fallen(); e != nil {
		k.mu.Unlock()
		return e
	}
	if !l.passed {
		l.trailers = toTrailers(l.trailers[:0], trailers)
		l.ended, l.trailing = true, len(l.trailers) > 0
		k.pump(l, nil, false, &k.d)
	}
	whole := l.passed
	k.mu.Unlock()
	if !whole {
		return errClosed
	}
	k.flushSoon(k.down.c)
	x.Legs.LastByte = x.Since()
	x.Outcome.Answered = true
	return nil
}

// Flush implements exchange.Caller.
func (k *call) Flush(*exchange.Exchange) error {
	k.d.flush()
	if e := k.Fault(nil); e != nil {
		return e
	}
	return nil
}

// Tunnel implements exchange.Caller.
func (k *call) Tunnel(*exchange.Exchange) exchange.RelayEnd {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tunnel = true
	return exchange.RelayEnd{Conn: &tunnel{k: k, c: k.down.c, r: &k.in, w: &k.out, read: &k.b.in, written: &k.d}, Counted: true}
}

// Cut implements exchange.Caller: finish resets a stream that is not ended, and from here on nothing can end it.
func (k *call) Cut(*exchange.Exchange) {
	k.mu.Lock()
	k.out.release()
	k.mu.Unlock()
}
