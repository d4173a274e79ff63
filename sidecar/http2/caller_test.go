package http2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// readAll reads a body, and its error if that is not its end.
func readAll(x *exchange.Exchange, c exchange.Caller) (string, error) {
	var all []byte
	buf := make([]byte, 10_000)
	for {
		n, err := c.ReadBody(x, buf)
		all = append(all, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return string(all), nil
		}
		if err != nil {
			return string(all), err
		}
	}
}

// failed is what a sender does with an error of a Caller.
func failed(x *exchange.Exchange, err error) bool {
	e := (*exchange.BodyError)(nil)
	if errors.As(err, &e) {
		x.Outcome.Fail(e.Reason, e.Text)
	}
	return err != nil
}

// answer sends a whole response.
func answer(x *exchange.Exchange, c exchange.Caller, r *exchange.Response, body string, trailers ...exchange.Field) {
	if failed(x, c.WriteHead(x, r, false)) {
		return
	}
	if body != "" && failed(x, c.WriteBody(x, []byte(body))) {
		return
	}
	failed(x, c.WriteEnd(x, trailers))
}

var ok200 = &exchange.Response{Status: 200, Length: -1}

// TestCallerRequest: what another version is to send is what came, less what names framing or hop.
func TestCallerRequest(t *testing.T) {
	for _, c := range []struct {
		name string
		head []string
		end  bool
		want exchange.Request
	}{
		{"GET", []string{":method", "GET", ":scheme", "http", ":path", "/a/../b?c=d", ":authority", "shop:80", "x-request-id", "r", "accept", "*/*"}, true, exchange.Request{
			Method: "GET", Target: "/b?c=d", Authority: "shop:80", Length: -1, Bare: true,
			Fields: []exchange.Field{{Name: "x-request-id", Value: "r"}, {Name: "accept", Value: "*/*"}},
		}},
		{"POST", []string{
			":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a", "host", "a", "x-request-id", "r", "content-length", "5", "te", "trailers",
			"expect", "100-continue", "x-tulle-reason", "shed", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "http2-settings", "AA",
		}, false, exchange.Request{
			Method: "POST", Target: "/", Authority: "a", Length: 5, Expect: true, Trailers: true, Fields: []exchange.Field{{Name: "x-request-id", Value: "r"}},
		}},
		{"cookies", []string{
			":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "cookie", "a=b", "x-request-id", "r", "cookie", "c=d", "cookie", "e=f",
		}, true, exchange.Request{
			Method: "GET", Target: "/", Authority: "a", Length: -1, Bare: true,
			Fields: []exchange.Field{{Name: "cookie", Value: "a=b; c=d; e=f"}, {Name: "x-request-id", Value: "r"}},
		}},
		{"asterisk", []string{":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "a", "x-request-id", "r"}, true, exchange.Request{
			Method: "OPTIONS", Target: "*", Authority: "a", Length: -1, Bare: true, Fields: []exchange.Field{{Name: "x-request-id", Value: "r"}},
		}},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "a:443", "x-request-id", "r", "content-length", "3"}, false, exchange.Request{
			Method: "CONNECT", Authority: "a:443", Length: -1, Bare: true, Fields: []exchange.Field{{Name: "x-request-id", Value: "r"}},
		}},
		{"WebSocket", []string{
			":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/ws", ":authority", "a", "x-request-id", "r", "sec-websocket-version", "13",
		}, false, exchange.Request{
			Method: "GET", Target: "/ws", Authority: "a", Protocol: "websocket", Length: -1, Bare: true,
			Fields: []exchange.Field{{Name: "x-request-id", Value: "r"}, {Name: "sec-websocket-version", Value: "13"}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got exchange.Request
				p := lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, caller exchange.Caller) {
					got = *caller.Request(x)
					if !reflect.DeepEqual(got, *caller.Request(x)) {
						t.Error("asked again it says something else")
					}
					if caller.BodyDone() != c.want.Bare {
						t.Errorf("BodyDone is %v", caller.BodyDone())
					}
					answer(x, caller, ok200, "")
				})
				p.head(1, c.end, c.head...)
				<-p.results
				if !reflect.DeepEqual(got, c.want) {
					t.Errorf("got %+v\nwant %+v", got, c.want)
				}
				p.close()
			})
		})
	}
}

