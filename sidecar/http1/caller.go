package http1

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// bridge is what a conn needs while another speaker sends its request. It is kept in work for the next such request; body.bridge says that it is in
// use, so that an exchange of HTTP/1.1 on both sides touches nothing of it.
//
// Invariant: what body keeps for another try is raw, whoever has read it, because the next try may be made by the other speaker.
type bridge struct {
	mu   sync.Mutex // held when ReadBody changes work.body or err
	live bool       // ReadBody may wait for the caller; under mu
	err  *exchange.BodyError

	// Of ReadBody.
	at    int       // how much of what was kept (body.first, then body.replay) it has read
	left  int64     // of a body with Content-Length, not yet handed out
	strip dechunker // of a chunked one
	stall stall     // of the connection
	ended atomic.Bool

	// Of the goroutine of the exchange.
	req      exchange.Request
	made     bool // req is
	fields   []exchange.Field
	trailers []exchange.Field
	key      string  // Sec-WebSocket-Key
	framed   framing // of the response
	final    bool    // its head was written, if only into work.out
	owed     int64   // of its Content-Length
}

var _ exchange.Caller = (*conn)(nil)

// bridged is what c needs now that another speaker sends its request.
func (c *conn) bridged() *bridge {
	b := &c.w.body
	if b.bridge == nil {
		k := c.w.bridge
		if k == nil {
			k = new(bridge)
			c.w.bridge = k
		}
		k.err, k.made = nil, false
		b.bridge = k
	}
	return b.bridge
}

// newField makes a field whose strings nobody changes, its name in lower case.
func newField(name, value []byte) exchange.Field {
	b := make([]byte, len(name), len(name)+len(value))
	for i, ch := range name {
		if ch >= 'A' && ch <= 'Z' {
			ch |= 0x20
		}
		b[i] = ch
	}
	s := exchange.Aliased(append(b, value...))
	return exchange.Field{Name: s[:len(name)], Value: s[len(name):]}
}

// Request implements exchange.Caller.
func (c *conn) Request(x *exchange.Exchange) *exchange.Request {
	k, h := c.bridged(), &c.w.req
	r := &k.req
	if k.made {
		return r
	}
	k.made = true
	k.key = h.webSocketKey()
	k.fields = c.describe(x, r, k.fields[:0], k.key)
	return r
}

// CopyHead implements exchange.Copier.
func (c *conn) CopyHead(x *exchange.Exchange) (*exchange.Request, bool) {
	if h := &c.w.req; h.connect || h.upgrade || c.w.body.fault != nil {
		return nil, false
	}
	r := &exchange.Request{}
	c.describe(x, r, nil, "")
	if own := x.Rewrites(); own != "" {
		r.Authority = own
	}
	return r, true
}

// CopyBody implements exchange.Copier.
func (c *conn) CopyBody(*exchange.Exchange) ([]byte, bool) {
	b := &c.w.body
	if !b.done || b.lost || b.fault != nil {
		return nil, false
	}
	body := append(append(make([]byte, 0, len(b.first)+len(b.replay)), b.first...), b.replay...)
	if b.chunked {
		var d dechunker
		_, n, f := d.take(body)
		if f != nil || !d.done() {
			return nil, false
		}
		body = body[:n]
	}
	return body, true
}

