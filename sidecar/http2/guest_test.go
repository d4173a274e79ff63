package http2

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	xhttp2 "golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// fake is a caller of another version. What it is given it tells as text.
type fake struct {
	req  exchange.Request
	more chan string   // parts of the body; closed at its end
	held chan struct{} // not nil: WriteBody waits for it

	mu       sync.Mutex
	lines    []string
	trailers []exchange.Field // of the request
	fault    *exchange.BodyError
	leaving  *exchange.BodyError // fault from StopBody on
	fails    error               // of the body, in place of its end
	refuses  error               // of WriteHead
	read     int
	done     bool
	stop     chan struct{} // closed by StopBody
	left     string        // of a part that did not fit
	kept     []string      // to be read again
	again    []string
	lost     bool
	tunnel   net.Conn
}

func newFake(method string, fields ...exchange.Field) *fake {
	f := &fake{more: make(chan string, 100), stop: make(chan struct{})}
	f.req = exchange.Request{Method: method, Target: "/", Authority: "shop", Fields: append(fields, exchange.Field{Name: "x-request-id", Value: "r"}), Length: -1, Bare: true}
	return f
}

func (f *fake) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
}

// told is what it was given since it was asked last.
func (f *fake) told() []string {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	lines := f.lines
	f.lines = nil
	return lines
}

func (f *fake) Answer(*exchange.Exchange) bool { return true }

func (f *fake) Replayable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.lost && f.fault == nil
}

func (f *fake) Fault(*exchange.Exchange) *exchange.BodyError {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault
}

func (f *fake) Refuse(x *exchange.Exchange, fault *exchange.Fault) {
	f.say("refuse %d", fault.Status)
	x.Outcome.Fail(flow.ReasonBadRequest, fault.Text)
}

func (f *fake) Request(*exchange.Exchange) *exchange.Request { return &f.req }

func (f *fake) ReadBody(x *exchange.Exchange, p []byte) (int, error) {
	f.mu.Lock()
	part, stop := f.left, f.stop
	if part == "" && len(f.again) > 0 {
		part, f.again = f.again[0], f.again[1:]
	}
	f.mu.Unlock()
	for part == "" {
		select {
		case <-stop:
			return 0, exchange.ErrStopped
		default:
		}
		select {
		case <-stop:
			return 0, exchange.ErrStopped
		case s, more := <-f.more:
			f.mu.Lock()
			fails := f.fails
			f.done = !more && fails == nil
			if more {
				f.kept = append(f.kept, s)
			}
			f.mu.Unlock()
			switch {
			case more:
				part = s
			case fails != nil:
				x.Wake()
				return 0, fails
			default:
				return 0, io.EOF
			}
		}
	}
	n := copy(p, part)
	f.mu.Lock()
	f.left = part[n:]
	f.read += n
	f.mu.Unlock()
	x.BytesIn.Add(uint64(n))
	return n, nil
}

func (f *fake) Rewind(*exchange.Exchange) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop, f.done, f.left, f.again = make(chan struct{}), false, "", slices.Clone(f.kept)
}

func (f *fake) StopBody() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = f.leaving
	close(f.stop)
}

func (f *fake) BodyDone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done || f.req.Bare
}

func (f *fake) RequestTrailers() []exchange.Field { return f.trailers }

func text(fields []exchange.Field) (s string) {
	for _, f := range fields {
		s += " | " + f.Name + ": " + f.Value
	}
	return s
}

func (f *fake) WriteHead(x *exchange.Exchange, r *exchange.Response, end bool) error {
	f.mu.Lock()
	err := f.refuses
	f.mu.Unlock()
	if err != nil && r.Status >= 200 {
		return err
	}
	line := fmt.Sprintf("head %d", r.Status)
	if r.Length >= 0 {
		line += fmt.Sprint(" length ", r.Length)
	}
	if r.Tunnel {
		line += " tunnel"
	}
	if end {
		line += " end"
	}
	f.say("%s%s", line, text(r.Fields))
	if r.Status >= 200 || r.Tunnel {
		x.Outcome.Status, x.Outcome.Committed = r.Status, true
	}
	return nil
}

func (f *fake) WriteBody(x *exchange.Exchange, p []byte) error {
	if f.held != nil {
		<-f.held
	}
	if len(p) > 40 {
		f.say("body %d bytes", len(p))
	} else {
		f.say("body %s", p)
	}
	x.BytesOut.Add(uint64(len(p)))
	return nil
}

func (f *fake) WriteEnd(x *exchange.Exchange, trailers []exchange.Field) error {
	f.say("end%s", text(trailers))
	x.Legs.LastByte, x.Outcome.Answered = x.Since(), true
	return nil
}

func (f *fake) Flush(*exchange.Exchange) error              { return nil }
func (f *fake) Tunnel(*exchange.Exchange) exchange.RelayEnd { return exchange.RelayEnd{Conn: f.tunnel} }
func (f *fake) Cut(*exchange.Exchange)                      { f.say("cut") }

