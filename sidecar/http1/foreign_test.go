package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// guest is an exchange.Caller as another speaker could have it. Its fields are for its test to set before the try and to look at after it.
type guest struct {
	req      exchange.Request
	trailers []exchange.Field
	takes    chan int // how many bytes the caller takes; nil: all of them
	tunnel   net.Conn

	heads   []exchange.Response
	end     bool
	legs    flow.Legs // when the last head was written
	got     bytes.Buffer
	ended   bool
	after   []exchange.Field // trailers of the response
	kept    int              // bytes since the last Flush
	cut     bool
	refused *exchange.Fault
	rewound int

	mu      sync.Mutex
	changed chan struct{}
	body    []byte // what has come
	at      int
	whole   bool
	stopped bool
	gone    *exchange.BodyError
	lost    bool
}

func newGuest(r exchange.Request, body ...string) *guest {
	r.Authority = "shop"
	if r.Target == "" && r.Method != "CONNECT" {
		r.Target = "/"
	}
	g := &guest{req: r}
	for _, b := range body {
		g.body = append(g.body, b...)
	}
	return g
}

func (g *guest) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	if g.changed != nil {
		close(g.changed)
	}
	g.changed = make(chan struct{})
}

// leave is what happens when the caller resets its stream.
func (g *guest) leave(x *exchange.Exchange) {
	g.change(func() {
		g.gone = &exchange.BodyError{Reason: flow.ReasonDownstreamReset, Text: "the caller left"}
	})
	x.Wake()
}

func (g *guest) Answer(*exchange.Exchange) bool { return true }

func (g *guest) Replayable() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.lost
}

func (g *guest) Fault(*exchange.Exchange) *exchange.BodyError {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone
}

func (g *guest) Refuse(x *exchange.Exchange, f *exchange.Fault) {
	g.refused = f
	x.Outcome.Fail(flow.ReasonBadRequest, f.Text)
}

func (g *guest) Request(*exchange.Exchange) *exchange.Request { return &g.req }

func (g *guest) ReadBody(x *exchange.Exchange, p []byte) (int, error) {
	for {
		g.mu.Lock()
		n := copy(p, g.body[g.at:])
		g.at += n
		gone, stopped, whole, changed := g.gone, g.stopped, g.whole, g.changed
		g.mu.Unlock()
		switch {
		case stopped:
			return 0, exchange.ErrStopped
		case n > 0:
			return n, nil
		case gone != nil:
			x.Wake()
			return 0, gone
		case whole:
			return 0, io.EOF
		}
		var late <-chan time.Time
		if !x.Deadline.IsZero() {
			late = time.After(time.Until(x.Deadline))
		}
		select {
		case <-changed:
		case <-late:
			x.Wake()
			return 0, &exchange.BodyError{Reason: flow.ReasonRequestTimeout, Text: "too slow"}
		}
	}
}

func (g *guest) Rewind(*exchange.Exchange) {
	g.rewound++
	g.change(func() { g.at, g.stopped = 0, false })
}

func (g *guest) StopBody() { g.change(func() { g.stopped = true }) }

func (g *guest) BodyDone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.whole && g.at == len(g.body)
}

func (g *guest) RequestTrailers() []exchange.Field { return g.trailers }

func (g *guest) WriteHead(x *exchange.Exchange, r *exchange.Response, end bool) error {
	if e := g.Fault(x); e != nil {
		return e
	}
	own := *r
	own.Fields = slices.Clone(r.Fields)
	g.heads, g.end, g.legs = append(g.heads, own), end, x.Legs
	g.kept++
	if r.Status >= 200 || r.Tunnel {
		x.Outcome.Status, x.Outcome.Committed = r.Status, true
	}
	return nil
}

func (g *guest) WriteBody(x *exchange.Exchange, p []byte) error {
	if g.takes != nil && <-g.takes == 0 {
		return &exchange.BodyError{Reason: flow.ReasonDownstreamReset, Text: "the caller takes nothing"}
	}
	if e := g.Fault(x); e != nil {
		return e
	}
	g.got.Write(p)
	x.BytesOut.Add(uint64(len(p)))
	g.kept += len(p)
	return nil
}

func (g *guest) WriteEnd(x *exchange.Exchange, trailers []exchange.Field) error {
	g.ended, g.after, g.kept = true, slices.Clone(trailers), 0
	x.Outcome.Answered = true
	return nil
}

func (g *guest) Flush(*exchange.Exchange) error {
	g.kept = 0
	return nil
}

func (g *guest) Tunnel(*exchange.Exchange) exchange.RelayEnd {
	return exchange.RelayEnd{Conn: g.tunnel, Buffered: []byte("early")}
}

func (g *guest) Cut(*exchange.Exchange) { g.cut = true }

var _ exchange.Caller = (*guest)(nil)

// shelf is a pool with one connection, which says what came back.
type shelf struct {
	c         *exchange.Conn
	got       int
	put, gone bool
	at        time.Time // when it was discarded
	during    func()    // what happens while a connection is fetched
}

func (s *shelf) Get(*exchange.Exchange) *exchange.Conn {
	s.got++
	if s.during != nil {
		s.during()
	}
	return s.c
}
func (s *shelf) Connect(x *exchange.Exchange, _ bool) *exchange.Conn { return s.Get(x) }
func (s *shelf) Put(*exchange.Conn)                                  { s.put = true }

func (s *shelf) Discard(c *exchange.Conn) {
	s.gone, s.at = true, time.Now()
	_ = c.Close()
}

// outcome is what came of a try.
type outcome struct {
	exchange.Outcome
	x     *exchange.Exchange
	shelf *shelf
}

// tryWith makes one try for g: step prepares the exchange, far is the service. It checks what must hold after every try.
func tryWith(t *testing.T, g *guest, step func(x *exchange.Exchange, up *exchange.Conn), far func(c net.Conn)) (o outcome) {
	t.Helper()
	return tryDuring(t, g, step, nil, far)
}