// describe makes r of the head, with what it appends to fields, which it returns. key: of a WebSocket that is opened.
func (c *conn) describe(x *exchange.Exchange, r *exchange.Request, fields []exchange.Field, key string) []exchange.Field {
	h := &c.w.req
	*r = exchange.Request{
		Method: string([]byte(x.Head.Method)), Authority: string(h.bytes(h.author)), Length: h.length, Expect: h.expect,
		Bare: !h.chunked && h.length <= 0,
	}
	if key != "" {
		r.Protocol = webSocket
	}
	if !h.connect {
		r.Target = string(h.appendSent(nil, x))
	}
	h.omit(&x.Sent)
	cookie := -1
	for i := range h.fields[:h.n] {
		f := &h.fields[i]
		name, value := h.bytes(f.name), h.bytes(f.value)
		switch f.id {
		case fieldTE:
			r.Trailers = r.Trailers || takesTrailers(value)
			continue
		case fieldOther:
			if equalFold(name, "http2-settings") || key != "" && (equalFold(name, "sec-websocket-key") || equalFold(name, "sec-websocket-accept")) {
				continue
			}
			if equalFold(name, "cookie") && !f.drop { // as RFC 6265, section 5.4 has it: one field; no value may end with a space
				switch {
				case len(value) == 0:
					continue
				case cookie >= 0:
					fields[cookie].Value += "; " + string(value)
					continue
				}
				cookie = len(fields)
			}
		case fieldHost, fieldContentLength, fieldTransferEncoding, fieldUpgrade, fieldExpect:
			continue
		}
		if !f.drop {
			fields = append(fields, newField(name, value))
		}
	}
	if len(x.Forwarded) > 0 {
		if !x.Sent.Drops(exchange.ForwardedForField) {
			fields = append(fields, exchange.Field{Name: exchange.ForwardedForField, Value: string(x.Forwarded)})
		}
		if !x.Sent.Drops(exchange.ForwardedProtoField) {
			fields = append(fields, exchange.Field{Name: exchange.ForwardedProtoField, Value: x.ForwardedProto})
		}
	}
	for i := range x.Sent.Append {
		fields = append(fields, exchange.Field{Name: x.Sent.Append[i].Name, Value: x.Sent.Append[i].Value})
	}
	if h.requestID < 0 {
		fields = append(fields, exchange.Field{Name: "x-request-id", Value: string([]byte(x.Head.RequestID))})
	}
	r.Fields = fields
	return fields
}

// takesTrailers reports whether a TE list (RFC 9110, section 10.1.4) has "trailers".
func takesTrailers(list []byte) bool {
	for tok := range bytes.SplitSeq(list, []byte(",")) {
		if equalFold(bytes.Trim(tok, " \t"), "trailers") {
			return true
		}
	}
	return false
}

// Fault implements exchange.Caller.
func (c *conn) Fault(*exchange.Exchange) *exchange.BodyError {
	k := c.bridged()
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := c.w.body.fault; f != nil {
		return &exchange.BodyError{Reason: flow.ReasonBadRequest, Text: f.Text}
	}
	return k.err
}

// Refuse implements exchange.Caller.
func (c *conn) Refuse(x *exchange.Exchange, f *exchange.Fault) {
	k := c.bridged()
	k.mu.Lock()
	c.w.body.fault = f
	k.mu.Unlock()
	x.Outcome.Fail(flow.ReasonBadRequest, f.Text)
}

// Rewind implements exchange.Caller.
func (c *conn) Rewind(x *exchange.Exchange) {
	w, k := c.w, c.bridged()
	b, h := &w.body, &w.req
	w.out = w.out[:0]
	k.at, k.left, k.framed, k.final = 0, max(h.length, 0), framedNone, false
	x.BytesOut.Store(0)
	k.strip.chunks, k.strip.trailer = chunks{}, k.strip.trailer[:0]
	clear(k.trailers)
	k.trailers = k.trailers[:0]
	k.ended.Store(!h.chunked && h.length <= 0)
	if !b.done {
		c.readBy(x.End())
		k.stall = stall{c: c, after: c.set.BodyTimeout}
	}
	w.stopping.Store(false)
	k.mu.Lock()
	k.live = !b.done
	k.mu.Unlock()
}

// StopBody implements exchange.Caller.
func (c *conn) StopBody() {
	k := c.w.body.bridge
	c.w.stopping.Store(true) // before the deadline, which ReadBody may be about to move
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.live {
		_ = c.nc.SetReadDeadline(aLongTimeAgo)
	}
}