// fail makes the body fail.
func (f *fake) fail(r flow.Reason) {
	f.mu.Lock()
	f.fails = &exchange.BodyError{Reason: r, Text: "it fails"}
	f.mu.Unlock()
	close(f.more)
}

// leaves makes the caller leave.
func (f *fake) leaves(x *exchange.Exchange) {
	f.mu.Lock()
	f.fault = &exchange.BodyError{Reason: flow.ReasonDownstreamReset, Text: "the caller has left"}
	f.mu.Unlock()
	x.Wake()
}

// inn is an endpoint in memory, with the Client that opens connections to it.
type inn struct {
	t      *testing.T
	cl     *Client
	stop   context.CancelFunc
	done   chan struct{}
	room   *exchange.Room
	mesh   bool
	settle []xhttp2.Setting
	mute   bool // it sends no SETTINGS
	wires  []*wire
	exchange.Pool
}

func newInn(t *testing.T) *inn {
	n := &inn{t: t, room: &exchange.Room{}, done: make(chan struct{})}
	n.cl = NewClient(n, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	n.stop = cancel
	go func() {
		defer close(n.done)
		n.cl.Run(ctx)
	}()
	return n
}

// Connect implements exchange.Pool.
func (n *inn) Connect(*exchange.Exchange, bool) *exchange.Conn {
	near, away := memPair(n.t)
	w := newWire(n.t, away)
	n.wires, w.mute = append(n.wires, w), n.mute
	go func() {
		if _, err := io.ReadFull(away, make([]byte, len(preface))); err == nil {
			w.read()
		}
	}()
	if !n.mute {
		_ = w.fr.WriteSettings(n.settle...)
	}
	return &exchange.Conn{Conn: near, Mesh: n.mesh}
}

// Discard implements exchange.Pool.
func (n *inn) Discard(c *exchange.Conn) { _ = c.Close() }

// close ends the Client, of whose connections no stream is left.
func (n *inn) close() {
	n.t.Helper()
	synctest.Wait()
	for _, w := range n.wires {
		_ = w.c.CloseWrite()
	}
	n.stop()
	<-n.done
	for _, w := range n.wires {
		_ = w.c.Close()
	}
	if used := n.room.Used(); used != 0 {
		n.t.Errorf("%d bytes of room are left", used)
	}
}

// visit is an exchange of a fake caller.
type visit struct {
	*fake
	x    *exchange.Exchange
	n    *inn
	over chan struct{}
}

// visits begins an exchange; its first try is under way when nothing moves any more.
func (n *inn) visit(f *fake, set ...func(x *exchange.Exchange)) *visit {
	x := &exchange.Exchange{}
	x.Reset()
	x.Kind, x.Side, x.Protocol, x.Start = flow.KindExchange, flow.SideClient, flow.ProtocolHTTP1, time.Now()
	x.Peer, x.Downstream = &exchange.Peer{}, f
	x.Binding = &exchange.Binding{Room: n.room, Listener: policy.Listener{Limits: narrow}}
	x.Destination = &exchange.Destination{}
	x.Choice.Endpoint = &policy.Endpoint{}
	x.Head.Method, x.Head.Idempotent = f.req.Method, exchange.Idempotent(f.req.Method)
	x.Try = flow.Trace{TraceID: flow.TraceID{1}, SpanID: flow.SpanID{2}, Flags: 1}
	for _, s := range set {
		s(x)
	}
	v := &visit{fake: f, x: x, n: n, over: make(chan struct{})}
	go func() {
		defer close(v.over)
		(&Sender{Client: n.cl}).Handle(x)
	}()
	synctest.Wait()
	return v
}

// wire is the endpoint's end of the latest connection.
func (n *inn) wire() *wire { return n.wires[len(n.wires)-1] }

func (v *visit) want(lines ...string) {
	v.n.t.Helper()
	sameLines(v.n.t, v.told(), lines)
}

// ended waits for the end of the try.
func (v *visit) ended() *exchange.Outcome {
	<-v.over
	synctest.Wait()
	return &v.x.Outcome
}

const tried = "traceparent: 00-01000000000000000000000000000000-0200000000000000-01"

// TestGuestRequest: what an endpoint gets of a request of another version.
func TestGuestRequest(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(f *fake)
		want []string
	}{
		{
			"GET", func(f *fake) {
				f.req.Fields = append(f.req.Fields, exchange.Field{Name: "cookie", Value: "a=b; c=d", Sensitive: true})
			},
			[]string{"1 HEADERS END :method: GET | :scheme: http | :path: / | :authority: shop | x-request-id: r | cookie: a=b; c=d | " + tried},
		},
		{
			"asterisk", func(f *fake) { f.req.Method, f.req.Target = "OPTIONS", "*" },
			[]string{"1 HEADERS END :method: OPTIONS | :scheme: http | :path: * | :authority: shop | x-request-id: r | " + tried},
		},
		{
			"no authority", func(f *fake) { f.req.Authority = "" },
			[]string{"1 HEADERS END :method: GET | :scheme: http | :path: / | x-request-id: r | " + tried},
		},
		{"what belongs to a connection", func(f *fake) {
			for _, name := range []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "te", "content-length"} {
				f.req.Fields = append(f.req.Fields, exchange.Field{Name: name, Value: "1"})
			}
		}, []string{"1 HEADERS END :method: GET | :scheme: http | :path: / | :authority: shop | x-request-id: r | " + tried}},
		{"body", func(f *fake) {
			f.req.Method, f.req.Bare, f.req.Length, f.req.Expect, f.req.Trailers = "POST", false, 5, true, true
			f.more <- "hello"
			close(f.more)
		}, []string{
			"1 HEADERS :method: POST | :scheme: http | :path: / | :authority: shop | x-request-id: r | content-length: 5 | expect: 100-continue | te: trailers | " + tried,
			"1 DATA hello", "1 DATA END",
		}},
		{"trailers", func(f *fake) {
			f.req.Method, f.req.Bare = "POST", false
			f.trailers = []exchange.Field{{Name: "digest", Value: "d"}, {Name: "transfer-encoding", Value: "chunked"}, {Name: "host", Value: "evil"}, {Name: "content-length", Value: "1"}}
			close(f.more)
		}, []string{
			"1 HEADERS :method: POST | :scheme: http | :path: / | :authority: shop | x-request-id: r | " + tried, "1 HEADERS END digest: d",
		}},
		{
			"B3", func(f *fake) {},
			[]string{"1 HEADERS END :method: GET | :scheme: http | :path: / | :authority: shop | x-request-id: r | " + tried + " | b3: 01000000000000000000000000000000-0200000000000000-1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newInn(t)
				f := newFake("GET")
				c.set(f)
				v := n.visit(f, func(x *exchange.Exchange) {
					if c.name == "B3" {
						x.Head.B3 = exchange.B3Single
					}
				})
				n.wire().want(c.want...)
				n.wire().head(1, true, ":status", "204")
				if o := v.ended(); !o.Answered || !o.Delivered || o.Reason != flow.ReasonNone || v.x.Legs.Sent < 0 {
					t.Errorf("%+v", o)
				}
				n.close()
			})
		})
	}
}