// An id of the request that the sidecar makes is among the fields, and a grpc-timeout says what is left at each try.
func TestCallerRequestMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var id string
		var timeouts []string
		p := lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, c exchange.Caller) {
			for range 2 {
				for _, f := range c.Request(x).Fields {
					switch f.Name {
					case "x-request-id":
						id = f.Value
					case "grpc-timeout":
						timeouts = append(timeouts, f.Value)
					}
				}
				time.Sleep(time.Second)
			}
			if x.Head.RequestID != id {
				t.Errorf("the id is %q, not %q", id, x.Head.RequestID)
			}
			answer(x, c, ok200, "")
		})
		p.head(1, true, ":method", "POST", ":scheme", "http", ":path", "/a.B/C", ":authority", "a", "content-type", "application/grpc", "grpc-timeout", "10S")
		<-p.results
		if len(id) != 36 || fmt.Sprint(timeouts) != "[10000000u 9000000u]" {
			t.Errorf("id %q, time-outs %v", id, timeouts)
		}
		p.close()
	})
}

// narrow is the smallest window that a caller may take for granted.
var narrow = policy.Limits{HTTP2: policy.HTTP2{StreamWindow: initialWindow}}

// A body is granted to the caller as it is read, waits in its window until then, and can be read again from its beginning while it is small.
func TestCallerBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, more := make(chan string), make(chan int)
		p := lend(t, exchange.Peer{}, narrow, func(x *exchange.Exchange, c exchange.Caller) {
			c.Request(x)
			c.Rewind(x)
			for n := range more {
				if n < 0 {
					c.Rewind(x)
					continue
				}
				buf, m := make([]byte, n), 0
				for m < n {
					k, err := c.ReadBody(x, buf[m:])
					if err != nil {
						t.Error(err)
					}
					m += k
				}
				read <- string(buf)
			}
			if c.BodyDone() {
				t.Error("it is done before its end was read")
			}
			rest, err := readAll(x, c)
			if err != nil || !c.BodyDone() {
				t.Errorf("%v, done: %v", err, c.BodyDone())
			}
			read <- rest
			if f := c.RequestTrailers(); len(f) != 1 || f[0] != (exchange.Field{Name: "digest", Value: "d"}) {
				t.Errorf("trailers %v", f)
			}
			answer(x, c, ok200, "")
		})
		p.head(1, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a")
		half := strings.Repeat("a", initialWindow/2)
		p.body(1, false, half)
		p.body(1, false, half)
		if n := p.granted(1); n != 0 {
			t.Errorf("granted %d though nothing was read", n)
		}
		more <- len(half)
		if got := <-read; got != half {
			t.Error("it reads something else")
		}
		if n := p.granted(1); n < len(half)/2 || n > len(half) {
			t.Errorf("granted %d when %d bytes were read", n, len(half))
		}
		before := p.granted(1)
		more <- -1
		more <- len(half)
		<-read
		if n := p.granted(1); n != before {
			t.Errorf("what was read again was granted again: %d", n-before)
		}
		more <- len(half)
		<-read
		close(more)
		p.body(1, false, "rest")
		p.head(1, true, "digest", "d", "content-length", "7", "te", "trailers")
		if got := <-read; got != "rest" {
			t.Errorf("the rest is %q", got)
		}
		if r := <-p.results; r.in != uint64(2*len(half)+4) || !r.Answered {
			t.Errorf("%+v", r)
		}
		p.close()
	})
}

