package exchange

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// opaque hides the Socket that it is.
type opaque struct{ net.Conn }

func (o opaque) CloseWrite() error { return CloseWrite(o.Conn) }

// sequence is what one peer sends, to any length, and what the other must get.
type sequence struct{ block []byte }

func newSequence(r *rand.Rand) sequence {
	s := sequence{make([]byte, 65521)} // a prime: no buffer's size divides it
	for i := range s.block {
		s.block[i] = byte(r.Uint32())
	}
	return s
}

// at are up to n bytes from offset.
func (s sequence) at(offset, n int) []byte {
	from := offset % len(s.block)
	return s.block[from:min(from+n, len(s.block))]
}

// far is the peer at one end of a relay: it sends length bytes in pieces, and checks what it gets.
type far struct {
	t       *testing.T
	conn    net.Conn      // TLS, perhaps
	tcp     *net.TCPConn  // below it
	sends   sequence      // and gets, of the other
	gets    sequence      //
	length  int           // to send; then it ends its half
	pieces  func() int    // sizes of writes
	waits   chan struct{} // before it reads; nil: it reads at once
	resets  int           // after this many bytes read it resets; -1: never
	onByte  func(n int)   // of bytes read so far
	got     atomic.Int64
	sent    atomic.Int64
	gotEnd  atomic.Bool
	done    chan struct{} // it reads no more
	written chan struct{} // it writes no more
}

func (f *far) write() {
	defer close(f.written)
	for at := 0; at < f.length; {
		piece := min(f.pieces(), f.length-at)
		for piece > 0 {
			b := f.sends.at(at, piece)
			n, err := f.conn.Write(b)
			at, piece = at+n, piece-n
			f.sent.Store(int64(at))
			if err != nil {
				return
			}
		}
	}
	_ = CloseWrite(f.conn)
}

func (f *far) read() {
	defer close(f.done)
	if f.waits != nil {
		<-f.waits
	}
	b := make([]byte, 20_000)
	for at := 0; ; {
		if f.resets >= 0 && at >= f.resets {
			_ = f.tcp.SetLinger(0)
			_ = f.tcp.Close()
			return
		}
		n, err := f.conn.Read(b)
		for i := 0; i < n; {
			want := f.gets.at(at+i, n-i)
			if !bytes.Equal(b[i:i+len(want)], want) {
				f.t.Errorf("bytes %d to %d are not what was sent", at+i, at+i+len(want))
				return
			}
			i += len(want)
		}
		at += n
		f.got.Store(int64(at))
		if f.onByte != nil {
			f.onByte(at)
		}
		if err != nil {
			f.gotEnd.Store(errors.Is(err, io.EOF))
			return
		}
	}
}

