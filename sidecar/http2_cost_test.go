package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// h2end is one end of an HTTP/2 connection that allocates nothing in its steady state, so that what is measured is what stands between two of them.
type h2end struct {
	c    net.Conn
	in   []byte
	r, w int
	out  []byte
	enc  *hpack.Encoder
	head bytes.Buffer
	got  int // DATA that has not been credited
}

func newH2end(c net.Conn) *h2end {
	s := &h2end{c: c, in: make([]byte, 64<<10)}
	s.enc = hpack.NewEncoder(&s.head)
	return s
}

func (s *h2end) frame(kind http2.FrameType, flags http2.Flags, id uint32, p []byte) {
	n := len(p)
	s.out = append(s.out, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
	s.out = append(s.out, p...)
}

func (s *h2end) headers(id uint32, end bool, fields []hpack.HeaderField) {
	s.head.Reset()
	for _, f := range fields {
		_ = s.enc.WriteField(f)
	}
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	s.frame(http2.FrameHeaders, flags, id, s.head.Bytes())
}

func (s *h2end) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.c.Write(s.out)
	s.out = s.out[:0]
	return err
}

// next reads a frame; what has to be answered on the connection is.
func (s *h2end) next() (kind http2.FrameType, flags http2.Flags, id uint32, p []byte, err error) {
	for {
		if have := s.w - s.r; have >= 9 {
			h := s.in[s.r:]
			n := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
			if have >= 9+n {
				kind, flags, id, p = http2.FrameType(h[3]), http2.Flags(h[4]), binary.BigEndian.Uint32(h[5:9]), h[9:9+n]
				s.r += 9 + n
				switch {
				case kind == http2.FrameSettings && flags == 0:
					s.frame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
				case kind == http2.FramePing && flags == 0:
					s.frame(http2.FramePing, http2.FlagPingAck, 0, p)
				case kind == http2.FrameData:
					if s.got += n; s.got > 16<<10 {
						var b [4]byte
						binary.BigEndian.PutUint32(b[:], uint32(s.got))
						s.frame(http2.FrameWindowUpdate, 0, 0, b[:])
						s.got = 0
					}
				}
				return kind, flags, id, p, nil
			}
		}
		if err := s.flush(); err != nil {
			return 0, 0, 0, nil, err
		}
		if s.r > 0 {
			s.w = copy(s.in, s.in[s.r:s.w])
			s.r = 0
		}
		n, err := s.c.Read(s.in[s.w:])
		if err != nil {
			return 0, 0, 0, nil, err
		}
		s.w += n
	}
}

var grpcRequest = []hpack.HeaderField{
	{Name: ":method", Value: "POST"},
	{Name: ":scheme", Value: "http"},
	{Name: ":path", Value: "/shop.Catalog/Get"},
	{Name: ":authority", Value: "catalog"},
	{Name: "content-type", Value: "application/grpc"},
	{Name: "user-agent", Value: "grpc-go/1.83.0"},
	{Name: "te", Value: "trailers"},
}

var (
	grpcResponse = []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}}
	grpcTrailers = []hpack.HeaderField{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}}
)

// message is a gRPC message of n bytes, with its prefix.
func message(n int) []byte {
	b := make([]byte, 5+n)
	binary.BigEndian.PutUint32(b[1:], uint32(n))
	return b
}

// grpcApp answers every call with one message.
func grpcApp(t testing.TB, size int) netip.AddrPort {
	t.Helper()
	return scripted(t, func(c net.Conn, _ *bufio.Reader) { answerCalls(c, message(size)) })
}

func answerCalls(c net.Conn, body []byte) {
	defer c.Close()
	var b [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return
	}
	s := newH2end(c)
	s.frame(http2.FrameSettings, 0, 0, []byte{0, 3, 0, 0, 4, 0}) // 1,024 streams
	for {
		kind, flags, id, _, err := s.next()
		if err != nil {
			return
		}
		if (kind == http2.FrameData || kind == http2.FrameHeaders) && flags&1 != 0 {
			s.headers(id, false, grpcResponse)
			s.frame(http2.FrameData, 0, id, body)
			s.headers(id, true, grpcTrailers)
		}
	}
}