// What a caller does wrong, or does not do, ends the body with whose fault it is, and wakes a sender that waits elsewhere.
func TestCallerBodyEnds(t *testing.T) {
	post := []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"}
	for _, c := range []struct {
		name   string
		head   []string
		act    func(p *lent)
		reason flow.Reason
		status int // of the answer, 0: none
	}{
		{"reset", post, func(p *lent) { _ = p.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, flow.ReasonDownstreamReset, 0},
		{"closed", post, func(p *lent) { _ = p.c.Close() }, flow.ReasonDownstreamReset, 0},
		{"too much", append(post[:8:8], "content-length", "3"), func(p *lent) { p.body(1, true, "long") }, flow.ReasonBadRequest, 0},
		{"too little", append(post[:8:8], "content-length", "3"), func(p *lent) { p.body(1, true, "a") }, flow.ReasonBadRequest, 0},
		{"malformed trailers", post, func(p *lent) { p.head(1, true, ":path", "/") }, flow.ReasonBadRequest, 0},
		{"stalled", post, func(*lent) { time.Sleep(time.Minute) }, flow.ReasonBadRequest, 408},
		{"late", append(post[:8:8], "x-late", "1"), func(*lent) { time.Sleep(time.Minute) }, flow.ReasonRequestTimeout, 504},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				woken := make(chan struct{}, 1)
				p := lend(t, exchange.Peer{}, policy.Limits{BodyTimeout: 10 * time.Second}, func(x *exchange.Exchange, caller exchange.Caller) {
					if c.name == "late" {
						x.Deadline = x.Start.Add(5 * time.Second)
					}
					caller.Request(x)
					caller.Rewind(x)
					x.Await(waker(woken))
					ended := make(chan error)
					go func() {
						_, err := readAll(x, caller)
						ended <- err
					}()
					<-woken
					err := <-ended
					x.Awaited()
					if e := caller.Fault(x); c.name != "late" && (e == nil || e.Reason != c.reason) || c.name == "late" && e != nil {
						t.Errorf("the fault is %v", e)
					}
					if caller.Replayable() && c.status == 0 {
						t.Error("it may be tried again")
					}
					if !failed(x, err) {
						t.Error("it has not failed")
					}
				})
				p.head(1, false, c.head...)
				synctest.Wait()
				c.act(p)
				r := <-p.results
				if r.Reason != c.reason || r.Status != c.status && c.status != 0 || r.Answered != (c.status != 0) {
					t.Errorf("%+v", r.Outcome)
				}
				p.close()
			})
		})
	}
}

// waker is a sender that waits.
type waker chan struct{}

func (w waker) Wake() { poke(w) }

// A caller that leaves while nobody reads its body, or all was read, wakes the sender, which learns why by Fault.
func TestCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, c exchange.Caller) {
			c.Request(x)
			near, away := net.Pipe()
			defer away.Close()
			x.Attach(near, time.Time{}) // as the sender of HTTP/1.1 does
			defer x.Detach()
			if _, err := near.Read(make([]byte, 1)); err == nil {
				t.Error("it was not woken")
			}
			e := c.Fault(x)
			if e == nil || e.Reason != flow.ReasonDownstreamReset {
				t.Fatalf("the fault is %v", e)
			}
			if err := c.WriteHead(x, ok200, false); err == nil || x.Outcome.Committed {
				t.Error("a head was written")
			}
			x.Outcome.Fail(e.Reason, e.Text)
		})
		p.head(1, true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")
		synctest.Wait()
		_ = p.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		if r := <-p.results; r.Reason != flow.ReasonDownstreamReset || r.Answered {
			t.Errorf("%+v", r.Outcome)
		}
		p.want()
		p.close()
	})
}

// StopBody ends a read that waits, and all behind it, until Rewind.
func TestCallerStopBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, c exchange.Caller) {
			c.Request(x)
			c.Rewind(x)
			ended := make(chan error)
			go func() {
				_, err := readAll(x, c)
				_, again := c.ReadBody(x, make([]byte, 1))
				ended <- errors.Join(err, again)
			}()
			time.Sleep(time.Second) // of the bubble: the read waits
			c.StopBody()
			if err := <-ended; err == nil || strings.Count(err.Error(), exchange.ErrStopped.Text) != 2 {
				t.Errorf("ended with %v", err)
			}
			c.Rewind(x)
			if body, err := readAll(x, c); body != "hello" || err != nil {
				t.Errorf("again it reads %q, %v", body, err)
			}
			answer(x, c, ok200, "")
		})
		p.head(1, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a")
		p.body(1, false, "hel")
		time.Sleep(2 * time.Second)
		p.body(1, true, "lo")
		<-p.results
		p.close()
	})
}