// ReadBody implements exchange.Caller.
func (c *conn) ReadBody(x *exchange.Exchange, p []byte) (int, error) {
	w := c.w
	b, k := &w.body, w.body.bridge
	for {
		switch {
		case w.stopping.Load():
			return 0, exchange.ErrStopped
		case k.ended.Load():
			return 0, io.EOF
		}
		kept := b.first[min(k.at, len(b.first)):]
		if len(kept) == 0 && !b.lost {
			kept = b.replay[k.at-len(b.first):]
		}
		var raw []byte
		if len(kept) > 0 {
			raw = p[:copy(p, kept)]
		} else {
			var u upload
			raw, u = c.readBody(p, &k.stall)
			if u.leftover != nil { // it goes back to c.in when the exchange has ended: before that, heads alias c.in
				w.leftover = append(w.leftover[:0], u.leftover...)
				putBytes(u.leftover)
			}
			if len(raw) == 0 && u.reason == flow.ReasonNone {
				continue
			}
			if len(raw) == 0 {
				return 0, k.failed(x, &u, w.stopping.Load())
			}
		}
		n, f := k.take(raw, w.req.chunked)
		if f != nil {
			k.mu.Lock()
			b.fault = f
			k.mu.Unlock()
			return 0, k.failed(x, &upload{reason: flow.ReasonBadRequest, err: f}, false)
		}
		k.at += len(raw)
		if n > 0 {
			return n, nil
		}
	}
}

// failed is the error of ReadBody for u.
func (k *bridge) failed(x *exchange.Exchange, u *upload, stopping bool) error {
	if u.reason == flow.ReasonRequestTimeout && stopping {
		return exchange.ErrStopped
	}
	err := &exchange.BodyError{Reason: u.reason, Text: u.err.Error()}
	if u.reason != flow.ReasonRequestTimeout {
		k.mu.Lock()
		k.err = err
		k.mu.Unlock()
	}
	x.Wake()
	return err
}

// take takes the framing off raw, which was checked: n bytes of data are left at its beginning.
func (k *bridge) take(raw []byte, chunked bool) (n int, f *fault) {
	if !chunked {
		k.left -= int64(len(raw))
		k.ended.Store(k.left == 0)
		return len(raw), nil
	}
	if _, n, f = k.strip.take(raw); f == nil && k.strip.done() {
		if k.trailers, f = k.strip.appendTrailers(k.trailers); f == nil {
			k.ended.Store(true)
		}
	}
	return n, f
}

// BodyDone implements exchange.Caller.
func (c *conn) BodyDone() bool { return c.w.body.bridge.ended.Load() }

// RequestTrailers implements exchange.Caller.
func (c *conn) RequestTrailers() []exchange.Field { return c.w.body.bridge.trailers }

// errInvalid is what the sender is told that hands over what HTTP/1.1 cannot carry.
func errInvalid(what string) error {
	return &exchange.BodyError{Reason: flow.ReasonUpstreamProtocol, Text: "response: " + what}
}

