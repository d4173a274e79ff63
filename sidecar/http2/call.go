package http2

import (
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// callMemory is what a stream takes of the room beside what waits in its lanes.
const callMemory = 4 << 10

// lane is one direction of a call: what has arrived and has not gone on.
type lane struct {
	q        queue
	open     bool  // the head has gone on
	ended    bool  // END_STREAM has arrived
	passed   bool  // and has gone on
	trailing bool  // there are trailers, which go on last
	owed     int   // of the connection that it comes by: credit that waits until bytes have gone on
	sent     int   // bytes that have gone on in this try
	paid     int   // and those for which its stream has had credit, in any
	length   int64 // Content-Length, -1: none
	got      int64
	trailers []field
	messages messages
	mover    chan struct{} // told of what comes and of room for it, where a goroutine moves what frames do not; nil: none does
}

func (l *lane) begin(keep bool, room *exchange.Room) {
	l.q.begin(keep, room)
	l.open, l.ended, l.passed, l.trailing = false, false, false, false
	l.owed, l.sent, l.paid, l.length, l.got, l.messages, l.mover = 0, 0, 0, -1, 0, messages{}, nil
}

// release gives up what waits. The lane is closed, so that what it held cannot be taken for whole.
func (l *lane) release() {
	l.open = false
	l.q.drop()
	clear(l.trailers)
	l.trailers = l.trailers[:0]
}

// call is one stream of a caller, and the stream of its current try. It has a worker and is used again for other streams of the same connection. When
// its endpoint speaks HTTP/1.1 it has no stream of a try, and is the exchange.Caller of another sender. When its caller does, it belongs to a guest.
type call struct {
	sess *session      // nil: a guest's
	wake chan struct{} // a stream for the worker; closed: end
	done chan struct{} // look at what has happened; of capacity 1

	x     exchange.Exchange // see invariant 4
	start time.Time         // of the head

	mu       sync.Mutex
	req      request
	fault    *exchange.Fault // of the request
	bare     bool            // its head has ended it
	in, out  lane            // from the caller, to the caller
	down, up stream
	attached bool // a try is under way: x is that of whoever holds mu
	over     bool // and has ended
	asking   bool // the gate is to be asked about the head that is held
	heard    bool // a response began to arrive
	final    bool // a head that is not interim has arrived
	expired  bool // the deadline of the try has passed
	reused   bool // the try's connection was used before
	tunnel   bool // the stream is a tunnel
	told     bool // the far sidecar has said how long it took
	finished bool // the worker is done: nobody wants what still arrives
	gone     flow.Reason
	goneText string
	held     response // of the head that is held
	heldEnd  bool
	fields   []field   // of the head that is held
	moved    time.Time // when bytes of the caller came last
	charged  int
	deadline time.Time // of the try, zero: none
	timer    *time.Timer
	timerAt  time.Time // zero: not set
	mint     [36]byte
	scratch  []byte
	d        dirty
	nextFree *call
	b        *bridge // nil: one of its sides was never HTTP/1.1
}

// is reports whether s still is the stream that it was when its connection was asked.
func (s *stream) is(c *conn, id uint32) bool { return s.c == c && s.id == id }

// signal makes a sleeping worker look.
func (k *call) signal() {
	select {
	case k.done <- struct{}{}:
	default:
	}
}

// Wake implements exchange.Waker.
func (k *call) Wake() { k.signal() }

// Replayable implements exchange.Downstream.
func (k *call) Replayable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.in.q.lost && k.gone == flow.ReasonNone
}

