package http2

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// lockstep is the caller's end of a pipe to a Server. Nothing is buffered between them: a write of either waits until the other has read it.
type lockstep struct {
	*xhttp2.Framer
	c      net.Conn
	room   *exchange.Room
	served chan struct{}
}

func dialLockstep(t *testing.T, l policy.Limits, h exchange.HandlerFunc) *lockstep {
	near, away := net.Pipe()
	p := &lockstep{Framer: xhttp2.NewFramer(away, away), c: away, room: &exchange.Room{}, served: make(chan struct{})}
	bound := &exchange.Binding{Room: p.room, Listener: policy.Listener{Limits: l.WithDefaults()}}
	go func() {
		defer close(p.served)
		srv := &Server{Side: flow.SideClient, Handler: h}
		srv.Serve(&exchange.Session{Conn: near, Peer: &exchange.Peer{}, Start: time.Now(), Bind: func() *exchange.Binding { return bound }, Report: nobody{}})
	}()
	t.Cleanup(func() {
		_ = away.Close()
		<-p.served
		if n := p.room.Used(); n != 0 {
			t.Errorf("%d bytes of room are left", n)
		}
	})
	_ = away.SetDeadline(time.Now().Add(10 * time.Second))
	p.send(t, appendFrame([]byte(preface), 0, frameSettings, 0, 0))
	return p
}

// send returns when the Server has read b, though it may not have handled it yet: that it has when it takes the next byte.
func (p *lockstep) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := p.c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// closes waits until the Server has given up the connection, of which nothing more is read.
func (p *lockstep) closes(t *testing.T) {
	t.Helper()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	select {
	case <-p.served:
	case <-late.C:
		t.Fatal("the connection was not closed")
	}
}

// woken is a connection that tells when its reader is woken.
type woken struct {
	net.Conn
	ch chan struct{}
}

func (w woken) SetReadDeadline(t time.Time) error {
	err := w.Conn.SetReadDeadline(t)
	if t.Equal(past) {
		select {
		case w.ch <- struct{}{}:
		default:
		}
	}
	return err
}

// A stream that the last GOAWAY of a drain names is answered, even if it was not in the table when nothing else was left.
func TestHTTP2DrainFinishesTheLastStream(t *testing.T) {
	near, away := net.Pipe()
	w := woken{near, make(chan struct{}, 1)}
	bound := &exchange.Binding{Room: &exchange.Room{}, Listener: policy.Listener{Limits: policy.Limits{}.WithDefaults()}}
	sess := &exchange.Session{Conn: w, Peer: &exchange.Peer{}, Start: time.Now(), Report: nobody{}}
	binds, release := 0, make(chan struct{})
	sess.Bind = func() *exchange.Binding {
		if binds++; binds == 2 { // for the stream, whose number is noted already
			sess.Drain()
			<-w.ch // nothing is left to do, as it seems
		}
		return bound
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv := &Server{Side: flow.SideClient, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
			<-release
			answerNothing(x)
		})}
		srv.Serve(sess)
	}()
	_ = away.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		head := encoded(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")
		b := appendFrame([]byte(preface), 0, frameSettings, 0, 0)
		_, _ = away.Write(append(appendFrame(b, len(head), frameHeaders, flagEndHeaders|flagEnd, 1), head...))
		_, _ = away.Write(appendPing(nil, false, [8]byte{1}))
	}()
	answered := false
	for fr := xhttp2.NewFramer(nil, away); ; {
		f, err := fr.ReadFrame()
		if err != nil {
			break
		}
		switch f := f.(type) {
		case *xhttp2.PingFrame:
			if f.IsAck() { // the connection is still read
				close(release)
			}
		case *xhttp2.HeadersFrame:
			answered = f.StreamID == 1
		}
	}
	if !answered {
		t.Error("it was not answered")
		select {
		case <-release:
		default:
			close(release)
		}
	}
	_ = away.Close()
	<-served
}

func answerNothing(x *exchange.Exchange) {
	x.Outcome.Fail(flow.ReasonNoEndpoint, "")
	x.Outcome.Answered = x.Downstream.Answer(x)
}