// More than is kept cannot be sent again, and the sidecar holds no more of it than the window.
func TestCallerReplayable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 200 << 10
		var before, after bool
		p := lend(t, exchange.Peer{}, narrow, func(x *exchange.Exchange, c exchange.Caller) {
			c.Request(x)
			c.Rewind(x)
			before = c.Replayable()
			if body, err := readAll(x, c); len(body) != size || err != nil {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			after = c.Replayable()
			answer(x, c, ok200, "")
		})
		p.head(1, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a")
		for sent := 0; sent < size; sent += 10 << 10 {
			p.body(1, sent+10<<10 == size, strings.Repeat("a", 10<<10))
			synctest.Wait()
			if used := p.room.Used(); used > maxReplay+initialWindow+2*chunkSize {
				t.Fatalf("%d bytes are held", used)
			}
		}
		<-p.results
		if !before || after {
			t.Errorf("replayable before: %v, after: %v", before, after)
		}
		p.close()
	})
}

// What was kept of a body is given up when a response has begun.
func TestCallerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 40 << 10
		p := lend(t, exchange.Peer{}, narrow, func(x *exchange.Exchange, c exchange.Caller) {
			c.Request(x)
			c.Rewind(x)
			if _, err := readAll(x, c); err != nil {
				t.Error(err)
			}
			if used := x.Binding.Room.Used(); used < size-smallChunk || !c.Replayable() {
				t.Errorf("%d bytes are kept, replayable: %v", used, c.Replayable())
			}
			failed(x, c.WriteHead(x, ok200, false))
			if used := x.Binding.Room.Used(); used != callMemory || c.Replayable() {
				t.Errorf("%d bytes are kept behind the head, replayable: %v", used, c.Replayable())
			}
			failed(x, c.WriteEnd(x, nil))
		})
		p.head(1, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a")
		p.body(1, true, strings.Repeat("a", size))
		<-p.results
		p.close()
	})
}

// TestCallerResponse: what the sender writes, as the caller sees it.
func TestCallerResponse(t *testing.T) {
	get := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	for _, c := range []struct {
		name string
		peer exchange.Peer
		send func(x *exchange.Exchange, c exchange.Caller)
		want []string
		is   result
	}{
		{"whole", exchange.Peer{}, func(x *exchange.Exchange, c exchange.Caller) {
			answer(x, c, &exchange.Response{Status: 200, Length: 5, Fields: []exchange.Field{{Name: "a", Value: "b"}, {Name: "set-cookie", Value: "c", Sensitive: true}}}, "hello")
		}, []string{"1 HEADERS :status: 200 | a: b | set-cookie: c | content-length: 5", "1 DATA hello", "1 DATA END"}, result{out: 5}},
		{"trailers", exchange.Peer{}, func(x *exchange.Exchange, c exchange.Caller) {
			answer(x, c, ok200, "hello", exchange.Field{Name: "digest", Value: "d"}, exchange.Field{Name: "content-length", Value: "7"}, exchange.Field{Name: "connection", Value: "close"})
		}, []string{"1 HEADERS :status: 200", "1 DATA hello", "1 HEADERS END digest: d"}, result{out: 5}},
		{"forbidden trailers alone", exchange.Peer{}, func(x *exchange.Exchange, c exchange.Caller) {
			answer(x, c, ok200, "hello", exchange.Field{Name: "trailer", Value: "x"})
		}, []string{"1 HEADERS :status: 200", "1 DATA hello", "1 DATA END"}, result{out: 5}},
		{"head alone", exchange.Peer{}, func(x *exchange.Exchange, c exchange.Caller) {
			failed(x, c.WriteHead(x, &exchange.Response{Status: 304, Length: 7, Fields: []exchange.Field{{Name: "etag", Value: "e"}}}, true))
			failed(x, c.WriteEnd(x, nil))
		}, []string{"1 HEADERS END :status: 304 | etag: e | content-length: 7"}, result{}},
		{"what belongs to a connection", exchange.Peer{}, func(x *exchange.Exchange, c exchange.Caller) {
			answer(x, c, &exchange.Response{Status: 200, Length: -1, Fields: []exchange.Field{
				{Name: "connection", Value: "x"},
				{Name: "transfer-encoding", Value: "chunked"},
				{Name: "upgrade", Value: "x"},
				{Name: "keep-alive", Value: "x"},
				{Name: "proxy-connection", Value: "x"},
				{Name: "te", Value: "x"},
				{Name: "host", Value: "x"},
				{Name: "content-length", Value: "9"},
				{Name: "a", Value: "b"},
			}}, "")
		}, []string{"1 HEADERS :status: 200 | a: b", "1 DATA END"}, result{}},
		{"interim", exchange.Peer{}, func(x *exchange.Exchange, c exchange.Caller) {
			failed(x, c.WriteHead(x, &exchange.Response{Status: 100, Length: -1}, false))
			failed(x, c.WriteHead(x, &exchange.Response{Status: 103, Length: -1, Fields: []exchange.Field{{Name: "link", Value: "l"}, {Name: "x-tulle-reason", Value: "shed"}}}, false))
			if x.Outcome.Committed {
				t.Error("an interim response commits")
			}
			answer(x, c, ok200, "")
		}, []string{"1 HEADERS :status: 100", "1 HEADERS :status: 103 | link: l", "1 HEADERS :status: 200", "1 DATA END"}, result{}},
		{"told to a sidecar", exchange.Peer{Identity: "spiffe://t/web"}, func(x *exchange.Exchange, c exchange.Caller) {
			x.Legs.HeadParsed, x.Legs.Queued, x.Legs.Sent, x.Legs.FirstByte = 1*time.Microsecond, 2*time.Microsecond, 3*time.Microsecond, 4*time.Microsecond
			answer(x, c, ok200, "")
		}, []string{"1 HEADERS :status: 200 | x-tulle-timing: h=1;q=2;s=3;f=4", "1 DATA END"}, result{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := lend(t, c.peer, policy.Limits{}, func(x *exchange.Exchange, caller exchange.Caller) {
					caller.Request(x)
					c.send(x, caller)
				})
				p.head(1, true, get...)
				r := <-p.results
				if !r.Answered || !r.Committed || r.Reason != flow.ReasonNone || r.out != c.is.out || r.legs.LastByte < 0 {
					t.Errorf("%+v", r)
				}
				p.want(c.want...)
				p.close()
			})
		})
	}
}