// ends makes a relay's end and its peer's, of a kind.
func ends(t testing.TB, ca *testmesh.CA, kind string, server bool) (RelayEnd, net.Conn, *net.TCPConn) {
	if kind == "unix" {
		near, peer := unixPair(t)
		return RelayEnd{Conn: near}, peer, nil
	}
	near, peer := pair(t)
	switch kind {
	case "opaque":
		return RelayEnd{Conn: opaque{near}}, peer, peer
	case "tls":
		serving, calling := ca.Holder("a").ServerTLS(), ca.Holder("b").ClientTLS(testmesh.ID("a"))
		var secure, other *tls.Conn
		if server {
			secure, other = tls.Server(near, serving), tls.Client(peer, calling)
		} else {
			secure, other = tls.Client(near, calling), tls.Server(peer, serving)
		}
		shaken := make(chan error, 1)
		go func() { shaken <- other.Handshake() }()
		if err := errors.Join(secure.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		return RelayEnd{Conn: secure}, other, peer
	}
	return RelayEnd{Conn: near}, peer, peer
}

// TestRelayRandom: random bytes in random pieces through relays of sockets, TLS and what is neither, with half-closes in any order, peers that do not
// read, resets, aborts and idle ends, against what was sent: what arrives is a beginning of it, and all of it when both ended in order; what is counted has
// been sent, and has all arrived when both ended in order; the relay says who ended it; and nothing is held afterwards.
func TestRelayRandom(t *testing.T) {
	runs, first := 60, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("RANDOM_SEEDS")); err == nil {
		runs = n
	}
	if n, err := strconv.ParseUint(os.Getenv("RANDOM_SEED"), 10, 64); err == nil {
		first = n
	}
	ca := testmesh.NewCA(t)
	kinds := []string{"plain", "plain", "plain", "tls", "opaque", "unix"}
	for seed := first; seed < first+uint64(runs); seed++ { //nolint:gosec // not below 0
		r := rand.New(rand.NewPCG(seed, 5))
		story := []string{"order", "order", "reset", "abort", "idle", "stall"}[r.IntN(6)]
		downKind, upKind := kinds[r.IntN(len(kinds))], kinds[r.IntN(len(kinds))]
		if story == "reset" { // a Unix socket knows none
			downKind, upKind = strings.ReplaceAll(downKind, "unix", "plain"), strings.ReplaceAll(upKind, "unix", "plain")
		}
		t.Run(fmt.Sprintf("%d/%s/%s-%s", seed, story, downKind, upKind), func(t *testing.T) {
			relayStory(t, r, ca, story, downKind, upKind)
		})
	}
}

