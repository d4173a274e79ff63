package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Sender is the last handler of both paths: it sends the request to x.Choice.Endpoint and relays the response.
type Sender struct {
	Pool exchange.Pool
}

// Handle makes one try. It leaves the result in x.Outcome.
func (s *Sender) Handle(x *exchange.Exchange) {
	c, ok := x.Downstream.(*conn)
	if !ok {
		s.handleForeign(x)
		return
	}
	if f := c.w.body.fault; f != nil {
		x.Outcome.Fail(flow.ReasonBadRequest, f.Text)
		return
	}
	if n := len(x.Sent.Append); n > 0 && (c.w.req.n+n > MaxFields-ownFields || len(c.w.req.buf)+x.Sent.Size() > MaxHeadBytes-ownBytes) {
		c.w.body.fault = faultEdited
		x.Outcome.Fail(flow.ReasonBadRequest, faultEdited.Text)
		return
	}
	up := s.Pool.Get(x)
	if up == nil {
		return
	}
	t := try{c: c, w: c.w, x: x, up: up}
	if !x.Attach(up.Conn, x.AnswerBy()) {
		s.Pool.Discard(up)
		x.Outcome.Fail(x.WhyAborted())
		return
	}
	t.run()
	x.Unwatch()
	x.Detach()
	if c.w.uploading {
		if _, ended := c.uploadResult(); !ended {
			// The response is over, or nothing will come of this try: nobody waits for the rest of the body.
			_ = up.SetDeadline(aLongTimeAgo)
			c.stopUpload()
		}
	}
	t.reusable = t.reusable && t.settled() && !t.early && !c.w.broken && !x.Silenced()
	if extra := len(c.w.up.b) - mediumBuffer; extra > 0 {
		c.room.Give(extra)
	}
	c.w.up.release()
	if t.reusable {
		s.Pool.Put(up)
	} else {
		s.Pool.Discard(up)
	}
}

// try is one request and response over one upstream connection.
type try struct {
	c  *conn
	w  *work
	x  *exchange.Exchange
	up *exchange.Conn

	foreign *foreign // whose try it is when the caller speaks another version; nil: c's

	reusable  bool // nothing is outstanding on up
	heard     bool // a byte of a response arrived
	continued bool // a 100 did
	told      bool // the far sidecar has said how long it took
	early     bool // the answer came before the request had gone out: a service that does not read what it has answered would take the rest for the next request
}

// settled reports whether the service has surely read the request to its end, so that what is sent next is read as the next request. One that
// answers "Expect: 100-continue" without a 100 may not want the body that it got (RFC 9110, section 10.1.1).
func (t *try) settled() bool {
	r := &t.w.req
	return t.w.body.done && !r.connect && (!r.expect || t.continued || !r.chunked && r.length <= 0)
}

func (t *try) run() {
	if !t.request() {
		return
	}
	for {
		if !t.responseHead() {
			return
		}
		h := &t.w.resp
		if h.status == 101 && t.w.req.upgrade || t.w.req.connect && h.status >= 200 && h.status < 300 {
			t.tunnel()
			return
		}
		if h.status >= 200 || h.status == 101 {
			break
		}
		if !t.interim() {
			return
		}
	}
	if t.w.resp.status == 101 {
		t.fail(flow.ReasonUpstreamProtocol, "the service switched protocols though nobody asked it to")
		return
	}
	t.response()
}

// request writes the head and what of the body is there; the rest is left to the uploader.
func (t *try) request() bool {
	w, x := t.w, t.x
	w.broken, w.ended = false, upload{}
	w.out = t.c.appendRequest(w.out[:0], x)
	head := len(w.out)
	separate := len(w.body.first) > smallBuffer
	if !separate {
		w.out = append(w.out, w.body.first...)
	}
	n, err := t.up.Write(w.out)
	if err == nil && separate {
		_, err = t.up.Write(w.body.first)
	}
	if n < head {
		t.unsent(err)
		return false
	}
	x.Outcome.Delivered = true
	if err != nil {
		w.broken = true
		return true // the head went out; an answer may be waiting
	}
	if w.body.done && len(w.body.replay) == 0 {
		x.Legs.Sent = x.Since()
		return true
	}
	x.Waiting.Excused.Store(true) // it may be the caller who is slow
	t.c.startUpload(t.up)
	return true
}

