package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// bridged serves a caller of HTTP/1.1 whose exchanges send carries as another speaker would; what it leaves in the outcome is answered as in a
// sidecar. It returns the outcomes and what was reported.
func bridged(t *testing.T, b *exchange.Binding, p *exchange.Peer, send func(x *exchange.Exchange, c exchange.Caller), caller func(c net.Conn)) (outs []exchange.Outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		freshPool()
		down, near := net.Pipe()
		s := &Server{Side: flow.SideServer, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
			send(x, x.Downstream.(exchange.Caller))
			if o := &x.Outcome; !o.Committed && o.Reason != flow.ReasonNone && o.Reason != flow.ReasonDownstreamReset {
				o.Status = 0
				o.Answered = x.Downstream.Answer(x)
			}
			outs = append(outs, x.Outcome)
		})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			var told reports
			s.Serve(&exchange.Session{Conn: down, Peer: p, Start: time.Now(), Bind: func() *exchange.Binding { return b }, Report: &told})
		}()
		caller(near)
		_ = near.Close()
		<-served
	})
	return outs
}

func plainly(t *testing.T, send func(x *exchange.Exchange, c exchange.Caller), caller func(c net.Conn)) []exchange.Outcome {
	t.Helper()
	return bridged(t, &exchange.Binding{}, &exchange.Peer{}, send, caller)
}

// readAll reads a body in pieces of n bytes at most, as a sender does.
func readAll(x *exchange.Exchange, c exchange.Caller, n int) (string, error) {
	var got []byte
	for p := make([]byte, n); ; {
		m, err := c.ReadBody(x, p)
		got = append(got, p[:m]...)
		if err != nil {
			return string(got), err
		}
		if m == 0 {
			return string(got), errors.New("nothing, and no error")
		}
	}
}

// ok answers an exchange with 200.
func ok(x *exchange.Exchange, c exchange.Caller) {
	_ = c.WriteHead(x, &exchange.Response{Status: 200, Length: 0}, true)
	_ = c.WriteEnd(x, nil)
}

func asText(fields []exchange.Field) string {
	var s []string
	for _, f := range fields {
		s = append(s, f.Name+": "+f.Value)
	}
	return strings.Join(s, "\n")
}

// TestCallerRequest: what another speaker is told of a request.
func TestCallerRequest(t *testing.T) {
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for name, c := range map[string]struct {
		head   string
		want   exchange.Request
		fields string
	}{
		"plain": {
			"GET /a/../b?q=1 HTTP/1.1\r\nHost: shop:80\r\nAccept: */*\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/b?q=1", Authority: "shop:80", Length: -1, Bare: true},
			"accept: */*\nx-request-id: r",
		},
		"a body with a length": {
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX-Request-ID: r\r\nExpect: 100-continue\r\n\r\nabc",
			exchange.Request{Method: "POST", Target: "/", Authority: "a", Length: 3, Expect: true},
			"x-request-id: r",
		},
		"a body of no length": {
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "POST", Target: "/", Authority: "a", Length: 0, Bare: true},
			"x-request-id: r",
		},
		"a chunked body, trailers taken": {
			"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: deflate , Trailers\r\nConnection: TE\r\nTrailer: x-sum\r\nX-Request-ID: r\r\n\r\n0\r\n\r\n",
			exchange.Request{Method: "PUT", Target: "/", Authority: "a", Length: -1, Trailers: true},
			"trailer: x-sum\nx-request-id: r",
		},
		"what belongs to the connection": {
			"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-hop, http2-settings, upgrade\r\nX-Hop: 1\r\nX-Stays:  a\tb \r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n" +
				"HTTP2-Settings: AA\r\nUpgrade: h2c\r\nX-Tulle-Reason: shed\r\nTraceparent: 0\r\nTracestate: x=1\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/", Authority: "a", Length: -1, Bare: true},
			"x-stays: a\tb\nx-request-id: r",
		},
		"settings that Connection does not name": {
			"GET / HTTP/1.1\r\nHost: a\r\nHTTP2-Settings: AA\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/", Authority: "a", Length: -1, Bare: true},
			"x-request-id: r",
		},
		"cookies": {
			"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nX-Request-ID: r\r\nCookie:\r\ncookie: b=2; c=3\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/", Authority: "a", Length: -1, Bare: true},
			"cookie: a=1; b=2; c=3\nx-request-id: r",
		},
		"a target with an authority": {
			"GET http://b?x HTTP/1.1\r\nHost: a\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/?x", Authority: "b", Length: -1, Bare: true},
			"x-request-id: r",
		},
		"of a whole server": {
			"OPTIONS * HTTP/1.1\r\nHost: a\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "OPTIONS", Target: "*", Authority: "a", Length: -1, Bare: true},
			"x-request-id: r",
		},
		"HTTP/1.0": {
			"GET / HTTP/1.0\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/", Length: -1, Bare: true},
			"x-request-id: r",
		},
		"CONNECT": {
			"CONNECT db:5432 HTTP/1.1\r\nHost: x\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "CONNECT", Authority: "db:5432", Length: -1, Bare: true},
			"x-request-id: r",
		},
		"WebSocket": {
			"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: foo, WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" + key + "X-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Protocol: "websocket", Target: "/ws", Authority: "a", Length: -1, Bare: true},
			"sec-websocket-version: 13\nx-request-id: r",
		},
		"a WebSocket without a valid key": {
			"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: short\r\nX-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/ws", Authority: "a", Length: -1, Bare: true},
			"sec-websocket-key: short\nx-request-id: r",
		},
		"a WebSocket with a body": {
			"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 1\r\n" + key + "X-Request-ID: r\r\n\r\nx",
			exchange.Request{Method: "GET", Target: "/ws", Authority: "a", Length: 1},
			"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nx-request-id: r",
		},
		"another Upgrade": {
			"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: tls/1.2\r\nConnection: Upgrade\r\n" + key + "X-Request-ID: r\r\n\r\n",
			exchange.Request{Method: "GET", Target: "/", Authority: "a", Length: -1, Bare: true},
			"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nx-request-id: r",
		},
	} {
		t.Run(name, func(t *testing.T) {
			outs := plainly(t, func(x *exchange.Exchange, call exchange.Caller) {
				got := *call.Request(x)
				if call.Request(x).Target != got.Target || len(call.Request(x).Fields) != len(got.Fields) {
					t.Error("asked again it is another one")
				}
				fields := asText(got.Fields)
				got.Fields = nil
				if got.Method != c.want.Method || got.Target != c.want.Target || got.Authority != c.want.Authority || got.Protocol != c.want.Protocol ||
					got.Length != c.want.Length || got.Bare != c.want.Bare || got.Expect != c.want.Expect || got.Trailers != c.want.Trailers || fields != c.fields {
					t.Errorf("got  %+v\n%s\nwant %+v\n%s", got, fields, c.want, c.fields)
				}
				x.Outcome.Fail(flow.ReasonShed, "")
			}, func(near net.Conn) {
				_, _ = io.WriteString(near, c.head)
				_, _ = http.ReadResponse(bufio.NewReader(near), nil)
			})
			if len(outs) != 1 {
				t.Errorf("%d exchanges", len(outs))
			}
		})
	}
	// One that was made here is among the fields too.
	plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		if got := c.Request(x).Fields; len(got) != 1 || got[0].Name != "x-request-id" || got[0].Value != x.Head.RequestID || len(got[0].Value) != 36 {
			t.Errorf("got %v", got)
		}
		ok(x, c)
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_, _ = http.ReadResponse(bufio.NewReader(near), nil)
	})
}