// TestGuestResponse: what a caller of another version gets, and what is noted of it.
func TestGuestResponse(t *testing.T) {
	for _, c := range []struct {
		name, method string
		mesh         bool
		send         func(w *wire)
		want         []string
		is           exchange.Outcome
	}{
		{"whole", "GET", false, func(w *wire) {
			w.head(1, false, ":status", "100")
			w.head(1, false, ":status", "103", "link", "l", "content-length", "0")
			w.head(1, false, ":status", "200", "a", "b", "content-length", "5", "x-tulle-timing", "h=1;q=2;f=3", "x-tulle-reason", "shed")
			w.body(1, false, "hel")
			w.body(1, false, "lo")
			w.head(1, true, "digest", "d", "content-length", "9", "trailer", "x")
		}, []string{"head 100", "head 103 | link: l", "head 200 length 5 | a: b", "body hello", "end | digest: d"}, exchange.Outcome{Status: 200}},
		{"head alone", "GET", false, func(w *wire) { w.head(1, true, ":status", "200") }, []string{"head 200 end", "end"}, exchange.Outcome{Status: 200}},
		{"HEAD", "HEAD", false, func(w *wire) {
			w.head(1, false, ":status", "200", "content-length", "7")
			w.body(1, true, "")
		}, []string{"head 200 length 7 end", "end"}, exchange.Outcome{Status: 200}},
		{"304", "GET", false, func(w *wire) { w.head(1, true, ":status", "304", "content-length", "7", "etag", "e") }, []string{"head 304 length 7 end | etag: e", "end"}, exchange.Outcome{Status: 304}},
		{"204", "GET", false, func(w *wire) { w.head(1, true, ":status", "204", "content-length", "0") }, []string{"head 204 end", "end"}, exchange.Outcome{Status: 204}},
		{"500", "GET", false, func(w *wire) { w.head(1, true, ":status", "500") }, []string{"head 500 end", "end"}, exchange.Outcome{Status: 500, Reason: flow.ReasonUpstreamStatus}},
		{"of a sidecar", "GET", true, func(w *wire) {
			w.head(1, true, ":status", "503", "x-tulle-reason", "shed", "x-tulle-timing", "h=1;q=2;s=3;f=4")
		}, []string{"head 503 end | x-tulle-reason: shed", "end"}, exchange.Outcome{Status: 503, Reason: flow.ReasonUpstreamStatus, Detail: "the far sidecar answered: shed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newInn(t)
				n.mesh = c.mesh
				v := n.visit(newFake(c.method), func(x *exchange.Exchange) { x.Binding.Headers = []string{"a", "etag"} })
				time.Sleep(time.Millisecond)
				c.send(n.wire())
				o := v.ended()
				v.fake.merge()
				v.want(c.want...)
				if !o.Answered || !o.Committed || !o.Delivered || o.Status != c.is.Status || o.Reason != c.is.Reason || o.Detail != c.is.Detail {
					t.Errorf("%+v", o)
				}
				if l := v.x.Legs; l.FirstByte < time.Millisecond || l.LastByte < l.FirstByte || l.Sent < 0 {
					t.Errorf("%+v", l)
				}
				if far := v.x.Far; c.mesh != (far.FirstByte == 4*time.Microsecond) {
					t.Errorf("the far sidecar says %+v", far)
				}
				if got := string(v.x.Captured); (len(got) > 0) != (c.name == "whole" || c.name == "304") {
					t.Errorf("captured %q", got)
				}
				n.close()
			})
		})
	}
}

