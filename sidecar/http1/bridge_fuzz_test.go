package http1

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// The fuzz targets of this file hand anything over a bridge, checked by nobody, and read what comes out of it with net/http: it is one message, the same one, with
// nothing behind it; or nothing at all.

// script is a connection that says what it was told to, a piece at a time, and keeps what it is sent.
type script struct {
	net.Conn
	says  []byte
	piece int // ≤ 0: all at once
	sent  bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.says) == 0 {
		return 0, io.EOF
	}
	n := len(s.says)
	if s.piece > 0 {
		n = min(n, s.piece)
	}
	n = copy(p, s.says[:n])
	s.says = s.says[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.sent.Write(p) }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) Close() error                     { return nil }

// fieldsOf reads lines "name: value"; what a line is split at may be anywhere in it.
func fieldsOf(s string) (fields []exchange.Field) {
	for _, line := range strings.Split(s, "|") {
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, exchange.Field{Name: strings.ToLower(name), Value: value})
	}
	return fields
}

// mustArrive are the fields that have to arrive, in net/http's form: all that are no one's but their owners'.
func mustArrive(fields []exchange.Field) http.Header {
	h := http.Header{}
	for _, f := range fields {
		switch identify([]byte(f.Name)) {
		case fieldOther, fieldUserAgent, fieldRequestID, fieldTracestate, fieldB3:
			if f.Name != "http2-settings" && f.Name != "trailer" {
				h.Add(f.Name, strings.Trim(f.Value, " \t"))
			}
		}
	}
	return h
}

// sameFields compares; own are the names that the speaker adds.
func sameFields(t *testing.T, got, want http.Header, own ...string) {
	t.Helper()
	for _, name := range own {
		if len(want[http.CanonicalHeaderKey(name)]) == 0 {
			got.Del(name)
		}
	}
	for name, v := range want {
		if strings.Join(got[name], "|") != strings.Join(v, "|") {
			t.Errorf("%s arrives as %q, handed over as %q", name, got[name], v)
		}
		got.Del(name)
	}
	got.Del("Trailer") // one that names nothing
	if len(got) > 0 {
		t.Errorf("nobody has handed over %v", got)
	}
}

