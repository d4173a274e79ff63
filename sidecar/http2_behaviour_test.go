package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// Our own answers are trailers only to gRPC, with the status that says the same, and text to everybody else.
func TestHTTP2OwnAnswers(t *testing.T) {
	r := start(t, clientSnapshot(external(nil)), &identity.Holder{}, time.Second) // no endpoint
	f := dialFrames(t, r.addr(t, "outbound"))
	f.headers(1, false, post2("/a.B/C", "content-type", "application/grpc+proto", "te", "trailers")...)
	status, h := f.status(t, 1)
	if status != "200" || !h.StreamEnded() || value2(h, "grpc-status") != "14" || value2(h, "x-tulle-reason") != "no_endpoint" ||
		!strings.HasPrefix(value2(h, "grpc-message"), "tulle: no_endpoint: ") {
		t.Errorf("gRPC got %s %v", status, h.Fields)
	}
	f.headers(3, true, get2("/")...)
	status, h = f.status(t, 3)
	if status != "503" || h.StreamEnded() || value2(h, "x-tulle-reason") != "no_endpoint" {
		t.Errorf("got %s %v", status, h.Fields)
	}
	var body string
	f.until(t, "the text", func(fr http2.Frame) bool {
		d, ok := fr.(*http2.DataFrame)
		if ok {
			body += string(d.Data())
		}
		return ok && d.StreamEnded()
	})
	if !strings.HasPrefix(body, "tulle: no_endpoint: ") || fmt.Sprint(len(body)) != value2(h, "content-length") {
		t.Errorf("the text is %q", body)
	}
	f.headers(5, true, []string{":method", "HEAD", ":scheme", "http", ":path", "/", ":authority", "ext"}...)
	if status, h = f.status(t, 5); status != "503" || !h.StreamEnded() {
		t.Errorf("HEAD got %s %v", status, h.Fields)
	}
	// A caller that never opens its window is not waited for for ever, and may leave.
	g := dialFrames(t, r.addr(t, "outbound"), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	g.headers(1, true, get2("/")...)
	if status, _ = g.status(t, 1); status != "503" {
		t.Errorf("without a window: %s", status)
	}
	_ = g.WriteRSTStream(1, http2.ErrCodeCancel)
	r.stop()
	ex := r.rec.Closed(flow.KindExchange)
	if len(ex) != 4 {
		t.Fatalf("%d exchanges", len(ex))
	}
	answered, calls := 0, 0
	for _, e := range ex {
		if e.Answered {
			answered++
		}
		if e.Protocol == flow.ProtocolGRPC && e.GRPC.String() == "UNAVAILABLE" && e.Status == 200 {
			calls++
		}
		if e.Reason != flow.ReasonNoEndpoint {
			t.Errorf("%+v", e)
		}
	}
	if calls != 1 || answered != 3 {
		t.Errorf("%d gRPC calls, %d answered: %+v", calls, answered, ex)
	}
}

// What an endpoint provably did not process is sent again, whatever its method; what it may have processed is not.
func TestHTTP2Again(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse func(f *frames, id uint32)
		method string
		want   string
		tries  int
	}{
		{"refused", func(f *frames, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeRefusedStream) }, "POST", "200", 2},
		{"above GOAWAY", func(f *frames, id uint32) { _ = f.WriteGoAway(id-1, http2.ErrCodeNo, nil) }, "POST", "200", 2},
		{"cancelled", func(f *frames, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeCancel) }, "POST", "502", 1},
		{"cancelled, idempotent", func(f *frames, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeCancel) }, "PUT", "200", 2},
		{"closed", func(f *frames, _ uint32) { _ = f.c.Close() }, "POST", "502", 1},
		{"503", func(f *frames, id uint32) { f.headers(id, true, ":status", "503") }, "PUT", "200", 2},
		{"503, not idempotent", func(f *frames, id uint32) { f.headers(id, true, ":status", "503") }, "POST", "503", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var n atomic.Int32
			var mu sync.Mutex
			bodies := map[string]string{}
			up := scripted2(t, nil, func(f *frames, fr http2.Frame) {
				switch fr := fr.(type) {
				case *http2.DataFrame:
					key := fmt.Sprint(f.c.RemoteAddr(), fr.StreamID)
					mu.Lock()
					bodies[key] += string(fr.Data())
					body := bodies[key]
					mu.Unlock()
					if !fr.StreamEnded() {
						return
					}
					if body != "hello" {
						t.Errorf("the body is %q", body)
					}
					if n.Add(1) == 1 {
						c.refuse(f, fr.StreamID)
					} else {
						f.headers(fr.StreamID, true, ":status", "200")
					}
				}
			})
			r, addr := front(t, nil, up)
			f := dialFrames(t, addr)
			f.headers(1, false, ":method", c.method, ":scheme", "http", ":path", "/", ":authority", "ext")
			_ = f.WriteData(1, false, []byte("hel"))
			_ = f.WriteData(1, true, []byte("lo"))
			if got, _ := f.status(t, 1); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			_ = f.c.Close()
			r.stop()
			ex, at := r.rec.Closed(flow.KindExchange), r.rec.Closed(flow.KindAttempt)
			if len(ex) != 1 || len(at) != c.tries {
				t.Errorf("%d exchanges, %d attempts", len(ex), len(at))
			}
		})
	}
}