// data takes the payload of a DATA frame that arrived by s. The connection's credit for it was granted but for owed.
func (k *call) data(c *conn, s *stream, id uint32, body []byte, end bool, owed int) *fatal {
	k.mu.Lock()
	if !s.is(c, id) || k.finished || s == &k.up && !k.attached {
		k.mu.Unlock()
		c.refund(owed)
		return nil
	}
	l := &k.in
	if s == &k.up {
		l = &k.out
		if !k.final {
			k.mu.Unlock()
			c.refund(owed)
			c.failStream(k, s, id, codeProtocol, faultPseudo)
			return nil
		}
	}
	if l.ended { // of a stream that both sides have reset
		k.mu.Unlock()
		c.refund(owed)
		return nil
	}
	l.got += int64(len(body))
	if l.length >= 0 && (l.got > l.length || end && l.got != l.length) {
		k.mu.Unlock()
		c.refund(owed)
		c.failStream(k, s, id, codeProtocol, faultLength)
		return c.guard.fault(c)
	}
	l.owed += owed
	l.ended = end
	if l == &k.in {
		k.x.BytesIn.Add(uint64(len(body)))
		if k.req.grpc {
			k.x.MessagesIn.Add(l.messages.walk(body))
		}
		k.moved = c.now
	} else {
		k.x.BytesOut.Add(uint64(len(body)))
		if k.req.grpc {
			k.x.MessagesOut.Add(l.messages.walk(body))
		}
		if k.tunnel {
			k.moved = c.now
		}
	}
	k.pump(l, body, false, &c.d)
	k.mu.Unlock()
	return nil
}

// refund grants what no lane has taken. Only the reader of c calls it.
func (c *conn) refund(owed int) {
	if owed > 0 {
		c.mu.Lock()
		c.creditLocked(owed)
		c.mu.Unlock()
		c.d.add(c)
	}
}

// ends are the streams by which a lane comes and goes.
func (k *call) ends(l *lane) (src, dst *stream) {
	if l == &k.in {
		return &k.down, &k.up
	}
	return &k.up, &k.down
}

// pump moves what l holds, and p behind it, on as far as it may go; what is left of p waits in l. turn says that it is the stream's turn among those
// that wait. k.mu is held.
func (k *call) pump(l *lane, p []byte, turn bool, d *dirty) {
	if len(p) > 0 && (l.q.keep || l.q.unsent > 0 || !l.open) {
		l.q.append(p)
		p = nil
	}
	if !l.open || l.passed {
		if l.mover != nil {
			poke(l.mover)
		}
		return
	}
	src, dst := k.ends(l)
	c := dst.c
	moved := 0
	c.mu.Lock()
	if c.dead || dst.localDone {
		c.mu.Unlock()
		if !l.q.keep { // nobody wants it any more
			l.q.drop()
		}
		return
	}
	before := len(c.out)
	for {
		want := l.q.unsent + len(p)
		if want == 0 {
			if l.ended {
				k.endLane(l, c, dst)
			}
			break
		}
		if !turn && c.blocked.first != nil && !dst.waiting {
			if dst.window > 0 {
				c.blockLocked(dst)
			} else {
				dst.starved = true
			}
			break
		}
		share := c.shareLocked(dst)
		n := min(int64(want), maxFrame, dst.window, share, int64(c.bodyRoomLocked()))
		if n <= 0 {
			switch {
			case dst.window <= 0:
				dst.starved = true
			case share <= 0 && c.window > 0:
				dst.starved, dst.over, c.over = true, true, true
			default:
				c.blockLocked(dst)
			}
			break
		}
		b := p
		if l.q.unsent > 0 {
			b = l.q.peek(int(n))
		}
		b = b[:min(len(b), int(n))]
		flags := uint8(0)
		if len(b) == want && l.ended && !l.trailing {
			flags, l.passed = flagEnd, true
		}
		c.out = append(appendFrame(c.out, len(b), frameData, flags, dst.id), b...)
		c.sent++
		if l.q.unsent > 0 {
			l.q.advance(len(b))
		} else {
			p = p[len(b):]
			l.q.lost = true
		}
		dst.window -= int64(len(b))
		c.window -= int64(len(b))
		moved += len(b)
		if l.passed {
			break
		}
		if moved >= maxFrame && c.blocked.first != nil && want > len(b) { // the next one's turn
			c.blockLocked(dst)
			break
		}
	}
	if l.passed {
		dst.localDone = true
		c.closedLocked(dst)
	}
	if len(c.out) != before {
		d.add(c)
	}
	c.mu.Unlock()
	if len(p) > 0 {
		l.q.append(p)
	}
	if moved > 0 && (!l.ended || l.owed > 0) {
		k.repay(l, src, moved, d)
	}
	if l.passed {
		k.lanePassed(l)
	}
}

