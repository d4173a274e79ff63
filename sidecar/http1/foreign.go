package http1

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// foreign makes a try for a caller that speaks another version of HTTP. It shares with try all that concerns the endpoint: how a head is read, what the
// end of a connection means, whose fault a time-out is; the caller is an exchange.Caller in place of a conn.
//
// The goroutine of the exchange owns it, but for upload, which owns buf and out meanwhile and has ended before the try does.
type foreign struct {
	t      try
	conn   conn // what a try needs of one: its room, and work, whose req says only how the request was framed
	caller exchange.Caller
	req    *exchange.Request

	key      string // Sec-WebSocket-Key that was sent
	left     int64  // of the request's Content-Length
	strip    dechunker
	resp     exchange.Response
	fields   []exchange.Field
	trailers []exchange.Field
}

// foreignSet is what a foreign try takes of the room: what is written, what the endpoint sends.
const foreignSet = smallBuffer + mediumBuffer

var foreignPool = sync.Pool{New: func() any { return new(foreign) }}

// handleForeign makes one try for an exchange.Caller.
func (s *Sender) handleForeign(x *exchange.Exchange) {
	caller, ok := x.Downstream.(exchange.Caller)
	if !ok {
		x.Outcome.Fail(flow.ReasonUpstreamProtocol, "what came in cannot be sent as HTTP/1.1")
		return
	}
	if e := caller.Fault(x); e != nil {
		x.Outcome.Fail(e.Reason, e.Text)
		return
	}
	room := x.Binding.Room
	if !room.Take(foreignSet) {
		room.Reached(exchange.LimitBufferBytes)
		x.Outcome.Unprocessed = true
		x.Outcome.Fail(flow.ReasonShed, room.Full())
		return
	}
	f := foreignPool.Get().(*foreign)
	f.conn = conn{room: room}
	f.conn.takeWork()
	f.caller, f.req = caller, caller.Request(x)
	f.t = try{c: &f.conn, w: f.conn.w, x: x, foreign: f}
	f.handle(s.Pool)
	if x.Outcome.Committed && !x.Outcome.Answered {
		caller.Cut(x)
	}
	f.conn.dropWork()
	clear(f.fields)
	clear(f.trailers)
	*f = foreign{strip: dechunker{trailer: f.strip.trailer[:0]}, fields: f.fields[:0], trailers: f.trailers[:0]}
	foreignPool.Put(f)
	room.Give(foreignSet)
}

func (f *foreign) handle(pool exchange.Pool) {
	t := &f.t
	x, w := t.x, t.w
	var flt *fault
	if w.out, flt = f.appendRequest(w.out[:0]); flt != nil {
		f.caller.Refuse(x, flt)
		return
	}
	if t.up = pool.Get(x); t.up == nil {
		return
	}
	if !x.Attach(t.up.Conn, x.AnswerBy()) {
		pool.Discard(t.up)
		x.Outcome.Fail(x.WhyAborted())
		return
	}
	if e := f.caller.Fault(x); e == nil { // from here on it wakes us
		f.run()
	} else {
		x.Outcome.Fail(e.Reason, e.Text)
	}
	x.Unwatch()
	x.Detach()
	if w.uploading { // nobody waits for the rest of the body
		f.stopUpload()
	}
	if extra := len(w.up.b) - mediumBuffer; extra > 0 {
		t.c.room.Give(extra)
	}
	if t.reusable && t.settled() && !t.early && !w.broken && !x.Silenced() {
		pool.Put(t.up)
	} else {
		pool.Discard(t.up)
	}
}