// FuzzBridgeRequest: what is sent of any request that another speaker hands over is that request to net/http, or it is refused.
func FuzzBridgeRequest(f *testing.F) {
	f.Add("GET", "/a?b", "shop:80", "x-a:1|cookie:a; b", "", "", int64(-1), uint8(1))
	f.Add("POST", "/", "shop", "content-type:text/plain|trailer:x-sum", "hello", "x-sum:1", int64(-1), uint8(4))
	f.Add("PUT", "/%2F", "[::1]:80", "transfer-encoding:chunked|content-length:3|connection:x-a|x-a:1", "hello", "", int64(5), uint8(2))
	f.Add("CONNECT", "", "db:5432", "host:b", "", "", int64(-1), uint8(1))
	f.Add("GET", "/ HTTP/1.1\r\nx: y", "a\r\nb", "x:a\r\n\r\nGET /admin HTTP/1.1", "a\r\n0\r\n\r\n", "a:b\r\nc", int64(3), uint8(0))
	f.Fuzz(func(t *testing.T, method, target, authority, lines, body, trailing string, length int64, how uint8) {
		fields, trailers := fieldsOf(lines), fieldsOf(trailing)
		r := exchange.Request{
			Method: method, Target: target, Authority: authority, Fields: fields, Length: max(length, -1),
			Bare: how&1 != 0 || method == "CONNECT", Expect: how&2 != 0, Trailers: how&4 != 0,
		}
		g := &guest{req: r, body: []byte(body), whole: true, trailers: trailers, changed: make(chan struct{})}
		fo := &foreign{caller: g, req: &r, conn: conn{w: &work{}}}
		sink := &script{}
		x := &exchange.Exchange{Binding: &exchange.Binding{}, Start: time.Now()}
		x.Try = flow.Trace{TraceID: flow.TraceID{1}, SpanID: flow.SpanID{2}, Flags: 1}
		fo.t = try{c: &fo.conn, w: fo.conn.w, x: x, foreign: fo, up: &exchange.Conn{Conn: sink}}
		out, flt := fo.appendRequest(nil)
		if flt != nil {
			return
		}
		_, _ = sink.Write(out)
		var u upload
		if !r.Bare {
			u = fo.upload()
		}
		sent := sink.sent.Bytes()

		// To us: one head, and behind it just the body.
		n, flt := headEnd(sent, 0)
		if flt != nil || n != len(out) {
			t.Fatalf("the head of %q ends at %d, %v; it has %d", sent, n, flt, len(out))
		}
		var h head
		if flt := h.parseRequest(bytes.Clone(sent[:n]), MeshLimits); flt != nil {
			if flt != faultTooMany && flt != faultTooLarge && flt != faultEscape && flt != faultRoot && flt != faultDots && flt != faultTarget {
				t.Fatalf("%q is refused by ourselves: %v", sent, flt)
			}
			return // a path that is not in its normal form: the other speaker has refused it
		}
		br := bufio.NewReader(bytes.NewReader(sent))
		got, err := http.ReadRequest(br)
		if err != nil {
			for _, l := range looserRequest {
				if strings.Contains(err.Error(), l.err) {
					return
				}
			}
			t.Fatalf("net/http says %v of %q", err, sent)
		}
		want := target
		if method == "CONNECT" {
			want = authority
		}
		if got.Method != method || got.RequestURI != want || got.Host != authority || got.ProtoMinor != 1 || got.Close {
			t.Errorf("%s %s %s became %q", method, target, authority, sent[:n])
		}
		b, err := io.ReadAll(got.Body)
		tooLong := h.length >= 0 && int64(len(body)) > h.length // the service cannot know that there was more: its connection closes
		if (err == nil) != (u.reason == flow.ReasonNone) && !tooLong {
			t.Fatalf("the body of %q: %v; sent with %v", sent, err, u.err)
		}
		if !r.Bare && err == nil && !tooLong && string(b) != body || !strings.HasPrefix(body, string(b)) || len(b) > len(body) || r.Bare && len(b) > 0 {
			t.Errorf("the body %q became %q", body, b)
		}
		if rest, _ := io.ReadAll(br); err == nil && len(rest) > 0 {
			t.Errorf("behind %q is %q", sent[:len(sent)-len(rest)], rest)
		}
		if (len(got.TransferEncoding) == 1) != h.chunked || !h.chunked && got.ContentLength != max(h.length, 0) {
			t.Errorf("framed as %v, %d", got.TransferEncoding, got.ContentLength)
		}
		for name := range got.Trailer {
			if !trailerAllowed([]byte(strings.ToLower(name))) && len(got.Trailer[name]) > 0 {
				t.Errorf("the trailer %s has crossed", name)
			}
		}
		arrive := mustArrive(fields)
		sameFields(t, got.Header, arrive, "Traceparent", "Te", "Connection", "Expect", "Content-Length")
	})
}

