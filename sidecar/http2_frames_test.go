package sidecar

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// frames is an end of a connection that says what a test wants, right or wrong.
type frames struct {
	*http2.Framer
	c    net.Conn
	enc  *hpack.Encoder
	head bytes.Buffer
}

// dialFrames opens a connection and sends its preface.
func dialFrames(t testing.TB, addr netip.AddrPort, settings ...http2.Setting) *frames {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := newFrames(c)
	if err := f.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return f
}

func newFrames(c net.Conn) *frames {
	f := &frames{c: c, Framer: http2.NewFramer(c, c)}
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.head)
	return f
}

func (f *frames) block(fields ...string) []byte {
	f.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return f.head.Bytes()
}

func get2(path string, more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":path", path, ":authority", "ext"}, more...)
}

func post2(path string, more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "ext"}, more...)
}

func (f *frames) headers(id uint32, end bool, fields ...string) {
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(fields...), EndStream: end, EndHeaders: true})
}

// until reads frames until stop says so; it acknowledges SETTINGS.
func (f *frames) until(t testing.TB, what string, stop func(http2.Frame) bool) {
	t.Helper()
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if s, ok := fr.(*http2.SettingsFrame); ok && !s.IsAck() {
			_ = f.WriteSettingsAck()
		}
		if stop(fr) {
			return
		}
	}
}

// status waits for the head of a response.
func (f *frames) status(t testing.TB, id uint32) (status string, head *http2.MetaHeadersFrame) {
	t.Helper()
	f.until(t, fmt.Sprint("a head on stream ", id), func(fr http2.Frame) bool {
		h, ok := fr.(*http2.MetaHeadersFrame)
		if ok && h.StreamID == id {
			status, head = h.PseudoValue("status"), h
			return true
		}
		if r, ok := fr.(*http2.RSTStreamFrame); ok && r.StreamID == id {
			status = "RST " + r.ErrCode.String()
			return true
		}
		if g, ok := fr.(*http2.GoAwayFrame); ok && g.ErrCode != http2.ErrCodeNo {
			status = "GOAWAY " + g.ErrCode.String()
			return true
		}
		return false
	})
	return status, head
}

// pong waits until all that was sent has been read.
func (f *frames) pong(t testing.TB) {
	t.Helper()
	_ = f.WritePing(false, [8]byte{'p', 'o', 'n', 'g'})
	f.until(t, "an answer to PING", func(fr http2.Frame) bool {
		p, ok := fr.(*http2.PingFrame)
		return ok && p.IsAck() && p.Data[0] == 'p'
	})
}

// ended waits for the end of a connection and returns the code of its last GOAWAY.
func (f *frames) ended(t testing.TB) (why http2.ErrCode) {
	t.Helper()
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				t.Fatal("the connection was not closed")
			}
			return why
		}
		if g, ok := fr.(*http2.GoAwayFrame); ok {
			why = g.ErrCode
		}
	}
}

func value2(h *http2.MetaHeadersFrame, name string) string {
	for _, f := range h.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// scripted2 is an upstream that speaks HTTP/2 as script says.
func scripted2(t *testing.T, settings []http2.Setting, script func(f *frames, fr http2.Frame)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return scriptedOn(t, l, settings, script)
}

// meshed2 is scripted2 behind the TLS of a sidecar. accepted is called for each connection, before its handshake.
func meshed2(t *testing.T, h *identity.Holder, settings []http2.Setting, accepted func(), script func(f *frames, fr http2.Frame)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure := h.ServerTLS()
	secure.NextProtos = []string{"h2"}
	return scriptedOn(t, tls.NewListener(watched{l, accepted}, secure), settings, script)
}

// watched is a listener that says when a connection was accepted.
type watched struct {
	net.Listener
	accepted func()
}

func (w watched) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err == nil {
		w.accepted()
	}
	return c, err
}