// WriteHead implements exchange.Caller.
func (c *conn) WriteHead(x *exchange.Exchange, r *exchange.Response, end bool) error {
	w, k := c.w, c.bridged()
	h := &w.req
	interim := r.Status < 200 && !r.Tunnel
	switch {
	case r.Status < 100 || r.Status > 599 || interim && (end || r.Status == 101):
		return errInvalid("the status is " + strconv.Itoa(r.Status))
	case r.Tunnel && k.key == "" && !h.connect || !r.Tunnel && h.connect && r.Status >= 200 && r.Status < 300:
		return errInvalid("a tunnel was opened that nobody has asked for, or was not opened")
	case interim && h.minor == 0:
		return nil
	}
	status := r.Status
	if r.Tunnel && k.key != "" {
		status = 101
	}
	b := append(w.out, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(append(append(b, ' '), http.StatusText(status)...), "\r\n"...)
	announced := false // trailers were
	for i := range r.Fields {
		f := &r.Fields[i]
		if r.Tunnel && k.key != "" && f.Name == "sec-websocket-accept" || !interim && x.Passed.Drops(f.Name) {
			continue
		}
		var ok bool
		if b, ok = appendField(b, f); !ok {
			return errInvalid(faultFieldValue.Text)
		}
		announced = announced || f.Name == "trailer"
	}
	if !interim && (!r.Tunnel || k.key != "") {
		b = x.Passed.AppendLines(appendCookie(b, x))
	}
	if interim {
		if w.out = append(b, "\r\n"...); len(w.out) > smallBuffer { // there may be any number
			return c.Flush(x)
		}
		return nil
	}
	k.framed = framedNone
	switch {
	case r.Tunnel && k.key != "":
		b = append(append(b, "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: "...), webSocketAccept(k.key)...)
		b = append(b, "\r\n"...)
		fallthrough
	case r.Tunnel:
		w.keep = false
	case status == 204:
	case status == 304 || x.Head.Method == "HEAD":
		if r.Length >= 0 {
			b = appendLength(b, r.Length)
		}
	case end:
		if r.Length > 0 {
			return errInvalid(faultLength.Text)
		}
		b = appendLength(b, 0)
	case r.Length >= 0 && (!announced || h.minor == 0):
		k.framed, k.owed = framedLength, r.Length
		b = appendLength(b, r.Length)
	case h.minor > 0:
		k.framed = framedChunked
		b = append(b, "transfer-encoding: chunked\r\n"...)
	default:
		k.framed, w.keep = framedClose, false
	}
	if c.sess.Draining() || !c.mayKeep(k, status) {
		w.keep = false
	}
	switch {
	case r.Tunnel:
	case !w.keep:
		b = append(b, "connection: close\r\n"...)
	case h.minor == 0:
		b = append(b, "connection: keep-alive\r\n"...)
	}
	if x.Tells() && !r.Tunnel {
		b = appendTiming(b, &x.Legs)
	}
	w.out = append(b, "\r\n"...)
	x.Outcome.Status, k.final = status, true
	if x.Streams() {
		x.Prolong(c.nc)
	}
	return nil
}

// mayKeep reports whether the rest of the body, if there is one, is likely to come to its end: by finishBody, if not before.
func (c *conn) mayKeep(k *bridge, status int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return c.w.body.done || k.err == nil && status < 400 && !c.w.req.expect && !c.w.stopping.Load()
}

// WriteBody implements exchange.Caller.
func (c *conn) WriteBody(x *exchange.Exchange, p []byte) error {
	w, k := c.w, c.w.body.bridge
	if len(p) == 0 {
		return nil
	}
	switch k.framed {
	case framedNone:
		return errInvalid("a body where none may be")
	case framedLength:
		if int64(len(p)) > k.owed {
			return errInvalid(faultLength.Text)
		}
		k.owed -= int64(len(p))
	case framedChunked:
		w.out = append(strconv.AppendUint(w.out, uint64(len(p)), 16), "\r\n"...)
	}
	x.BytesOut.Add(uint64(len(p)))
	if len(w.out)+len(p) <= smallBuffer {
		w.out = append(w.out, p...)
	} else {
		if err := c.Flush(x); err != nil {
			return err
		}
		if err := c.toCaller(x, p); err != nil {
			return err
		}
	}
	if k.framed == framedChunked {
		w.out = append(w.out, "\r\n"...)
	}
	return nil
}

// WriteEnd implements exchange.Caller.
func (c *conn) WriteEnd(x *exchange.Exchange, trailers []exchange.Field) error {
	w, k := c.w, c.w.body.bridge
	switch {
	case k.framed == framedLength && k.owed > 0:
		return errInvalid(faultLength.Text)
	case k.framed == framedChunked:
		w.out = append(appendTrailers(append(w.out, "0\r\n"...), trailers), "\r\n"...)
	}
	if err := c.Flush(x); err != nil {
		return err
	}
	x.Legs.LastByte = x.Since()
	x.Outcome.Answered = true
	return nil
}

// Flush implements exchange.Caller.
func (c *conn) Flush(x *exchange.Exchange) error {
	w := c.w
	if len(w.out) == 0 {
		return nil
	}
	err := c.toCaller(x, w.out)
	w.out = w.out[:0]
	return err
}

func (c *conn) toCaller(x *exchange.Exchange, p []byte) error {
	x.Outcome.Committed = c.w.body.bridge.final // as long as the head waits here another answer may take its place
	if _, err := c.write(p, x.End()); err != nil {
		reason, text := unwritten(x, err)
		return &exchange.BodyError{Reason: reason, Text: text}
	}
	return nil
}

// Tunnel implements exchange.Caller.
func (c *conn) Tunnel(*exchange.Exchange) exchange.RelayEnd {
	w := c.w
	down := exchange.RelayEnd{Conn: c.nc, Buffered: c.in.unread()}
	if len(w.leftover) > 0 { // ReadBody has read beyond the body, and then nothing is left in c.in
		down.Buffered = w.leftover
	}
	c.idleSet, c.timed, c.writeBy = time.Time{}, true, time.Time{}
	c.in.r = c.in.w // the bytes stay where they are until the exchange has ended
	w.leftover = w.leftover[:0]
	return down
}

// Cut implements exchange.Caller: a connection whose answer was not whole is reset, see exchange.
func (c *conn) Cut(*exchange.Exchange) {
	c.w.keep, c.w.out = false, c.w.out[:0]
}

// appendField appends a field as a line. One that belongs to a connection, or is for its speaker to write, is left out. False: HTTP/1.1 cannot carry
// it, or it would end the line.
func appendField(b []byte, f *exchange.Field) ([]byte, bool) {
	at := len(b)
	b = append(b, f.Name...)
	name := b[at:]
	for _, ch := range name {
		if exchange.Class[ch]&exchange.IsToken == 0 {
			return b[:at], false
		}
	}
	switch identify(name) {
	case fieldHost, fieldContentLength, fieldTransferEncoding, fieldConnection, fieldKeepAlive, fieldProxyConnection, fieldUpgrade, fieldTE, fieldExpect:
		return b[:at], true
	case fieldOther:
		if equalFold(name, "http2-settings") {
			return b[:at], true
		}
	}
	b = append(b, ": "...)
	v := len(b)
	b = append(b, f.Value...)
	for _, ch := range b[v:] {
		if exchange.Class[ch]&exchange.IsValue == 0 {
			return b[:at], false
		}
	}
	return append(b, "\r\n"...), len(name) > 0
}

func appendLength(b []byte, n int64) []byte {
	return append(strconv.AppendInt(append(b, "content-length: "...), n, 10), "\r\n"...)
}

// appendTrailers appends those that may be trailers (RFC 9110, section 6.5.1), as far as other sidecars take them.
func appendTrailers(b []byte, trailers []exchange.Field) []byte {
	room := maxChunkExtra
	for i := range trailers {
		f, at := &trailers[i], len(b)
		line, ok := appendField(b, f)
		n := len(line) - at
		if !ok || n == 0 || n > room || !trailerAllowed(line[at:at+len(f.Name)]) {
			continue
		}
		b = line
		room -= n
	}
	return b
}

// dechunker takes the framing off a chunked body and keeps its trailers.
type dechunker struct {
	chunks
	trailer []byte // the section as it came, its last line included
}

// take moves the data of p to its front: n bytes, out of took that belong to the body. Extensions of chunks are dropped (RFC 9112, section 7.1.1).
func (d *dechunker) take(p []byte) (took, n int, f *fault) {
	for took < len(p) && !d.done() {
		at, next := d.state, p[took:]
		if at != chunkData {
			next = next[:1]
		}
		m, data, f := d.next(next)
		if f != nil {
			return took, n, f
		}
		if data {
			n += copy(p[n:], next[:m])
		} else if at >= trailerStart {
			d.trailer = append(d.trailer, next[0])
		}
		took += m
	}
	return took, n, nil
}

// appendTrailers appends the trailers of a body that is done. The fault: there are too many.
func (d *dechunker) appendTrailers(dst []exchange.Field) ([]exchange.Field, *fault) {
	if len(d.trailer) == len("\r\n") {
		return dst, nil
	}
	var h head
	h.reset(d.trailer)
	if f := h.parseFields(0, MeshLimits); f != nil {
		return dst, f
	}
	for i := range h.fields[:h.n] {
		dst = append(dst, newField(h.bytes(h.fields[i].name), h.bytes(h.fields[i].value)))
	}
	return dst, nil
}