// TestCallerBody: a body is read without its framing, however it arrives, with its trailers, again from its beginning as often as it is wanted, and
// what follows on the connection is the next request.
func TestCallerBody(t *testing.T) {
	const next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, c := range map[string]struct{ head, body, want, trailers string }{
		"length":        {"Content-Length: 11\r\n", "hello world", "hello world", ""},
		"chunked":       {"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n", "hello world", ""},
		"with trailers": {"Transfer-Encoding: chunked\r\n", "b\r\nhello world\r\n0\r\nX-Sum:  7 \r\nx-b:\r\n\r\n", "hello world", "x-sum: 7\nx-b: "},
		"empty":         {"Transfer-Encoding: chunked\r\n", "0\r\n\r\n", "", ""},
		"none":          {"", "", "", ""},
	} {
		whole := "POST / HTTP/1.1\r\nHost: a\r\n" + c.head + "\r\n" + c.body
		for _, pieces := range []int{1, 3, 7, 1000} {
			for _, reads := range []int{1, 4, 512} {
				n := 0
				outs := plainly(t, func(x *exchange.Exchange, call exchange.Caller) {
					if n++; n == 2 {
						if x.Head.Path != "/next" {
							t.Errorf("the next request is of %s", x.Head.Path)
						}
						ok(x, call)
						return
					}
					x.Gate = never{} // so that the body is kept
					for range 3 {
						call.Rewind(x)
						if got, err := readAll(x, call, reads); err != io.EOF || got != c.want { //nolint:errorlint // the contract says this very value
							t.Errorf("%s in pieces of %d, read by %d: %q, %v", name, pieces, reads, got, err)
						}
						if got := asText(call.RequestTrailers()); got != c.trailers || !call.BodyDone() || !call.Replayable() {
							t.Errorf("%s: trailers %q, done %v, replayable %v", name, got, call.BodyDone(), call.Replayable())
						}
					}
					if got := x.BytesIn.Load(); got != uint64(len(c.want)) {
						t.Errorf("%s: %d bytes counted", name, got)
					}
					ok(x, call)
				}, func(near net.Conn) {
					go func() {
						for b := whole + next; len(b) > 0; b = b[min(pieces, len(b)):] {
							_, _ = io.WriteString(near, b[:min(pieces, len(b))])
						}
					}()
					r := bufio.NewReader(near)
					for range 2 {
						if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 || resp.Close {
							t.Errorf("%s: %+v, %v", name, resp, err)
							return
						}
					}
				})
				if len(outs) != 2 || !outs[0].Answered || !outs[1].Answered {
					t.Errorf("%s: %+v", name, outs)
				}
			}
		}
	}
}