// scriptedOn is scripted2 on a listener.
func scriptedOn(t *testing.T, l net.Listener, settings []http2.Setting, script func(f *frames, fr http2.Frame)) netip.AddrPort {
	t.Helper()
	scriptedAt(t, l, func(c net.Conn, _ *bufio.Reader) {
		var b [len(http2.ClientPreface)]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return
		}
		f := newFrames(c)
		_ = f.WriteSettings(settings...)
		for {
			fr, err := f.ReadFrame()
			if err != nil {
				return
			}
			if s, ok := fr.(*http2.SettingsFrame); ok {
				if !s.IsAck() {
					_ = f.WriteSettingsAck()
				}
				continue
			}
			script(f, fr)
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// withLimits is front with limits of HTTP/2.
func withLimits(t *testing.T, l policy.Limits, up netip.AddrPort) (*running, netip.AddrPort) {
	snap := clientSnapshot(external(func(s *policy.Service) { s.Retry.Attempts = 1 }), up)
	snap.Listeners[0].Limits = l
	r := start(t, snap, &identity.Holder{}, time.Second)
	return r, r.addr(t, "outbound")
}

// Each limit of policy.HTTP2 ends the connection, or refuses the stream, is counted and reported, and leaves nothing behind.
func TestHTTP2Limits(t *testing.T) {
	quiet := scripted2(t, nil, func(*frames, http2.Frame) {}) // never answers
	small := policy.HTTP2{Streams: 10, Resets: 20, ControlFrames: 50, EmptyFrames: 5, PriorityFrames: 20, WindowUpdates: 20, Continuations: 4}
	for _, c := range []struct {
		name   string
		limit  exchange.Limit
		attack func(f *frames)
	}{
		{"rapid reset", exchange.LimitResets, func(f *frames) {
			for id := uint32(1); id < 200; id += 2 {
				f.headers(id, true, get2("/")...)
				_ = f.WriteRSTStream(id, http2.ErrCodeCancel)
			}
		}},
		{"reset made by us: window update of 0", exchange.LimitResets, func(f *frames) {
			for id := uint32(1); id < 200; id += 2 {
				f.headers(id, true, get2("/")...)
				_ = f.WriteWindowUpdate(id, 0)
			}
		}},
		{"reset made by us: window overflow", exchange.LimitResets, func(f *frames) {
			for id := uint32(1); id < 200; id += 2 {
				f.headers(id, false, post2("/")...)
				_ = f.WriteWindowUpdate(id, 1<<31-1)
			}
		}},
		{"reset made by us: data after the end", exchange.LimitResets, func(f *frames) {
			for id := uint32(1); id < 200; id += 2 {
				f.headers(id, true, get2("/")...)
				_ = f.WriteData(id, false, []byte("x"))
			}
		}},
		{"reset made by us: priority on itself", exchange.LimitResets, func(f *frames) {
			for id := uint32(1); id < 200; id += 2 {
				f.headers(id, true, get2("/")...)
				_ = f.WritePriority(id, http2.PriorityParam{StreamDep: id})
			}
		}},
		{"malformed requests", exchange.LimitResets, func(f *frames) {
			for id := uint32(1); id < 200; id += 2 {
				f.headers(id, true, get2("/", "Upper", "x")...)
			}
		}},
		{"streams over the limit", exchange.LimitResets, func(f *frames) {
			for id := uint32(1); id < 400; id += 2 {
				f.headers(id, true, get2("/")...)
			}
		}},
		{"PING", exchange.LimitControlFrames, func(f *frames) {
			for range 1 << 20 { // whose answers nobody reads
				if f.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		}},
		{"SETTINGS", exchange.LimitControlFrames, func(f *frames) {
			for range 1 << 20 {
				if f.WriteSettings() != nil {
					return
				}
			}
		}},
		{"empty DATA", exchange.LimitEmptyFrames, func(f *frames) {
			f.headers(1, false, post2("/")...)
			for range 100 {
				_ = f.WriteData(1, false, nil)
			}
		}},
		{"PRIORITY", exchange.LimitPriorityFrames, func(f *frames) {
			for range 100 {
				_ = f.WritePriority(1, http2.PriorityParam{StreamDep: 3})
			}
		}},
		{"frames of an unknown type", exchange.LimitPriorityFrames, func(f *frames) {
			for range 100 {
				_ = f.WriteRawFrame(0xee, 0, 0, nil)
			}
		}},
		{"WINDOW_UPDATE", exchange.LimitWindowUpdates, func(f *frames) {
			for range 100 {
				_ = f.WriteWindowUpdate(0, 1)
			}
		}},
		{"CONTINUATION", exchange.LimitContinuations, func(f *frames) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(get2("/")...)})
			for range 100 {
				_ = f.WriteContinuation(1, false, f.block("a", "b"))
			}
		}},
		{"CONTINUATION without a byte", exchange.LimitContinuations, func(f *frames) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(get2("/")...)})
			for range 100 {
				_ = f.WriteContinuation(1, false, nil)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, addr := withLimits(t, policy.Limits{HTTP2: small}, quiet)
			f := dialFrames(t, addr)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				c.attack(f)
			}()
			if strings.HasPrefix(c.limit.String(), "http2.control") { // read only when it has noticed
				testmesh.Eventually(t, "the limit is reached", func() bool { return r.Room().Count(c.limit) > 0 })
			}
			if why := f.ended(t); why != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("the connection ended with %v", why)
			}
			_ = f.c.Close()
			<-sent
			if n := r.Room().Count(c.limit); n != 1 {
				t.Errorf("the limit was reached %d times", n)
			}
			testmesh.Eventually(t, "nothing is left", func() bool { return r.Connections() == 0 && r.rec.Live() == 0 && r.Room().Used() == 0 })
			told := false
			for _, rec := range r.rec.Closed(flow.KindConnection) {
				told = told || rec.Reason == flow.ReasonBadRequest && strings.Contains(rec.Detail, c.limit.String())
			}
			if !told {
				t.Errorf("no Record names the limit: %+v", r.rec.Closed(flow.KindConnection))
			}
		})
	}
}