// appendRequest writes the head as it goes upstream, and leaves in w.req how the request is framed. The fault: HTTP/1.1 cannot carry it.
func (f *foreign) appendRequest(b []byte) ([]byte, *fault) {
	x, r, sent := f.t.x, f.req, &f.t.w.req
	sent.reset(nil)
	sent.connect = r.Method == "CONNECT"
	sent.expect = r.Expect
	if r.Protocol != "" && r.Protocol != webSocket {
		return b, faultProtocol
	}
	b = append(b, r.Method...)
	if len(b) == 0 {
		return b, faultStartLine
	}
	for _, ch := range b {
		if exchange.Class[ch]&exchange.IsToken == 0 {
			return b, faultStartLine
		}
	}
	b = append(b, ' ')
	at := len(b)
	if sent.connect {
		b = append(b, r.Authority...)
		if host, port := exchange.SplitAuthority(b[at:]); len(host) == 0 || len(port) == 0 {
			return b, faultConnect
		}
	} else {
		b = append(b, r.Target...)
		if _, _, flt := exchange.ScanTarget(b[at:]); flt != nil {
			return b, flt
		}
		if len(r.Target) == 0 || r.Target[0] != '/' && (r.Target != "*" || r.Method != "OPTIONS") {
			return b, faultTarget
		}
	}
	b = append(b, " HTTP/1.1\r\nhost: "...)
	at = len(b)
	b = append(b, r.Authority...)
	if !exchange.ValidAuthority(b[at:]) {
		return b, faultHost
	}
	b = append(b, "\r\n"...)
	announced := false // trailers were
	for i := range r.Fields {
		fl := &r.Fields[i]
		switch {
		case fl.Name == "traceparent", strings.HasPrefix(fl.Name, "x-tulle-"),
			r.Protocol != "" && (fl.Name == "sec-websocket-key" || fl.Name == "sec-websocket-accept"):
			continue
		case fl.Name == "trailer":
			announced = true
		}
		var ok bool
		if b, ok = appendField(b, fl); !ok {
			return b, faultFieldValue
		}
	}
	if r.Expect {
		b = append(b, "expect: 100-continue\r\n"...)
	}
	switch {
	case sent.connect || r.Protocol != "":
	case r.Bare && r.Length > 0:
		return b, faultLength
	case r.Bare && (r.Length == 0 || r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH"): // else some services wait for a body, or ask for a length
		b = appendLength(b, 0)
	case r.Bare:
	case r.Length >= 0 && !announced:
		sent.length, f.left = r.Length, r.Length
		b = appendLength(b, r.Length)
	default:
		sent.chunked = true
		b = append(b, "transfer-encoding: chunked\r\n"...)
	}
	switch {
	case r.Protocol != "":
		f.key = newWebSocketKey()
		b = append(append(b, "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: "...), f.key...)
		b = append(b, "\r\n"...)
	case r.Trailers:
		b = append(b, "connection: te\r\nte: trailers\r\n"...)
	}
	return append(appendTrace(b, x), "\r\n\r\n"...), nil
}

// run makes the try over the connection.
func (f *foreign) run() {
	t, w := &f.t, f.t.w
	if !f.request() {
		return
	}
	h := &w.resp
	for {
		if !f.down(f.caller.Flush(t.x)) || !t.responseHead() {
			return
		}
		if h.status >= 200 || h.status == 101 {
			break
		}
		t.continued = t.continued || h.status == 100
		if !f.down(f.caller.WriteHead(t.x, f.response(-1), false)) {
			return
		}
	}
	switch success := h.status >= 200 && h.status < 300; {
	case h.status == 101 && f.key == "":
		t.fail(flow.ReasonUpstreamProtocol, "the service switched protocols though nobody asked it to")
	case success && f.key != "": // over HTTP/2 that would say that the tunnel is open
		t.fail(flow.ReasonUpstreamProtocol, "the service answered "+strconv.Itoa(h.status)+" to a WebSocket")
	case h.status == 101 || success && w.req.connect:
		f.tunnel()
	default:
		f.relay()
	}
}

// request writes the head; the body is left to upload.
func (f *foreign) request() bool {
	t, w, x := &f.t, f.t.w, f.t.x
	w.broken, w.ended = false, upload{}
	f.caller.Rewind(x)
	if n, err := t.up.Write(w.out); n < len(w.out) {
		t.unsent(err)
		return false
	}
	x.Outcome.Delivered = true
	if f.req.Bare {
		w.body.done = true
		x.Legs.Sent = x.Since()
		return true
	}
	if x.Protocol != flow.ProtocolGRPC {
		x.Waiting.Excused.Store(true) // it may be the caller who is slow
	}
	w.uploading = true
	go func() {
		u := f.upload()
		if u.reason != flow.ReasonNone && !u.upstream && !errors.Is(u.err, exchange.ErrStopped) {
			x.Wake() // nothing more will come of this try; before the result, after which a next try may have begun
		}
		w.uploaded <- u
	}()
	return true
}

// Room in upload's buffer in front of what is read of the body, for the size of a chunk, and behind it.
const (
	chunkHead = len("3ff8\r\n")
	chunkTail = len("\r\n")
)

// upload sends the body.
func (f *foreign) upload() upload {
	t, x := &f.t, f.t.x
	buf := getBytes(mediumBuffer)
	t.c.room.Need(mediumBuffer)
	defer func() {
		t.c.room.Give(mediumBuffer)
		putBytes(buf)
	}()
	chunked := t.w.req.chunked
	for {
		n, err := f.caller.ReadBody(x, buf[chunkHead:mediumBuffer-chunkTail])
		p := buf[chunkHead : chunkHead+n]
		switch {
		case n == 0:
			p = nil
		case chunked:
			var size [chunkHead]byte
			line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
			copy(buf[chunkHead-len(line):], line)
			p = append(buf[chunkHead-len(line):chunkHead+n], "\r\n"...)
		default:
			if f.left -= int64(n); f.left < 0 {
				return upload{reason: flow.ReasonBadRequest, err: faultLength}
			}
		}
		if errors.Is(err, io.EOF) {
			switch {
			case chunked:
				p = append(appendTrailers(append(p, "0\r\n"...), f.caller.RequestTrailers()), "\r\n"...)
			case f.left > 0:
				return upload{reason: flow.ReasonBadRequest, err: faultLength}
			}
		}
		if len(p) > 0 {
			if _, err := t.up.Write(p); err != nil {
				return upload{reason: flow.ReasonUpstreamReset, err: err, upstream: true}
			}
		}
		var e *exchange.BodyError
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return upload{sent: x.Since()}
		case errors.Is(err, exchange.ErrStopped):
			return upload{reason: flow.ReasonRequestTimeout, err: err}
		case errors.As(err, &e):
			return upload{reason: e.Reason, err: err}
		default:
			return upload{reason: flow.ReasonDownstreamReset, err: err}
		}
	}
}