// TestCallerTooLong: what does not fit into the memory of a replay is not replayable, and is read to its end all the same, also while that is asked.
func TestCallerTooLong(t *testing.T) {
	const n = maxReplay + 3*mediumBuffer
	room := &exchange.Room{}
	outs := bridged(t, &exchange.Binding{Room: room}, &exchange.Peer{}, func(x *exchange.Exchange, c exchange.Caller) {
		x.Gate = never{}
		c.Rewind(x)
		if !c.Replayable() {
			t.Error("lost at its beginning")
		}
		read := make(chan int)
		go func() {
			got, _ := readAll(x, c, 1000)
			read <- len(got)
		}()
		for c.Replayable() {
			time.Sleep(time.Millisecond)
		}
		if got := <-read; got != n || !c.BodyDone() {
			t.Errorf("read %d", got)
		}
		ok(x, c)
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: "+itoa(n)+"\r\n\r\n")
		for sent := 0; sent < n; sent += 4096 {
			_, _ = near.Write(make([]byte, min(4096, n-sent)))
			time.Sleep(time.Millisecond)
		}
		_, _ = http.ReadResponse(bufio.NewReader(near), nil)
	})
	if len(outs) != 1 || !outs[0].Answered || room.Used() != 0 {
		t.Errorf("%+v, %d bytes of the room in use", outs, room.Used())
	}
}

// TestCallerBodyFails: why a body does not come to its end, and what the caller is told.
func TestCallerBodyFails(t *testing.T) {
	const length, chunked = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
	limits := policy.Limits{BodyTimeout: 3 * time.Second}
	for name, c := range map[string]struct {
		sent, later string
		leaves      bool
		deadline    time.Duration
		reason      flow.Reason
		answer      int // 0: none
		took        time.Duration
	}{
		"the framing is broken":        {chunked, "zz\r\n", false, 0, flow.ReasonBadRequest, 400, time.Second},
		"it was broken with the head":  {chunked + "zz\r\n", "", false, 0, flow.ReasonBadRequest, 400, 0},
		"a trailer that may not be":    {chunked, "0\r\nHost: b\r\n\r\n", false, 0, flow.ReasonBadRequest, 400, time.Second},
		"too many trailers":            {chunked, "0\r\n" + strings.Repeat("a:\r\n", MaxFields+1) + "\r\n", false, 0, flow.ReasonBadRequest, 431, time.Second},
		"the caller leaves":            {length, "c", true, 0, flow.ReasonDownstreamReset, 0, time.Second},
		"no byte for the body timeout": {length, "", false, 0, flow.ReasonBadRequest, 408, 3375 * time.Millisecond},
		"the deadline passes":          {length, "c", false, 2 * time.Second, flow.ReasonRequestTimeout, 504, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := &waker{}
			outs := bridged(t, &exchange.Binding{Listener: policy.Listener{Limits: limits}}, &exchange.Peer{}, func(x *exchange.Exchange, call exchange.Caller) {
				start := time.Now()
				if c.deadline > 0 {
					x.Deadline = start.Add(c.deadline)
				}
				x.Await(w)
				defer x.Awaited()
				early := call.Fault(x)
				call.Rewind(x)
				var got string
				err := error(early)
				if early == nil {
					got, err = readAll(x, call, 512)
				}
				var e *exchange.BodyError
				if !errors.As(err, &e) || e.Reason != c.reason || errors.Is(err, exchange.ErrStopped) || early == nil && !strings.HasPrefix(got, "ab") {
					t.Errorf("got %q, %v", got, err)
					return
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("after %s", took)
				}
				if early == nil && w.n == 0 {
					t.Error("the sender was not woken")
				}
				if f := call.Fault(x); (f == nil) != (c.reason == flow.ReasonRequestTimeout) || f != nil && f.Reason != c.reason {
					t.Errorf("the fault is %v", f)
				}
				if call.BodyDone() {
					t.Error("the body is done")
				}
				x.Outcome.Fail(e.Reason, e.Text)
			}, func(near net.Conn) {
				_, _ = io.WriteString(near, c.sent)
				time.Sleep(time.Second)
				if c.later != "" {
					_, _ = io.WriteString(near, c.later)
				}
				if c.leaves {
					return
				}
				if resp, err := http.ReadResponse(bufio.NewReader(near), nil); err != nil || resp.StatusCode != c.answer || resp.Close == (c.answer == 431) { // the end of that body is known
					t.Errorf("the caller was told %+v, %v", resp, err)
				}
			})
			if len(outs) != 1 || outs[0].Answered != (c.answer > 0) {
				t.Errorf("%+v", outs)
			}
		})
	}
}

type waker struct{ n int }

func (w *waker) Wake() { w.n++ }