func relayStory(t *testing.T, r *rand.Rand, ca *testmesh.CA, story, downKind, upKind string) {
	down, caller, callerTCP := ends(t, ca, downKind, true)
	up, app, appTCP := ends(t, ca, upKind, false)
	there, back := newSequence(r), newSequence(r)
	peers := [2]*far{
		{t: t, conn: caller, tcp: callerTCP, sends: there, gets: back},
		{t: t, conn: app, tcp: appTCP, sends: back, gets: there},
	}
	for _, f := range peers {
		f.done, f.written, f.resets = make(chan struct{}), make(chan struct{}), -1
		f.length = []int{0, 1, 100, smallBuffer, 100_000, 1 << 20, 5 << 20}[r.IntN(7)]
		seed := r.Uint64()
		own, largest := rand.New(rand.NewPCG(seed, 1)), []int{100, 5000, 100_000, 1 << 20}[r.IntN(4)]
		if f.length > 1<<20 && largest == 100 {
			largest = 5000
		}
		f.pieces = func() int {
			if own.IntN(50) == 0 {
				return 1 + own.IntN(300_000)
			}
			return 1 + own.IntN(largest)
		}
	}
	room := &Room{}
	x := &Exchange{Kind: flow.KindConnection, Binding: &Binding{Room: room}, Start: time.Now()}
	x.Reset()
	if r.IntN(2) == 0 { // as detection leaves it
		peers[0].length = max(peers[0].length, 1000)
		b := peers[0].sends.at(0, 1000)
		if downKind == "plain" {
			if _, err := caller.Write(b); err != nil {
				t.Fatal(err)
			}
			down.Buffered = make([]byte, 1000)
			if _, err := io.ReadFull(down.Conn, down.Buffered); err != nil {
				t.Fatal(err)
			}
			rest := peers[0].sends.block
			peers[0].sends = sequence{append(append([]byte(nil), rest[1000:]...), rest[:1000]...)}
			peers[0].length -= 1000
			peers[0].sent.Store(1000)
			defer func() { peers[0].sent.Add(1000) }()
		}
	}
	idle, who := time.Hour, r.IntN(2)
	first, other := peers[who], peers[1-who]
	switch story {
	case "reset":
		other.length = max(other.length, 100_000)
		first.resets = r.IntN(other.length)
		first.length = 1 << 30 // it does not end before: what a reset does to what was sent is the kernel's to say
	case "abort":
		at := r.IntN(max(other.length, 1))
		var once sync.Once
		first.onByte = func(n int) {
			if n >= at {
				once.Do(func() { x.Abort(flow.ReasonDraining) })
			}
		}
	case "idle":
		idle = 60 * time.Millisecond
		first.waits = make(chan struct{}) // it never reads
		first.length, other.length = 1<<30, 1<<30
	case "stall": // one does not read until the other has got everything
		first.waits = other.done
	}
	type result struct {
		reason flow.Reason
		err    error
	}
	ended := make(chan result, 1)
	go func() {
		reason, err := Relay(x, down, up, idle)
		for _, end := range []RelayEnd{down, up} {
			c := below(end)
			if tcp, ok := c.(*net.TCPConn); ok && reason != flow.ReasonNone {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		}
		ended <- result{reason, err}
	}()
	for _, f := range peers {
		go f.write()
		go f.read()
	}
	res := <-ended
	if story == "idle" {
		close(first.waits)
	}
	for _, f := range peers {
		<-f.done
		<-f.written
	}
	in, out := x.BytesIn.Load(), x.BytesOut.Load()
	if arrived := uint64(peers[1].got.Load()); arrived > in { //nolint:gosec // not below 0
		t.Errorf("%d bytes arrived upstream, %d were counted", arrived, in)
	}
	if arrived := uint64(peers[0].got.Load()); arrived > out { //nolint:gosec // not below 0
		t.Errorf("%d bytes arrived downstream, %d were counted", arrived, out)
	}
	if used := room.Used(); used != 0 {
		t.Errorf("%d bytes of the room are still taken", used)
	}
	if n := pipesHeld(); n != 0 {
		t.Errorf("%d pipes are still held", n)
	}
	o := x.Outcome.Ended
	switch {
	case story == "order" || story == "stall" || story == "abort" && res.reason == flow.ReasonNone:
		buffered := len(down.Buffered)
		if res.err != nil || o != flow.EndedDownstreamFIN && o != flow.EndedUpstreamFIN {
			t.Fatalf("ended %v, %v, %v", o, res.reason, res.err)
		}
		if n := peers[0].length + buffered; int(in) != n || int(peers[1].got.Load()) != n || !peers[1].gotEnd.Load() { //nolint:gosec // small
			t.Errorf("the caller sent %d bytes, %d were counted, %d arrived", n, in, peers[1].got.Load())
		}
		if n := peers[1].length; int(out) != n || int(peers[0].got.Load()) != n || !peers[0].gotEnd.Load() { //nolint:gosec // small
			t.Errorf("the application sent %d bytes, %d were counted, %d arrived", n, out, peers[0].got.Load())
		}
		if l := x.Legs; out > 0 && (l.FirstByte < 0 || l.LastByte < l.FirstByte) || in > 0 && l.Sent < 0 || in == 0 && l.Sent >= 0 {
			t.Errorf("legs %+v", l)
		}
	case story == "abort":
		if res.reason != flow.ReasonDraining || o != flow.EndedDrained {
			t.Errorf("ended %v, %v, %v", o, res.reason, res.err)
		}
	case story == "reset":
		reason, end := flow.ReasonDownstreamReset, flow.EndedDownstreamReset
		if who == 1 {
			reason, end = flow.ReasonUpstreamReset, flow.EndedUpstreamReset
		}
		if res.reason != reason || o != end {
			t.Errorf("ended %v, %v, %v; want %v", o, res.reason, res.err, end)
		}
	case story == "idle":
		if res.reason == flow.ReasonNone || o != flow.EndedIdle {
			t.Errorf("ended %v, %v, %v", o, res.reason, res.err)
		}
	}
}

// below is the socket of a relay's end.
func below(e RelayEnd) net.Conn {
	c := e.Conn
	if s, ok := c.(*tls.Conn); ok {
		c = s.NetConn()
	}
	if o, ok := c.(opaque); ok {
		c = o.Conn
	}
	if s, ok := c.(*Socket); ok {
		return s.stream
	}
	return c
}