// FuzzBridgeResponse: what is written of any response that another speaker hands over is that response to net/http, and nothing stands behind it; or it is cut.
func FuzzBridgeResponse(f *testing.F) {
	f.Add(200, "x-a:1|set-cookie:a|set-cookie:b", int64(5), "hello", "x-sum:1", uint8(0), uint8(3))
	f.Add(404, "content-type:text/plain|trailer:x-sum", int64(-1), "hello", "x-sum:1|content-length:3", uint8(0), uint8(1))
	f.Add(304, "transfer-encoding:chunked|content-length:3", int64(7), "", "", uint8(1), uint8(9))
	f.Add(204, "connection:close", int64(-1), "", "", uint8(3), uint8(0))
	f.Add(101, "x:a\r\n\r\nHTTP/1.1 200 OK", int64(3), "abcd", "a:b\r\n\r\nHTTP/1.1 200 OK", uint8(2), uint8(2))
	f.Fuzz(func(t *testing.T, status int, lines string, length int64, body, trailing string, how, piece uint8) {
		fields, trailers := fieldsOf(lines), fieldsOf(trailing)
		ask, method := "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET"
		if how&1 != 0 {
			ask, method = "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", "HEAD"
		}
		old := how&2 != 0
		if old {
			ask = strings.Replace(ask, "1.1", "1.0", 1)
		}
		sink := &script{}
		c := &conn{nc: sink, w: &work{}, sess: &exchange.Session{}}
		if flt := c.w.req.parseRequest([]byte(ask), DefaultLimits); flt != nil {
			t.Fatal(flt)
		}
		c.w.body.done, c.w.keep = true, true
		x := &exchange.Exchange{Peer: &exchange.Peer{}, Start: time.Now(), Legs: exchange.NoLegs}
		x.Head.Method = method
		c.Rewind(x)
		bodiless := status == 204 || status == 304 || method == "HEAD"
		err := c.WriteHead(x, &exchange.Response{Status: status, Fields: fields, Length: max(length, -1)}, bodiless || body == "")
		for b := body; err == nil && !bodiless && status >= 200 && len(b) > 0; {
			n := min(int(piece)+1, len(b))
			err = c.WriteBody(x, []byte(b[:n]))
			b = b[n:]
		}
		if err == nil && status >= 200 {
			err = c.WriteEnd(x, trailers)
		}
		if flush := c.Flush(x); flush != nil {
			t.Fatal(flush)
		}
		sent := sink.sent.Bytes()
		if err != nil && !x.Outcome.Committed || len(sent) == 0 {
			if len(sent) > 0 || err == nil && !old {
				t.Fatalf("%v, and yet %q was sent", err, sent)
			}
			return
		}
		br := bufio.NewReader(bytes.NewReader(sent))
		got, rerr := http.ReadResponse(br, &http.Request{Method: method})
		if rerr != nil {
			for _, l := range looserResponse {
				if strings.Contains(rerr.Error(), l.err) {
					return
				}
			}
			t.Fatalf("net/http says %v of %q", rerr, sent)
		}
		if status < 200 {
			if got.StatusCode != status {
				t.Errorf("%d became %q", status, sent)
			}
			sameFields(t, got.Header, mustArrive(fields))
			return
		}
		b, rerr := io.ReadAll(got.Body)
		whole := err == nil && x.Outcome.Answered
		if got.StatusCode != status || whole && (rerr != nil || !bodiless && string(b) != body) || !strings.HasPrefix(body, string(b)) {
			t.Errorf("%d with %q became %q: %q, %v", status, body, sent, b, rerr)
		}
		tooLong := got.ContentLength >= 0 && int64(len(body)) > got.ContentLength // the caller cannot know that there was more
		if !whole && rerr == nil && !tooLong && !bodiless {
			t.Errorf("a response that was cut (%v) looks whole: %q", err, sent)
		}
		if rest, _ := io.ReadAll(br); len(rest) > 0 {
			t.Errorf("behind the response %q is %q", sent[:len(sent)-len(rest)], rest)
		}
		if want := max(length, -1); method == "HEAD" && status != 204 && want >= 0 && got.Header.Get("Content-Length") != strconv.FormatInt(want, 10) {
			t.Errorf("announced are %q", got.Header.Get("Content-Length"))
		}
		for name := range got.Trailer {
			if !trailerAllowed([]byte(strings.ToLower(name))) && len(got.Trailer[name]) > 0 {
				t.Errorf("the trailer %s has crossed", name)
			}
		}
		sameFields(t, got.Header, mustArriveBack(fields), "Connection", "Content-Length")
	})
}

// mustArriveBack is mustArrive for a response.
func mustArriveBack(fields []exchange.Field) http.Header {
	h := mustArrive(fields)
	for _, f := range fields {
		if id := identify([]byte(f.Name)); id == fieldTulle || id == fieldTraceparent {
			h.Add(f.Name, strings.Trim(f.Value, " \t"))
		}
	}
	return h
}

// crossing are the fields of a message that net/http has read which another speaker has to be told.
func crossing(h http.Header, request bool) http.Header {
	out := http.Header{}
	for name, v := range h {
		switch id := identify([]byte(strings.ToLower(name))); {
		case id == fieldOther, id == fieldUserAgent, id == fieldRequestID, !request && (id == fieldB3 || id == fieldTraceparent || id == fieldTracestate):
			if name != "Http2-Settings" {
				out[name] = v
			}
		}
	}
	return out
}