// A body of which a part comes between two tries arrives whole, also when that makes it too large to be kept; then it is sent once.
func TestHTTP2BodyBetweenTries(t *testing.T) {
	for _, c := range []struct {
		name, method string
		again        int // tries that are turned away behind what had come before them
		want         string
	}{
		{"POST", "POST", 1, "200"},
		{"PUT", "PUT", 1, "200"},
		{"too large to be sent again", "POST", 2, "502"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, second := bytes.Repeat([]byte("a"), 40<<10), bytes.Repeat([]byte("b"), 30<<10) // more than is kept
			var n atomic.Int32
			dialled, release := make(chan struct{}, 10), make(chan struct{})
			var mu sync.Mutex
			bodies := map[string][]byte{}
			ca := testmesh.NewCA(t)
			up := meshed2(t, ca.Holder("catalog"), []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1 << 20}}, func() {
				if n.Add(1) == 2 { // the sidecar waits for the handshake
					dialled <- struct{}{}
					<-release
				}
			}, func(f *frames, fr http2.Frame) {
				switch fr := fr.(type) {
				case *http2.MetaHeadersFrame:
					_ = f.WriteWindowUpdate(0, 1<<20)
				case *http2.DataFrame:
					try := int(n.Load())
					key := fmt.Sprint(f.c.RemoteAddr(), fr.StreamID)
					mu.Lock()
					body := append(bodies[key], fr.Data()...)
					bodies[key] = body
					mu.Unlock()
					switch {
					case try == 1 && len(body) == len(first), try == 2 && c.again == 2 && fr.StreamEnded():
						_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
					case fr.StreamEnded():
						if want := string(first) + string(second); string(body) != want {
							t.Errorf("%d bytes of %d arrived, or others", len(body), len(want))
						}
						f.headers(fr.StreamID, true, ":status", "200")
					}
				}
			})
			web := start(t, clientSnapshot(mesh("catalog"), up), ca.Holder("web"), time.Second)
			f := dialFrames(t, web.addr(t, "outbound"))
			f.headers(1, false, ":method", c.method, ":scheme", "http", ":path", "/", ":authority", "catalog")
			for b := first; len(b) > 0; b = b[8<<10:] {
				_ = f.WriteData(1, false, b[:8<<10])
			}
			<-dialled
			for b := second; len(b) > 0; b = b[6<<10:] {
				_ = f.WriteData(1, len(b) == 6<<10, b[:6<<10])
			}
			f.pong(t)
			close(release)
			if got, h := f.status(t, 1); got != c.want {
				t.Errorf("got %s %v, want %s", got, h, c.want)
			}
			_ = f.c.Close()
			web.stop()
			if tries := len(web.rec.Closed(flow.KindAttempt)); tries != 2 {
				t.Errorf("%d attempts", tries)
			}
			if used := web.Room().Used(); used != 0 {
				t.Errorf("%d bytes are still taken", used)
			}
		})
	}
}

// What a sidecar may have processed, by the GOAWAY with which it cuts the connection, was delivered, and is sent again only if it is idempotent.
func TestHTTP2CutConnection(t *testing.T) {
	for _, c := range []struct {
		name, method string
		last         []uint32 // of the GOAWAYs
		want         string
		delivered    []bool
	}{
		{"taken", "POST", []uint32{1}, "502", []bool{true}},
		{"taken, announced before", "POST", []uint32{1<<31 - 1, 1}, "502", []bool{true}},
		{"taken, idempotent", "PUT", []uint32{1}, "200", []bool{true, true}},
		{"not taken", "POST", []uint32{0}, "200", []bool{false, true}},
		{"only announced", "POST", []uint32{1<<31 - 1}, "200", []bool{false, true}},
		{"closed in order", "POST", nil, "200", []bool{false, true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ca := testmesh.NewCA(t)
			var n atomic.Int32
			up := meshed2(t, ca.Holder("catalog"), nil, func() {}, func(f *frames, fr http2.Frame) {
				h, ok := fr.(*http2.MetaHeadersFrame)
				if !ok {
					return
				}
				if n.Add(1) > 1 {
					f.headers(h.StreamID, true, ":status", "200")
					return
				}
				for _, last := range c.last {
					_ = f.WriteGoAway(last, http2.ErrCodeEnhanceYourCalm, nil)
				}
				_ = f.c.(*tls.Conn).CloseWrite()
			})
			web := start(t, clientSnapshot(mesh("catalog"), up), ca.Holder("web"), time.Second)
			f := dialFrames(t, web.addr(t, "outbound"))
			f.headers(1, true, ":method", c.method, ":scheme", "http", ":path", "/", ":authority", "catalog")
			if got, _ := f.status(t, 1); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			_ = f.c.Close()
			web.stop()
			var delivered []bool
			for _, a := range web.rec.Closed(flow.KindAttempt) {
				delivered = append(delivered, a.Delivered)
			}
			if !slices.Equal(delivered, c.delivered) {
				t.Errorf("delivered: %v, want %v", delivered, c.delivered)
			}
		})
	}
}

// A sidecar that gives up a caller which does not answer PING says which streams it has taken before it closes in order.
func TestHTTP2GiveUp(t *testing.T) {
	up := scripted2(t, nil, func(*frames, http2.Frame) {})
	ca := testmesh.NewCA(t)
	snap := serverSnapshot("catalog", up, policy.ModeStrict, flow.ProtocolHTTP)
	snap.Listeners[0].Limits = policy.Limits{HTTP2: policy.HTTP2{PingInterval: 50 * time.Millisecond, PingTimeout: 50 * time.Millisecond}}
	r := start(t, snap, ca.Holder("catalog"), time.Second)
	secure := ca.Holder("web").ClientTLS()
	secure.NextProtos = []string{"h2"}
	nc, err := tls.Dial("tcp", r.addr(t, "inbound").String(), secure)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(nc, http2.ClientPreface)
	f := newFrames(nc)
	_ = f.WriteSettings()
	f.headers(1, true, get2("/")...)
	last := uint32(0)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("ended with %v", err)
			}
			break
		}
		if g, ok := fr.(*http2.GoAwayFrame); ok {
			last = g.LastStreamID
		}
	}
	if last != 1 {
		t.Errorf("the last GOAWAY says %d", last)
	}
	_ = nc.Close()
	testmesh.Eventually(t, "the exchange has ended", func() bool { return r.rec.Live() == 0 })
}