// unsent fills the outcome when the head did not go out as a whole.
func (t *try) unsent(err error) {
	o := &t.x.Outcome
	o.Delivered, o.Unprocessed, o.Stale = false, true, t.up.Reused
	t.failed(flow.ReasonUpstreamReset, err)
}

// appendRequest writes the head as it goes upstream.
func (c *conn) appendRequest(b []byte, x *exchange.Exchange) []byte {
	w := c.w
	h := &w.req
	b = append(b, h.bytes(h.method)...)
	b = append(b, ' ')
	b = h.appendSent(b, x)
	b = append(b, " HTTP/1.1\r\n"...)
	if own := x.Rewrites(); own != "" && !h.connect {
		if h.host >= 0 {
			h.fields[h.host].drop = true
		}
		b = append(append(append(b, "host: "...), own...), "\r\n"...)
	} else if h.ownHost() {
		b = append(b, "host: "...)
		b = append(b, h.bytes(h.author)...)
		b = append(b, "\r\n"...)
	}
	h.omit(&x.Sent)
	b = appendTrace(x.Sent.AppendLines(appendForwarded(h.appendFields(b), x)), x)
	if h.requestID < 0 {
		b = append(b, "\r\nx-request-id: "...)
		b = append(b, x.Head.RequestID...)
	}
	if h.upgrade {
		b = append(b, "\r\nconnection: upgrade"...)
	}
	return append(b, "\r\n\r\n"...)
}

// appendTrace appends the fields that name x.Try, without the last CR LF.
func appendTrace(b []byte, x *exchange.Exchange) []byte {
	b = exchange.AppendTraceparent(append(b, "traceparent: "...), x.Try)
	if x.Head.B3 != 0 {
		b = appendB3(b, x)
	}
	if x.Hops() {
		x.EachHop(time.Now(), func(name, value string) {
			b = append(append(append(append(b, "\r\n"...), name...), ": "...), value...)
		})
	}
	return b
}

// responseHead reads and parses the next head into w.resp.
func (t *try) responseHead() bool {
	w, x := t.w, t.x
	u := &w.up
	u.acquire(mediumBuffer)
	if u.w == 0 && x.Tells() {
		u.r, u.w = timingMax, timingMax // room to tell
	}
	searched := 0
	for {
		b := u.unread()
		n, f := headEnd(b, searched)
		if f == nil && n == 0 && len(b) >= MaxHeadBytes {
			f = faultTooLarge
		}
		if f == nil && n > 0 {
			f = w.resp.parseResponse(b[:n:n], MeshLimits)
		}
		if f != nil {
			t.fail(flow.ReasonUpstreamProtocol, "response: "+f.Text)
			return false
		}
		if n > 0 {
			u.r += n
			return true
		}
		searched = len(b)
		if u.w == len(u.b) {
			if u.compact(); u.w == len(u.b) {
				if !u.grow() {
					t.fail(flow.ReasonUpstreamProtocol, "response: "+faultTooLarge.Text)
					return false
				}
				t.c.room.Need(len(u.b) - mediumBuffer)
			}
		}
		if _, err := u.fill(t.up); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && !t.heard && t.foreign == nil && x.Longer(time.Now()) {
				x.SetDeadline(x.AnswerBy())
				continue
			}
			t.readFailed(err)
			return false
		}
		if !t.heard {
			t.heard = true
			if x.FirstByte(x.Since()) {
				x.SetDeadline(x.Until())
			}
		}
	}
}