// tryDuring is tryWith with something that happens while a connection is fetched.
func tryDuring(t *testing.T, g *guest, step func(x *exchange.Exchange, up *exchange.Conn), during func(x *exchange.Exchange), far func(c net.Conn)) (o outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		freshPool()
		g.changed = make(chan struct{}) // of this bubble
		near, away := net.Pipe()
		o.shelf = &shelf{c: &exchange.Conn{Conn: near}}
		room := &exchange.Room{}
		x := &exchange.Exchange{
			Side: flow.SideServer, Protocol: flow.ProtocolHTTP2, Peer: &exchange.Peer{}, Downstream: g, Start: time.Now(),
			Binding: &exchange.Binding{Room: room}, Destination: &exchange.Destination{},
		}
		x.Legs = exchange.NoLegs
		x.Head.Method, x.Head.RequestID = g.req.Method, "id"
		x.Try = flow.Trace{TraceID: flow.TraceID{1}, SpanID: flow.SpanID{2}, Flags: 1}
		o.x = x
		if during != nil {
			o.shelf.during = func() { during(x) }
		}
		if step != nil {
			step(x, o.shelf.c)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if far != nil {
				far(away)
			}
		}()
		(&Sender{Pool: o.shelf}).Handle(x)
		o.Outcome = x.Outcome
		_ = near.Close()
		<-done
		_ = away.Close()
		if used := room.Used(); used != 0 {
			t.Errorf("%d bytes of the room in use", used)
		}
		if o.shelf.got != 0 && o.shelf.put == o.shelf.gone {
			t.Errorf("the connection was put back: %v, and discarded: %v", o.shelf.put, o.shelf.gone)
		}
		if g.cut != (o.Committed && !o.Answered) {
			t.Errorf("cut %v, %+v", g.cut, o.Outcome)
		}
		if g.kept != 0 && o.Answered {
			t.Error("not flushed")
		}
	})
	return o
}

// service is an HTTP/1.1 service that reads a whole request, and answers.
func service(t *testing.T, answer string, seen func(r *http.Request, body string)) func(c net.Conn) {
	return func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			t.Errorf("the service was sent %v", err)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the service was sent %q, %v", b, err)
			return
		}
		if seen != nil {
			seen(r, string(b))
		}
		if answer != "" {
			_, _ = io.WriteString(c, answer)
		}
	}
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// get is a request without a body.
var get = exchange.Request{Method: "GET", Length: -1, Bare: true}

// sentOf is every byte of what is sent for g, whose body has come as a whole.
func sentOf(t *testing.T, g *guest) string {
	t.Helper()
	var sent []byte
	g.whole = true
	tryWith(t, g, nil, func(c net.Conn) {
		over := make(chan struct{})
		go func() {
			defer close(over)
			sent, _ = io.ReadAll(c)
		}()
		time.Sleep(time.Second) // in this bubble it passes when nobody has anything left to do
		_, _ = io.WriteString(c, fine)
		<-over
	})
	return string(sent)
}

// TestForeignRequest: every byte of what goes to the service.
func TestForeignRequest(t *testing.T) {
	const tail = "traceparent: 00-01000000000000000000000000000000-0200000000000000-01\r\n\r\n"
	fields := []exchange.Field{
		{Name: "x-a", Value: "1"}, {Name: "x-a", Value: ""}, {Name: "cookie", Value: "a; b"}, {Name: "x-request-id", Value: "id"}, {Name: "x-caf", Value: "caf\xe9\t."},
	}
	const lines = "x-a: 1\r\nx-a: \r\ncookie: a; b\r\nx-request-id: id\r\nx-caf: caf\xe9\t.\r\n"
	var hop []exchange.Field
	for _, name := range []string{
		"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "upgrade", "te", "host", "http2-settings", "expect", "traceparent", "x-tulle-timing",
	} {
		hop = append(hop, exchange.Field{Name: name, Value: "chunked"})
	}
	for name, c := range map[string]struct {
		req      exchange.Request
		body     string
		trailers []exchange.Field
		want     string
	}{
		"GET":             {exchange.Request{Method: "GET", Target: "/a?b=%2F", Length: -1, Bare: true, Fields: fields}, "", nil, "GET /a?b=%2F HTTP/1.1\r\nhost: shop\r\n" + lines + tail},
		"OPTIONS *":       {exchange.Request{Method: "OPTIONS", Target: "*", Length: -1, Bare: true}, "", nil, "OPTIONS * HTTP/1.1\r\nhost: shop\r\n" + tail},
		"length":          {exchange.Request{Method: "POST", Length: 5}, "hello", nil, "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n" + tail + "hello"},
		"no length":       {exchange.Request{Method: "POST", Length: -1}, "hello", nil, "POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n" + tail + "5\r\nhello\r\n0\r\n\r\n"},
		"empty":           {exchange.Request{Method: "GET", Length: -1}, "", nil, "GET / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n" + tail + "0\r\n\r\n"},
		"POST of nothing": {exchange.Request{Method: "POST", Length: -1, Bare: true}, "", nil, "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n" + tail},
		"said nothing":    {exchange.Request{Method: "DELETE", Length: 0, Bare: true}, "", nil, "DELETE / HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n" + tail},
		"hop":             {exchange.Request{Method: "GET", Length: -1, Bare: true, Fields: hop}, "", nil, "GET / HTTP/1.1\r\nhost: shop\r\n" + tail},
		"takes trailers":  {exchange.Request{Method: "GET", Length: -1, Bare: true, Trailers: true}, "", nil, "GET / HTTP/1.1\r\nhost: shop\r\nconnection: te\r\nte: trailers\r\n" + tail},
		"trailers": {
			exchange.Request{Method: "POST", Length: -1},
			"a",
			[]exchange.Field{{Name: "x-sum", Value: "1"}, {Name: "content-length", Value: "9"}, {Name: "x-bad", Value: "\r\n0: 1"}, {Name: "authorization", Value: "x"}},
			"POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n" + tail + "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
		},
		"trailers that are announced": {
			exchange.Request{Method: "POST", Length: 1, Fields: []exchange.Field{{Name: "trailer", Value: "x-sum"}}},
			"a",
			[]exchange.Field{{Name: "x-sum", Value: "1"}},
			"POST / HTTP/1.1\r\nhost: shop\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n" + tail + "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
		},
		"trailers that have no place": {
			exchange.Request{Method: "POST", Length: 1},
			"a",
			[]exchange.Field{{Name: "x-sum", Value: "1"}},
			"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 1\r\n" + tail + "a",
		},
	} {
		g := newGuest(c.req, c.body)
		g.trailers = c.trailers
		if got := sentOf(t, g); got != c.want {
			t.Errorf("%s: sent\n%q, want\n%q", name, got, c.want)
		}
	}
}