// caller is a connection that makes calls.
func caller(t testing.TB, addr netip.AddrPort) *h2end {
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	s := newH2end(c)
	s.out = append(s.out, http2.ClientPreface...)
	s.frame(http2.FrameSettings, 0, 0, nil)
	return s
}

// calls makes one call on each of n streams from id on, and waits for their ends.
func (s *h2end) calls(t testing.TB, id uint32, n int, body []byte) {
	for i := range n {
		s.headers(id+2*uint32(i), false, grpcRequest)
		s.frame(http2.FrameData, http2.FlagDataEndStream, id+2*uint32(i), body)
	}
	for n > 0 {
		kind, flags, _, _, err := s.next()
		if err != nil {
			t.Fatal(err)
		}
		if kind == http2.FrameRSTStream || kind == http2.FrameGoAway {
			t.Fatalf("got %v", kind)
		}
		if kind == http2.FrameHeaders && flags&http2.FlagHeadersEndStream != 0 {
			n--
		}
	}
}

// A gRPC call over connections that are in use allocates at most twice, over one sidecar and over two with mTLS, where each record that crypto/tls reads
// costs one allocation more.
func TestHTTP2Allocations(t *testing.T) {
	ca := testmesh.NewCA(t)
	up := grpcApp(t, 100)
	one := start(t, clientSnapshot(external(nil), up), &identity.Holder{}, 0)
	server := start(t, serverSnapshot("catalog", up, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), 0)
	web := start(t, clientSnapshot(mesh("catalog"), server.addr(t, "inbound")), ca.Holder("web"), 0)
	for _, r := range []*running{one, server, web} {
		r.observer.rec = nothing{}
	}
	for _, c := range []struct {
		name string
		addr netip.AddrPort
		n    int
		most float64 // per call
	}{
		{"one sidecar, 1 at a time", one.addr(t, "outbound"), 1, 2},
		{"one sidecar, 25 at a time", one.addr(t, "outbound"), 25, 2},
		{"mTLS, 1 at a time", web.addr(t, "outbound"), 1, 4 + 2},
		{"mTLS, 25 at a time", web.addr(t, "outbound"), 25, 4 + 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, body, id := caller(t, c.addr), message(100), uint32(1)
			call := func() {
				s.calls(t, id, c.n, body)
				id += 2 * uint32(c.n)
			}
			for range 50 {
				call()
			}
			runs := 500
			if raceEnabled { // which makes sync.Pool forget: only that it works is shown
				runs = 20
			}
			per := testing.AllocsPerRun(runs, call) / float64(c.n)
			t.Logf("%.2f allocations per call", per)
			if per > c.most && !raceEnabled {
				t.Errorf("%.2f allocations per call, want %v at most", per, c.most)
			}
		})
	}
}

func benchmarkHTTP2(b *testing.B, n int) {
	up := grpcApp(b, 100)
	addr := benchSidecar(b, clientSnapshot(external(nil), up))
	s, body, id := caller(b, addr), message(100), uint32(1)
	_ = s.c.SetDeadline(time.Time{})
	b.ReportAllocs()
	for i := 0; i < b.N; i += n {
		s.calls(b, id, n, body)
		if id += 2 * uint32(n); id > 1<<30 {
			b.Fatal("out of streams")
		}
	}
}

// BenchmarkHTTP2 is gRPC calls through one sidecar over loopback, caller and upstream included; ns and allocs are of one call, of all three.
func BenchmarkHTTP2(b *testing.B) {
	b.Run("1", func(b *testing.B) { benchmarkHTTP2(b, 1) })
	b.Run("25", func(b *testing.B) { benchmarkHTTP2(b, 25) })
}

// benchSidecar serves snap with a Recorder that keeps nothing, and returns the address of its outbound listener.
func benchSidecar(t testing.TB, snap *policy.Snapshot) netip.AddrPort {
	t.Helper()
	s, err := New(Config{Policy: policy.Static{Snapshot: snap}, Identity: &identity.Holder{}, Recorder: nothing{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, func() { close(ready) })
	}()
	<-ready
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s.Addresses()["outbound"].(*net.TCPAddr).AddrPort()
}