// What is too much of one head is decoded, for the table's sake, and refused; the connection goes on.
func TestHTTP2Heads(t *testing.T) {
	up := h2app(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-saw", r.Host+" "+r.URL.Path+" "+r.Header.Get("Cookie")) // ends with a space, mostly
	})
	r, addr := withLimits(t, policy.Limits{HeadBytes: 8 << 10, HeadFields: 20, RequestLine: 500}, up)
	f := dialFrames(t, addr)
	var many, crumbs []string
	for i := range 30 {
		many = append(many, fmt.Sprint("a", i), "b")
		crumbs = append(crumbs, "cookie", strings.Repeat("c", 600))
	}
	id := uint32(1)
	for _, c := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"plain", get2("/"), "200"},
		{"fields", get2("/", many...), "431"},
		{"bytes", get2("/", "a", strings.Repeat("x", 9000)), "431"},
		{"crumbs", get2("/", crumbs...), "431"},
		{"again, by index", get2("/", "a", strings.Repeat("x", 3000)), "200"},
		{"line", get2("/" + strings.Repeat("y", 600)), "414"},
		{"dots", get2("/../x"), "400"},
		{"upper case", get2("/", "Upper", "x"), "RST PROTOCOL_ERROR"},
		{"hop", get2("/", "connection", "close"), "RST PROTOCOL_ERROR"},
		{"te", get2("/", "te", "gzip"), "RST PROTOCOL_ERROR"},
		{"space", get2("/", "a", " b"), "RST PROTOCOL_ERROR"},
		{"line end", get2("/", "a", "b\r\nc"), "RST PROTOCOL_ERROR"},
		{"late pseudo", append(get2("/", "a", "b"), ":method", "GET"), "RST PROTOCOL_ERROR"},
		{"unknown pseudo", append([]string{":strange", "b"}, get2("/")...), "RST PROTOCOL_ERROR"},
		{"two paths", append([]string{":path", "/b"}, get2("/")...), "RST PROTOCOL_ERROR"},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "a"}, "RST PROTOCOL_ERROR"},
		{"no authority", []string{":method", "GET", ":scheme", "http", ":path", "/"}, "RST PROTOCOL_ERROR"},
		{"other host", get2("/", "host", "other"), "RST PROTOCOL_ERROR"},
		{"same host", get2("/", "host", "ext"), "200"},
		{"length of nothing", get2("/", "content-length", "5"), "RST PROTOCOL_ERROR"},
		{"response pseudo", get2("/", ":status", "200"), "RST PROTOCOL_ERROR"},
		{"connect with path", []string{":method", "CONNECT", ":authority", "a:1", ":path", "/", ":scheme", "http"}, "RST PROTOCOL_ERROR"},
		{"connect without port", []string{":method", "CONNECT", ":authority", "a"}, "400"},
		{"ftp", []string{":method", "GET", ":scheme", "ftp", ":path", "/", ":authority", "a"}, "RST PROTOCOL_ERROR"},
		{"still there", get2("/", "cookie", "a=1", "cookie", "b=2"), "200"},
	} {
		f.headers(id, true, c.fields...)
		got, head := f.status(t, id)
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if c.name == "still there" && value2(head, "x-saw") != "ext / a=1; b=2" {
			t.Errorf("the service saw %q", value2(head, "x-saw"))
		}
		id += 2
	}
	if n := r.Room().Count(exchange.LimitHeadBytes); n != 2 {
		t.Errorf("headBytes was reached %d times", n)
	}
	if n := r.Room().Count(exchange.LimitHeadFields); n != 1 {
		t.Errorf("headFields was reached %d times", n)
	}
}