// readFailed fills the outcome after an error of a read from upstream.
func (t *try) readFailed(err error) {
	x := t.x
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.failed(flow.ReasonUpstreamReset, err)
		return
	}
	if t.heard {
		t.fail(flow.ReasonUpstreamReset, "the connection closed within the response: "+err.Error())
		return
	}
	// The peer closed without one byte: it did not parse the head (docs/format/record.md, "Identities", rule 2).
	o := &x.Outcome
	o.Delivered = false
	o.Stale = t.up.Reused
	why, refused := x.CertificateRefused(err)
	switch {
	case refused && !t.up.Reused:
		o.Unprocessed = true
		t.fail(flow.ReasonTLSFailed, why)
	case t.up.Mesh && errors.Is(err, io.EOF):
		// A sidecar that closes in order (close_notify) would have answered a head that it had parsed. Without close_notify it may have died.
		o.Unprocessed = true
		t.fail(flow.ReasonUpstreamReset, "the endpoint closed the connection before it answered")
	default:
		t.fail(flow.ReasonUpstreamReset, "the connection closed before a response: "+err.Error())
	}
}

// failed fills the outcome after err, looking for the true cause of a time-out.
func (t *try) failed(reason flow.Reason, err error) {
	x := t.x
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.fail(reason, err.Error())
		return
	}
	if x.Aborted() != flow.ReasonNone {
		t.fail(x.WhyAborted())
		return
	}
	if t.foreign != nil {
		t.foreign.settle()
	} else if t.w.uploading {
		_, ended := t.c.uploadResult()
		switch until := x.Until(); {
		case ended:
		case until.IsZero() || time.Now().Before(until):
			t.c.awaitUpload() // it woke us, and ends at once
		case until.Equal(x.End()):
			t.c.stopUpload() // the whole time is over: it knows who took it
		}
	}
	if u := t.w.ended; u.reason != flow.ReasonNone && !u.upstream {
		// A service that has read all there is of a request cannot be blamed for not having answered it, unless it was asked for a 100.
		if u.reason == flow.ReasonRequestTimeout && !x.Outcome.Committed && (t.heard || !t.w.req.expect) {
			if t.foreign != nil {
				t.foreign.caller.Refuse(x, faultSlowBody)
				return
			}
			t.w.body.fault = faultSlowBody
			t.fail(flow.ReasonBadRequest, faultSlowBody.Text)
			return
		}
		if u.reason != flow.ReasonRequestTimeout || !x.Streams() {
			t.fail(u.reason, u.err.Error())
			return
		}
	}
	t.fail(x.Late(time.Now()))
}

func (t *try) fail(reason flow.Reason, detail string) { t.x.Outcome.Fail(reason, detail) }

// uploading reports whether the rest of the body is still on its way. While it is, w.body belongs to the uploader.
func (t *try) uploading() bool {
	if t.w.uploading {
		_, _ = t.c.uploadResult()
	}
	return t.w.uploading
}

// interim relays a 1xx response other than 101 (RFC 9110, section 15.2).
func (t *try) interim() bool {
	w, h := t.w, &t.w.resp
	t.continued = t.continued || h.status == 100
	if w.req.minor == 0 {
		return true
	}
	w.out = append(w.out[:0], "HTTP/1.1 "...)
	w.out = append(w.out, h.buf[9:12]...)
	w.out = append(w.out, " \r\n"...)
	t.stripFraming()
	w.out = h.appendFields(w.out)
	w.out = append(w.out, "\r\n"...)
	return t.down(w.out)
}

// stripFraming drops fields that have no meaning in a response that has no body.
func (t *try) stripFraming() {
	h := &t.w.resp
	for i := range h.fields[:h.n] {
		if id := h.fields[i].id; id == fieldContentLength || id == fieldTransferEncoding {
			h.fields[i].drop = true
		}
	}
}

// down writes to the caller.
func (t *try) down(b []byte) bool {
	if _, err := t.c.write(b, t.x.End()); err != nil {
		t.fail(unwritten(t.x, err))
		return false
	}
	return true
}

// unwritten says why what was for the caller was not written.
func unwritten(x *exchange.Exchange, err error) (flow.Reason, string) {
	if errors.Is(err, os.ErrDeadlineExceeded) && x.Streams() {
		if x.Aborted() != flow.ReasonNone {
			return x.WhyAborted()
		}
		return x.Late(time.Now())
	}
	return flow.ReasonDownstreamReset, "writing to the caller: " + err.Error()
}