// uploading reports whether the rest of the body is still on its way.
func (f *foreign) uploading() bool {
	w := f.t.w
	if w.uploading {
		select {
		case u := <-w.uploaded:
			f.uploadEnded(u)
		default:
		}
	}
	return w.uploading
}

// stopUpload makes upload end, waits for it, and returns its result.
func (f *foreign) stopUpload() upload {
	f.caller.StopBody()
	_ = f.t.up.SetWriteDeadline(aLongTimeAgo)
	u := <-f.t.w.uploaded
	f.uploadEnded(u)
	return u
}

func (f *foreign) uploadEnded(u upload) {
	w := f.t.w
	w.uploading, w.ended = false, u
	w.broken = w.broken || u.reason != flow.ReasonNone
	w.body.done = u.reason == flow.ReasonNone
	if w.body.done {
		f.t.x.Legs.Sent = u.sent
	}
}

// settle learns what the caller's side has to do with a read that has timed out, and leaves it in w.ended.
func (f *foreign) settle() {
	w, x := f.t.w, f.t.x
	until := x.Until()
	over := !until.IsZero() && !time.Now().Before(until)
	ended := w.uploading && !f.uploading()
	switch {
	case ended && (over || w.ended.reason != flow.ReasonNone):
	case !over: // somebody woke us
		if w.uploading {
			if f.stopUpload(); errors.Is(w.ended.err, exchange.ErrStopped) {
				w.ended = upload{}
			}
		}
		if e := f.caller.Fault(x); e != nil {
			w.ended = upload{reason: e.Reason, err: e}
		}
	case w.uploading && until.Equal(x.End()):
		if f.stopUpload(); errors.Is(w.ended.err, exchange.ErrStopped) {
			w.ended.err = os.ErrDeadlineExceeded
		}
	}
	if (x.Protocol == flow.ProtocolGRPC || x.Streams()) && w.ended.reason == flow.ReasonRequestTimeout {
		w.ended = upload{} // a stream of messages may pause: it is not to blame
	}
}