// What is sent again is granted to the caller once, and what no stream takes while memory is scarce is granted all the same.
func TestHTTP2Credit(t *testing.T) {
	var n atomic.Int32
	var got int
	heads := make(chan struct{}, 10)
	up := scripted2(t, nil, func(f *frames, fr http2.Frame) {
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			got = 0
			heads <- struct{}{}
		case *http2.DataFrame:
			_ = f.WriteWindowUpdate(0, uint32(max(len(fr.Data()), 1)))
			if got += len(fr.Data()); got == 40<<10 {
				if n.Add(1) == 1 {
					_ = f.WriteRSTStream(fr.StreamID, http2.ErrCodeRefusedStream)
				} else {
					f.headers(fr.StreamID, false, ":status", "200")
				}
			}
		}
	})
	snap := clientSnapshot(external(nil), up)
	snap.Listeners[0].Limits.HTTP2 = policy.HTTP2{StreamWindow: 64 << 10, ConnectionWindow: 64 << 10}
	r := start(t, snap, &identity.Holder{}, time.Second)
	f := dialFrames(t, r.addr(t, "outbound"))
	granted := map[uint32]int{}
	until := func(what string, stop func(fr http2.Frame) bool) {
		f.until(t, what, func(fr http2.Frame) bool {
			if w, ok := fr.(*http2.WindowUpdateFrame); ok {
				granted[w.StreamID] += int(w.Increment)
			}
			return stop(fr)
		})
	}
	f.headers(1, false, post2("/")...)
	for range 5 {
		_ = f.WriteData(1, false, make([]byte, 8<<10))
	}
	until("the head", func(fr http2.Frame) bool {
		h, ok := fr.(*http2.MetaHeadersFrame)
		if ok && h.PseudoValue("status") != "200" {
			t.Errorf("answered %v", h.Fields)
		}
		return ok
	})
	if granted[1] > 40<<10 {
		t.Errorf("%d bytes were granted for %d", granted[1], 40<<10)
	}
	<-heads
	<-heads
	for id := uint32(3); id < 9; id += 2 {
		f.headers(id, false, post2("/", "content-length", "1")...)
		<-heads
	}
	r.Room().SetBudget(1 << 30)
	r.Room().Need(1<<30 - 1<<20)
	before := granted[0]
	for id := uint32(3); id < 9; id += 2 {
		_ = f.WriteData(id, false, make([]byte, 16<<10))
	}
	_ = f.WritePing(false, [8]byte{1})
	until("an answer to PING", func(fr http2.Frame) bool { p, ok := fr.(*http2.PingFrame); return ok && p.IsAck() })
	r.Room().Give(1<<30 - 1<<20)
	if more := granted[0] - before; more < 48<<10 {
		t.Errorf("%d bytes were granted for %d", more, 48<<10)
	}
}

// A drain takes what the caller has sent before it could know, finishes it, and then closes.
func TestHTTP2Drain(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 10)
	up := h2app(t, func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		fmt.Fprint(w, "whole")
	})
	r := start(t, clientSnapshot(external(nil), up), &identity.Holder{}, 10*time.Second)
	f := dialFrames(t, r.addr(t, "outbound"))
	f.headers(1, true, get2("/")...)
	<-arrived
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	var ping [8]byte
	f.until(t, "the first GOAWAY", func(fr http2.Frame) bool {
		g, ok := fr.(*http2.GoAwayFrame)
		if ok && (g.LastStreamID != 1<<31-1 || g.ErrCode != http2.ErrCodeNo) {
			t.Errorf("the first GOAWAY: %v", g)
		}
		return ok
	})
	f.until(t, "a PING", func(fr http2.Frame) bool {
		p, ok := fr.(*http2.PingFrame)
		if ok {
			ping = p.Data
		}
		return ok
	})
	f.headers(3, true, get2("/")...) // as if it had crossed the GOAWAY
	_ = f.WritePing(true, ping)
	f.until(t, "the last GOAWAY", func(fr http2.Frame) bool {
		g, ok := fr.(*http2.GoAwayFrame)
		if ok && g.LastStreamID != 3 {
			t.Errorf("the last GOAWAY: %v", g)
		}
		return ok
	})
	f.headers(5, true, get2("/")...) // too late: ignored
	<-arrived
	close(release)
	ends := map[uint32]bool{}
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			break
		}
		if d, ok := fr.(*http2.DataFrame); ok && d.StreamEnded() {
			ends[d.StreamID] = true
		}
	}
	if !ends[1] || !ends[3] || len(ends) != 2 {
		t.Errorf("ended streams: %v", ends)
	}
	<-stopped
	if n := len(r.rec.Closed(flow.KindExchange)); n != 2 {
		t.Errorf("%d exchanges", n)
	}
}