// merge makes parts of a body one: how it is cut depends on who was faster.
func (f *fake) merge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, l := range f.lines {
		if last := len(lines) - 1; last >= 0 && strings.HasPrefix(l, "body ") && strings.HasPrefix(lines[last], "body ") {
			lines[last] += l[len("body "):]
			continue
		}
		lines = append(lines, l)
	}
	f.lines = lines
}

// TestGuestFails: whatever an endpoint does in place of an answer has the outcome that it has natively, and a response that was begun is cut.
func TestGuestFails(t *testing.T) {
	for _, c := range []struct {
		name string
		act  func(n *inn)
		cut  bool
		want exchange.Outcome
	}{
		{"refused", func(n *inn) { _ = n.wire().fr.WriteRSTStream(1, xhttp2.ErrCodeRefusedStream) }, false, exchange.Outcome{Reason: flow.ReasonUpstreamReset, Unprocessed: true}},
		{"above GOAWAY", func(n *inn) { _ = n.wire().fr.WriteGoAway(0, xhttp2.ErrCodeNo, nil) }, false, exchange.Outcome{Reason: flow.ReasonUpstreamReset, Unprocessed: true}},
		{"reset", func(n *inn) { _ = n.wire().fr.WriteRSTStream(1, xhttp2.ErrCodeInternal) }, false, exchange.Outcome{Reason: flow.ReasonUpstreamReset, Delivered: true}},
		{"closed", func(n *inn) { _ = n.wire().c.Close() }, false, exchange.Outcome{Reason: flow.ReasonUpstreamReset}},
		{"no HTTP/2", func(n *inn) { _, _ = io.WriteString(n.wire().c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, false, exchange.Outcome{Reason: flow.ReasonUpstreamProtocol}},
		{"malformed", func(n *inn) { n.wire().head(1, true, ":status", "2x0") }, false, exchange.Outcome{Reason: flow.ReasonUpstreamProtocol, Delivered: true}},
		{"a field of a connection", func(n *inn) { n.wire().head(1, true, ":status", "200", "transfer-encoding", "chunked") }, false, exchange.Outcome{Reason: flow.ReasonUpstreamProtocol, Delivered: true}},
		{"101", func(n *inn) { n.wire().head(1, false, ":status", "101") }, false, exchange.Outcome{Reason: flow.ReasonUpstreamProtocol, Delivered: true}},
		{"reset within", func(n *inn) {
			n.wire().head(1, false, ":status", "200")
			n.wire().body(1, false, "half")
			n.wire().told()
			_ = n.wire().fr.WriteRSTStream(1, xhttp2.ErrCodeNo)
		}, true, exchange.Outcome{Status: 200, Reason: flow.ReasonUpstreamReset, Delivered: true, Committed: true}},
		{"too little", func(n *inn) {
			n.wire().head(1, false, ":status", "200", "content-length", "9")
			n.wire().told()
			n.wire().body(1, true, "half")
		}, true, exchange.Outcome{Status: 200, Reason: flow.ReasonUpstreamProtocol, Delivered: true, Committed: true}},
		{"too much", func(n *inn) {
			n.wire().head(1, false, ":status", "500", "content-length", "1")
			n.wire().told()
			n.wire().body(1, false, "more")
		}, true, exchange.Outcome{Status: 500, Reason: flow.ReasonUpstreamProtocol, Delivered: true, Committed: true}},
		{"closed within", func(n *inn) {
			n.wire().head(1, false, ":status", "200")
			n.wire().told()
			_ = n.wire().c.Close()
		}, true, exchange.Outcome{Status: 200, Reason: flow.ReasonUpstreamReset, Delivered: true, Committed: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newInn(t)
				v := n.visit(newFake("GET"))
				c.act(n)
				o := *v.ended()
				if o.Detail == "" {
					t.Error("it does not say why")
				}
				if o.Detail = ""; o != c.want {
					t.Errorf("got %+v\nwant %+v", o, c.want)
				}
				lines := v.told()
				if cut := slices.Contains(lines, "cut"); cut != c.cut || slices.Contains(lines, "end") {
					t.Errorf("the caller got %q", lines)
				}
				n.close()
			})
		})
	}
}