// down takes an error of the caller.
func (f *foreign) down(err error) bool {
	if err == nil {
		return true
	}
	var e *exchange.BodyError
	if errors.As(err, &e) {
		f.t.fail(e.Reason, e.Text)
	} else {
		f.t.fail(flow.ReasonDownstreamReset, err.Error())
	}
	return false
}

// response describes the head that was read.
func (f *foreign) response(length int64) *exchange.Response {
	h := &f.t.w.resp
	fields := f.fields[:0]
	for i := range h.fields[:h.n] {
		fl := &h.fields[i]
		name := h.bytes(fl.name)
		switch fl.id {
		case fieldHost, fieldContentLength, fieldTransferEncoding, fieldUpgrade, fieldExpect:
			continue
		case fieldTulle: // only a sidecar may say why
			if fl.drop = !f.t.up.Mesh; f.t.up.Mesh {
				f.t.hear(fl)
			}
		case fieldTraceparent:
			fl.drop = false
		case fieldOther:
			if equalFold(name, "http2-settings") || f.key != "" && equalFold(name, "sec-websocket-accept") {
				continue
			}
		}
		if !fl.drop {
			fields = append(fields, newField(name, h.bytes(fl.value)))
		}
	}
	f.fields = fields
	f.resp = exchange.Response{Status: h.status, Fields: fields, Length: length}
	return &f.resp
}

// grpcStatus looks for the status of a gRPC call.
func grpcStatus(fields []exchange.Field) flow.GRPCStatus {
	for i := range fields {
		if fields[i].Name == "grpc-status" {
			return flow.ReadGRPCStatus(fields[i].Value)
		}
	}
	return 0
}

// pushback looks for when a gRPC call may be tried again (gRFC A6).
func pushback(fields []exchange.Field) time.Duration {
	for i := range fields {
		if fields[i].Name == "grpc-retry-pushback-ms" {
			return exchange.ParsePushback(fields[i].Value)
		}
	}
	return 0
}

// relay passes the final response on.
func (f *foreign) relay() {
	t, w, x := &f.t, f.t.w, f.t.x
	h, u := &w.resp, &w.up
	framed := h.framing(f.req.Method)
	// To HEAD and with 304 a body is announced by right; services that send it all the same are found out before the connection is used again.
	// So are those that answer a request, and then its body, too.
	t.up.Suspect = framed == framedNone && (h.chunked || h.length > 0) || w.req.chunked || w.req.length > 0
	length := h.length
	if h.status == 204 {
		length = -1
	}
	end := framed == framedNone || framed == framedLength && length == 0
	r := f.response(length)
	var status flow.GRPCStatus // of trailers only
	if end && x.Protocol == flow.ProtocolGRPC {
		status = grpcStatus(r.Fields)
	}
	x.Outcome.GRPC = status
	h.retryAfter(x)
	if status != 0 {
		x.Outcome.RetryAfter = pushback(r.Fields)
	}
	t.tellWhy()
	if x.Gate != nil && x.Asks(h.status, status) && f.again(status) {
		rest := u.unread()
		t.reusable = w.body.done && !h.close && h.minor > 0 &&
			(framed == framedNone && len(rest) == 0 || framed == framedLength && int64(len(rest)) == h.length)
		return
	}
	why := "" // now: h lies where the body will
	if h.status >= 500 {
		why = t.detail()
	}
	if len(x.Binding.Headers) > 0 {
		capture(x, h, true)
	}
	if !end {
		t.streams(framed, nil)
	}
	t.early = f.uploading() // when the request was sent is part of what a caller that is a sidecar is told
	if !f.down(f.caller.WriteHead(x, r, end)) || framed != framedNone && !f.body(framed, h.length) {
		return
	}
	trailers := f.trailers[:0]
	if framed == framedChunked {
		var flt *fault
		if trailers, flt = f.strip.appendTrailers(trailers); flt != nil {
			t.fail(flow.ReasonUpstreamProtocol, "response: "+flt.Text)
			return
		}
		f.trailers = trailers
		if x.Protocol == flow.ProtocolGRPC {
			x.Outcome.GRPC = grpcStatus(trailers)
			x.Outcome.RetryAfter = pushback(trailers)
		}
	}
	if !f.down(f.caller.WriteEnd(x, trailers)) {
		return
	}
	if h.status >= 500 {
		t.fail(flow.ReasonUpstreamStatus, why)
	}
	announced := h.status == 204 && (h.chunked || h.length > 0) // a body where none may be: it may still come
	t.reusable = framed != framedClose && !announced && !h.close && h.minor > 0 && len(u.unread()) == 0
}