// TestForeignB3: B3 goes on in the form in which it came, naming the try.
func TestForeignB3(t *testing.T) {
	var r *http.Request
	tryWith(t, newGuest(get), func(x *exchange.Exchange, _ *exchange.Conn) { x.Head.B3 = exchange.B3Single | exchange.B3Multi }, service(t, fine, func(got *http.Request, _ string) { r = got }))
	if r == nil || r.Header.Get("B3") != "01000000000000000000000000000000-0200000000000000-1" || r.Header.Get("X-B3-SpanId") != "0200000000000000" || r.Header.Get("Traceparent") == "" {
		t.Errorf("sent %+v", r)
	}
}

// TestForeignRefused: what HTTP/1.1 cannot carry, or would end a line of it, is answered and never reaches a connection.
func TestForeignRefused(t *testing.T) {
	field := func(name, value string) exchange.Request {
		return exchange.Request{Method: "GET", Target: "/", Length: -1, Bare: true, Fields: []exchange.Field{{Name: name, Value: value}}}
	}
	with := func(method, target, authority, protocol string) exchange.Request {
		return exchange.Request{Method: method, Target: target, Authority: authority, Protocol: protocol, Length: -1, Bare: true}
	}
	for name, c := range map[string]struct {
		req    exchange.Request
		status int
	}{
		"a space in the target":    {with("GET", "/a b", "a", ""), 400},
		"a control in the target":  {with("GET", "/a\r\n\r\nGET /admin", "a", ""), 400},
		"DEL in the query":         {with("GET", "/a?\x7f", "a", ""), 400},
		"a fragment":               {with("GET", "/a#b", "a", ""), 400},
		"a target with a host":     {with("GET", "http://b/", "a", ""), 400},
		"no target":                {with("GET", "", "a", ""), 400},
		"* of GET":                 {with("GET", "*", "a", ""), 400},
		"a space in the method":    {with("GET /x HTTP/1.1", "/", "a", ""), 400},
		"no method":                {with("", "/", "a", ""), 400},
		"a space in the authority": {with("GET", "/", "a b", ""), 400},
		"CR LF in the authority":   {with("GET", "/", "a\r\nx: y", ""), 400},
		"user info":                {with("GET", "/", "u@a", ""), 400},
		"CONNECT without a port":   {with("CONNECT", "", "db", ""), 400},
		"CONNECT to no host":       {with("CONNECT", "", "d b:1", ""), 400},
		"CR LF in a value":         {field("x", "a\r\ncontent-length: 3"), 400},
		"CR in a value":            {field("x", "a\rb"), 400},
		"LF in a value":            {field("x", "a\nb"), 400},
		"NUL in a value":           {field("x", "a\x00"), 400},
		"a space in a name":        {field("x y", "a"), 400},
		"a space behind a name":    {field("transfer-encoding ", "chunked"), 400},
		"a pseudo-header":          {field(":path", "/"), 400},
		"no name":                  {field("", "a"), 400},
		"a length and no body":     {exchange.Request{Method: "POST", Target: "/", Authority: "a", Length: 3, Bare: true}, 400},
		"another protocol":         {with("GET", "/", "a", "connect-udp"), 501},
	} {
		g := newGuest(c.req)
		g.req = c.req
		if g.req.Authority == "" {
			g.req.Authority = "a"
		}
		o := tryWith(t, g, nil, nil)
		if g.refused == nil || g.refused.Status != c.status || o.Reason != flow.ReasonBadRequest || o.shelf.got != 0 || o.Delivered {
			t.Errorf("%s: refused with %v, %+v, %d connections", name, g.refused, o.Outcome, o.shelf.got)
		}
	}
}

// TestForeignResponse: what the caller gets of a response, and whether its connection is used again.
func TestForeignResponse(t *testing.T) {
	const some = "X-A:  1 \r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"
	const passed = "x-a: 1\nset-cookie: a=1\nset-cookie: b=2"
	for name, c := range map[string]struct {
		method, answer string
		length         int64
		end            bool
		body, trailers string
		reused         bool
	}{
		"length":           {"GET", "200 OK\r\nContent-Length: 5\r\n" + some + "\r\nhello", 5, false, "hello", "", true},
		"no body":          {"GET", "404 No\r\nContent-Length: 0\r\n" + some + "\r\n", 0, true, "", "", true},
		"chunked":          {"GET", "200 OK\r\nTransfer-Encoding: chunked\r\n" + some + "\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", -1, false, "hello", "", true},
		"trailers":         {"GET", "200 OK\r\nTransfer-Encoding: chunked\r\n" + some + "\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nx-b:\r\n\r\n", -1, false, "ok", "x-sum: 7\nx-b: ", true},
		"until it closes":  {"GET", "200 OK\r\n" + some + "\r\nhello", -1, false, "hello", "", false},
		"HEAD":             {"HEAD", "200 OK\r\nContent-Length: 5\r\n" + some + "\r\n", 5, true, "", "", true},
		"HEAD, chunked":    {"HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\n" + some + "\r\n", -1, true, "", "", true},
		"204":              {"GET", "204 No\r\n" + some + "\r\n", -1, true, "", "", true},
		"204 with a body":  {"GET", "204 No\r\nContent-Length: 5\r\n" + some + "\r\n", -1, true, "", "", false},
		"304":              {"GET", "304 No\r\nContent-Length: 5\r\n" + some + "\r\n", 5, true, "", "", true},
		"it says close":    {"GET", "200 OK\r\nContent-Length: 2\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n" + some + "\r\nok", 2, false, "ok", "", false},
		"more than it has": {"GET", "200 OK\r\nContent-Length: 2\r\n" + some + "\r\nokHTTP/1.1 200 OK\r\n\r\n", 2, false, "ok", "", false},
		"behind the end":   {"GET", "200 OK\r\nTransfer-Encoding: chunked\r\n" + some + "\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", -1, false, "", "", false},
		"hop": {
			"GET", "200 OK\r\nContent-Length: 0\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTE: x\r\nHost: b\r\nHTTP2-Settings: x\r\nX-Tulle-Reason: shed\r\nX-Tulle-Timing: h=1;q=1;f=1\r\n" + some + "\r\n",
			0, true, "", "", true,
		},
	} {
		for _, piece := range []int{1, 1 << 20} {
			t.Run(fmt.Sprintf("%s in pieces of %d", name, piece), func(t *testing.T) {
				g := newGuest(exchange.Request{Method: c.method, Length: -1, Bare: true})
				o := tryWith(t, g, nil, func(away net.Conn) {
					if _, err := http.ReadRequest(bufio.NewReader(away)); err != nil {
						t.Error(err)
					}
					for b := "HTTP/1.1 103 Early\r\nLink: x\r\nContent-Length: 7\r\n\r\nHTTP/1.1 " + c.answer; len(b) > 0; b = b[min(piece, len(b)):] {
						_, _ = io.WriteString(away, b[:min(piece, len(b))])
					}
					_ = away.Close()
				})
				if len(g.heads) != 2 || g.heads[0].Status != 103 || asText(g.heads[0].Fields) != "link: x" {
					t.Fatalf("heads %+v, %+v", g.heads, o.Outcome)
				}
				last := g.heads[1]
				if itoa(last.Status) != c.answer[:3] || last.Length != c.length || g.end != c.end || asText(last.Fields) != passed || last.Tunnel {
					t.Errorf("head %+v, end %v", last, g.end)
				}
				if g.got.String() != c.body || asText(g.after) != c.trailers || !g.ended {
					t.Errorf("body %q, trailers %q, ended %v", g.got.String(), asText(g.after), g.ended)
				}
				if !o.Answered || !o.Delivered || o.Reason != flow.ReasonNone || o.Status != last.Status || o.x.Legs.Sent < 0 || o.x.Legs.FirstByte < 0 {
					t.Errorf("%+v, %+v", o.Outcome, o.x.Legs)
				}
				if piece > 1 && o.shelf.put != c.reused { // byte by byte nobody sees what comes behind an end
					t.Errorf("put back: %v", o.shelf.put)
				}
			})
		}
	}
}