// TestGuestEnds: what is no fault of the endpoint ends the try and resets its stream.
func TestGuestEnds(t *testing.T) {
	post := func(f *fake) { f.req.Method, f.req.Bare = "POST", false }
	begun := func(v *visit) { v.n.wire().head(1, false, ":status", "200"); synctest.Wait() }
	for _, c := range []struct {
		name    string
		set     func(f *fake)
		timeout time.Duration // of the exchange; that of the try is 5 s
		act     func(v *visit)
		reason  flow.Reason
		said    []string
	}{
		{"the caller leaves", nil, 0, func(v *visit) { v.leaves(v.x) }, flow.ReasonDownstreamReset, nil},
		{"the caller leaves within its body", post, 0, func(v *visit) {
			v.fail(flow.ReasonDownstreamReset)
		}, flow.ReasonDownstreamReset, nil},
		{"a malformed body", post, 0, func(v *visit) {
			v.more <- "some"
			v.fail(flow.ReasonBadRequest)
		}, flow.ReasonBadRequest, nil},
		{"the caller leaves within the response", nil, 0, func(v *visit) { begun(v); v.leaves(v.x) }, flow.ReasonDownstreamReset, []string{"head 200", "cut"}},
		{"the caller does not take the head", nil, 0, func(v *visit) {
			v.refuses = &exchange.BodyError{Reason: flow.ReasonDownstreamReset, Text: "gone"}
			begun(v)
		}, flow.ReasonDownstreamReset, nil},
		{"the try is late", nil, time.Minute, func(*visit) {}, flow.ReasonTryTimeout, nil},
		{"the request is late", nil, time.Second, func(*visit) {}, flow.ReasonRequestTimeout, nil},
		{"the body is late", post, time.Second, func(*visit) {}, flow.ReasonBadRequest, []string{"refuse 408"}},
		{"the body is late, says the caller", post, time.Second, func(v *visit) {
			v.fail(flow.ReasonRequestTimeout)
		}, flow.ReasonBadRequest, []string{"refuse 408"}},
		{"a body that was asked for by no 100", func(f *fake) { post(f); f.req.Expect = true }, time.Second, func(*visit) {}, flow.ReasonRequestTimeout, nil},
		{"late within the response", nil, time.Second, begun, flow.ReasonRequestTimeout, []string{"head 200", "cut"}},
		{"the sidecar stops", nil, 0, func(v *visit) { v.x.Abort(flow.ReasonDraining) }, flow.ReasonDraining, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newInn(t)
				f := newFake("GET")
				if c.set != nil {
					c.set(f)
				}
				v := n.visit(f, func(x *exchange.Exchange) {
					if c.timeout > 0 {
						x.Deadline = x.Start.Add(c.timeout)
						x.TryDeadline = x.Start.Add(min(c.timeout, 5*time.Second))
					}
				})
				c.act(v)
				o := v.ended()
				if o.Reason != c.reason || !o.Delivered || o.Answered || o.Detail == "" {
					t.Errorf("%+v", o)
				}
				v.want(c.said...)
				if lines := n.wire().told(); len(lines) == 0 || lines[len(lines)-1] != "1 RST_STREAM CANCEL" {
					t.Errorf("the endpoint got %q", lines)
				}
				n.close()
			})
		})
	}
}

// gate answers for every response, and tells of what it was asked.
type gate struct {
	again bool
	asked []int
}

func (g *gate) Retry(x *exchange.Exchange, status int) bool {
	g.asked = append(g.asked, status)
	return g.again && x.Downstream.Replayable()
}

// The gate is asked about a 503 before the caller sees it; a try that is dropped leaves nothing behind, and the next one sends the whole body.
func TestGuestGate(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprint(again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, g := newInn(t), &gate{again: again}
				f := newFake("PUT")
				f.req.Bare = false
				f.more <- "hel"
				v := n.visit(f, func(x *exchange.Exchange) { x.Gate = g })
				n.wire().want("1 HEADERS…", "1 DATA hel")
				n.wire().head(1, false, ":status", "503")
				n.wire().body(1, true, "sorry")
				o := *v.ended()
				if !slices.Equal(g.asked, []int{503}) || o.Again != again || o.Committed == again || o.Answered == again || o.Reason != flow.ReasonUpstreamStatus || o.Status != 503 {
					t.Errorf("%v, %+v", g.asked, o)
				}
				if !again {
					v.want("head 503", "body sorry", "end")
					n.wire().want("1 RST_STREAM NO_ERROR")
					n.close()
					return
				}
				v.want()
				n.wire().want("1 RST_STREAM CANCEL")
				v.x.Outcome, v.x.Gate = exchange.Outcome{}, nil
				f.more <- "lo"
				close(f.more)
				v.over = make(chan struct{})
				go func() {
					defer close(v.over)
					(&Sender{Client: n.cl}).Handle(v.x)
				}()
				n.wire().want("3 HEADERS…", "3 DATA hel", "3 DATA lo", "3 DATA END")
				n.wire().head(3, true, ":status", "200")
				if o := v.ended(); !o.Answered || o.Status != 200 || o.Again {
					t.Errorf("%+v", o)
				}
				v.want("head 200 end", "end")
				n.close()
			})
		})
	}
}