// streams tells x, unless the answer is whole already, that it has begun, and gives the try the time of a stream if it is one.
func (t *try) streams(framed framing, down net.Conn) {
	nature := exchange.Ordinary
	switch {
	case t.x.Protocol == flow.ProtocolGRPC, framed != framedLength && t.w.resp.eventStream():
		nature = exchange.Endless
	case framed == framedLength:
		nature = exchange.NatureOf(t.w.resp.length)
	}
	if t.x.Stream(nature) {
		t.x.Prolong(down)
	}
}

// framing of a response body.
type framing uint8

const (
	framedNone framing = iota
	framedLength
	framedChunked
	framedClose // until the connection closes
)

// framing is how the body of a final response to a request with a method is framed (RFC 9112, section 6.3).
func (h *head) framing(method string) framing {
	switch {
	case h.status == 204 || h.status == 304 || method == "HEAD":
		return framedNone
	case h.chunked:
		return framedChunked
	case h.length >= 0:
		return framedLength
	}
	return framedClose
}

// response relays the final response.
func (t *try) response() {
	c, w, x, h := t.c, t.w, t.x, &t.w.resp
	u := &w.up
	framed := h.framing(x.Head.Method)
	if h.status == 204 {
		t.stripFraming()
	}
	// To HEAD and with 304 a body is announced by right; services that send it all the same are found out before the connection is used again.
	// So are those that answer a request, and then its body, too.
	t.up.Suspect = framed == framedNone && (h.chunked || h.length > 0) || w.req.chunked || w.req.length > 0
	t.early = t.uploading()
	h.retryAfter(x)
	t.tellWhy()
	gated := x.Gate != nil && x.Asks(h.status, 0)
	if gated && t.uploading() { // the gate asks what of the body can be sent again, and a service that says 503 will hardly read the rest
		_ = t.up.SetWriteDeadline(aLongTimeAgo)
		u := c.stopUpload()
		w.ended = upload{}                                                                         // stopped is not failed
		gated = u.upstream || u.reason == flow.ReasonNone || u.reason == flow.ReasonRequestTimeout // else the caller is gone
	}
	if gated && x.Gate.Retry(x, h.status) {
		x.Outcome.Status, x.Outcome.Again = h.status, true
		t.fail(flow.ReasonUpstreamStatus, dropped(x))
		rest := u.unread()
		t.reusable = w.body.done && !h.close && h.minor > 0 &&
			(framed == framedNone && len(rest) == 0 || framed == framedLength && int64(len(rest)) == h.length)
		return
	}
	for i := range h.fields[:h.n] {
		switch f := &h.fields[i]; f.id {
		case fieldTulle: // only a sidecar may say why
			if f.drop = !t.up.Mesh; t.up.Mesh {
				t.hear(f)
			}
		case fieldTraceparent:
			f.drop = false
		}
	}
	dechunk := framed == framedChunked && w.req.minor == 0
	if framed == framedClose || dechunk || c.sess.Draining() {
		w.keep = false
	}
	if t.uploading() {
		if h.status >= 400 || w.req.expect {
			w.keep = false // most likely the service will not read the rest, or the caller not send it
		}
	} else if !w.body.done {
		w.keep = false
	}

	// The head and what of the body came with it.
	rest := u.unread()
	var left int64
	var ch chunks
	complete := false
	take := 0
	var broken *fault
	switch framed {
	case framedNone:
		complete = true
	case framedLength:
		take = int(min(h.length, int64(len(rest))))
		left = h.length - int64(take)
		complete = left == 0
		x.BytesOut.Add(uint64(take))
	case framedChunked:
		if !dechunk {
			var data int
			take, data, broken = ch.scan(rest)
			complete = ch.done()
			x.BytesOut.Add(uint64(data))
		}
	case framedClose:
		take = len(rest)
		x.BytesOut.Add(uint64(take))
	}
	x.Outcome.Status = h.status
	why := "" // now: h lies where the body will
	if h.status >= 500 {
		why = t.detail()
	}
	if !complete {
		t.streams(framed, c.nc)
	}
	if len(x.Binding.Headers) > 0 {
		capture(x, h, true)
	}
	var first []byte
	if w.keep && w.req.minor > 0 && h.minor > 0 && !dechunk && x.SetCookie == "" && x.Passed.IsZero() {
		first = t.spliced(take)
	}
	if first == nil {
		b := h.appendStatusLine(w.out[:0])
		if dechunk {
			t.stripFraming()
		}
		h.omit(&x.Passed)
		b = x.Passed.AppendLines(appendCookie(h.appendFields(b), x))
		if !w.keep {
			b = append(b, "connection: close\r\n"...)
		} else if w.req.minor == 0 {
			b = append(b, "connection: keep-alive\r\n"...)
		}
		if x.Tells() {
			b = appendTiming(b, &x.Legs)
		}
		b = append(b, "\r\n"...)
		b = append(b, rest[:take]...)
		w.out = b
		first = b
	}
	u.r += take
	x.Outcome.Committed = true
	if complete && t.uploading() { // with the last byte of the answer the caller may go on to its next request, which is not to go out as what is left of this one
		_ = t.up.SetWriteDeadline(aLongTimeAgo)
		c.stopUpload()
		w.ended = upload{} // stopped is not failed
	}
	if !t.down(first) {
		return
	}
	switch {
	case broken != nil:
		t.fail(flow.ReasonUpstreamProtocol, "response: "+broken.Text)
		return
	case complete:
	case dechunk:
		complete = t.relayDechunked(&ch)
	case framed == framedLength:
		complete = t.relayLength(left)
	case framed == framedChunked:
		complete = t.relayChunked(&ch)
	default:
		complete = t.relayClose()
	}
	if !complete {
		return
	}
	x.Legs.LastByte = x.Since()
	x.Outcome.Answered = true
	if h.status >= 500 {
		t.fail(flow.ReasonUpstreamStatus, why)
	}
	announced := h.status == 204 && (h.chunked || h.length > 0) // a body where none may be: it may still come
	t.reusable = framed != framedClose && !announced && !h.close && h.minor > 0 && len(u.unread()) == 0
}