// TestCallerStop: StopBody ends a ReadBody that waits and every later one; Rewind begins anew, with nothing lost.
func TestCallerStop(t *testing.T) {
	w := &waker{}
	outs := plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		if x.Head.Method == "GET" {
			ok(x, c)
			return
		}
		x.Gate = never{}
		x.Await(w)
		defer x.Awaited()
		for range 3 {
			c.Rewind(x)
			read := make(chan error)
			go func() {
				_, err := readAll(x, c, 3)
				read <- err
			}()
			synctest.Wait()
			c.StopBody()
			if err := <-read; !errors.Is(err, exchange.ErrStopped) {
				t.Errorf("a read that waited: %v", err)
			}
			if _, err := c.ReadBody(x, make([]byte, 1)); !errors.Is(err, exchange.ErrStopped) {
				t.Errorf("a later one: %v", err)
			}
		}
		c.Rewind(x)
		c.StopBody() // before a read: it must not wait
		if _, err := readAll(x, c, 3); !errors.Is(err, exchange.ErrStopped) {
			t.Errorf("a read after it: %v", err)
		}
		time.Sleep(time.Second)
		c.Rewind(x)
		if got, err := readAll(x, c, 3); got != "abcdef" || err != io.EOF { //nolint:errorlint // the contract says this very value
			t.Errorf("got %q, %v", got, err)
		}
		if x.BytesIn.Load() != 6 || w.n != 0 || c.Fault(x) != nil {
			t.Errorf("%d bytes, woken %d times, %v", x.BytesIn.Load(), w.n, c.Fault(x))
		}
		ok(x, c)
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab")
		time.Sleep(500 * time.Millisecond)
		_, _ = io.WriteString(near, "cdef")
		r := bufio.NewReader(near)
		_, _ = http.ReadResponse(r, nil)
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("the next: %+v, %v", resp, err)
		}
	})
	if len(outs) != 2 || !outs[0].Answered || !outs[1].Answered {
		t.Errorf("%+v", outs)
	}
}

// TestCallerBothSpeakers: a try that is bridged sends all of what a try that was not has read, and the other way round.
func TestCallerBothSpeakers(t *testing.T) {
	const body = "2\r\nab\r\n3\r\ncde\r\n1\r\nf\r\n0\r\nx-sum: 6\r\n\r\n"
	var up, away, up2, away2 net.Conn
	native := func(x *exchange.Exchange, up net.Conn) { (&Sender{Pool: one{up}}).Handle(x) }
	var first, last string
	outs := plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		x.Gate = never{}
		x.TryDeadline = time.Now().Add(time.Second)
		native(x, up) // has read to "cde" by then
		x.Outcome = exchange.Outcome{}
		c.Rewind(x)
		x.TryDeadline = time.Time{}
		got, err := readAll(x, c, 2)
		if got != "abcdef" || err != io.EOF || asText(c.RequestTrailers()) != "x-sum: 6" { //nolint:errorlint // the contract says this very value
			t.Errorf("bridged: %q, %v, %v", got, err, c.RequestTrailers())
		}
		native(x, up2)
	}, func(near net.Conn) {
		up, away = net.Pipe()
		up2, away2 = net.Pipe()
		go func() {
			b := make([]byte, 4096)
			for {
				n, err := away.Read(b)
				if first += string(b[:n]); err != nil {
					return
				}
			}
		}()
		go func() {
			r, err := http.ReadRequest(bufio.NewReader(away2))
			if err != nil {
				t.Error(err)
				return
			}
			b, _ := io.ReadAll(r.Body)
			last = string(b) + r.Trailer.Get("X-Sum")
			_, _ = io.WriteString(away2, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}()
		_, _ = io.WriteString(near, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body[:7])
		time.Sleep(100 * time.Millisecond)
		_, _ = io.WriteString(near, body[7:15])
		time.Sleep(2 * time.Second)
		_, _ = io.WriteString(near, body[15:])
		if resp, err := http.ReadResponse(bufio.NewReader(near), nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("%+v, %v", resp, err)
		}
	})
	if !strings.HasSuffix(first, body[:15]) || last != "abcdef6" || len(outs) != 1 || !outs[0].Answered {
		t.Errorf("the first try sent %q, the last %q, %+v", first, last, outs)
	}
}