// A drain of an idle connection does not wait for anybody.
func TestHTTP2DrainIdle(t *testing.T) {
	up := h2app(t, func(http.ResponseWriter, *http.Request) {})
	r := start(t, clientSnapshot(external(nil), up), &identity.Holder{}, 20*time.Second)
	f := dialFrames(t, r.addr(t, "outbound"))
	f.headers(1, true, get2("/")...)
	if got, _ := f.status(t, 1); got != "200" {
		t.Fatal(got)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	f.until(t, "a PING", func(fr http2.Frame) bool {
		p, ok := fr.(*http2.PingFrame)
		if ok {
			_ = f.WritePing(true, p.Data)
		}
		return ok
	})
	if why := f.ended(t); why != http2.ErrCodeNo {
		t.Errorf("ended with %v", why)
	}
	<-stopped
}

// What is reset on one side is reset on the other, and never so that a cut response looks whole.
func TestHTTP2Resets(t *testing.T) {
	reset, seen := make(chan http2.ErrCode, 10), make(chan struct{})
	up := scripted2(t, nil, func(f *frames, fr http2.Frame) {
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			switch fr.PseudoValue("path") {
			case "/cut":
				f.headers(fr.StreamID, false, ":status", "200")
				_ = f.WriteData(fr.StreamID, false, []byte("half"))
				_ = f.WriteRSTStream(fr.StreamID, http2.ErrCodeNo)
			case "/early":
				f.headers(fr.StreamID, true, ":status", "200")
			case "/short":
				f.headers(fr.StreamID, false, ":status", "200", "content-length", "10")
				_ = f.WriteData(fr.StreamID, true, []byte("half"))
			case "/hints":
				f.headers(fr.StreamID, false, ":status", "103", "link", "x")
				f.headers(fr.StreamID, true, ":status", "204")
			case "/switch":
				f.headers(fr.StreamID, false, ":status", "101")
			case "/never":
				close(seen)
			case "/bad":
				f.headers(fr.StreamID, true, ":status", "200", "connection", "close")
			}
		case *http2.RSTStreamFrame:
			reset <- fr.ErrCode
		}
	})
	r, addr := front(t, func(s *policy.Service) { s.Retry.Attempts = 1 }, up)
	f := dialFrames(t, addr)
	next, cancelled := uint32(1), false
	rst := func(id uint32) (why http2.ErrCode) {
		f.until(t, "a reset", func(fr http2.Frame) bool {
			x, ok := fr.(*http2.RSTStreamFrame)
			if ok && x.StreamID == id {
				why = x.ErrCode
			}
			return ok && x.StreamID == id
		})
		return why
	}
	request := func(path string) uint32 {
		id := next
		next += 2
		f.headers(id, false, post2(path)...)
		return id
	}
	id := request("/cut")
	if got, _ := f.status(t, id); got != "200" {
		t.Errorf("cut: %s", got)
	}
	if why := rst(id); why != http2.ErrCodeInternal {
		t.Errorf("a cut response was reset with %v", why)
	}
	id = request("/early")
	if got, h := f.status(t, id); got != "200" || !h.StreamEnded() {
		t.Errorf("early: %s", got)
	}
	if why := rst(id); why != http2.ErrCodeNo {
		t.Errorf("after a whole response: %v", why)
	}
	id = request("/short")
	if got, _ := f.status(t, id); got != "200" {
		t.Errorf("short: %s", got)
	}
	if why := rst(id); why != http2.ErrCodeInternal {
		t.Errorf("a short response was reset with %v", why)
	}
	id = request("/hints")
	if got, h := f.status(t, id); got != "103" || value2(h, "link") != "x" {
		t.Errorf("hints: %s", got)
	}
	if got, _ := f.status(t, id); got != "204" {
		t.Errorf("after hints: %s", got)
	}
	for _, path := range []string{"/switch", "/bad"} {
		if got, h := f.status(t, request(path)); got != "502" || value2(h, "x-tulle-reason") != "upstream_protocol_error" {
			t.Errorf("%s: %s", path, got)
		}
	}
	id = request("/never")
	<-seen
	_ = f.WriteRSTStream(id, http2.ErrCodeCancel)
	for range 6 { // five requests did not get to their ends, for which nobody waits, and this
		why := <-reset
		if why == http2.ErrCodeCancel {
			cancelled = true
		}
	}
	if !cancelled {
		t.Error("the service did not learn that its caller left")
	}
	_ = f.c.Close()
	r.stop()
	var left int
	for _, e := range r.rec.Closed(flow.KindExchange) {
		if e.Reason == flow.ReasonDownstreamReset {
			left++
		}
	}
	if left != 1 {
		t.Errorf("%d callers left", left)
	}
}

// A response that came whole and was cut by a deadline, because its caller did not take it, never looks whole, whatever the caller opens meanwhile.
func TestHTTP2CutResponse(t *testing.T) {
	for _, c := range []struct {
		name string
		open func(f *frames)
	}{
		{"WINDOW_UPDATE", func(f *frames) { _ = f.WriteWindowUpdate(1, 100) }},
		{"SETTINGS", func(f *frames) { _ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := scripted2(t, nil, func(f *frames, fr http2.Frame) {
				if h, ok := fr.(*http2.MetaHeadersFrame); ok {
					f.headers(h.StreamID, false, ":status", "200")
					_ = f.WriteData(h.StreamID, true, []byte("whole"))
				}
			})
			r, addr := front(t, func(s *policy.Service) { s.RequestTimeout = 300 * time.Millisecond }, up)
			cut, release := make(chan struct{}), make(chan struct{})
			r.rec.First(func(rec *flow.Record) { // the try has ended, and the stream has not
				if rec.Kind == flow.KindAttempt && rec.Phase == flow.PhaseClose {
					close(cut)
					<-release
				}
			})
			f := dialFrames(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3})
			f.headers(1, true, get2("/")...)
			body := ""
			take := func(fr http2.Frame) bool {
				d, ok := fr.(*http2.DataFrame)
				if !ok {
					return false
				}
				body += string(d.Data())
				if d.StreamEnded() {
					t.Errorf("the response ended behind %q", body)
				}
				return true
			}
			f.until(t, "what fits the window", take)
			<-cut
			c.open(f)
			_ = f.WritePing(false, [8]byte{1})
			f.until(t, "an answer to PING", func(fr http2.Frame) bool {
				take(fr)
				p, ok := fr.(*http2.PingFrame)
				return ok && p.IsAck()
			})
			close(release)
			f.until(t, "a reset", func(fr http2.Frame) bool {
				take(fr)
				x, ok := fr.(*http2.RSTStreamFrame)
				if ok && x.ErrCode != http2.ErrCodeCancel {
					t.Errorf("got %v", x)
				}
				return ok
			})
			if body != "who" {
				t.Errorf("got %q", body)
			}
			_ = f.c.Close()
			r.stop()
			if ex := r.rec.Closed(flow.KindExchange); len(ex) != 1 || ex[0].Answered || ex[0].Reason != flow.ReasonRequestTimeout {
				t.Errorf("%+v", ex)
			}
		})
	}
}