// again asks the gate whether the response is to be dropped for another try; status is that of gRPC, if it has one.
func (f *foreign) again(status flow.GRPCStatus) bool {
	t, w, x := &f.t, f.t.w, f.t.x
	if f.uploading() { // the gate asks what of the body can be sent again, and a service that fails will hardly read the rest
		u := f.stopUpload()
		w.ended = upload{} // stopped is not failed
		if !u.upstream && u.reason != flow.ReasonNone && u.reason != flow.ReasonRequestTimeout {
			return false // the caller is gone
		}
	}
	if !x.Gate.Retry(x, w.resp.status) {
		return false
	}
	x.Outcome.Status, x.Outcome.Again = w.resp.status, true
	what := dropped(x)
	if status != 0 && x.Outcome.Told == flow.ReasonNone {
		what = "answered " + status.String()
	}
	t.fail(flow.ReasonUpstreamStatus, what)
	return true
}

// body passes the body of a response on, to its end.
func (f *foreign) body(framed framing, left int64) bool {
	t, x, u := &f.t, f.t.x, &f.t.w.up
	for {
		b := u.unread()
		took := len(b)
		n := took
		var broken *fault
		switch framed {
		case framedLength:
			n = int(min(left, int64(took)))
			took = n
			left -= int64(n)
		case framedChunked:
			took, n, broken = f.strip.take(b)
		}
		u.r += took
		if n > 0 && !f.down(f.caller.WriteBody(x, b[:n])) {
			return false
		}
		switch {
		case broken != nil:
			t.fail(flow.ReasonUpstreamProtocol, "response: "+broken.Text)
			return false
		case framed == framedLength && left == 0, framed == framedChunked && f.strip.done():
			return true
		}
		if !f.down(f.caller.Flush(x)) {
			return false
		}
		u.r, u.w = 0, 0
		if _, err := u.fill(t.up); err != nil {
			if framed == framedClose && errors.Is(err, io.EOF) { // in order; a TLS connection cut without close_notify says ErrUnexpectedEOF
				return true
			}
			t.readFailed(err)
			return false
		}
	}
}

// tunnel passes on a 101, or a 2xx to CONNECT, and then relays bytes both ways until both sides have ended.
func (f *foreign) tunnel() {
	t, w, x := &f.t, f.t.w, f.t.x
	h := &w.resp
	if f.key != "" {
		if why := h.refusesWebSocket(f.key); why != "" {
			t.fail(flow.ReasonUpstreamProtocol, why)
			return
		}
	}
	r := f.response(-1)
	r.Tunnel = true
	if !f.down(f.caller.WriteHead(x, r, false)) || !f.down(f.caller.Flush(x)) {
		return
	}
	t.c.room.Need(exchange.RelayMemory)
	reason, err := exchange.Relay(x, f.caller.Tunnel(x), exchange.RelayEnd{Conn: t.up.Conn, Buffered: w.up.unread()}, x.Idle())
	t.c.room.Give(exchange.RelayMemory)
	x.Legs.LastByte = x.Since()
	if reason != flow.ReasonNone {
		t.fail(reason, err.Error())
		return
	}
	x.Outcome.Answered = true
}