// endLane appends what ends dst: trailers, or END_STREAM alone. Both locks are held.
func (k *call) endLane(l *lane, c *conn, dst *stream) {
	l.passed = true
	if !l.trailing {
		c.out = appendFrame(c.out, 0, frameData, flagEnd, dst.id)
		return
	}
	at := c.beginBlockLocked()
	for i := range l.trailers {
		if f := &l.trailers[i]; !f.drop {
			c.putFieldLocked(f)
		}
	}
	if len(c.out) == at+frameHeader { // none was to go on
		c.out = appendFrame(c.out[:at], 0, frameData, flagEnd, dst.id)
		return
	}
	c.endBlockLocked(at, dst.id, true)
}

// repay grants src what has gone on, n bytes, but for what goes on again, which was paid the first time.
func (k *call) repay(l *lane, src *stream, n int, d *dirty) {
	l.sent += n
	n = l.sent - l.paid
	c := src.c
	if n <= 0 || c == nil {
		return
	}
	l.paid = l.sent
	owed := min(n, l.owed)
	l.owed -= owed
	c.mu.Lock()
	before := len(c.out)
	if owed > 0 {
		c.creditLocked(owed)
	}
	if !l.ended {
		c.streamCreditLocked(src, n)
	}
	if len(c.out) != before {
		d.add(c)
	}
	c.mu.Unlock()
}

// lanePassed acts on the end of a lane. k.mu is held, and the try is attached, or the answer is our own.
func (k *call) lanePassed(l *lane) {
	if !k.attached || k.over {
		return
	}
	x := &k.x
	if l == &k.in {
		x.Legs.Sent = x.Since()
		return
	}
	x.Legs.LastByte = x.Since()
	x.Outcome.Answered = true
	k.end()
}

// end ends the try: x.Outcome says how.
func (k *call) end() {
	k.over = true
	k.signal()
}

// fail ends the try, unless it has ended.
func (k *call) fail(r flow.Reason, text string) {
	if k.attached && !k.over {
		k.x.Outcome.Fail(r, text)
		k.end()
	}
}

// resume lets a stream go on whose turn has come, or whose window was opened.
func (k *call) resume(s *stream, c *conn, id uint32, d *dirty) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.is(c, id) || k.finished || s == &k.up && !k.attached {
		return
	}
	l := &k.out
	if s == &k.up {
		l = &k.in
	}
	k.pump(l, nil, true, d)
	if l.mover != nil {
		poke(l.mover)
	}
}

// requestTrailers takes the second head of a caller's stream.
func (k *call) requestTrailers(c *conn, s *stream, id uint32) *fatal {
	b := &c.block
	fault := b.fault
	if fault == nil {
		_, fault = checkTrailers(b.req.fields)
	}
	if !b.end {
		fault = faultTrailers
	}
	k.mu.Lock()
	if !s.is(c, id) || k.finished {
		k.mu.Unlock()
		return nil
	}
	l := &k.in
	if fault == nil && l.length >= 0 && l.got != l.length {
		fault = faultLength
	}
	if fault != nil {
		k.mu.Unlock()
		c.failStream(k, s, id, codeProtocol, fault)
		return c.guard.fault(c)
	}
	l.ended, l.trailing = true, true
	l.trailers = append(l.trailers[:0], b.req.fields...)
	k.moved = c.now
	k.pump(l, nil, false, &c.d)
	k.mu.Unlock()
	return nil
}