// The gate is not asked for a caller that has left meanwhile.
func TestGuestGateForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, g := newInn(t), &gate{again: true}
		f := newFake("PUT")
		f.req.Bare, f.leaving = false, &exchange.BodyError{Reason: flow.ReasonDownstreamReset, Text: "gone"}
		v := n.visit(f, func(x *exchange.Exchange) { x.Gate = g })
		n.wire().head(1, true, ":status", "503")
		if o := v.ended(); len(g.asked) > 0 || o.Again || o.Reason != flow.ReasonDownstreamReset {
			t.Errorf("%v, %+v", g.asked, o)
		}
		n.close()
	})
}

// The strings of a head may be of a buffer that is used again; the tables of the compression keep theirs.
func TestGuestStrings(t *testing.T) {
	g := newGuest()
	g.x, g.req = &exchange.Exchange{}, &exchange.Request{Method: "M", Target: "/t", Authority: "a", Protocol: "p"}
	g.begin()
	for _, s := range [][2]string{{g.k.req.target, g.req.Target}, {g.k.req.authority, g.req.Authority}, {g.k.req.protocol, g.req.Protocol}} {
		if s[0] != s[1] || unsafe.StringData(s[0]) == unsafe.StringData(s[1]) {
			t.Errorf("%q is kept", s)
		}
	}
}

// A whole response ends the exchange though its request is still on its way.
func TestGuestEarlyResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		f := newFake("POST")
		f.req.Bare = false
		f.more <- "some"
		v := n.visit(f)
		n.wire().want("1 HEADERS…", "1 DATA some")
		n.wire().head(1, false, ":status", "200")
		synctest.Wait()
		f.more <- "more" // it goes on beside the response
		n.wire().want("1 DATA more")
		n.wire().body(1, true, "enough")
		if o := v.ended(); !o.Answered || o.Reason != flow.ReasonNone {
			t.Errorf("%+v", o)
		}
		v.want("head 200", "body enough", "end")
		n.wire().want("1 RST_STREAM NO_ERROR")
		n.close()
	})
}

// A body that goes on though the response has ended is not sent any more, while the caller still takes that.
func TestGuestEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		f := newFake("POST")
		f.req.Bare, f.held, f.trailers = false, make(chan struct{}), []exchange.Field{{Name: "digest", Value: "d"}}
		f.more <- "some"
		v := n.visit(f)
		n.wire().want("1 HEADERS…", "1 DATA some")
		n.wire().head(1, false, ":status", "200")
		n.wire().body(1, true, "enough")
		synctest.Wait()
		f.more <- "more"
		close(f.more)
		n.wire().want()
		close(f.held)
		if o := v.ended(); !o.Answered || o.Reason != flow.ReasonNone {
			t.Errorf("%+v", o)
		}
		n.wire().want("1 RST_STREAM NO_ERROR")
		n.close()
	})
}

// A caller that takes nothing makes its endpoint stop at its window, and nobody else's: what is held is no more than that.
func TestGuestSlowCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		f := newFake("GET")
		f.held = make(chan struct{})
		v := n.visit(f)
		w := n.wire()
		w.head(1, false, ":status", "200")
		before := w.granted(1)
		w.body(1, false, strings.Repeat("a", initialWindow)) // all that it may send
		if g := w.granted(1) - before; g != 0 {
			t.Errorf("granted %d though nothing was taken", g)
		}
		if used := n.room.Used(); used > initialWindow+callMemory+2*chunkSize {
			t.Errorf("%d bytes are held", used)
		}
		other := n.visit(newFake("GET"))
		w.head(3, false, ":status", "200")
		w.body(3, true, "quick")
		other.ended()
		other.want("head 200", "body quick", "end")
		f.held <- struct{}{}
		f.held <- struct{}{}
		f.held <- struct{}{}
		if g := w.granted(1); g == 0 || g > 3*chunkSize {
			t.Errorf("granted %d when three parts were taken", g)
		}
		close(f.held)
		if g := w.granted(1); g < initialWindow/2 {
			t.Errorf("granted %d when all was taken", g)
		}
		w.body(1, true, "")
		if o := v.ended(); !o.Answered || v.x.BytesOut.Load() != initialWindow {
			t.Errorf("%+v, %d bytes", o, v.x.BytesOut.Load())
		}
		n.close()
	})
}