// Time-outs of a request, of its body, and of a head.
func TestHTTP2Timeouts(t *testing.T) {
	up := h2app(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	snap := clientSnapshot(external(func(s *policy.Service) { s.RequestTimeout = 400 * time.Millisecond }), up)
	snap.Listeners[0].Limits = policy.Limits{BodyTimeout: 100 * time.Millisecond, HeadTimeout: 100 * time.Millisecond}
	r := start(t, snap, &identity.Holder{}, time.Second)
	f := dialFrames(t, r.addr(t, "outbound"))
	f.headers(1, true, get2("/")...)
	if got, h := f.status(t, 1); got != "504" || value2(h, "x-tulle-reason") != "request_timeout" {
		t.Errorf("a slow service: %s", got)
	}
	f.headers(3, false, post2("/")...)
	if got, h := f.status(t, 3); got != "408" || value2(h, "x-tulle-reason") != "bad_request" {
		t.Errorf("a body that stops: %s", got)
	}
	f.headers(5, false, post2("/", "content-type", "application/grpc")...) // a stream of messages may pause
	if got, h := f.status(t, 5); got != "200" || value2(h, "grpc-status") != "4" {
		t.Errorf("gRPC: %s %v", got, h)
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, BlockFragment: f.block(get2("/")...)})
	if why := f.ended(t); why != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("a head that stops: %v", why)
	}
	f = dialFrames(t, r.addr(t, "outbound"))
	head := f.block(get2("/")...)
	_, _ = f.c.Write(append([]byte{0, 0, byte(len(head)), 1, 5, 0, 0, 0, 1}, head[:3]...))
	if why := f.ended(t); why != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("a frame of a head that stops: %v", why)
	}
}

// A connection whose peer does not answer PING is closed.
func TestHTTP2Keepalive(t *testing.T) {
	up := scripted2(t, nil, func(f *frames, fr http2.Frame) { // the service is there, else its own end might come first, and answer the caller
		if p, ok := fr.(*http2.PingFrame); ok && !p.IsAck() {
			_ = f.WritePing(true, p.Data)
		}
	})
	r, addr := withLimits(t, policy.Limits{HTTP2: policy.HTTP2{PingInterval: 50 * time.Millisecond, PingTimeout: 50 * time.Millisecond}}, up)
	f := dialFrames(t, addr)
	f.pong(t) // nothing else that it sends may count as a sign of life
	f.headers(1, true, get2("/")...)
	f.until(t, "a PING", func(fr http2.Frame) bool {
		p, ok := fr.(*http2.PingFrame)
		return ok && !p.IsAck()
	})
	_ = f.ended(t)
	testmesh.Eventually(t, "the exchange has ended", func() bool { return r.rec.Live() == 0 })
}

// A connection that is old enough is drained.
func TestHTTP2Age(t *testing.T) {
	up := h2app(t, func(http.ResponseWriter, *http.Request) {})
	_, addr := withLimits(t, policy.Limits{HTTP2: policy.HTTP2{Age: time.Second}}, up)
	c := h2client(t)
	old := map[string]bool{}
	testmesh.Eventually(t, "a second connection is used", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr.String()+"/", nil)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("a request was lost: %v", err)
		}
		_ = resp.Body.Close()
		old[resp.Status] = true
		return time.Since(began(t)) > 2500*time.Millisecond
	})
	if len(old) != 1 || !old["200 OK"] {
		t.Errorf("%v", old)
	}
}

// What is open when an old connection is drained may go on for ageGrace, and is then ended with an answer.
func TestHTTP2AgeGrace(t *testing.T) {
	up := scripted2(t, nil, func(*frames, http2.Frame) {})
	r, addr := withLimits(t, policy.Limits{HTTP2: policy.HTTP2{Age: 50 * time.Millisecond, AgeGrace: 50 * time.Millisecond}}, up)
	f := dialFrames(t, addr)
	f.headers(1, true, get2("/")...)
	announced := false
	f.until(t, "an answer", func(fr http2.Frame) bool {
		if g, ok := fr.(*http2.GoAwayFrame); ok {
			announced = announced || g.ErrCode == http2.ErrCodeNo
		}
		h, ok := fr.(*http2.MetaHeadersFrame)
		if ok && (h.PseudoValue("status") != "503" || value2(h, "x-tulle-reason") != "draining" || !announced) {
			t.Errorf("announced %t, then %v", announced, h.Fields)
		}
		return ok
	})
	_ = f.ended(t)
	r.stop()
	if ex := r.rec.Closed(flow.KindExchange); len(ex) != 1 || ex[0].Reason != flow.ReasonDraining || !ex[0].Answered {
		t.Errorf("%+v", ex)
	}
}

// A stream for which the sidecar has no memory is shed, as an exchange; the connection and those on it go on.
func TestHTTP2Crowded(t *testing.T) {
	up := h2app(t, func(http.ResponseWriter, *http.Request) {})
	r, addr := withLimits(t, policy.Limits{}, up)
	f := dialFrames(t, addr)
	f.pong(t)
	r.Room().SetBudget(1 << 20)
	r.Room().Need(1 << 20)
	f.headers(1, true, get2("/")...)
	if got, h := f.status(t, 1); got != "503" || value2(h, "x-tulle-reason") != "shed" {
		t.Errorf("%s %v", got, h)
	}
	r.Room().Give(1 << 20)
	f.headers(3, true, get2("/")...)
	if got, _ := f.status(t, 3); got != "200" {
		t.Errorf("%s when there was room again", got)
	}
	_ = f.c.Close()
	r.stop()
	if ex := r.rec.Closed(flow.KindExchange); len(ex) != 2 || ex[0].Reason != flow.ReasonShed || r.Room().Used() != 0 {
		t.Errorf("%d bytes of room are left; %+v", r.Room().Used(), ex)
	}
}