// responseHead takes a head, or the trailers, of a response.
func (k *call) responseHead(c *conn, s *stream, id uint32) *fatal {
	b := &c.block
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.is(c, id) || !k.attached || k.over {
		return nil
	}
	if k.final {
		k.responseTrailers(c)
		return nil
	}
	r, fault := response{}, b.fault
	if fault == nil {
		r, fault = parseResponse(b.req.fields)
	}
	if !k.heard {
		k.heard = true
		if k.x.FirstByte(c.now.Sub(k.x.Start)) {
			k.deadline = k.x.Until()
		}
	}
	if fault == nil && r.status < 200 && (b.end || r.status == 101) {
		fault = faultStatus
	}
	bodiless := r.status == 204 || r.status == 304 || k.req.method == "HEAD"
	if fault == nil && b.end && r.length > 0 && !bodiless {
		fault = faultLength
	}
	if fault != nil {
		k.cutUp(codeProtocol)
		k.fail(flow.ReasonUpstreamProtocol, "response: "+fault.Text)
		return nil
	}
	if r.status < 200 {
		if k.sess == nil {
			k.holdInterim(r.status, b.req.fields)
		} else {
			k.interim(b.req.fields, &c.d)
		}
		return nil
	}
	k.final = true
	if r.status >= 400 || b.end {
		k.x.Outcome.RetryAfter = retryAfter(b.req.fields, r.status, k.req.grpc && b.end)
	}
	l := &k.out
	l.ended = b.end
	switch {
	case k.req.method == "HEAD" || r.status == 304:
		l.length = 0 // what is announced does not come
	case r.status == 204:
		l.length = 0
	default:
		l.length = r.length
	}
	if k.req.connect && r.status < 300 {
		k.tunnel, l.length = true, -1
		k.moved = c.now
		k.deadline = time.Time{}
	}
	status := flow.GRPCStatus(0) // of trailers only
	if k.req.grpc && b.end {
		status = flow.ReadGRPCStatus(r.grpcStatus)
	}
	k.x.Outcome.Told = flow.ReasonNone
	if r.tulle && c.mesh && (r.status >= 400 || k.req.grpc && b.end) {
		k.x.Outcome.Told = farReason(b.req.fields)
	}
	if k.sess == nil || k.x.Gate != nil && !k.in.q.lost && k.x.Asks(r.status, status) {
		k.x.Outcome.GRPC = status
		k.held, k.heldEnd = r, b.end
		k.fields = append(k.fields[:0], b.req.fields...)
		k.asking = true
		k.signal()
		return nil
	}
	k.commit(&r, b.req.fields, b.end, c.mesh, &c.d)
	return nil
}

// responseTrailers takes the trailers of a response.
func (k *call) responseTrailers(c *conn) {
	b := &c.block
	status, fault := "", b.fault
	if fault == nil {
		status, fault = checkTrailers(b.req.fields)
	}
	l := &k.out
	if fault == nil && !b.end {
		fault = faultTrailers
	}
	if fault == nil && l.length >= 0 && l.got != l.length {
		fault = faultLength
	}
	if fault != nil {
		k.cutUp(codeProtocol)
		k.fail(flow.ReasonUpstreamProtocol, "response: "+fault.Text)
		return
	}
	if k.req.grpc {
		k.x.Outcome.GRPC = flow.ReadGRPCStatus(status)
		if k.x.Outcome.GRPC.HTTP() >= 400 {
			k.x.Outcome.RetryAfter = retryAfter(b.req.fields, 0, true)
		}
	}
	l.ended, l.trailing = true, true
	kept := l.trailers[:0]
	l.trailers = b.req.fields // passed at once, as a rule
	k.pump(l, nil, false, &c.d)
	if l.passed {
		l.trailers = kept
	} else {
		l.trailers = append(kept, b.req.fields...)
	}
}

// interim passes on a 1xx response (RFC 9110, section 15.2).
func (k *call) interim(fields []field, d *dirty) {
	c := k.down.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || k.down.localDone || len(c.out) > maxOut { // they may be left out (RFC 9110, section 15.2), and no window bounds them
		return
	}
	at := c.beginBlockLocked()
	for i := range fields {
		if f := &fields[i]; f.id != fieldTulle && f.id != fieldContentLength {
			c.putFieldLocked(f)
		}
	}
	c.endBlockLocked(at, k.down.id, false)
	d.add(c)
}

// judge takes a final head into x, and marks what of it is not passed on.
func (k *call) judge(x *exchange.Exchange, r *response, fields []field, end, mesh bool) {
	if r.tulle {
		for i := range fields {
			if f := &fields[i]; f.id == fieldTulle {
				if f.drop = !mesh; mesh { // only a sidecar may say why
					k.hear(x, f)
				}
			}
		}
	}
	x.Outcome.Status = r.status
	if k.req.grpc && end {
		x.Outcome.GRPC = flow.ReadGRPCStatus(r.grpcStatus)
	}
	if r.status >= 500 {
		x.Outcome.Fail(flow.ReasonUpstreamStatus, x.Outcome.Told.Answered())
	}
	if len(x.Binding.Headers) > 0 {
		capture(x, fields, true)
	}
}