// TestCallerResponse: a response as another speaker hands it over reads the same in HTTP/1.1, and the connection is kept just when that is safe.
func TestCallerResponse(t *testing.T) {
	fields := []exchange.Field{{Name: "x-a", Value: "1"}, {Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}}
	trailers := []exchange.Field{
		{Name: "grpc-status", Value: "0"}, {Name: "content-length", Value: "3"}, {Name: "x-bad", Value: "a\r\nb: c"}, {Name: "set-cookie", Value: "c"}, {Name: "x-b", Value: ""},
	}
	for name, c := range map[string]struct {
		ask      string
		resp     exchange.Response
		end      bool
		body     []string
		trailers []exchange.Field
		head     string // of the framing that is wanted
		closes   bool
		want     string
		trailing string
	}{
		"length":       {"GET / HTTP/1.1", exchange.Response{Status: 200, Length: 5}, false, []string{"he", "llo"}, nil, "content-length: 5", false, "hello", ""},
		"no length":    {"GET / HTTP/1.1", exchange.Response{Status: 200, Length: -1}, false, []string{"he", "", "llo"}, nil, "transfer-encoding: chunked", false, "hello", ""},
		"nothing":      {"GET / HTTP/1.1", exchange.Response{Status: 404, Length: -1}, true, nil, nil, "content-length: 0", false, "", ""},
		"trailers":     {"GET / HTTP/1.1", exchange.Response{Status: 200, Length: -1}, false, []string{"hello"}, trailers, "transfer-encoding: chunked", false, "hello", "Grpc-Status: 0, X-B: "},
		"HEAD":         {"HEAD / HTTP/1.1", exchange.Response{Status: 200, Length: 5}, true, nil, nil, "content-length: 5", false, "", ""},
		"HEAD of any":  {"HEAD / HTTP/1.1", exchange.Response{Status: 200, Length: -1}, true, nil, nil, "", false, "", ""},
		"204":          {"GET / HTTP/1.1", exchange.Response{Status: 204, Length: -1}, true, nil, nil, "", false, "", ""},
		"304":          {"GET / HTTP/1.1", exchange.Response{Status: 304, Length: 7}, true, nil, nil, "content-length: 7", false, "", ""},
		"HTTP/1.0":     {"GET / HTTP/1.0", exchange.Response{Status: 200, Length: -1}, false, []string{"he", "llo"}, trailers, "", true, "hello", ""},
		"1.0, length":  {"GET / HTTP/1.0\r\nConnection: keep-alive", exchange.Response{Status: 200, Length: 5}, false, []string{"hello"}, nil, "content-length: 5", false, "hello", ""},
		"asked close":  {"GET / HTTP/1.1\r\nConnection: close", exchange.Response{Status: 200, Length: 5}, false, []string{"hello"}, nil, "content-length: 5", true, "hello", ""},
		"large":        {"GET / HTTP/1.1", exchange.Response{Status: 200, Length: -1}, false, []string{strings.Repeat("a", 10000), "b"}, nil, "transfer-encoding: chunked", false, strings.Repeat("a", 10000) + "b", ""},
		"own status":   {"GET / HTTP/1.1", exchange.Response{Status: 599, Length: 0}, true, nil, nil, "content-length: 0", false, "", ""},
		"early answer": {"POST / HTTP/1.1\r\nContent-Length: 5", exchange.Response{Status: 413, Length: 0}, true, nil, nil, "content-length: 0", true, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var told string
			outs := plainly(t, func(x *exchange.Exchange, call exchange.Caller) {
				r := c.resp
				r.Fields = fields
				var err error
				for _, s := range []int{103, 100} {
					err = errors.Join(err, call.WriteHead(x, &exchange.Response{Status: s, Fields: fields[:1], Length: -1}, false))
				}
				if x.Outcome.Committed {
					t.Error("an interim head commits")
				}
				err = errors.Join(err, call.WriteHead(x, &r, c.end))
				if x.Outcome.Committed || x.Outcome.Status != c.resp.Status || x.Outcome.Answered { // it may still give way to another answer
					t.Errorf("after the head: %+v", x.Outcome)
				}
				for _, p := range c.body {
					b := []byte(p)
					err = errors.Join(err, call.WriteBody(x, b))
					clear(b) // it is not kept
				}
				if err = errors.Join(err, call.WriteEnd(x, c.trailers)); err != nil {
					t.Error(err)
				}
				if got := x.BytesOut.Load(); got != uint64(len(c.want)) || x.Legs.LastByte == flow.Unset {
					t.Errorf("%d bytes counted, last byte %v", got, x.Legs.LastByte)
				}
			}, func(near net.Conn) {
				_, _ = io.WriteString(near, c.ask+"\r\nHost: a\r\n\r\n")
				var raw bytes.Buffer
				r := bufio.NewReader(io.TeeReader(near, &raw))
				method, rest, _ := strings.Cut(c.ask, " ")
				req := &http.Request{Method: method}
				var interim []int
				resp, err := http.ReadResponse(r, req)
				for ; err == nil && resp.StatusCode < 200; resp, err = http.ReadResponse(r, req) {
					interim = append(interim, resp.StatusCode)
				}
				if err != nil {
					t.Fatal(err)
				}
				old := strings.Contains(rest, "HTTP/1.0")
				if want := []int{103, 100}; !old && !slices.Equal(interim, want) || old && interim != nil {
					t.Errorf("interim %v", interim)
				}
				b, err := io.ReadAll(resp.Body)
				if err != nil || string(b) != c.want || resp.StatusCode != c.resp.Status {
					t.Errorf("%d %q, %v", resp.StatusCode, b, err)
				}
				if got := resp.Header; got.Get("X-A") != "1" || !slices.Equal(got["Set-Cookie"], []string{"a=1", "b=2"}) {
					t.Errorf("fields %v", got)
				}
				var got []string
				for _, f := range []string{"Grpc-Status", "Content-Length", "X-Bad", "B", "Set-Cookie", "X-B"} {
					if v, there := resp.Trailer[f]; there {
						got = append(got, f+": "+strings.Join(v, ","))
					}
				}
				if s := strings.Join(got, ", "); s != c.trailing {
					t.Errorf("trailers %q", s)
				}
				told = raw.String()
				_, head, _ := strings.Cut(told, "HTTP/1.1 "+itoa(c.resp.Status)+" ")
				head, _, _ = strings.Cut(head, "\r\n\r\n")
				var framing []string
				for _, line := range strings.Split(head, "\r\n") {
					if strings.HasPrefix(line, "content-length") || strings.HasPrefix(line, "transfer-encoding") {
						framing = append(framing, line)
					}
				}
				if got := strings.Join(framing, ", "); got != c.head {
					t.Errorf("framed %q, want %q", got, c.head)
				}
				if closes := strings.Contains(head, "connection: close"); closes != c.closes {
					t.Errorf("closes %v: %q", closes, head)
				}
				if _, err := r.ReadByte(); c.closes && err != io.EOF {
					t.Errorf("the connection did not close: %v", err)
				}
			})
			if len(outs) != 1 || !outs[0].Answered || outs[0].Reason != flow.ReasonNone {
				t.Errorf("%+v", outs)
			}
		})
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// TestCallerAnnounced: trailers that the head announces reach a caller whatever the length, because only a chunked body can have them.
func TestCallerAnnounced(t *testing.T) {
	plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		_ = c.WriteHead(x, &exchange.Response{Status: 200, Length: 2, Fields: []exchange.Field{{Name: "trailer", Value: "x-sum"}}}, false)
		_ = c.WriteBody(x, []byte("ab"))
		_ = c.WriteEnd(x, []exchange.Field{{Name: "x-sum", Value: "9"}})
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(near), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ab" || resp.Trailer.Get("X-Sum") != "9" {
			t.Errorf("%q, %v, %v", b, err, resp.Trailer)
		}
	})
}