// sameCrossed compares what was handed over with what net/http has read, but for what the message's Connection names, and for what comes once only.
func sameCrossed(t *testing.T, got []exchange.Field, want http.Header, connection []string) {
	t.Helper()
	have := http.Header{}
	for _, f := range got {
		if f.Name != strings.ToLower(f.Name) || strings.ContainsAny(f.Name+f.Value, "\r\n\x00") || f.Value != strings.Trim(f.Value, " \t") {
			t.Errorf("%q: %q is handed over", f.Name, f.Value)
		}
		have.Add(f.Name, f.Value)
	}
	named := strings.ToLower(strings.Join(connection, ","))
	for name, v := range want {
		switch got := strings.Join(have[name], "; "); {
		case got == strings.Join(v, "; "):
		case len(have[name]) == 0 && strings.Contains(named, strings.ToLower(name)):
		case name == "X-Request-Id" && len(have[name]) == 1:
		default:
			t.Errorf("%s is %q, handed over as %q", name, v, have[name])
		}
		have.Del(name)
	}
	have.Del("Trailer") // which net/http takes
	have.Del("X-Request-Id")
	if len(have) > 0 {
		t.Errorf("not in the message: %v", have)
	}
}

// FuzzBridgeCaller: another speaker is told the same of a request as net/http reads, body and trailers too, in whatever pieces it comes, or nothing.
func FuzzBridgeCaller(f *testing.F) {
	for _, s := range []string{
		"GET /a/../b?c HTTP/1.1\r\nHost: a\r\nX-A:  1\t\r\nCookie: a\r\nCookie: b\r\n\r\n",
		"POST http://b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5;a\r\nhello\r\n0\r\nX: 1\r\n\r\nGET /next HTTP/1.1\r\n",
		"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: x-a\r\nX-A: 1\r\nExpect: 100-continue\r\n\r\nhello, and more",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) {
		n, flt := headEnd(in, 0)
		if n == 0 || flt != nil {
			return
		}
		w := &work{uploaded: make(chan upload, 1)}
		c := &conn{w: w, sess: &exchange.Session{}}
		early := n + min(int(piece>>8), len(in)-n) // comes with the head
		c.in.append(in[:early])
		b := c.in.unread()
		if flt := w.req.parseRequest(b[:n:n], DefaultLimits); flt != nil {
			return
		}
		c.in.r += n
		sink := &script{says: in[early:], piece: int(piece & 0xff)}
		c.nc = sink
		x := &w.x
		x.Binding, x.Gate, x.Start, x.Downstream = &exchange.Binding{}, never{}, time.Now(), c
		x.Head.Method, x.Head.RequestID = exchange.Method(w.req.bytes(w.req.method)), w.req.value(w.req.requestID)
		if w.req.requestID < 0 {
			x.Head.RequestID = "made"
		}
		c.adopt(x)
		c.beginBody()
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return // FuzzRequestHead judges that
		}
		r := c.Request(x)
		if r.Method != want.Method || r.Authority != want.Host || r.Method == "CONNECT" && r.Target != "" || r.Expect != (want.Header.Get("Expect") != "") {
			t.Errorf("%q is handed over as %+v", in[:n], r)
		}
		if len(want.TransferEncoding) > 0 && r.Length != -1 || len(want.TransferEncoding) == 0 && max(r.Length, 0) != want.ContentLength {
			t.Errorf("%q has a length of %d", in[:n], r.Length)
		}
		crossed := crossing(want.Header, true)
		if crossed["Cookie"] = slices.DeleteFunc(crossed["Cookie"], func(s string) bool { return s == "" }); len(crossed["Cookie"]) == 0 {
			crossed.Del("Cookie")
		}
		if r.Protocol != "" {
			crossed.Del("Sec-Websocket-Key")
			crossed.Del("Sec-Websocket-Accept")
		}
		var fields []exchange.Field
		for _, f := range r.Fields { // trace context was adopted, if it was valid
			if id := identify([]byte(f.Name)); id != fieldB3 && id != fieldTracestate {
				fields = append(fields, f)
			}
		}
		sameCrossed(t, fields, crossed, want.Header["Connection"])
		if c.Fault(x) != nil {
			return
		}
		whole, err := io.ReadAll(want.Body)
		for range 2 {
			c.Rewind(x)
			got, rerr := readAll(x, c, 1+int(piece)%61)
			if rerr == io.EOF && (err != nil || got != string(whole)) || err == nil && !strings.HasPrefix(string(whole), got) { //nolint:errorlint // the contract says this very value
				t.Fatalf("the body of %q: %q, %v; net/http says %q, %v", in, got, rerr, whole, err)
			}
			if rerr != io.EOF { //nolint:errorlint // see above
				return
			}
			trailers := http.Header{}
			for name, v := range want.Trailer {
				if len(v) > 0 {
					trailers[name] = v
				}
			}
			sameCrossed(t, c.RequestTrailers(), trailers, nil)
			if !c.Replayable() {
				return
			}
		}
	})
}

