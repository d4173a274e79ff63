package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// one hands out one connection, as a pool does.
type one struct{ net.Conn }

func (o one) Get(*exchange.Exchange) *exchange.Conn { return &exchange.Conn{Conn: o.Conn, Mesh: true} }

func (o one) Connect(x *exchange.Exchange, _ bool) *exchange.Conn {
	return o.Get(x)
}
func (o one) Put(*exchange.Conn)     { _ = o.Close() }
func (o one) Discard(*exchange.Conn) { _ = o.Close() }

// freshPool empties workPool, because a channel belongs to the bubble (testing/synctest) in which it was made.
func freshPool() { workPool = sync.Pool{New: workPool.New} }

// exchangeWith carries one exchange between a caller and a far sidecar and returns what came of it.
func exchangeWith(t *testing.T, caller, far func(c net.Conn)) exchange.Outcome {
	return exchangeThrough(t, func(*exchange.Exchange) {}, caller, far)
}

// exchangeThrough is exchangeWith with a step before the sender.
func exchangeThrough(t *testing.T, step func(x *exchange.Exchange), caller, far func(c net.Conn)) (out exchange.Outcome) {
	synctest.Test(t, func(t *testing.T) {
		freshPool()
		down, near := net.Pipe()
		up, away := net.Pipe()
		send := &Sender{Pool: one{up}}
		s := &Server{Side: flow.SideClient, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
			x.Destination = &exchange.Destination{}
			step(x)
			send.Handle(x)
			out = x.Outcome
		})}
		served, answered := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(served)
			var told reports
			s.Serve(&exchange.Session{
				Conn: down, Peer: &exchange.Peer{}, Start: time.Now(), Bind: func() *exchange.Binding { return &exchange.Binding{} }, Report: &told,
			})
		}()
		go func() {
			defer close(answered)
			far(away)
		}()
		caller(near)
		_ = near.Close()
		<-served
		<-answered
		_ = away.Close()
	})
	return out
}

// TestFarReason: what the far sidecar says of its answer is kept, also when the body comes later, over the same memory.
func TestFarReason(t *testing.T) {
	out := exchangeWith(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			_, _ = io.ReadAll(resp.Body)
		}
	}, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 504 Gateway Timeout\r\nx-tulle-reason: request_timeout\r\nContent-Length: 64\r\n\r\n")
		_, _ = c.Write(make([]byte, 64))
	})
	if want := "the far sidecar answered: request_timeout"; out.Reason != flow.ReasonUpstreamStatus || out.Detail != want {
		t.Errorf("got %s, %q; want %q", out.Reason, out.Detail, want)
	}
}

// TestUnprocessed: what is proven of a POST whose connection closed. A peer that closed before it had the whole head cannot have processed it,
// nor can a sidecar that closes in order without an answer; one that had begun to answer may have.
func TestUnprocessed(t *testing.T) {
	for name, c := range map[string]struct {
		far                    func(c net.Conn)
		unprocessed, delivered bool
	}{
		"closed within the head": {func(c net.Conn) { _, _ = c.Read(make([]byte, 10)); _ = c.Close() }, true, false},
		"a sidecar closed in order": {func(c net.Conn) {
			if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.ReadAll(r.Body)
			}
			_ = c.Close()
		}, true, false},
		"closed within the answer": {func(c net.Conn) {
			if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.ReadAll(r.Body)
			}
			_, _ = io.WriteString(c, "HTTP/1.1 2")
			_ = c.Close()
		}, false, true},
	} {
		out := exchangeWith(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
		}, c.far)
		if out.Unprocessed != c.unprocessed || out.Delivered != c.delivered || out.Reason != flow.ReasonUpstreamReset || out.Committed {
			t.Errorf("%s: %+v", name, out)
		}
	}
}

// never is a gate that lets no response be dropped.
type never struct{}

func (never) Retry(*exchange.Exchange, int) bool { return false }

// TestUnretried: a 503 that is not tried again goes downstream whole, though the upload was stopped for the gate to be asked.
func TestUnretried(t *testing.T) {
	var got string
	out := exchangeThrough(t, func(x *exchange.Exchange) { x.Gate = never{} }, func(c net.Conn) {
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab")
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			b, err := io.ReadAll(resp.Body)
			got = string(b)
			if err != nil {
				t.Error(err)
			}
		}
	}, func(c net.Conn) {
		r := bufio.NewReader(c)
		_, _ = http.ReadRequest(r)
		_, _ = io.ReadFull(r, make([]byte, 2))
		_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\n")
		time.Sleep(time.Second) // the body comes later
		_, _ = io.WriteString(c, "late")
	})
	if got != "late" || !out.Answered || out.Reason != flow.ReasonUpstreamStatus {
		t.Errorf("got %q, %+v", got, out)
	}
}
