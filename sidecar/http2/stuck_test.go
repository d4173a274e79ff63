package http2

import (
	"bytes"
	"net"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
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
	_ = away.SetDeadline(time.Now().Add(20 * time.Second))
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
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	select {
	case <-p.served:
	case <-late.C:
		t.Fatal("the connection was not closed")
	}
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