// A response that was begun and cannot be ended is reset, never ended; one that is whole before the request is resets the rest of that without an error.
func TestCallerCut(t *testing.T) {
	for _, c := range []struct {
		name string
		end  bool
		send func(x *exchange.Exchange, c exchange.Caller)
		want []string
	}{
		{"cut", true, func(x *exchange.Exchange, c exchange.Caller) {
			failed(x, c.WriteHead(x, &exchange.Response{Status: 200, Length: 9}, false))
			failed(x, c.WriteBody(x, []byte("half")))
			x.Outcome.Fail(flow.ReasonUpstreamReset, "cut")
			c.Cut(x)
			if c.WriteEnd(x, nil) == nil {
				t.Error("it could be ended")
			}
		}, []string{"1 HEADERS :status: 200 | content-length: 9", "1 DATA half", "1 RST_STREAM INTERNAL_ERROR"}},
		{"out of time", true, func(x *exchange.Exchange, c exchange.Caller) {
			failed(x, c.WriteHead(x, ok200, false))
			x.Outcome.Fail(flow.ReasonTryTimeout, "late")
			c.Cut(x)
		}, []string{"1 HEADERS :status: 200", "1 RST_STREAM CANCEL"}},
		{"early", false, func(x *exchange.Exchange, c exchange.Caller) {
			answer(x, c, &exchange.Response{Status: 413, Length: -1}, "no")
		}, []string{"1 HEADERS :status: 413", "1 DATA no", "1 DATA END", "1 RST_STREAM NO_ERROR"}},
		{"refused", false, func(x *exchange.Exchange, c exchange.Caller) {
			c.Refuse(x, faultSlowBody)
		}, []string{"1 HEADERS :status: 408 | content-type: text/plain; charset=utf-8 | x-tulle-reason: bad_request | content-length: …", "1 DATA END …", "1 RST_STREAM NO_ERROR"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, caller exchange.Caller) {
					caller.Request(x)
					c.send(x, caller)
				})
				p.head(1, c.end, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a")
				<-p.results
				p.want(c.want...)
				p.close()
			})
		})
	}
}