// TestCallerTiming: a caller that is a sidecar is told how long this one took, behind all other fields.
func TestCallerTiming(t *testing.T) {
	bridged(t, &exchange.Binding{}, &exchange.Peer{Identity: "spiffe://mesh/web"}, func(x *exchange.Exchange, c exchange.Caller) {
		x.Legs.HeadParsed, x.Legs.Queued, x.Legs.Sent, x.Legs.FirstByte = time.Microsecond, 2*time.Microsecond, 3*time.Microsecond, 4*time.Microsecond
		ok(x, c)
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(near), nil)
		if err != nil || resp.Header.Get(exchange.TimingField) != "h=1;q=2;s=3;f=4" {
			t.Errorf("%+v, %v", resp, err)
		}
	})
}

// TestCallerRefuses: what HTTP/1.1 cannot carry, or what is not what its head says, never leaves, so that a caller never reads another message.
func TestCallerRefuses(t *testing.T) {
	head := func(r exchange.Response, end bool) func(*exchange.Exchange, exchange.Caller) error {
		return func(x *exchange.Exchange, c exchange.Caller) error { return c.WriteHead(x, &r, end) }
	}
	field := func(name, value string) func(*exchange.Exchange, exchange.Caller) error {
		return head(exchange.Response{Status: 200, Length: 0, Fields: []exchange.Field{{Name: name, Value: value}}}, true)
	}
	for name, c := range map[string]struct {
		do  func(x *exchange.Exchange, c exchange.Caller) error
		cut bool // a head has gone out: the connection breaks
	}{
		"CR LF in a value":     {field("x", "a\r\nset-cookie: b"), false},
		"LF in a value":        {field("x", "a\nb"), false},
		"NUL in a value":       {field("x", "a\x00b"), false},
		"CR LF in a name":      {field("x\r\ny", "a"), false},
		"a colon in a name":    {field("x:y", "a"), false},
		"no name":              {field("", "a"), false},
		"a pseudo-header":      {field(":status", "200"), false},
		"a status of four":     {head(exchange.Response{Status: 2000, Length: -1}, true), false},
		"a status of two":      {head(exchange.Response{Status: 99, Length: -1}, true), false},
		"an interim end":       {head(exchange.Response{Status: 103, Length: -1}, true), false},
		"101 unasked":          {head(exchange.Response{Status: 101, Length: -1}, false), false},
		"a tunnel unasked":     {head(exchange.Response{Status: 200, Length: -1, Tunnel: true}, false), false},
		"a length and the end": {head(exchange.Response{Status: 200, Length: 3}, true), false},
		"more than the length": {func(x *exchange.Exchange, c exchange.Caller) error {
			return errors.Join(head(exchange.Response{Status: 200, Length: 3}, false)(x, c), c.Flush(x), c.WriteBody(x, []byte("abcHTTP/1.1 200 OK")))
		}, true},
		"more than the length, before the head has left": {func(x *exchange.Exchange, c exchange.Caller) error {
			return errors.Join(head(exchange.Response{Status: 200, Length: 3}, false)(x, c), c.WriteBody(x, []byte("abcHTTP/1.1 200 OK")))
		}, false},
		"less than the length": {func(x *exchange.Exchange, c exchange.Caller) error {
			return errors.Join(head(exchange.Response{Status: 200, Length: 3}, false)(x, c), c.Flush(x), c.WriteBody(x, []byte("ab")), c.WriteEnd(x, nil))
		}, true},
		"less than the length, before the head has left": {func(x *exchange.Exchange, c exchange.Caller) error {
			return errors.Join(head(exchange.Response{Status: 200, Length: 3}, false)(x, c), c.WriteBody(x, []byte("ab")), c.WriteEnd(x, nil))
		}, false},
		"a body of 204": {func(x *exchange.Exchange, c exchange.Caller) error {
			return errors.Join(head(exchange.Response{Status: 204, Length: -1}, true)(x, c), c.Flush(x), c.WriteBody(x, []byte("HTTP/1.1 200 OK")))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			outs := plainly(t, func(x *exchange.Exchange, call exchange.Caller) {
				err := c.do(x, call)
				var e *exchange.BodyError
				if !errors.As(err, &e) || e.Reason != flow.ReasonUpstreamProtocol {
					t.Errorf("got %v", err)
					return
				}
				x.Outcome.Fail(e.Reason, e.Text)
				if x.Outcome.Committed {
					_ = call.Flush(x)
					call.Cut(x)
				}
			}, func(near net.Conn) {
				_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				resp, err := http.ReadResponse(bufio.NewReader(near), nil)
				switch {
				case !c.cut && (err != nil || resp.StatusCode != 502):
					t.Errorf("the caller was told %+v, %v", resp, err)
				case c.cut && err == nil:
					b, _ := io.ReadAll(resp.Body)
					if rest, err := io.ReadAll(near); len(b) > 2 || len(rest) > 0 {
						t.Errorf("behind the head came %q and %q, %v", b, rest, err)
					}
				}
			})
			if len(outs) != 1 || outs[0].Committed == false || outs[0].Answered == c.cut {
				t.Errorf("%+v", outs)
			}
		})
	}
}