// An endpoint that takes nothing makes its caller stop: no more of the body is read than is under way.
func TestGuestSlowEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		n.settle = []xhttp2.Setting{{ID: xhttp2.SettingInitialWindowSize, Val: 10}}
		warm := n.visit(newFake("GET")) // its SETTINGS are known
		n.wire().head(1, true, ":status", "204")
		warm.ended()
		n.wire().told()
		f := newFake("POST")
		f.req.Bare = false
		const size = 30
		for range size {
			f.more <- strings.Repeat("a", chunkSize)
		}
		close(f.more)
		v := n.visit(f)
		w := n.wire()
		if got := w.data(3); got != 10 {
			t.Errorf("%d bytes came through a window of 10", got)
		}
		if f.mu.Lock(); f.read > chunkSize {
			t.Errorf("%d bytes were read", f.read)
		}
		f.mu.Unlock()
		if used := n.room.Used(); used > callMemory+3*chunkSize {
			t.Errorf("%d bytes are held", used)
		}
		_ = w.fr.WriteWindowUpdate(0, size*chunkSize)
		for range size {
			_ = w.fr.WriteWindowUpdate(3, chunkSize)
			synctest.Wait()
		}
		if got := w.data(3); got != size*chunkSize {
			t.Errorf("%d bytes of %d came", got, size*chunkSize)
		}
		w.head(3, true, ":status", "200")
		if o := v.ended(); !o.Answered {
			t.Errorf("%+v", o)
		}
		n.close()
	})
	// It may stay so: the deadline ends it, and the service is to blame.
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		f := newFake("POST")
		f.req.Bare = false
		for range 10 {
			f.more <- strings.Repeat("a", chunkSize)
		}
		v := n.visit(f, func(x *exchange.Exchange) { x.Deadline = x.Start.Add(time.Second) })
		if o := v.ended(); o.Reason != flow.ReasonRequestTimeout {
			t.Errorf("%+v", o)
		}
		n.close()
	})
}

// More interim responses than anybody waits for do not pile up.
func TestGuestInterims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		f := newFake("GET")
		v := n.visit(f)
		g := guestOf(n)
		g.mu.Lock() // nobody takes them
		for range 3 {
			g.holdInterim(103, []field{{name: "link", value: strings.Repeat("l", maxInterimBytes)}})
		}
		for range 3 * maxInterims {
			g.holdInterim(103, []field{{name: ":status", value: "103", id: fieldStatus}, {name: "link", value: "l"}})
		}
		g.mu.Unlock()
		n.wire().head(1, true, ":status", "204")
		v.ended()
		want := append(slices.Repeat([]string{"head 103 | link: l"}, maxInterims), "head 204 end", "end")
		v.want(want...)
		n.close()
	})
}

// guestOf is the call of the only stream to the endpoint.
func guestOf(n *inn) *call {
	n.cl.mu.Lock()
	defer n.cl.mu.Unlock()
	for _, g := range n.cl.groups {
		for _, p := range g.conns {
			for _, at := range p.c.streams() {
				return at.k
			}
		}
	}
	return nil
}

// TestGuestTunnel: WebSocket and CONNECT become tunnels whose halves end one by one.
func TestGuestTunnel(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(r *exchange.Request)
		head string
		said string
	}{
		{
			"WebSocket", func(r *exchange.Request) { r.Protocol, r.Target = "websocket", "/ws" },
			"1 HEADERS :method: CONNECT | :scheme: http | :path: /ws | :authority: shop | :protocol: websocket | x-request-id: r | " + tried, "head 101 tunnel | a: b",
		},
		{
			"CONNECT", func(r *exchange.Request) { r.Method, r.Target, r.Authority = "CONNECT", "", "shop:443" },
			"1 HEADERS :method: CONNECT | :authority: shop:443 | x-request-id: r | " + tried, "head 200 tunnel | a: b",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newInn(t)
				n.settle = []xhttp2.Setting{{ID: settingConnect, Val: 1}}
				f := newFake("GET")
				c.set(&f.req)
				near, away := memPair(t)
				f.tunnel = near
				caller := newWireless(away)
				v := n.visit(f)
				w := n.wire()
				w.want(c.head)
				w.head(1, false, ":status", "200", "a", "b")
				v.want(c.said)
				_, _ = caller.Write([]byte("hello"))
				w.want("1 DATA hello")
				w.body(1, false, "and you")
				if got := caller.got(); got != "and you" {
					t.Errorf("the caller got %q", got)
				}
				_ = caller.CloseWrite()
				w.want("1 DATA END")
				w.body(1, true, ", still")
				if got := caller.got(); got != "and you, still" || !caller.ended() {
					t.Errorf("the caller got %q, ended: %v", got, caller.ended())
				}
				if o := v.ended(); !o.Answered || o.Reason != flow.ReasonNone || v.x.BytesIn.Load() != 5 || v.x.BytesOut.Load() != 14 || v.x.Legs.LastByte < 0 {
					t.Errorf("%+v, %d in, %d out", o, v.x.BytesIn.Load(), v.x.BytesOut.Load())
				}
				w.want()
				_ = near.Close()
				n.close()
			})
		})
	}
}