// A caller whose window is closed makes WriteBody wait, until it opens, leaves, or a time is over; no more than one write is held meanwhile.
func TestCallerBackpressure(t *testing.T) {
	const size = 100 << 10
	for _, c := range []struct {
		name   string
		act    func(p *lent, x *exchange.Exchange)
		reason flow.Reason
	}{
		{"opens", func(p *lent, _ *exchange.Exchange) {
			_ = p.fr.WriteWindowUpdate(1, size)
			_ = p.fr.WriteWindowUpdate(0, size)
		}, flow.ReasonNone},
		{"resets", func(p *lent, _ *exchange.Exchange) { _ = p.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, flow.ReasonDownstreamReset},
		{"closes", func(p *lent, _ *exchange.Exchange) { _ = p.c.Close() }, flow.ReasonDownstreamReset},
		{"waits", func(*lent, *exchange.Exchange) { time.Sleep(10 * time.Second) }, flow.ReasonRequestTimeout},
		{"is aborted", func(_ *lent, x *exchange.Exchange) { x.Abort(flow.ReasonDraining) }, flow.ReasonDraining},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := make(chan *exchange.Exchange, 1)
				written := 0
				p := lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, caller exchange.Caller) {
					x.Deadline = x.Start.Add(5 * time.Second)
					caller.Request(x)
					begun <- x
					if failed(x, caller.WriteHead(x, ok200, false)) {
						return
					}
					for ; written < size; written += 10 << 10 {
						if failed(x, caller.WriteBody(x, []byte(strings.Repeat("a", 10<<10)))) {
							caller.Cut(x)
							return
						}
					}
					failed(x, caller.WriteEnd(x, nil))
				})
				p.head(1, true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")
				x := <-begun
				if n := p.data(1); n != initialWindow {
					t.Errorf("%d bytes came before the window was opened", n)
				}
				if held := p.room.Used(); held > callMemory+chunkSize || written != 60<<10 {
					t.Errorf("%d bytes are held, %d written", held, written)
				}
				c.act(p, x)
				r := <-p.results
				if r.Reason != c.reason || r.Answered != (c.reason == flow.ReasonNone) {
					t.Errorf("%+v", r.Outcome)
				}
				if n := p.data(1); r.Answered && n != size {
					t.Errorf("%d bytes came", n)
				}
				lines := p.told()
				last := ""
				if len(lines) > 0 {
					last = lines[len(lines)-1]
				}
				if ended := strings.Contains(last, "END"); ended != r.Answered || c.name == "waits" && last != "1 RST_STREAM CANCEL" {
					t.Errorf("it ended with %q", last)
				}
				p.close()
			})
		})
	}
}

// gRPC messages count both ways.
func TestCallerMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, c exchange.Caller) {
			c.Request(x)
			c.Rewind(x)
			body, _ := readAll(x, c)
			answer(x, c, ok200, body+body[:7], exchange.Field{Name: "grpc-status", Value: "0"})
		})
		p.head(1, false, ":method", "POST", ":scheme", "http", ":path", "/a.B/C", ":authority", "a", "content-type", "application/grpc")
		p.body(1, true, "\x00\x00\x00\x00\x02ab\x00\x00\x00\x00\x00")
		if r := <-p.results; r.messagesIn != 2 || r.messagesOut != 3 {
			t.Errorf("%+v", r)
		}
		p.want("1 HEADERS :status: 200", "1 DATA…", "1 HEADERS END grpc-status: 0")
		p.close()
	})
}

// A request that the sidecar refuses is at fault before anybody sends it, and one whose connection has gone is not sent.
func TestCallerFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e *exchange.BodyError
		p := lend(t, exchange.Peer{Identity: "spiffe://t/web"}, policy.Limits{RequestLine: 100}, func(x *exchange.Exchange, c exchange.Caller) {
			if e = c.Fault(x); e != nil {
				x.Outcome.Fail(e.Reason, e.Text)
			}
		})
		p.head(1, true, ":method", "GET", ":scheme", "http", ":path", "/"+strings.Repeat("a", 100), ":authority", "a")
		if r := <-p.results; e == nil || r.Reason != flow.ReasonBadRequest || r.Status != 414 {
			t.Errorf("%v, %+v", e, r.Outcome)
		}
		p.close()
	})
}