// TestForeignCut: a response that is not whole, or not valid, is never passed on as if it were.
func TestForeignCut(t *testing.T) {
	for name, c := range map[string]struct {
		answer    string
		reason    flow.Reason
		committed bool
	}{
		"short of its length":       {"200 OK\r\nContent-Length: 5\r\n\r\nhe", flow.ReasonUpstreamReset, true},
		"no last chunk":             {"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", flow.ReasonUpstreamReset, true},
		"within the trailers":       {"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\na: b\r\n", flow.ReasonUpstreamReset, true},
		"no chunks":                 {"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nxx\r\n", flow.ReasonUpstreamProtocol, true},
		"a trailer that may not be": {"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nContent-Length: 1\r\n\r\n", flow.ReasonUpstreamProtocol, true},
		"too many trailers":         {"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n" + strings.Repeat("a:\r\n", MaxFields+1) + "\r\n", flow.ReasonUpstreamProtocol, true},
		"two framings":              {"200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", flow.ReasonUpstreamProtocol, false},
		"a folded value":            {"200 OK\r\nX: a\r\n b\r\n\r\n", flow.ReasonUpstreamProtocol, false},
		"101 that nobody asked for": {"101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", flow.ReasonUpstreamProtocol, false},
		"within the head":           {"200 OK\r\nX:", flow.ReasonUpstreamReset, false},
	} {
		g := newGuest(get)
		o := tryWith(t, g, nil, func(away net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(away))
			_, _ = io.WriteString(away, "HTTP/1.1 "+c.answer)
			_ = away.Close()
		})
		if o.Reason != c.reason || o.Committed != c.committed || o.Answered || g.ended || !o.shelf.gone || !o.Delivered {
			t.Errorf("%s: %+v, ended %v", name, o.Outcome, g.ended)
		}
		if c.committed && g.got.String() != "he" {
			t.Errorf("%s: got %q", name, g.got.String())
		}
	}
}

// TestForeignDelivery: what is proven of a request whose connection closed (docs/format/record.md, "Identities", rule 2).
func TestForeignDelivery(t *testing.T) {
	for name, c := range map[string]struct {
		mesh, reused                  bool
		far                           func(c net.Conn)
		delivered, unprocessed, stale bool
	}{
		"within the head":           {false, false, func(c net.Conn) { _, _ = c.Read(make([]byte, 5)); _ = c.Close() }, false, true, false},
		"within the head, reused":   {false, true, func(c net.Conn) { _, _ = c.Read(make([]byte, 5)); _ = c.Close() }, false, true, true},
		"before an answer":          {false, false, func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)); _ = c.Close() }, false, false, false},
		"before an answer, reused":  {false, true, func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)); _ = c.Close() }, false, false, true},
		"a sidecar closed in order": {true, false, func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)); _ = c.Close() }, false, true, false},
		"within the answer": {false, true, func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "H")
			_ = c.Close()
		}, true, false, false},
	} {
		o := tryWith(t, newGuest(get), func(_ *exchange.Exchange, up *exchange.Conn) { up.Mesh, up.Reused = c.mesh, c.reused }, c.far)
		if o.Delivered != c.delivered || o.Unprocessed != c.unprocessed || o.Stale != c.stale || o.Reason != flow.ReasonUpstreamReset || o.Committed || !o.shelf.gone {
			t.Errorf("%s: %+v", name, o.Outcome)
		}
	}
}

// gate is a retry gate that lets so many responses be dropped.
type gate struct {
	drops int
	asked []int
	grpc  flow.GRPCStatus
}

func (g *gate) Retry(x *exchange.Exchange, status int) bool {
	g.asked, g.grpc = append(g.asked, status), x.Outcome.GRPC
	g.drops--
	return g.drops >= 0 && x.Downstream.Replayable()
}