// FuzzBridgeService: a caller of another version is told the same of a response as net/http reads, or it is cut.
func FuzzBridgeService(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  1\t\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nhello, and more",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5;a\r\nhello\r\n0\r\nX: 1\r\n\r\nHTTP/1.1 200",
		"HTTP/1.0 200 OK\r\nConnection: x-a\r\nX-A: 1\r\n\r\nhello",
		"HTTP/1.1 304 No\r\nContent-Length: 5\r\nX-Tulle-Reason: shed\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(3), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8, headOnly bool) {
		method := "GET"
		if headOnly {
			method = "HEAD"
		}
		g := &guest{req: exchange.Request{Method: method, Target: "/", Authority: "a", Length: -1, Bare: true}, changed: make(chan struct{})}
		sink := &script{says: bytes.Clone(in), piece: int(piece)}
		x := &exchange.Exchange{Binding: &exchange.Binding{}, Peer: &exchange.Peer{}, Destination: &exchange.Destination{}, Downstream: g, Start: time.Now(), Legs: exchange.NoLegs}
		s := &shelf{c: &exchange.Conn{Conn: sink}}
		(&Sender{Pool: s}).Handle(x)
		o := &x.Outcome
		if o.Committed == (len(g.heads) == 0 || g.heads[len(g.heads)-1].Status < 200) || o.Answered != g.ended || g.cut != (o.Committed && !o.Answered) {
			t.Fatalf("%+v, heads %+v, ended %v, cut %v", o, g.heads, g.ended, g.cut)
		}
		if !o.Committed {
			return
		}
		br := bufio.NewReader(bytes.NewReader(in))
		want, err := http.ReadResponse(br, &http.Request{Method: method})
		for err == nil && want.StatusCode < 200 {
			want, err = http.ReadResponse(br, &http.Request{Method: method})
		}
		if err != nil {
			for _, l := range looserResponse {
				if strings.Contains(err.Error(), l.err) {
					return
				}
			}
			t.Fatalf("%q has crossed, net/http says %v", in, err)
		}
		last := g.heads[len(g.heads)-1]
		if last.Status != want.StatusCode {
			t.Errorf("%q is handed over as %d", in, last.Status)
		}
		sameCrossed(t, last.Fields, crossing(want.Header, false), want.Header["Connection"])
		body, err := io.ReadAll(want.Body)
		if o.Answered && (err != nil || g.got.String() != string(body)) || !strings.HasPrefix(string(body), g.got.String()) {
			t.Errorf("the body of %q is handed over as %q, net/http says %q, %v", in, g.got.String(), body, err)
		}
		if o.Answered {
			trailers := http.Header{}
			for name, v := range want.Trailer {
				if len(v) > 0 {
					trailers[name] = v
				}
			}
			sameCrossed(t, g.after, trailers, nil)
		}
		if rest, _ := io.ReadAll(br); s.put && len(rest) > 0 && sink.piece == 0 {
			t.Errorf("%q is used again, with %q behind the response", in, rest)
		}
	})
}