// A caller that has read the answers to its PINGs is honest, even if more was to be written at any time.
func TestHTTP2AnswersThatWereRead(t *testing.T) {
	const limit = 10
	p := dialLockstep(t, policy.Limits{HTTP2: policy.HTTP2{ControlFrames: limit}}, answerNothing)
	var got []byte
	ping := appendPing(nil, false, [8]byte{})
	p.send(t, ping[:1])
	for range 3 * limit {
		b := make([]byte, 4096)
		n, err := p.c.Read(b[:1]) // a write is under way
		if err == nil {
			p.send(t, ping[1:])
			p.send(t, ping[:1]) // now the answer waits behind it
			var more int
			more, err = p.c.Read(b[1:])
			n += more
		}
		if got = append(got, b[:n]...); err != nil {
			t.Fatal(err)
		}
	}
	acks := 0
	for fr := xhttp2.NewFramer(nil, bytes.NewReader(got)); ; {
		f, err := fr.ReadFrame()
		if err != nil {
			break
		}
		switch f := f.(type) {
		case *xhttp2.GoAwayFrame:
			t.Fatalf("after %d answers: %v", acks, f)
		case *xhttp2.PingFrame:
			acks++
		}
	}
	if acks < 2*limit {
		t.Errorf("%d answers", acks)
	}
}

// A caller that reads nothing is given up, whether its connection is idle or what waits for it keeps it from being read.
func TestHTTP2WriteThatNeverEnds(t *testing.T) {
	l := policy.Limits{IdleTimeout: 20 * time.Millisecond, HTTP2: policy.HTTP2{PingInterval: -1, PingTimeout: 200 * time.Millisecond, ControlFrames: 1 << 20}}
	t.Run("idle", func(t *testing.T) {
		p := dialLockstep(t, l, answerNothing)
		p.closes(t)
		if n := p.room.Count(exchange.LimitIdleTimeout); n != 1 {
			t.Errorf("it ended for being idle %d times", n)
		}
	})
	t.Run("not read", func(t *testing.T) {
		l := l
		l.IdleTimeout = time.Hour
		p := dialLockstep(t, l, answerNothing)
		ping := appendPing(nil, false, [8]byte{})
		_, _ = p.c.Write(bytes.Repeat(ping, 3*2*maxOut/len(ping))) // ends when the connection does
		p.closes(t)
	})
}

// Each head has its own time: a caller whose every packet ends within one is not slow.
func TestHTTP2HeadsCutByPackets(t *testing.T) {
	const timeout = 50 * time.Millisecond
	p := dialLockstep(t, policy.Limits{HeadTimeout: timeout}, answerNothing)
	answers := make(chan struct{}, 1)
	go func() {
		defer close(answers)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			if f.Header().Type == xhttp2.FrameHeaders {
				answers <- struct{}{}
			}
		}
	}()
	head := encoded(":method", "HEAD", ":scheme", "http", ":path", "/", ":authority", "a")
	frame := func(id uint32) []byte {
		return append(appendFrame(nil, len(head), frameHeaders, flagEndHeaders|flagEnd, id), head...)
	}
	p.send(t, frame(1)[:12])
	id, begin := uint32(1), time.Now()
	for ; time.Since(begin) < 4*timeout; id += 2 {
		p.send(t, append(frame(id)[12:], frame(id + 2)[:12]...))
		<-answers
	}
	p.send(t, frame(id)[12:])
	<-answers
	_ = p.c.Close()
	for range answers {
	}
	if n := p.room.Count(exchange.LimitHeadTimeout); n != 0 {
		t.Errorf("%d of %d heads came too late", n, id/2)
	}
}

// No stream is opened on a connection of which GOAWAY is being handled: nobody would refuse it.
func TestHTTP2OpenDuringGoaway(t *testing.T) {
	p := &pipes{away: make(chan net.Conn, 1)}
	cl := NewClient(p, time.Hour)
	first, second := newCall(), newCall()
	c, away := upstreamPipe(t, cl, p, &first.x)
	go func() { _, _ = io.Copy(io.Discard, away) }()
	first.mu.Lock()
	if first.attached = first.open(c); !first.attached {
		t.Fatal(first.x.Outcome.Detail)
	}
	go func() { _, _ = away.Write(appendGoaway(appendFrame(nil, 0, frameSettings, 0, 0), 0, codeNone, "")) }()
	testmesh.Eventually(t, "the first is refused, for which its lock is waited for", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.live == 0
	})
	second.x.Start = time.Now()
	second.mu.Lock()
	if second.open(c) || !second.x.Outcome.Unprocessed {
		t.Errorf("a stream was opened: %+v", second.x.Outcome)
	}
	second.mu.Unlock()
	first.mu.Unlock()
	_ = away.Close()
	cl.wg.Wait()
}

func newCall() *call { return &call{wake: make(chan struct{}, 1), done: make(chan struct{}, 1)} }

// pipes is a Pool whose connections are pipes, of which the test has the other ends.
type pipes struct {
	exchange.Pool
	away chan net.Conn
}