// TestForeignGate: a response that the gate drops is not passed on; one that it does not is, whole, though the upload was stopped to ask. What the gate has no
// say in is passed on unasked.
func TestForeignGate(t *testing.T) {
	unavailable := flow.NewGRPCStatus(14)
	for name, c := range map[string]struct {
		answer, late string
		grpc         bool
		drops        int
		uploads      bool
		asked, again bool
		reused       bool
	}{
		"503":                       {"503 No\r\nContent-Length: 2\r\n\r\n", "no", false, 1, false, true, true, false},
		"503 with its body":         {"503 No\r\nContent-Length: 2\r\n\r\nno", "", false, 1, false, true, true, true},
		"503, not dropped":          {"503 No\r\nContent-Length: 2\r\n\r\n", "no", false, 0, false, true, false, true},
		"503 within the body":       {"503 No\r\nContent-Length: 2\r\n\r\n", "no", false, 1, true, true, true, false},
		"503 within, not dropped":   {"503 No\r\nContent-Length: 2\r\n\r\n", "no", false, 0, true, true, false, false},
		"500":                       {"500 No\r\nContent-Length: 2\r\n\r\n", "no", false, 1, false, false, false, true},
		"gRPC, trailers only":       {"200 OK\r\nContent-Length: 0\r\nGrpc-Status: 14\r\n\r\n", "", true, 1, false, true, true, true},
		"another status of gRPC":    {"200 OK\r\nContent-Length: 0\r\nGrpc-Status: 5\r\n\r\n", "", true, 1, false, false, false, true},
		"gRPC, but not of a gRPC":   {"200 OK\r\nContent-Length: 0\r\nGrpc-Status: 14\r\n\r\n", "", false, 1, false, false, false, true},
		"gRPC with a message first": {"200 OK\r\nContent-Length: 2\r\nGrpc-Status: 14\r\n\r\n", "no", true, 1, false, false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(get)
			if c.uploads {
				g = newGuest(exchange.Request{Method: "POST", Length: 10}, "half")
			}
			asks := &gate{drops: c.drops}
			o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) {
				x.Gate = asks
				x.Destination.Retry.GRPC = 1 << unavailable
				if c.grpc {
					x.Protocol = flow.ProtocolGRPC
				}
			}, func(away net.Conn) {
				r := bufio.NewReader(away)
				_, _ = http.ReadRequest(r)
				if c.uploads {
					_, _ = io.ReadFull(r, make([]byte, 4))
				}
				_, _ = io.WriteString(away, "HTTP/1.1 "+c.answer)
				if c.late != "" {
					time.Sleep(time.Second)
					_, _ = io.WriteString(away, c.late)
				}
			})
			if (len(asks.asked) == 1) != c.asked || o.Again != c.again || o.Answered == c.again || o.Committed == c.again || itoa(o.Status) != c.answer[:3] {
				t.Errorf("asked %v, %+v", asks.asked, o.Outcome)
			}
			if c.asked && c.grpc && asks.grpc != unavailable {
				t.Errorf("the gate was told %v", asks.grpc)
			}
			if o.shelf.put != c.reused {
				t.Errorf("put back: %v", o.shelf.put)
			}
			if !c.again && g.got.String() != c.late {
				t.Errorf("the caller got %q", g.got.String())
			}
		})
	}
}

// TestForeignAgain: the next try sends the body from its beginning.
func TestForeignAgain(t *testing.T) {
	g := newGuest(exchange.Request{Method: "PUT", Length: -1}, "hello")
	g.whole = true
	for n := range 2 {
		got := ""
		tryWith(t, g, nil, service(t, fine, func(_ *http.Request, body string) { got = body }))
		if got != "hello" || g.rewound != n+1 {
			t.Errorf("try %d sent %q", n, got)
		}
	}
}

// TestForeignLength: a body that is not what the request's length says makes the connection unusable, and the service never sees a whole request.
func TestForeignLength(t *testing.T) {
	for name, body := range map[string]string{"short": "he", "long": "helloGET /smuggled HTTP/1.1"} {
		g := newGuest(exchange.Request{Method: "POST", Length: 5}, body)
		g.whole = true
		o := tryWith(t, g, nil, func(away net.Conn) {
			r := bufio.NewReader(away)
			req, err := http.ReadRequest(r)
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := io.ReadAll(req.Body); err == nil || len(b) > 5 {
				t.Errorf("%s: the service has read %q, %v", name, b, err)
			}
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("%s: and then %q", name, rest)
			}
		})
		if o.Reason != flow.ReasonBadRequest || o.Committed || !o.shelf.gone {
			t.Errorf("%s: %+v", name, o.Outcome)
		}
	}
}

// TestForeignTimeouts: whose fault it is that a deadline passed.
func TestForeignTimeouts(t *testing.T) {
	within := func(c net.Conn) { // reads what comes
		_, _ = io.Copy(io.Discard, c)
	}
	stuck := func(c net.Conn) { // reads the head only
		_, _ = c.Read(make([]byte, 4096))
		time.Sleep(time.Minute)
	}
	begun := func(c net.Conn) {
		go func() { _, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n") }()
		within(c)
	}
	half := exchange.Request{Method: "POST", Length: 100}
	expects := exchange.Request{Method: "POST", Length: 100, Expect: true}
	for name, c := range map[string]struct {
		req      exchange.Request
		try, all time.Duration
		grpc     bool
		body     string
		far      func(c net.Conn)
		reason   flow.Reason
		refused  int
		took     time.Duration
	}{
		"no answer, of a try":          {get, 2 * time.Second, 5 * time.Second, false, "", within, flow.ReasonTryTimeout, 0, 2 * time.Second},
		"no answer":                    {get, 5 * time.Second, 5 * time.Second, false, "", within, flow.ReasonRequestTimeout, 0, 5 * time.Second},
		"a slow body":                  {half, 5 * time.Second, 5 * time.Second, false, "half", within, flow.ReasonBadRequest, 408, 5 * time.Second},
		"a slow body, of a try":        {half, 2 * time.Second, 5 * time.Second, false, "half", within, flow.ReasonTryTimeout, 0, 2 * time.Second},
		"a slow body of gRPC":          {half, 5 * time.Second, 5 * time.Second, true, "half", within, flow.ReasonRequestTimeout, 0, 5 * time.Second},
		"no 100":                       {expects, 5 * time.Second, 5 * time.Second, false, "", within, flow.ReasonRequestTimeout, 0, 5 * time.Second},
		"a 100, and no body":           {expects, 5 * time.Second, 5 * time.Second, false, "", begun, flow.ReasonBadRequest, 408, 5 * time.Second},
		"a service that does not read": {exchange.Request{Method: "POST", Length: -1}, 5 * time.Second, 5 * time.Second, false, "half", stuck, flow.ReasonRequestTimeout, 0, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(c.req, c.body)
			o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) {
				x.TryDeadline, x.Deadline = x.Start.Add(c.try), x.Start.Add(c.all)
				if c.grpc {
					x.Protocol = flow.ProtocolGRPC
				}
			}, c.far)
			if o.Reason != c.reason || (g.refused == nil) != (c.refused == 0) || g.refused != nil && g.refused.Status != c.refused || !o.Delivered || o.Committed || !o.shelf.gone {
				t.Errorf("%+v, refused %v", o.Outcome, g.refused)
			}
			if took := o.shelf.at.Sub(o.x.Start); took != c.took {
				t.Errorf("after %s", took)
			}
		})
	}
}

// TestForeignCutLate: a response that stops is cut when the deadline passes.
func TestForeignCutLate(t *testing.T) {
	g := newGuest(get)
	o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) { x.Deadline = x.Start.Add(time.Second) }, func(away net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(away))
		_, _ = io.WriteString(away, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
		_, _ = io.Copy(io.Discard, away)
	})
	if o.Reason != flow.ReasonRequestTimeout || g.got.String() != "he" || !g.cut {
		t.Errorf("%+v, got %q", o.Outcome, g.got.String())
	}
}