// commit passes the head of a response on; nothing can be retried any more.
func (k *call) commit(r *response, fields []field, end, mesh bool, d *dirty) {
	x := &k.x
	k.judge(x, r, fields, end, mesh)
	c := k.down.c
	c.mu.Lock()
	if c.dead || k.down.localDone {
		c.mu.Unlock()
		return // who has noticed ends the try
	}
	x.Outcome.Committed = true
	if !end && !k.tunnel && x.Stream(k.streams(fields)) {
		k.setDeadline(x.End())
	}
	at := c.beginBlockLocked()
	for i := range fields {
		if f := &fields[i]; !f.drop && !f.omitted(&x.Passed) {
			c.putFieldLocked(f)
		}
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
	d.add(c)
	if x.After == nil {
		k.in.q.forget()
	}
	k.out.open = true
	if end {
		k.out.passed = true
		k.lanePassed(&k.out)
	} else if k.out.q.unsent > 0 || k.out.ended {
		k.pump(&k.out, nil, false, d)
	}
}

// streams is what a response with a body is.
func (k *call) streams(fields []field) exchange.Nature {
	switch {
	case k.req.grpc:
		return exchange.Endless
	case k.out.length >= 0:
		return exchange.NatureOf(k.out.length)
	}
	for i := range fields {
		if f := &fields[i]; f.id == fieldContentType {
			if len(f.value) >= len(exchange.EventStream) && strings.EqualFold(f.value[:len(exchange.EventStream)], exchange.EventStream) {
				return exchange.Endless
			}
			break
		}
	}
	return exchange.Ordinary
}

// tellLocked writes the last field of a final head for a sidecar that called.
func (k *call) tellLocked(c *conn, x *exchange.Exchange) {
	if !x.Tells() {
		return
	}
	if k.scratch = exchange.AppendTiming(k.scratch[:0], &x.Legs); len(k.scratch) > 0 {
		c.enc.putNamed(namedTiming, exchange.TimingField, exchange.Aliased(k.scratch))
	}
}

// hear takes x-tulle-timing off. What is malformed or comes twice counts for nothing.
func (k *call) hear(x *exchange.Exchange, f *field) {
	if f.name != exchange.TimingField {
		return
	}
	f.drop = true
	far, ok := exchange.ParseTiming(octets(f.value))
	if !ok || k.told {
		far = flow.Far{}
	}
	x.Far, k.told = far, true
}

// farReason is what the far sidecar said about its answer.
func farReason(fields []field) flow.Reason {
	for i := range fields {
		if f := &fields[i]; f.name == reasonField {
			if r, ok := flow.ParseReason(f.value); ok {
				return r
			}
		}
	}
	return flow.ReasonNone
}

// dropped says of an answer that it has made way for another try.
func dropped(x *exchange.Exchange) string {
	if why := x.Outcome.Told.Answered(); why != "" {
		return why
	}
	if g := x.Outcome.GRPC; g != 0 {
		return "answered " + g.String()
	}
	return "answered " + statusText(x.Outcome.Status)
}

// cutUp resets the stream of the try, unless it is closed. Only the reader of its connection calls it.
func (k *call) cutUp(why code) {
	c := k.up.c
	c.mu.Lock()
	c.cutLocked(&k.up, why)
	c.removeLocked(&k.up)
	ended := c.mustEndLocked()
	c.mu.Unlock()
	c.d.add(c)
	if ended {
		c.wake()
	}
}

// callerGone notes that the caller has left, or was turned away, and ends the try.
func (k *call) callerGone(r flow.Reason, text string) {
	if k.gone != flow.ReasonNone || k.finished {
		return
	}
	k.gone, k.goneText = r, text
	if k.attached && !k.over && !k.x.Outcome.Answered {
		k.fail(r, text)
	}
	switch {
	case k.in.mover != nil:
		k.tellSender()
	case !k.attached: // somebody may wait before a try, or between two
		k.x.Wake()
	}
}

// peerReset takes a RST_STREAM of the peer.
func (k *call) peerReset(c *conn, s *stream, id uint32, why code) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !s.is(c, id):
	case s == &k.down:
		k.callerGone(flow.ReasonDownstreamReset, "the caller reset the stream: "+why.String())
	case !k.attached || k.over || k.out.ended: // NO_ERROR after a whole response, say
	case why == codeRefused && !k.heard:
		o := &k.x.Outcome
		o.Delivered, o.Unprocessed = false, true
		o.Stale = k.x.Side == flow.SideServer // there is one application: it is asked again, now that its limit is known
		k.fail(flow.ReasonUpstreamReset, "the endpoint refused the stream")
	default:
		k.fail(flow.ReasonUpstreamReset, "the endpoint reset the stream: "+why.String())
	}
}