// TestCallerHop: fields that name framing or the connection do not cross, whoever hands them over.
func TestCallerHop(t *testing.T) {
	var fields []exchange.Field
	for _, name := range []string{
		"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "upgrade", "te", "host", "http2-settings", "expect",
	} {
		fields = append(fields, exchange.Field{Name: name, Value: "7"})
	}
	plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		_ = c.WriteHead(x, &exchange.Response{Status: 200, Length: 2, Fields: fields}, false)
		_ = c.WriteBody(x, []byte("ok"))
		_ = c.WriteEnd(x, nil)
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		b := make([]byte, 1000)
		n, _ := near.Read(b)
		if got, want := string(b[:n]), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestCallerRefuse: the sender says what the caller is answered.
func TestCallerRefuse(t *testing.T) {
	outs := plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		c.Refuse(x, faultSlowBody)
		if f := c.Fault(x); f == nil || f.Reason != flow.ReasonBadRequest || f.Text != faultSlowBody.Text {
			t.Errorf("the fault is %v", f)
		}
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
		resp, err := http.ReadResponse(bufio.NewReader(near), nil)
		if err != nil || resp.StatusCode != 408 || resp.Header.Get("X-Tulle-Reason") != "bad_request" {
			t.Errorf("%+v, %v", resp, err)
		}
	})
	if len(outs) != 1 || outs[0].Reason != flow.ReasonBadRequest || outs[0].Detail != faultSlowBody.Text {
		t.Errorf("%+v", outs)
	}
}

// TestCallerTunnel: WebSocket and CONNECT become tunnels, with what the caller sent early, and the caller's handshake is answered.
func TestCallerTunnel(t *testing.T) {
	for name, c := range map[string]struct {
		head   string
		status int
		record int
		accept string
	}{
		"WebSocket": { // key and answer are RFC 6455's, section 1.3
			"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
			200, 101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
		},
		"CONNECT": {"CONNECT db:5432 HTTP/1.1\r\nHost: x\r\n\r\n", 201, 201, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var up, away net.Conn
			outs := plainly(t, func(x *exchange.Exchange, call exchange.Caller) {
				call.Request(x)
				fields := []exchange.Field{{Name: "sec-websocket-protocol", Value: "chat"}, {Name: "sec-websocket-accept", Value: "wrong"}}
				if c.accept == "" {
					fields = fields[:1]
				}
				if err := call.WriteHead(x, &exchange.Response{Status: c.status, Length: -1, Tunnel: true, Fields: fields}, false); err != nil {
					t.Error(err)
				}
				if err := call.Flush(x); err != nil {
					t.Error(err)
				}
				if r, err := exchange.Relay(x, call.Tunnel(x), exchange.RelayEnd{Conn: up}, time.Minute); r != flow.ReasonIdleTimeout {
					t.Errorf("ended with %v, %v", r, err)
				}
				if in, out := x.BytesIn.Load(), x.BytesOut.Load(); in != 9 || out != 4 {
					t.Errorf("%d bytes in, %d out", in, out)
				}
				x.Outcome.Answered = true
			}, func(near net.Conn) {
				up, away = net.Pipe()
				_, _ = io.WriteString(near, c.head+"early")
				r := bufio.NewReader(near)
				resp, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
				if err != nil || resp.StatusCode != c.record || resp.Header.Get("Sec-Websocket-Accept") != c.accept || resp.Header.Get("Sec-Websocket-Protocol") != "chat" ||
					len(resp.Header["Sec-Websocket-Accept"]) > 1 || c.accept != "" && (resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Connection") != "upgrade") {
					t.Errorf("%+v, %v", resp, err)
				}
				b := make([]byte, 9)
				_, _ = io.ReadFull(away, b[:5])
				_, _ = io.WriteString(near, "late")
				_, _ = io.ReadFull(away, b[5:])
				_, _ = io.WriteString(away, "back")
				if _, err := io.ReadFull(r, b[:4]); err != nil || string(b) != "backylate" {
					t.Errorf("got %q, %v", b, err)
				}
				time.Sleep(2 * time.Minute)
			})
			if len(outs) != 1 || outs[0].Status != c.record {
				t.Errorf("%+v", outs)
			}
		})
	}
}