// TestForeignAbort: a sidecar that stops ends a try wherever it waits.
func TestForeignAbort(t *testing.T) {
	for name, g := range map[string]*guest{
		"for a response": newGuest(get),
		"for a body":     newGuest(exchange.Request{Method: "POST", Length: -1}, "half"),
	} {
		o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) {
			go func() {
				time.Sleep(time.Second)
				x.Abort(flow.ReasonDraining)
			}()
		}, func(away net.Conn) { _, _ = io.Copy(io.Discard, away) })
		if o.Reason != flow.ReasonDraining || o.Committed || !o.shelf.gone {
			t.Errorf("%s: %+v", name, o.Outcome)
		}
	}
	g := newGuest(get)
	if o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) { x.Abort(flow.ReasonDraining) }, nil); o.Reason != flow.ReasonDraining || o.Delivered {
		t.Errorf("before it began: %+v", o.Outcome)
	}
}

// TestForeignCallerLeaves: a caller that leaves ends the try wherever that waits, and the service, which sees the end of its connection, is not blamed.
func TestForeignCallerLeaves(t *testing.T) {
	upload := exchange.Request{Method: "POST", Length: -1}
	for name, c := range map[string]struct {
		req       exchange.Request
		body      string
		far       func(c net.Conn)
		delivered bool
		committed bool
	}{
		"before the response": {get, "", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, true, false},
		"within its body":     {upload, "half", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, true, false},
		"behind its body":     {upload, "whole", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, true, false},
		"while nobody reads its body": {upload, strings.Repeat("a", 1<<20), func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			time.Sleep(time.Minute)
		}, true, false},
		"within the response": {get, "", func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
			_, _ = io.Copy(io.Discard, c)
		}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(c.req, c.body)
			g.whole = c.req.Bare || c.body == "whole"
			o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) {
				x.Deadline = x.Start.Add(time.Minute)
				go func() {
					time.Sleep(time.Second)
					g.leave(x)
				}()
			}, c.far)
			if o.Reason != flow.ReasonDownstreamReset || o.Detail != "the caller left" || o.Delivered != c.delivered || o.Committed != c.committed || !o.shelf.gone || o.shelf.at.Sub(o.x.Start) != time.Second {
				t.Errorf("%+v", o.Outcome)
			}
		})
	}
	g := newGuest(get)
	o := tryDuring(t, g, nil, g.leave, func(away net.Conn) {
		if b, _ := io.ReadAll(away); len(b) > 0 {
			t.Errorf("sent %q for nobody", b)
		}
	})
	if o.Reason != flow.ReasonDownstreamReset || o.Delivered {
		t.Errorf("while a connection was fetched: %+v", o.Outcome)
	}
	for name, fault := range map[string]*exchange.BodyError{
		"a fault of its request": {Reason: flow.ReasonBadRequest, Text: "bad"},
		"it had left":            {Reason: flow.ReasonDownstreamReset, Text: "gone"},
	} {
		g := newGuest(get)
		g.gone = fault
		if o := tryWith(t, g, nil, nil); o.Reason != fault.Reason || o.Detail != fault.Text || o.shelf.got != 0 || o.Delivered {
			t.Errorf("%s: %+v", name, o.Outcome)
		}
	}
}

// TestForeignFlush: nothing that the service has sent stays here while more of it is waited for.
func TestForeignFlush(t *testing.T) {
	g := newGuest(get)
	tryWith(t, g, nil, func(away net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(away))
		for _, part := range []string{"HTTP/1.1 103 Early\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n", "0\r\n\r\n"} {
			_, _ = io.WriteString(away, part)
			synctest.Wait()
			if g.kept != 0 {
				t.Errorf("after %q: %d bytes are kept", part, g.kept)
			}
		}
	})
	if g.got.String() != "ok" || len(g.heads) != 2 {
		t.Errorf("got %q, heads %+v", g.got.String(), g.heads)
	}
}

// TestForeignLargeHead: a head that needs a larger buffer takes that of the room, and gives it back (see tryDuring).
func TestForeignLargeHead(t *testing.T) {
	g := newGuest(get)
	value := strings.Repeat("a", 40<<10)
	if o := tryWith(t, g, nil, service(t, "HTTP/1.1 200 OK\r\nX: "+value+"\r\nContent-Length: 0\r\n\r\n", nil)); !o.Answered || asText(g.heads[0].Fields) != "x: "+value {
		t.Errorf("%+v", o.Outcome)
	}
}

// TestForeignGateLate: a response that the gate has let pass, and that then stops, is late for its own sake, not for that of the body that was stopped.
func TestForeignGateLate(t *testing.T) {
	g := newGuest(exchange.Request{Method: "POST", Length: 10}, "half")
	o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) {
		x.Gate = never{}
		x.TryDeadline, x.Deadline = x.Start.Add(time.Second), x.Start.Add(time.Minute)
	}, func(away net.Conn) {
		r := bufio.NewReader(away)
		_, _ = http.ReadRequest(r)
		_, _ = io.ReadFull(r, make([]byte, 4))
		_, _ = io.WriteString(away, "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
	})
	if o.Reason != flow.ReasonTryTimeout || !g.cut {
		t.Errorf("%+v", o.Outcome)
	}
}

// TestTrailersBounded: what is written of trailers is what a sidecar reads, however much there is.
func TestTrailersBounded(t *testing.T) {
	var trailers []exchange.Field
	for _, name := range []string{"a", "b", "c", "d"} {
		trailers = append(trailers, exchange.Field{Name: name, Value: strings.Repeat("x", maxChunkExtra/3)})
	}
	b := append(appendTrailers([]byte("0\r\n"), trailers), "\r\n"...)
	var d dechunker
	if took, _, f := d.take(b); f != nil || took != len(b) || !d.done() {
		t.Fatalf("%d of %d bytes taken, %v", took, len(b), f)
	}
	if got, f := d.appendTrailers(nil); f != nil || len(got) != 2 || got[1] != trailers[1] {
		t.Errorf("%d trailers, %v", len(got), f)
	}
}