// peerFailed takes that we have reset a stream because its peer has broken a rule.
func (k *call) peerFailed(c *conn, s *stream, id uint32, why code, fault *exchange.Fault) {
	text := why.String()
	if fault != nil {
		text = fault.Text
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !s.is(c, id):
	case s == &k.down:
		k.callerGone(flow.ReasonBadRequest, text)
	default:
		k.fail(flow.ReasonUpstreamProtocol, "response: "+text)
	}
}

// unprocessed takes that an endpoint which goes away has not seen the stream.
func (k *call) unprocessed(c *conn, s *stream, id uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.is(c, id) && s == &k.up && k.attached && !k.over && !k.out.ended {
		o := &k.x.Outcome
		o.Delivered, o.Unprocessed, o.Stale = false, true, k.reused && !k.heard
		k.fail(flow.ReasonUpstreamReset, "the endpoint went away before it took the stream")
	}
}

// lost takes the end of a connection; why is nil, or io.EOF, when it ended in order.
func (k *call) lost(c *conn, s *stream, id uint32, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.is(c, id) {
		return
	}
	if s == &k.down {
		k.callerGone(flow.ReasonDownstreamReset, "the caller closed the connection")
		return
	}
	if !k.attached || k.over || k.out.ended {
		return
	}
	if why == nil {
		why = io.EOF
	}
	if broke := (*fatal)(nil); errors.As(why, &broke) {
		k.x.Outcome.Delivered = k.heard
		k.fail(flow.ReasonUpstreamProtocol, broke.Error())
		return
	}
	if k.heard {
		k.fail(flow.ReasonUpstreamReset, "the connection closed within the response: "+why.Error())
		return
	}
	c.mu.Lock()
	unwritten, taken, gaveUp := id >= c.written, id <= c.last, c.ending == endDead
	c.mu.Unlock()
	switch { // it may have been processed, however the connection ends
	case unwritten:
	case gaveUp:
		k.fail(flow.ReasonUpstreamReset, "the endpoint did not answer PING, or took nothing")
		return
	case taken:
		k.fail(flow.ReasonUpstreamReset, "the endpoint gave up the connection before it answered: "+why.Error())
		return
	}
	// The peer closed without one frame for the stream: it did not see its head (docs/format/record.md, "Identities", rule 2).
	o := &k.x.Outcome
	o.Delivered, o.Stale = false, k.reused
	detail, refused := k.x.CertificateRefused(why)
	switch {
	case refused && !c.greeted:
		o.Unprocessed = true
		k.fail(flow.ReasonTLSFailed, detail)
	case unwritten, c.mesh && errors.Is(why, io.EOF):
		// A sidecar that closes in order has answered each head that it had parsed, or named it in a GOAWAY. Without close_notify it may have died.
		o.Unprocessed = true
		k.fail(flow.ReasonUpstreamReset, "the endpoint closed the connection before it answered")
	default:
		k.fail(flow.ReasonUpstreamReset, "the connection closed before a response: "+why.Error())
	}
}

// capture keeps the fields that the workload's allow-list names, in x.Captured. A field that comes more than once is one list (RFC 9110, section 5.3).
func capture(x *exchange.Exchange, fields []field, response bool) {
	for _, allowed := range x.Binding.Headers {
		value, came := x.Scratch[:0], false
		for i := range fields {
			if fields[i].name != allowed {
				continue
			}
			if came {
				value = append(value, ", "...)
			}
			came = true
			v := fields[i].value
			value = append(value, v[:min(len(v), flow.MaxHeaderValue)]...)
		}
		if came {
			x.Captured = flow.AppendHeader(x.Captured, response, allowed, value)
		}
		x.Scratch = value
	}
}