// TestCallerNoTunnel: a WebSocket that the endpoint does not open is answered like any request, and the connection goes on.
func TestCallerNoTunnel(t *testing.T) {
	outs := plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		c.Request(x)
		_ = c.WriteHead(x, &exchange.Response{Status: 403, Length: 2}, false)
		_ = c.WriteBody(x, []byte("no"))
		_ = c.WriteEnd(x, nil)
	}, func(near net.Conn) {
		r := bufio.NewReader(near)
		for range 2 {
			_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 403 || resp.Header.Get("Upgrade") != "" {
				t.Fatalf("%+v, %v", resp, err)
			}
			_, _ = io.ReadAll(resp.Body)
		}
	})
	if len(outs) != 2 {
		t.Errorf("%+v", outs)
	}
}

// TestCallerSlowReader: a caller that takes nothing holds the sender up until the deadline, and no longer; what it is not sent is not kept.
func TestCallerSlowReader(t *testing.T) {
	outs := plainly(t, func(x *exchange.Exchange, c exchange.Caller) {
		start := time.Now()
		x.Deadline = start.Add(5 * time.Second)
		err := c.WriteHead(x, &exchange.Response{Status: 200, Length: -1}, false)
		sent := 0
		for ; err == nil && sent < 1<<20; sent += mediumBuffer {
			err = c.WriteBody(x, make([]byte, mediumBuffer))
		}
		var e *exchange.BodyError
		if !errors.As(err, &e) || e.Reason != flow.ReasonDownstreamReset || sent > 2*mediumBuffer {
			t.Errorf("after %d bytes: %v", sent, err)
		}
		if took := time.Since(start); took < 5*time.Second || took > 11*time.Second {
			t.Errorf("it took %s", took)
		}
		x.Outcome.Fail(e.Reason, e.Text)
		c.Cut(x)
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_, _ = near.Read(make([]byte, 100))
		time.Sleep(time.Minute)
	})
	if len(outs) != 1 || outs[0].Answered || !outs[0].Committed {
		t.Errorf("%+v", outs)
	}
}

// TestCallerCut: over TCP, where an end could look like one, a response that was begun and cut is a reset.
func TestCallerCut(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := &Server{Side: flow.SideServer, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
		c := x.Downstream.(exchange.Caller)
		_ = c.WriteHead(x, &exchange.Response{Status: 200, Length: -1}, false)
		_ = c.WriteBody(x, []byte("half"))
		_ = c.Flush(x)
		x.Outcome.Fail(flow.ReasonUpstreamReset, "")
		c.Cut(x)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		var told reports
		s.Serve(&exchange.Session{
			Conn: exchange.NewSocket(c), TCP: c.(*net.TCPConn), Peer: &exchange.Peer{}, Start: time.Now(),
			Bind: func() *exchange.Binding { return &exchange.Binding{} }, Report: &told,
		})
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n") // a body of HTTP/1.0 has no other end than the connection's
	if b, err := io.ReadAll(c); err == nil {
		t.Errorf("it ended in order after %q", b)
	}
	_ = c.Close()
	<-served
}

// TestCallerDrains: the last answer of a session that drains says so.
func TestCallerDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		freshPool()
		down, near := net.Pipe()
		var sess *exchange.Session
		s := &Server{Side: flow.SideServer, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
			sess.Drain()
			ok(x, x.Downstream.(exchange.Caller))
		})}
		var told reports
		sess = &exchange.Session{Conn: down, Peer: &exchange.Peer{}, Start: time.Now(), Bind: func() *exchange.Binding { return &exchange.Binding{} }, Report: &told}
		served := make(chan struct{})
		go func() {
			defer close(served)
			s.Serve(sess)
		}()
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(near), nil); err != nil || !resp.Close {
			t.Errorf("%+v, %v", resp, err)
		}
		<-served
		_ = near.Close()
	})
}

// TestCallerInterims: heads that come without end do not wait here for the last one.
func TestCallerInterims(t *testing.T) {
	hint := &exchange.Response{Status: 103, Length: -1, Fields: []exchange.Field{{Name: "link", Value: strings.Repeat("a", 1000)}}}
	plainly(t, func(x *exchange.Exchange, call exchange.Caller) {
		for range 1000 {
			if err := call.WriteHead(x, hint, false); err != nil {
				t.Fatal(err)
			}
			if n := len(call.(*conn).w.out); n > 2*smallBuffer {
				t.Fatalf("%d bytes wait", n)
			}
		}
		ok(x, call)
	}, func(near net.Conn) {
		_, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(near); err != nil || bytes.Count(b, []byte(" 103 ")) != 1000 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}