// A caller that opens streams and never reads them costs their windows, and no more; other streams of the connection go on.
func TestHTTP2StalledStreams(t *testing.T) {
	const streams, window = 1000, 64 << 10
	body := bytes.Repeat([]byte("z"), 1<<20)
	var wrote sync.WaitGroup
	up := h2app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stalled" {
			wrote.Add(1)
			defer wrote.Done()
		}
		_, _ = w.Write(body)
	})
	snap := clientSnapshot(external(func(s *policy.Service) { s.MaxRequests = 2000 }), up)
	snap.Listeners[0].Limits.HTTP2 = policy.HTTP2{Streams: 2 * streams, StreamWindow: window, ConnectionWindow: 4 << 20}
	r := start(t, snap, &identity.Holder{}, time.Second)
	f := dialFrames(t, r.addr(t, "outbound"), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	_ = f.WriteWindowUpdate(0, 1<<30)
	for i := range uint32(streams) {
		f.headers(1+2*i, true, get2("/stalled")...)
	}
	heads, firsts := 0, 0
	f.until(t, "a head and a byte of every stream", func(fr http2.Frame) bool {
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			heads++
		case *http2.DataFrame:
			firsts += len(fr.Data())
		}
		return heads == streams && firsts == streams
	})
	settled, last := 0, int64(-1)
	testmesh.Eventually(t, "what waits does not grow", func() bool { // the same for a hundred looks
		used := r.Room().Used()
		if settled++; used != last {
			settled, last = 0, used
		}
		return settled > 100
	})
	if most := int64(streams * (window + 16<<10 + 4<<10)); last > most || last < streams<<10 {
		t.Errorf("%d bytes wait, %d at most", last, most)
	}
	// One of them goes on as if it were alone.
	id := uint32(2*streams + 1)
	f.headers(id, true, get2("/fast")...)
	_ = f.WriteWindowUpdate(id, 2<<20)
	got := 0
	f.until(t, "the whole body of the fast stream", func(fr http2.Frame) bool {
		d, ok := fr.(*http2.DataFrame)
		if ok && d.StreamID == id {
			got += len(d.Data())
		}
		return ok && d.StreamID == id && d.StreamEnded()
	})
	if got != len(body) {
		t.Errorf("the fast stream got %d bytes", got)
	}
	_ = f.c.Close()
	testmesh.Eventually(t, "nothing is left", func() bool { return r.rec.Live() == 0 && r.Room().Used() == 0 })
}

// A caller that uploads what nobody reads may send its window and no more.
func TestHTTP2StalledUploads(t *testing.T) {
	release := make(chan struct{})
	up := h2app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stalled" {
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	defer close(release)
	r, addr := withLimits(t, policy.Limits{HTTP2: policy.HTTP2{StreamWindow: 100 << 10, ConnectionWindow: 200 << 10}}, up)
	f := dialFrames(t, addr)
	granted := map[uint32]int{0: 65535, 1: 100 << 10, 3: 100 << 10}
	take := func(fr http2.Frame) {
		if w, ok := fr.(*http2.WindowUpdateFrame); ok {
			granted[w.StreamID] += int(w.Increment)
		}
	}
	f.headers(1, false, post2("/stalled")...)
	sent := 0
	chunk := make([]byte, 1<<10)
	send := func(id uint32) {
		for granted[0] >= len(chunk) && granted[id] >= len(chunk) {
			_ = f.WriteData(id, false, chunk)
			granted[0] -= len(chunk)
			granted[id] -= len(chunk)
			sent += len(chunk)
		}
	}
	// The service's own window (net/http2's is 1 MiB for a stream) and ours are all that fits.
	for stop := false; !stop; {
		send(1)
		_ = f.WritePing(false, [8]byte{1})
		f.until(t, "an answer to PING", func(fr http2.Frame) bool {
			take(fr)
			p, ok := fr.(*http2.PingFrame)
			return ok && p.IsAck()
		})
		stop = granted[1] < len(chunk) || granted[0] < len(chunk)
		if stop { // what was sent may still be on its way to the service, which would grant more
			before := granted[1]
			testmesh.Eventually(t, "the sidecar has passed on what it could", func() bool {
				_ = f.WritePing(false, [8]byte{2})
				f.until(t, "an answer to PING", func(fr http2.Frame) bool {
					take(fr)
					p, ok := fr.(*http2.PingFrame)
					return ok && p.IsAck()
				})
				return granted[1] != before || r.Room().Used() >= 64<<10
			})
			stop = granted[1] < len(chunk)
		}
	}
	if granted[0] < 64<<10 {
		t.Fatalf("a stalled stream starves the connection: %d bytes are left of its window", granted[0])
	}
	// Another stream of the connection is not stopped by it.
	f.headers(3, false, post2("/fast")...)
	left := 1 << 20
	for left > 0 {
		for left > 0 && granted[0] >= len(chunk) && granted[3] >= len(chunk) {
			_ = f.WriteData(3, left == len(chunk), chunk)
			granted[0] -= len(chunk)
			granted[3] -= len(chunk)
			left -= len(chunk)
		}
		if left > 0 {
			fr, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			take(fr)
		}
	}
	if status, _ := f.status(t, 3); status != "200" {
		t.Errorf("the fast stream got %s", status)
	}
	_ = f.c.Close()
	testmesh.Eventually(t, "nothing is left", func() bool { return r.rec.Live() == 0 && r.Room().Used() == 0 })
}