// Requests that find no connection share the one that the first of them dials.
func TestHTTP2SharedDial(t *testing.T) {
	const n = 50
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialled atomic.Int32
	first := make(chan struct{})
	up := scriptedOn(t, watched{l, func() { dialled.Add(1); <-first }}, nil, func(f *frames, fr http2.Frame) {
		if h, ok := fr.(*http2.MetaHeadersFrame); ok {
			f.headers(h.StreamID, true, ":status", "200")
		}
	})
	r, addr := withLimits(t, policy.Limits{}, up)
	f := dialFrames(t, addr)
	for i := range n {
		f.headers(uint32(2*i+1), true, get2("/")...)
	}
	testmesh.Eventually(t, "all wait for the first connection", func() bool { return r.rec.Live() == n })
	close(first)
	answered := 0
	f.until(t, "all answers", func(fr http2.Frame) bool {
		if h, ok := fr.(*http2.MetaHeadersFrame); ok {
			if answered++; h.PseudoValue("status") != "200" {
				t.Errorf("%v", h.Fields)
			}
		}
		return answered == n
	})
	if d := dialled.Load(); d != 1 {
		t.Errorf("%d connections were dialled for %d streams", d, n)
	}
}

var begins sync.Map

// began is when a test asked first.
func began(t *testing.T) time.Time {
	v, _ := begins.LoadOrStore(t.Name(), time.Now())
	return v.(time.Time)
}