// TestForeignEarly: a response that comes before the body has gone is passed on, nobody waits for the rest, and the connection is not used again.
func TestForeignEarly(t *testing.T) {
	g := newGuest(exchange.Request{Method: "POST", Length: 1 << 20}, "half")
	o := tryWith(t, g, nil, func(away net.Conn) {
		r := bufio.NewReader(away)
		_, _ = http.ReadRequest(r)
		_, _ = io.ReadFull(r, make([]byte, 4))
		_, _ = io.WriteString(away, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
	})
	if !o.Answered || o.Status != 413 || g.got.String() != "no" || !o.shelf.gone || !g.stopped || o.Reason != flow.ReasonNone {
		t.Errorf("%+v, got %q", o.Outcome, g.got.String())
	}
}

// TestForeignExpect: a service that answers "Expect: 100-continue" without a 100 may not have read the body, so its connection is not used again.
func TestForeignExpect(t *testing.T) {
	for _, continues := range []bool{true, false} {
		g := newGuest(exchange.Request{Method: "POST", Length: 4, Expect: true}, "body")
		g.whole = true
		o := tryWith(t, g, nil, func(away net.Conn) {
			if continues {
				go func() { _, _ = io.WriteString(away, "HTTP/1.1 100 Continue\r\n\r\n") }()
			}
			service(t, "", func(r *http.Request, body string) {
				if r.Header.Get("Expect") != "100-continue" || body != "body" {
					t.Errorf("sent %v, %q", r.Header, body)
				}
			})(away)
			time.Sleep(time.Second)
			_, _ = io.WriteString(away, fine)
		})
		if !o.Answered || o.shelf.put != continues || (len(g.heads) == 2) != continues || continues && g.heads[0].Status != 100 {
			t.Errorf("continues %v: %+v, heads %+v, put back %v", continues, o.Outcome, g.heads, o.shelf.put)
		}
	}
}

// TestForeignMesh: what a sidecar says of its own part is heard and not passed on; its reason is, and explains a 5xx.
func TestForeignMesh(t *testing.T) {
	const answer = "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nX-Tulle-Reason: request_timeout\r\nX-Tulle-Timing: h=1;q=2;s=3;f=4\r\n\r\n"
	for _, mesh := range []bool{true, false} {
		g := newGuest(get)
		o := tryWith(t, g, func(_ *exchange.Exchange, up *exchange.Conn) { up.Mesh = mesh }, service(t, answer, nil))
		far, fields, detail := flow.Far{}, "", ""
		if mesh {
			far = flow.Far{HeadParsed: time.Microsecond, Queued: 2 * time.Microsecond, Sent: 3 * time.Microsecond, FirstByte: 4 * time.Microsecond}
			fields, detail = "x-tulle-reason: request_timeout", "the far sidecar answered: request_timeout"
		}
		if o.x.Far != far || len(g.heads) != 1 || asText(g.heads[0].Fields) != fields || o.Reason != flow.ReasonUpstreamStatus || o.Detail != detail || !o.Answered || !o.shelf.put {
			t.Errorf("mesh %v: %+v, %+v, %+v", mesh, o.Outcome, o.x.Far, g.heads)
		}
	}
}

// TestForeignLegs: when the head of a response is passed on, it is known when the request was sent.
func TestForeignLegs(t *testing.T) {
	g := newGuest(exchange.Request{Method: "POST", Length: 5}, "hello")
	g.whole = true
	o := tryWith(t, g, nil, func(away net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(away))
		if err != nil {
			t.Error(err)
			return
		}
		time.Sleep(time.Second)
		_, _ = io.ReadAll(r.Body)
		synctest.Wait()
		time.Sleep(time.Second)
		_, _ = io.WriteString(away, fine)
	})
	if g.legs.Sent != time.Second || g.legs.FirstByte != 2*time.Second || !o.Answered || !o.shelf.put {
		t.Errorf("%+v, %+v", g.legs, o.Outcome)
	}
}

// TestForeignCapture: response fields of the allow-list are kept.
func TestForeignCapture(t *testing.T) {
	o := tryWith(t, newGuest(get), func(x *exchange.Exchange, _ *exchange.Conn) { x.Binding.Headers = []string{"x-a"} },
		service(t, "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n", nil))
	if want := flow.AppendHeader(nil, true, "x-a", []byte("1, 2")); !bytes.Equal(o.x.Captured, want) {
		t.Errorf("kept %q, want %q", o.x.Captured, want)
	}
}

// TestForeignGRPC: the status of a gRPC call is known, from its trailers or from a head that is all.
func TestForeignGRPC(t *testing.T) {
	for answer, want := range map[string]flow.GRPCStatus{
		"Content-Length: 0\r\nGrpc-Status: 5\r\n\r\n":                              flow.NewGRPCStatus(5),
		"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 7\r\n\r\n": flow.NewGRPCStatus(7),
		"Content-Length: 2\r\nGrpc-Status: 5\r\n\r\nok":                            0,
	} {
		for _, p := range []flow.Protocol{flow.ProtocolGRPC, flow.ProtocolHTTP2} {
			o := tryWith(t, newGuest(get), func(x *exchange.Exchange, _ *exchange.Conn) { x.Protocol = p }, service(t, "HTTP/1.1 200 OK\r\n"+answer, nil))
			if p != flow.ProtocolGRPC {
				want = 0
			}
			if o.GRPC != want || !o.Answered {
				t.Errorf("%s of %q: %+v", p, answer, o.Outcome)
			}
		}
	}
}

// TestForeignShed: a try for which the sidecar's buffers have no room is shed before it takes a connection.
func TestForeignShed(t *testing.T) {
	room := &exchange.Room{}
	room.SetBudget(foreignSet - 1)
	g := newGuest(get)
	if o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) { x.Binding.Room = room }, nil); o.Reason != flow.ReasonShed || !o.Unprocessed || o.shelf.got != 0 || room.Used() != 0 {
		t.Errorf("%+v, %d bytes in use", o.Outcome, room.Used())
	}
	if room.Count(exchange.LimitBufferBytes) != 1 {
		t.Error("not counted")
	}
}