// TestGuestTunnelEnds: whatever ends a tunnel, both sides learn it.
func TestGuestTunnelEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		act    func(v *visit, caller *wireless)
		reason flow.Reason
		reset  bool // the endpoint is told
	}{
		{"the endpoint resets", func(v *visit, _ *wireless) { _ = v.n.wire().fr.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, flow.ReasonUpstreamReset, false},
		{"the endpoint closes", func(v *visit, _ *wireless) { _ = v.n.wire().c.Close() }, flow.ReasonUpstreamReset, false},
		{"the caller resets", func(_ *visit, caller *wireless) { caller.reset() }, flow.ReasonDownstreamReset, true},
		{"nothing moves", func(*visit, *wireless) { time.Sleep(2 * time.Minute) }, flow.ReasonIdleTimeout, true},
		{"the sidecar stops", func(v *visit, _ *wireless) { v.x.Abort(flow.ReasonDraining) }, flow.ReasonDraining, true},
		{"the endpoint ends its half and resets", func(v *visit, caller *wireless) {
			v.n.wire().body(1, true, "bye")
			_ = v.n.wire().fr.WriteRSTStream(1, xhttp2.ErrCodeCancel)
			synctest.Wait()
			_, _ = caller.Write([]byte("to nobody"))
		}, flow.ReasonUpstreamReset, false},
		{"the endpoint takes nothing", func(v *visit, caller *wireless) {
			go func() { _, _ = caller.Write(make([]byte, 4*initialWindow)) }()
			for range 6 { // it says something all the same, or nothing would move
				time.Sleep(20 * time.Second)
				v.n.wire().body(1, false, ".")
			}
		}, flow.ReasonUpstreamReset, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newInn(t)
				f := newFake("CONNECT")
				f.req.Target, f.req.Authority = "", "shop:443"
				near, away := memPair(t)
				f.tunnel = near
				caller := newWireless(away)
				v := n.visit(f, func(x *exchange.Exchange) {
					x.Deadline = x.Start.Add(time.Second) // holds until the tunnel is open
					x.Destination.IdleTimeout = time.Minute
				})
				n.wire().head(1, false, ":status", "200")
				v.want("head 200 tunnel")
				c.act(v, caller)
				begin := time.Now()
				if o := v.ended(); o.Reason != c.reason || o.Answered || o.Detail == "" || time.Since(begin) > time.Second {
					t.Errorf("after %v: %+v", time.Since(begin), o)
				}
				v.want("cut")
				lines := n.wire().told()
				if reset := len(lines) > 0 && lines[len(lines)-1] == "1 RST_STREAM CANCEL"; reset != c.reset {
					t.Errorf("the endpoint got %q", lines)
				}
				_ = near.Close()
				_ = away.Close()
				n.close()
			})
		})
	}
}

// An endpoint that does not say it takes extended CONNECT is not asked for a WebSocket.
func TestGuestTunnelRefused(t *testing.T) {
	for _, mute := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newInn(t)
			n.mute = mute
			f := newFake("GET")
			f.req.Protocol = "websocket"
			v := n.visit(f, func(x *exchange.Exchange) { x.Deadline = x.Start.Add(time.Minute) })
			o := v.ended()
			if mute {
				if o.Reason != flow.ReasonUpstreamProtocol || !o.Unprocessed {
					t.Errorf("%+v", o)
				}
			} else if v.want("refuse 501"); o.Reason != flow.ReasonBadRequest || o.Delivered {
				t.Errorf("%+v", o)
			}
			n.wire().want()
			n.close()
		})
	}
	// One that answers it like any request is passed on: no tunnel is open.
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		n.settle = []xhttp2.Setting{{ID: settingConnect, Val: 1}}
		f := newFake("GET")
		f.req.Protocol = "websocket"
		v := n.visit(f)
		n.wire().told()
		n.wire().head(1, false, ":status", "403")
		n.wire().body(1, true, "no")
		if o := v.ended(); !o.Answered || o.Status != 403 {
			t.Errorf("%+v", o)
		}
		v.want("head 403", "body no", "end")
		n.close()
	})
}

// A caller that has left, or whose request is not valid, opens no stream; nor does what speaks no HTTP at all.
func TestGuestUnwelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		f := newFake("GET")
		f.fault = &exchange.BodyError{Reason: flow.ReasonBadRequest, Text: "no"}
		if o := n.visit(f).ended(); o.Reason != flow.ReasonBadRequest || o.Delivered || len(n.wires) > 0 {
			t.Errorf("%+v", o)
		}
		x := &exchange.Exchange{}
		if (&Sender{Client: n.cl}).Handle(x); x.Outcome.Reason != flow.ReasonUpstreamProtocol {
			t.Errorf("%+v", x.Outcome)
		}
		aborted := n.visit(newFake("GET"), func(x *exchange.Exchange) { x.Abort(flow.ReasonDraining) })
		if o := aborted.ended(); o.Reason != flow.ReasonDraining || o.Delivered {
			t.Errorf("%+v", o)
		}
		n.close()
	})
}

// Guests share connections with each other, and are used again.
func TestGuestsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInn(t)
		for round := range 3 {
			var visits []*visit
			for range 5 {
				f := newFake("POST")
				f.req.Bare = false
				f.more <- fmt.Sprint("ask", round)
				close(f.more)
				visits = append(visits, n.visit(f))
			}
			for i, v := range visits {
				id := uint32(1 + 2*(5*round+i))
				n.wire().head(id, false, ":status", "200")
				n.wire().body(id, true, fmt.Sprint(round, i))
				v.ended()
				v.want("head 200", fmt.Sprint("body ", round, i), "end")
			}
		}
		if len(n.wires) != 1 {
			t.Errorf("%d connections", len(n.wires))
		}
		n.close()
	})
}

var _ exchange.Caller = (*fake)(nil)