func (p *pipes) Connect(*exchange.Exchange, bool) *exchange.Conn {
	near, away := net.Pipe()
	p.away <- away
	return &exchange.Conn{Conn: near}
}

func (p *pipes) Discard(c *exchange.Conn) { _ = c.Close() }

// upstreamPipe is a connection of a Client to an endpoint, of which the test has the other end; x has a place on it.
func upstreamPipe(t *testing.T, cl *Client, p *pipes, x *exchange.Exchange) (*conn, net.Conn) {
	t.Helper()
	x.Start = time.Now()
	x.Reset()
	x.Binding = &exchange.Binding{Room: &exchange.Room{}, Listener: policy.Listener{Limits: policy.Limits{HTTP2: policy.HTTP2{PingTimeout: 200 * time.Millisecond}}}}
	x.Destination = &exchange.Destination{}
	x.Choice.Endpoint = &policy.Endpoint{}
	c := cl.get(x)
	if c == nil {
		t.Fatal(x.Outcome.Detail)
	}
	away := <-p.away
	t.Cleanup(func() { _ = away.Close() })
	_ = away.SetDeadline(time.Now().Add(10 * time.Second))
	return c, away
}

// An endpoint that reads nothing does not keep the sidecar from ending, and gets no heads without end.
func TestHTTP2EndpointThatDoesNotRead(t *testing.T) {
	p := &pipes{away: make(chan net.Conn, 1)}
	cl := NewClient(p, time.Hour)
	k := &call{}
	c, away := upstreamPipe(t, cl, p, &k.x)
	if _, err := away.Read(make([]byte, 1)); err != nil { // a write is under way: nobody takes what is appended
		t.Fatal(err)
	}
	c.mu.Lock()
	c.out = make([]byte, maxHeads+1)
	c.mu.Unlock()
	k.mu.Lock()
	if k.open(c) || k.x.Outcome.Delivered || !k.x.Outcome.Unprocessed {
		t.Errorf("a head was appended: %+v", k.x.Outcome)
	}
	k.mu.Unlock()
	c.mu.Lock()
	c.out = c.out[:0]
	c.mu.Unlock()
	c.pool.release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cl.Run(ctx)
	}()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
		t.Fatal("it did not end")
	}
}

// A caller that takes its answers slowly, but takes them, is not given up because its answer to PING lies behind what is not read meanwhile.
func TestHTTP2SlowCallerAnswersPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		l := policy.Limits{HTTP2: policy.HTTP2{PingInterval: 20 * time.Millisecond, PingTimeout: 100 * time.Millisecond, ControlFrames: 1 << 20}}
		p := dialLockstep(t, l, func(x *exchange.Exchange) {
			<-release
			answerNothing(x)
		})
		head := encoded(":method", "HEAD", ":scheme", "http", ":path", "/", ":authority", "a")
		p.send(t, append(appendFrame(nil, len(head), frameHeaders, flagEndHeaders|flagEnd, 1), head...))
		sent := make(chan error, 1)
		go func() {
			_, err := p.c.Write(bytes.Repeat(appendPing(nil, false, [8]byte{}), 3*2*maxOut/17))
			sent <- err
		}()
		b := make([]byte, 16<<10)
		for begin := time.Now(); time.Since(begin) < time.Second; {
			time.Sleep(30 * time.Millisecond)
			if _, err := io.ReadFull(p.c, b); err != nil {
				t.Fatalf("after %s: %v", time.Since(begin), err)
			}
		}
		go func() { _, _ = io.Copy(io.Discard, p.c) }()
		if err := <-sent; err != nil {
			t.Error(err)
		}
		_ = p.c.Close()
	})
}

// What was sent to an endpoint that then answers no PING was delivered, for all that is known.
func TestHTTP2GivenUpEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{away: make(chan net.Conn, 1)}
		cl := NewClient(p, time.Hour)
		k := newCall()
		c, away := upstreamPipe(t, cl, p, &k.x)
		_ = away.SetDeadline(time.Time{})
		go func() { _, _ = io.Copy(io.Discard, away) }()
		k.mu.Lock()
		if k.attached = k.open(c); !k.attached {
			t.Fatal(k.x.Outcome.Detail)
		}
		k.mu.Unlock()
		k.d.flush()
		<-k.done
		if o := &k.x.Outcome; o.Reason != flow.ReasonUpstreamReset || !o.Delivered || o.Unprocessed {
			t.Errorf("%+v", *o)
		}
		c.pool.release()
		cl.wg.Wait()
		if len(cl.groups) != 0 {
			t.Errorf("%d groups are left", len(cl.groups))
		}
	})
}