// tellWhy notes what the far sidecar said about its answer.
func (t *try) tellWhy() {
	h := &t.w.resp
	if !h.hops || !t.up.Mesh || h.status < 400 && t.x.Protocol != flow.ProtocolGRPC {
		return
	}
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.id == fieldTulle && equalFold(h.bytes(f.name), "x-tulle-reason") {
			if r, ok := flow.ParseReason(h.str(f.value)); ok {
				t.x.Outcome.Told = r
			}
		}
	}
}

// detail says of a failed answer that it is the far sidecar's own.
func (t *try) detail() string { return t.x.Outcome.Told.Answered() }

// dropped says of an answer that it has made way for another try.
func dropped(x *exchange.Exchange) string {
	if why := x.Outcome.Told.Answered(); why != "" {
		return why
	}
	return "answered " + strconv.Itoa(x.Outcome.Status)
}

// appendStatusLine appends the status line as ours: a version is of its sender (RFC 9110, section 2.5).
func (h *head) appendStatusLine(b []byte) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = append(b, h.buf[9:12]...)
	if end := startLineEnd(h.buf); end > 12 {
		b = append(b, h.buf[12:end]...)
	} else {
		b = append(b, ' ')
	}
	return append(b, "\r\n"...)
}

func startLineEnd(b []byte) int {
	for i, ch := range b {
		if ch == '\r' {
			return i
		}
	}
	return len(b)
}

// more reads the next part of a body into the empty buffer.
func (t *try) more() ([]byte, bool) {
	u := &t.w.up
	u.r, u.w = 0, 0
	if _, err := u.fill(t.up); err != nil {
		t.readFailed(err)
		return nil, false
	}
	return u.b[:u.w], true
}

func (t *try) relayLength(left int64) bool {
	if left > mediumBuffer && len(t.w.up.b) == mediumBuffer && t.c.room.TakeSpare(largeBuffer-mediumBuffer) {
		t.w.up.release()
		t.w.up.acquire(largeBuffer)
	}
	for left > 0 {
		b, ok := t.more()
		if !ok {
			return false
		}
		if int64(len(b)) > left {
			b = b[:left]
		}
		t.w.up.r = len(b)
		left -= int64(len(b))
		t.x.BytesOut.Add(uint64(len(b)))
		if !t.down(b) {
			return false
		}
	}
	return true
}