// Extended CONNECT carries a WebSocket, say, through two sidecars, and no deadline cuts it.
func TestHTTP2Tunnel(t *testing.T) {
	up := scripted2(t, []http2.Setting{{ID: http2.SettingEnableConnectProtocol, Val: 1}}, func(f *frames, fr http2.Frame) {
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if fr.PseudoValue("protocol") != "websocket" || fr.PseudoValue("path") != "/chat" {
				f.headers(fr.StreamID, true, ":status", "400")
				return
			}
			f.headers(fr.StreamID, false, ":status", "200")
		case *http2.DataFrame:
			_ = f.WriteData(fr.StreamID, fr.StreamEnded(), append([]byte("echo "), fr.Data()...))
		}
	})
	ca := testmesh.NewCA(t)
	server := start(t, serverSnapshot("catalog", up, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), time.Second)
	sv := mesh("catalog")
	sv.RequestTimeout = 200 * time.Millisecond
	web := start(t, clientSnapshot(sv, server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	f := dialFrames(t, web.addr(t, "outbound"))
	f.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/chat", ":authority", "catalog")
	if got, h := f.status(t, 1); got != "200" {
		t.Fatalf("%s %v", got, h.Fields)
	}
	echo := func(send string, end bool) {
		_ = f.WriteData(1, end, []byte(send))
		f.until(t, "an echo of "+send, func(fr http2.Frame) bool {
			d, ok := fr.(*http2.DataFrame)
			if ok && (string(d.Data()) != "echo "+send || d.StreamEnded() != end) {
				t.Errorf("got %q, ended %t", d.Data(), d.StreamEnded())
			}
			return ok
		})
	}
	echo("a", false)
	passed := time.NewTimer(300 * time.Millisecond) // the request timeout is over
	<-passed.C
	echo("b", false)
	echo("c", true)
	_ = f.c.Close()
	web.stop()
	server.stop()
	if ex := web.rec.Closed(flow.KindExchange); len(ex) != 1 || !ex[0].Answered || ex[0].Method != "CONNECT" || ex[0].BytesOut != 18 {
		t.Errorf("%+v", ex)
	}
	// Without the setting a tunnel is refused here.
	plain := scripted2(t, nil, func(*frames, http2.Frame) {})
	r, addr := front(t, nil, plain)
	g := dialFrames(t, addr)
	g.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/chat", ":authority", "ext")
	if got, _ := g.status(t, 1); got != "501" {
		t.Errorf("without the setting: %s", got)
	}
	_ = g.c.Close()
	r.stop()
}

// A service that speaks HTTP/1.1 only is told from one that is away.
func TestHTTP2ToHTTP1(t *testing.T) {
	r, addr := front(t, nil, app(t, func(http.ResponseWriter, *http.Request) {}))
	f := dialFrames(t, addr)
	f.headers(1, true, post2("/")...)
	if got, h := f.status(t, 1); got != "502" || value2(h, "x-tulle-reason") != "upstream_protocol_error" {
		t.Errorf("got %s", got)
	}
	_ = f.c.Close()
	r.stop()
	if at := r.rec.Closed(flow.KindAttempt); len(at) != 1 || at[0].Delivered || !strings.Contains(at[0].Detail, "does not speak HTTP/2") {
		t.Errorf("%+v", at)
	}
}

// Records of both sides say how a gRPC call ended, and count its messages.
func TestHTTP2GRPCRecords(t *testing.T) {
	ca := testmesh.NewCA(t)
	up := scripted2(t, nil, func(f *frames, fr http2.Frame) {
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if given := value2(fr, "grpc-timeout"); fr.PseudoValue("path") == "/a.B/Stream" && (given == "" || given == "10S" || given[len(given)-1] != 'u' || len(given) != 8) {
				t.Errorf("the service was given %q", given) // less than 10 s, in microseconds
			} else if fr.PseudoValue("path") == "/a.B/Bare" && given != "" {
				t.Errorf("the service was given %q by nobody", given)
			}
			if fr.PseudoValue("path") == "/a.B/Bare" {
				f.headers(fr.StreamID, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5", "grpc-message", "no such thing")
			}
		case *http2.DataFrame:
			if !fr.StreamEnded() {
				return
			}
			f.headers(fr.StreamID, false, ":status", "200", "content-type", "application/grpc")
			_ = f.WriteData(fr.StreamID, false, append(message(3), message(0)...)[:7])
			_ = f.WriteData(fr.StreamID, false, append(message(3), message(0)...)[7:])
			f.headers(fr.StreamID, true, "grpc-status", "13", "grpc-message", "broken")
		}
	})
	server := start(t, serverSnapshot("catalog", up, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), time.Second)
	web := start(t, clientSnapshot(mesh("catalog"), server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	f := dialFrames(t, web.addr(t, "outbound"))
	f.headers(1, false, post2("/a.B/Stream", "content-type", "application/grpc", "grpc-timeout", "10S")...)
	for _, b := range [][]byte{message(10)[:2], message(10)[2:], append(message(0), message(1)...)} {
		_ = f.WriteData(1, false, b)
	}
	_ = f.WriteData(1, true, nil)
	f.until(t, "trailers", func(fr http2.Frame) bool {
		h, ok := fr.(*http2.MetaHeadersFrame)
		return ok && h.StreamEnded() && value2(h, "grpc-status") == "13"
	})
	f.headers(3, false, post2("/a.B/Bare", "content-type", "application/grpc+proto")...)
	if _, h := f.status(t, 3); !h.StreamEnded() || value2(h, "grpc-status") != "5" || value2(h, "grpc-message") != "no such thing" {
		t.Errorf("got %v", h.Fields)
	}
	_ = f.c.Close()
	web.stop()
	server.stop()
	for _, r := range []*running{web, server} {
		for _, e := range r.rec.Closed(flow.KindExchange) {
			want := flow.Record{GRPC: flow.NewGRPCStatus(13), MessagesIn: 3, MessagesOut: 2}
			if strings.HasSuffix(e.Path, "Bare") {
				want = flow.Record{GRPC: flow.NewGRPCStatus(5)}
			}
			if e.Protocol != flow.ProtocolGRPC || e.GRPC != want.GRPC || e.MessagesIn != want.MessagesIn || e.MessagesOut != want.MessagesOut || !e.Answered {
				t.Errorf("%s: %v, %d messages in, %d out", e.Path, e.GRPC, e.MessagesIn, e.MessagesOut)
			}
		}
		if n := len(r.rec.Closed(flow.KindExchange)); n != 2 {
			t.Errorf("%d exchanges", n)
		}
	}
}

// While far sidecars come and go, no request is lost, though none may be sent twice, and the counts of both sides agree to the last one.
func TestHTTP2Restarts(t *testing.T) {
	ca := testmesh.NewCA(t)
	var served atomic.Int64
	up := h2app(t, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		_, _ = io.Copy(w, r.Body)
	})
	serve := func() *running {
		return start(t, serverSnapshot("catalog", up, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), 10*time.Second)
	}
	servers := []*running{serve(), serve()}
	web := start(t, clientSnapshot(mesh("catalog"), servers[0].addr(t, "inbound"), servers[1].addr(t, "inbound")), ca.Holder("web"), 10*time.Second)
	addr := web.addr(t, "outbound").String()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var sent atomic.Int64
	var rounds [40]atomic.Int64 // of each caller
	for i := range 4 {
		c := h2client(t)
		for j := range 10 {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					want := strings.Repeat("x", (i*j*n)%5000)
					resp, err := c.Post("http://"+addr+"/", "text/plain", strings.NewReader(want))
					if err != nil {
						t.Errorf("a request was lost: %v", err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || string(got) != want {
						t.Errorf("got %d, %d bytes of %d, %v: %s", resp.StatusCode, len(got), len(want), err, got[:min(len(got), 300)])
						return
					}
					sent.Add(1)
					rounds[10*i+j].Add(1)
				}
			})
		}
	}
	all := append([]*running(nil), servers...)
	for i := range 6 {
		before := sent.Load()
		var seen [len(rounds)]int64
		for k := range rounds {
			seen[k] = rounds[k].Load()
		}
		testmesh.Eventually(t, "requests pass", func() bool {
			late := 0 // two restarts while a request waits for its second try would be one too many for it
			for k := range rounds {
				if rounds[k].Load() < seen[k]+2 {
					late++
				}
			}
			return late == 0 && sent.Load() > before+300 || t.Failed()
		})
		next := serve()
		all = append(all, next)
		old := servers[i%2]
		servers[i%2] = next
		snap := clientSnapshot(mesh("catalog"), servers[0].addr(t, "inbound"), servers[1].addr(t, "inbound"))
		snap.Revision = fmt.Sprint("r", i)
		if i%2 == 0 { // sometimes the endpoint is gone before anybody says so
			old.stop()
			web.source.Set(snap)
		} else {
			web.source.Set(snap)
			old.stop()
		}
	}
	close(stop)
	wg.Wait()
	web.stop()
	exchanges, answered := 0, 0
	for _, s := range all {
		s.stop()
		for _, e := range s.rec.Closed(flow.KindExchange) {
			exchanges++
			if e.Answered {
				answered++
			}
		}
		if n := s.rec.Live() + s.Room().Used(); n != 0 {
			t.Errorf("%d is left at a server", n)
		}
	}
	delivered := 0
	shown := 0
	for _, e := range web.rec.Closed(flow.KindExchange) {
		if e.Failed() && shown < 3 {
			shown++
			t.Logf("exchange %v %v %d attempts %v", e.Trace.TraceID, e.Reason, e.Attempts, e.Duration)
			for _, a := range web.rec.Closed(flow.KindAttempt) {
				if a.Trace.TraceID == e.Trace.TraceID {
					t.Logf("  attempt %d at %v: %v %s %q", a.Attempt, a.Start.Sub(e.Start), a.Reason, a.Endpoint, a.Detail)
				}
			}
		}
	}
	for _, a := range web.rec.Closed(flow.KindAttempt) {
		if a.Delivered {
			delivered++
		}
	}
	if n := len(web.rec.Closed(flow.KindExchange)); int64(n) != sent.Load() || delivered != exchanges || answered != exchanges || served.Load() != sent.Load() {
		t.Errorf("%d sent, %d exchanges of the client, %d attempts delivered, %d exchanges of the servers, %d answered, %d served",
			sent.Load(), n, delivered, exchanges, answered, served.Load())
	}
}

// What a drain cuts is still answered.
func TestHTTP2Abort(t *testing.T) {
	arrived := make(chan struct{}, 2)
	up := h2app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	r := start(t, clientSnapshot(external(nil), up), &identity.Holder{}, 50*time.Millisecond)
	f := dialFrames(t, r.addr(t, "outbound"))
	f.headers(1, true, get2("/none")...)
	f.headers(3, true, get2("/half")...)
	if got, _ := f.status(t, 3); got != "200" {
		t.Fatal(got)
	}
	<-arrived
	<-arrived
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	answer, cut := "", http2.ErrCodeNo
	f.until(t, "both ends", func(fr http2.Frame) bool {
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if fr.StreamID == 1 {
				answer = fr.PseudoValue("status") + " " + value2(fr, "x-tulle-reason")
			}
		case *http2.RSTStreamFrame:
			cut = fr.ErrCode
		}
		return answer != "" && cut != http2.ErrCodeNo
	})
	if answer != "503 draining" || cut != http2.ErrCodeInternal {
		t.Errorf("got %q and %v", answer, cut)
	}
	_ = f.c.Close()
	<-stopped
	for _, e := range r.rec.Closed(flow.KindExchange) {
		if e.Reason != flow.ReasonDraining {
			t.Errorf("%+v", e)
		}
	}
}