// TestForeignBackpressure: a caller that takes nothing stops its service, and a service that takes nothing its caller.
func TestForeignBackpressure(t *testing.T) {
	g := newGuest(get)
	var sent atomic.Int64
	o := tryWith(t, g, func(*exchange.Exchange, *exchange.Conn) {
		g.takes = make(chan int)
		go func() {
			time.Sleep(time.Second)
			if n := sent.Load(); n > 64<<10 {
				t.Errorf("%d bytes were taken of the service", n)
			}
			close(g.takes)
		}()
	}, func(away net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(away))
		_, _ = io.WriteString(away, "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n")
		for sent.Load() < 1<<20 {
			n, err := away.Write(make([]byte, 4096))
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})
	if o.Reason != flow.ReasonDownstreamReset || g.got.Len() > 64<<10 || !o.shelf.gone {
		t.Errorf("%+v, %d bytes", o.Outcome, g.got.Len())
	}

	g = newGuest(exchange.Request{Method: "POST", Length: 1 << 20}, strings.Repeat("a", 1<<20))
	g.whole = true
	tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) { x.Deadline = x.Start.Add(time.Second) }, func(away net.Conn) {
		_, _ = away.Read(make([]byte, 4096))
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.at > 64<<10 {
			t.Errorf("%d bytes were taken of the caller", g.at)
		}
	})
}

// TestForeignTunnel: WebSocket and CONNECT become tunnels over a connection that is never used again; the service's handshake is made and checked.
func TestForeignTunnel(t *testing.T) {
	ws := exchange.Request{Method: "GET", Protocol: "websocket", Length: -1, Bare: true, Fields: []exchange.Field{
		{Name: "sec-websocket-version", Value: "13"}, {Name: "sec-websocket-key", Value: "theirs"}, {Name: "sec-websocket-accept", Value: "theirs"}, {Name: "sec-websocket-protocol", Value: "chat"},
	}}
	for name, c := range map[string]struct {
		req    exchange.Request
		answer func(r *http.Request) string
		fields string
		reason flow.Reason
		tunnel bool
	}{
		"WebSocket": {ws, func(r *http.Request) string {
			return "101 Go\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: " + webSocketAccept(r.Header.Get("Sec-Websocket-Key")) + "\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
		}, "sec-websocket-protocol: chat", flow.ReasonNone, true},
		"WebSocket of another key": {ws, func(*http.Request) string {
			return "101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
		}, "", flow.ReasonUpstreamProtocol, false},
		"WebSocket without an answer": {ws, func(*http.Request) string {
			return "101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
		}, "", flow.ReasonUpstreamProtocol, false},
		"another protocol": {ws, func(r *http.Request) string {
			return "101 Go\r\nUpgrade: tls\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + webSocketAccept(r.Header.Get("Sec-Websocket-Key")) + "\r\n\r\n"
		}, "", flow.ReasonUpstreamProtocol, false},
		"no protocol": {ws, func(r *http.Request) string {
			return "101 Go\r\nSec-WebSocket-Accept: " + webSocketAccept(r.Header.Get("Sec-Websocket-Key")) + "\r\n\r\n"
		}, "", flow.ReasonUpstreamProtocol, false},
		"a page in place of a WebSocket": {ws, func(*http.Request) string { return "200 OK\r\nContent-Length: 2\r\n\r\nhi" }, "", flow.ReasonUpstreamProtocol, false},
		"a WebSocket refused":            {ws, func(*http.Request) string { return "403 No\r\nContent-Length: 0\r\nUpgrade: websocket\r\n\r\n" }, "", flow.ReasonNone, false},
		"CONNECT": {exchange.Request{Method: "CONNECT", Length: -1, Bare: true}, func(*http.Request) string {
			return "201 Go\r\nX: 1\r\nContent-Length: 3\r\n\r\n"
		}, "x: 1", flow.ReasonNone, true},
		"CONNECT refused": {exchange.Request{Method: "CONNECT", Length: -1, Bare: true}, func(*http.Request) string {
			return "403 No\r\nContent-Length: 0\r\n\r\n"
		}, "", flow.ReasonNone, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(c.req)
			if c.req.Method == "CONNECT" {
				g.req.Authority = "db:5432"
			}
			var far net.Conn
			o := tryWith(t, g, func(x *exchange.Exchange, _ *exchange.Conn) {
				g.tunnel, far = net.Pipe()
				x.Deadline = x.Start.Add(time.Second) // which a tunnel outlives
				x.Destination.IdleTimeout = time.Minute
			}, func(away net.Conn) {
				br := bufio.NewReader(away)
				r, err := http.ReadRequest(br)
				if err != nil {
					t.Error(err)
					return
				}
				h := r.Header
				if v := h["Sec-Websocket-Key"]; c.req.Protocol != "" && (len(v) != 1 || len(v[0]) != webSocketKeys || h.Get("Sec-Websocket-Accept") != "" || h.Get("Connection") != "upgrade" ||
					h.Get("Upgrade") != "websocket" || h.Get("Sec-Websocket-Version") != "13" || h.Get("Sec-Websocket-Protocol") != "chat") {
					t.Errorf("sent %v", h)
				}
				if r.ContentLength != 0 || len(r.TransferEncoding) > 0 || c.req.Method == "CONNECT" && r.RequestURI != "db:5432" {
					t.Errorf("sent %+v", r)
				}
				_, _ = io.WriteString(away, "HTTP/1.1 "+c.answer(r)+"soon")
				if !c.tunnel {
					return
				}
				b := make([]byte, 9)
				_, _ = io.ReadFull(br, b[:5])
				_, _ = io.ReadFull(far, b[5:])
				time.Sleep(5 * time.Second)
				_, _ = io.WriteString(far, "late")
				late := make([]byte, 4)
				_, _ = io.ReadFull(br, late)
				if string(b) != "earlysoon" || string(late) != "late" {
					t.Errorf("through the tunnel came %q and %q", b, late)
				}
				_ = away.Close()
				_ = far.Close()
			})
			if o.Reason != c.reason || o.shelf.put || o.Answered != (c.reason == flow.ReasonNone) {
				t.Errorf("%+v, put back %v", o.Outcome, o.shelf.put)
			}
			if c.reason == flow.ReasonNone && (len(g.heads) != 1 || g.heads[0].Tunnel != c.tunnel || asText(g.heads[0].Fields) != c.fields) {
				t.Errorf("heads %+v", g.heads)
			}
			if c.tunnel && (o.x.BytesIn.Load() != 9 || o.x.BytesOut.Load() != 4) {
				t.Errorf("%d bytes in, %d out", o.x.BytesIn.Load(), o.x.BytesOut.Load())
			}
		})
	}
}

// TestForeignUnknown: a downstream that is no Caller is told that it cannot be.
func TestForeignUnknown(t *testing.T) {
	x := &exchange.Exchange{Downstream: struct{ exchange.Downstream }{}}
	if (&Sender{}).Handle(x); x.Outcome.Reason != flow.ReasonUpstreamProtocol {
		t.Errorf("%+v", x.Outcome)
	}
}