// A tunnel carries bytes both ways, each counted once, and ends of stream one by one.
func TestCallerTunnel(t *testing.T) {
	for _, c := range []struct {
		name string
		head []string
		is   exchange.Response
	}{
		{"WebSocket", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a"}, exchange.Response{Status: 101, Tunnel: true, Length: -1}},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "a:443"}, exchange.Response{Status: 200, Tunnel: true, Length: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, up := lendTunnel(t, &c.is, 0)
				p.head(1, false, c.head...)
				p.body(1, false, "early ")
				p.want("1 HEADERS :status: 200")
				p.body(1, false, "hello")
				if got := up.got(); got != "early hello" {
					t.Errorf("the service got %q", got)
				}
				_, _ = up.Write([]byte("and you"))
				p.want("1 DATA and you")
				p.body(1, true, "")
				if !up.ended() {
					t.Error("the service did not get the end")
				}
				_, _ = up.Write([]byte("still here"))
				_ = up.CloseWrite()
				p.want("1 DATA still here", "1 DATA END")
				if r := <-p.results; r.in != 11 || r.out != 17 || !r.Answered || r.Status != 200 {
					t.Errorf("%+v", r)
				}
				p.close()
			})
		})
	}
}

// TestCallerTunnelEnds: whatever ends a tunnel, both sides learn it.
func TestCallerTunnelEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		act    func(p *lent, up *relayed)
		reason flow.Reason
		want   []string
	}{
		{"the caller resets", func(p *lent, _ *relayed) { _ = p.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, flow.ReasonDownstreamReset, nil},
		{"the caller closes", func(p *lent, _ *relayed) { _ = p.c.Close() }, flow.ReasonDownstreamReset, nil},
		{"the service resets", func(_ *lent, up *relayed) { up.reset() }, flow.ReasonUpstreamReset, []string{"1 RST_STREAM INTERNAL_ERROR"}},
		{"nothing moves", func(*lent, *relayed) { time.Sleep(2 * time.Minute) }, flow.ReasonIdleTimeout, []string{"1 RST_STREAM CANCEL"}},
		{"the sidecar stops", func(_ *lent, up *relayed) { up.x.Abort(flow.ReasonDraining) }, flow.ReasonDraining, []string{"1 RST_STREAM INTERNAL_ERROR"}},
		{"the caller takes nothing", func(p *lent, up *relayed) {
			go func() { _, _ = up.Write(make([]byte, 2*initialWindow)) }()
			for range 6 { // it says something all the same, or nothing would move
				time.Sleep(20 * time.Second)
				p.body(1, false, ".")
			}
		}, flow.ReasonDownstreamReset, []string{"…", "…", "…", "…", "…", "1 RST_STREAM CANCEL"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, up := lendTunnel(t, &exchange.Response{Status: 101, Tunnel: true, Length: -1}, time.Minute)
				p.head(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a")
				p.want("1 HEADERS :status: 200")
				c.act(p, up)
				begin := time.Now()
				if r := <-p.results; r.Reason != c.reason || r.Answered || time.Since(begin) > time.Second {
					t.Errorf("after %v: %+v", time.Since(begin), r.Outcome)
				}
				p.want(c.want...)
				p.close()
			})
		})
	}
}

// relayed is the service at the other end of a tunnel.
type relayed struct {
	*wireless
	x *exchange.Exchange
}

// lendTunnel relays every stream of the caller to one service.
func lendTunnel(t *testing.T, r *exchange.Response, idle time.Duration) (*lent, *relayed) {
	near, away := memPair(t)
	up := &relayed{wireless: newWireless(away)}
	return lend(t, exchange.Peer{}, policy.Limits{}, func(x *exchange.Exchange, c exchange.Caller) {
		up.x = x
		c.Request(x)
		if failed(x, c.WriteHead(x, r, false)) || failed(x, c.Flush(x)) {
			return
		}
		reason, err := exchange.Relay(x, c.Tunnel(x), exchange.RelayEnd{Conn: near}, idle)
		_ = near.Close()
		if reason != flow.ReasonNone {
			x.Outcome.Fail(reason, err.Error())
			c.Cut(x)
			return
		}
		x.Outcome.Answered = true
	}), up
}