// A caller that does not know our windows yet may take those of its streams for the default, and is held to ours from then on.
func TestHTTP2WindowsBeforeSettings(t *testing.T) {
	stalled := scripted2(t, []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, func(*frames, http2.Frame) {})
	r, addr := withLimits(t, policy.Limits{HTTP2: policy.HTTP2{StreamWindow: 4 << 10}}, stalled)
	f := dialFrames(t, addr)
	f.headers(1, false, post2("/")...)
	for range 15 {
		_ = f.WriteData(1, false, make([]byte, 4<<10)) // 60 KiB: within the default
	}
	_ = f.WritePing(false, [8]byte{1})
	f.until(t, "an answer to PING", func(fr http2.Frame) bool { // SETTINGS come before, and are acknowledged
		_, reset := fr.(*http2.RSTStreamFrame)
		if reset {
			t.Error("what fitted the default was refused")
		}
		p, ok := fr.(*http2.PingFrame)
		return reset || ok && p.IsAck()
	})
	_ = f.WriteData(1, true, nil) // takes no window
	f.headers(3, false, post2("/")...)
	_ = f.WriteData(3, false, make([]byte, 4<<10+1))
	f.until(t, "a reset", func(fr http2.Frame) bool {
		x, ok := fr.(*http2.RSTStreamFrame)
		if ok && (x.StreamID != 3 || x.ErrCode != http2.ErrCodeFlowControl) {
			t.Errorf("got %v", x)
		}
		return ok
	})
	_ = f.c.Close()
	testmesh.Eventually(t, "nothing is left", func() bool { return r.rec.Live() == 0 && r.Room().Used() == 0 })
}

// A sidecar of an old version agrees on no protocol: HTTP/1.1 still passes, and HTTP/2 is refused before anything is sent.
func TestHTTP2OldPeer(t *testing.T) {
	ca := testmesh.NewCA(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", ca.Holder("catalog").ServerTLS())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	sv := mesh("catalog")
	sv.Retry.Attempts = 1
	web := start(t, clientSnapshot(sv, l.Addr().(*net.TCPAddr).AddrPort()), ca.Holder("web"), time.Second)
	resp, err := client(t).Get("http://" + web.addr(t, "outbound").String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "HTTP/1.1" {
		t.Errorf("HTTP/1.1 got %d %q", resp.StatusCode, body)
	}
	f := dialFrames(t, web.addr(t, "outbound"))
	f.headers(1, true, get2("/")...)
	if got, h := f.status(t, 1); got != "502" || value2(h, "x-tulle-reason") != "upstream_protocol_error" {
		t.Errorf("HTTP/2 got %s", got)
	}
	_ = f.c.Close()
	web.stop()
	at := web.rec.Closed(flow.KindAttempt)
	slices.SortFunc(at, func(a, b flow.Record) int { return a.Start.Compare(b.Start) })
	if len(at) != 2 || !at[0].Delivered || at[1].Delivered || !strings.Contains(at[1].Detail, "does not speak HTTP/2") {
		t.Errorf("%+v", at)
	}
}

// A response behind which the endpoint closes at once reaches the caller at once.
func TestHTTP2AnswerAndClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var b [len(http2.ClientPreface)]byte
			_, _ = io.ReadFull(c, b[:])
			var out bytes.Buffer
			f := newFrames(c)
			f.Framer = http2.NewFramer(&out, c)
			f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			for {
				fr, err := f.ReadFrame()
				if err != nil {
					break
				}
				if h, ok := fr.(*http2.MetaHeadersFrame); ok {
					_ = f.WriteSettings()
					f.headers(h.StreamID, false, ":status", "200")
					_ = f.WriteData(h.StreamID, true, []byte("all"))
					_, _ = c.Write(out.Bytes())
					break
				}
			}
			_ = c.Close()
		}
	})
	_, addr := withLimits(t, policy.Limits{}, l.Addr().(*net.TCPAddr).AddrPort())
	f := dialFrames(t, addr)
	for id := uint32(1); id < 40; id += 2 {
		f.headers(id, true, get2("/")...)
		if got, _ := f.status(t, id); got != "200" {
			t.Fatalf("stream %d: %s", id, got)
		}
		f.until(t, "its end", func(fr http2.Frame) bool {
			return fr.Header().StreamID == id && fr.Header().Flags.Has(http2.FlagDataEndStream)
		})
	}
}