func (t *try) relayChunked(ch *chunks) bool {
	for !ch.done() {
		b, ok := t.more()
		if !ok {
			return false
		}
		n, data, f := ch.scan(b)
		t.w.up.r = n
		t.x.BytesOut.Add(uint64(data))
		if n > 0 && !t.down(b[:n]) {
			return false
		}
		if f != nil {
			t.fail(flow.ReasonUpstreamProtocol, "response: "+f.Text)
			return false
		}
	}
	return true
}

// relayDechunked serves HTTP/1.0 callers, who do not know chunks.
func (t *try) relayDechunked(ch *chunks) bool {
	b := t.w.up.unread()
	for {
		for len(b) > 0 && !ch.done() {
			n, data, f := ch.next(b)
			if f != nil {
				t.fail(flow.ReasonUpstreamProtocol, "response: "+f.Text)
				return false
			}
			if data {
				t.x.BytesOut.Add(uint64(n))
				if !t.down(b[:n]) {
					return false
				}
			}
			b = b[n:]
			t.w.up.r += n
		}
		if ch.done() {
			return true
		}
		var ok bool
		if b, ok = t.more(); !ok {
			return false
		}
	}
}

func (t *try) relayClose() bool {
	u := &t.w.up
	for {
		u.r, u.w = 0, 0
		_, err := u.fill(t.up)
		if errors.Is(err, io.EOF) { // in order; a TLS connection cut without close_notify says ErrUnexpectedEOF
			return true
		}
		if err != nil {
			t.readFailed(err)
			return false
		}
		t.x.BytesOut.Add(uint64(u.w))
		if !t.down(u.b[:u.w]) {
			return false
		}
	}
}

// tunnel passes on a 101, or a 2xx to CONNECT, and then relays bytes both ways until both sides have ended. Neither answer has a framing,
// whatever its fields say (RFC 9110, section 9.3.6).
func (t *try) tunnel() {
	c, w, x, h := t.c, t.w, t.x, &t.w.resp
	if t.uploading() { // the service may be faster than the uploader is to say that it is done; a service that switches early gets the rest first
		if u := c.awaitUpload(); u.reason != flow.ReasonNone && !u.upstream {
			t.fail(u.reason, u.err.Error())
			return
		}
	}
	if !w.body.done || w.broken {
		t.fail(flow.ReasonUpstreamProtocol, "the service switched protocols before the request was complete")
		return
	}
	if !w.req.connect && !h.upgrade {
		t.fail(flow.ReasonUpstreamProtocol, "the service switched protocols without saying to which, or to HTTP/2")
		return
	}
	x.Outcome.Status = h.status
	t.stripFraming()
	b := h.appendStatusLine(w.out[:0])
	if w.req.connect {
		h.noUpgrade()
		b = append(h.appendFields(b), "\r\n"...)
	} else {
		h.omit(&x.Passed)
		b = append(x.Passed.AppendLines(appendCookie(h.appendFields(b), x)), "connection: upgrade\r\n\r\n"...)
	}
	w.out = b
	w.keep = false
	x.Outcome.Committed = true
	if !t.down(b) {
		return
	}
	down := exchange.RelayEnd{Conn: c.nc, Buffered: c.in.unread()}
	if len(w.leftover) > 0 { // the uploader has read beyond the body, and then nothing is left in c.in
		down.Buffered = w.leftover
	}
	up := exchange.RelayEnd{Conn: t.up.Conn, Buffered: w.up.unread()}
	c.idleSet, c.timed, c.writeBy = time.Time{}, true, time.Time{}
	c.room.Need(exchange.RelayMemory)
	reason, err := exchange.Relay(x, down, up, x.Idle())
	c.room.Give(exchange.RelayMemory)
	c.in.r = c.in.w
	w.leftover = w.leftover[:0]
	x.Legs.LastByte = x.Since()
	if reason != flow.ReasonNone {
		t.fail(reason, err.Error())
		return
	}
	x.Outcome.Answered = true
}
