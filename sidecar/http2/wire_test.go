package http2

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// wire is the far end of an HTTP/2 connection in memory, under testing/synctest: it reads all that comes, acknowledges SETTINGS and PING, and tells the
// rest as text. What it sends is up to the test; no window is opened by itself.
type wire struct {
	t  *testing.T
	c  *testmesh.MemConn
	fr *xhttp2.Framer

	mute bool // it does not acknowledge SETTINGS

	mu    sync.Mutex
	lines []string
	sent  map[uint32]int // DATA that came, per stream
	grant map[uint32]int // WINDOW_UPDATE that came, per stream
	ended bool
}

func newWire(t *testing.T, c net.Conn) *wire {
	w := &wire{t: t, c: c.(*testmesh.MemConn), fr: xhttp2.NewFramer(c, c), sent: map[uint32]int{}, grant: map[uint32]int{}}
	w.fr.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	return w
}

// read runs until the connection ends.
func (w *wire) read() {
	for {
		f, err := w.fr.ReadFrame()
		w.mu.Lock()
		if err != nil {
			w.ended = true
			w.mu.Unlock()
			return
		}
		id := f.Header().StreamID
		end := ""
		if f.Header().Flags.Has(xhttp2.FlagDataEndStream) {
			end = " END"
		}
		switch f := f.(type) {
		case *xhttp2.MetaHeadersFrame:
			var fields []string
			for _, h := range f.Fields {
				fields = append(fields, h.Name+": "+h.Value)
			}
			w.lines = append(w.lines, fmt.Sprintf("%d HEADERS%s %s", id, end, strings.Join(fields, " | ")))
		case *xhttp2.DataFrame:
			w.sent[id] += len(f.Data())
			text := string(f.Data())
			if len(text) > 40 {
				text = fmt.Sprint(len(text), " bytes")
			}
			w.lines = append(w.lines, strings.TrimSuffix(fmt.Sprintf("%d DATA%s %s", id, end, text), " "))
		case *xhttp2.RSTStreamFrame:
			w.lines = append(w.lines, fmt.Sprintf("%d RST_STREAM %v", id, f.ErrCode))
		case *xhttp2.WindowUpdateFrame:
			w.grant[id] += int(f.Increment)
		case *xhttp2.GoAwayFrame:
			w.lines = append(w.lines, fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, f.ErrCode))
		case *xhttp2.SettingsFrame:
			if !f.IsAck() && !w.mute {
				w.reply(appendFrame(nil, 0, frameSettings, flagEnd, 0))
			}
		case *xhttp2.PingFrame:
			if !f.IsAck() {
				w.reply(appendPing(nil, true, f.Data))
			}
		}
		w.mu.Unlock()
	}
}

// reply writes a frame beside those of the test, whose the Framer is.
func (w *wire) reply(b []byte) {
	go func() { _, _ = w.c.Write(b) }()
}

// told is what has come since it was asked last, when nothing more comes.
func (w *wire) told() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.lines
	w.lines = nil
	return lines
}

// want compares told with lines. "…" at the end of a line stands for any rest.
func (w *wire) want(lines ...string) {
	w.t.Helper()
	sameLines(w.t, w.told(), lines)
}

func sameLines(t *testing.T, got, want []string) {
	t.Helper()
	same := slices.EqualFunc(got, want, func(g, w string) bool {
		begin, open := strings.CutSuffix(w, "…")
		return g == w || open && strings.HasPrefix(g, begin)
	})
	if !same {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// data is how many bytes have come on a stream, and granted how many it was granted.
func (w *wire) data(id uint32) int    { return w.count(w.sent, id) }
func (w *wire) granted(id uint32) int { return w.count(w.grant, id) }

func (w *wire) count(m map[uint32]int, id uint32) int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return m[id]
}

func (w *wire) head(id uint32, end bool, fields ...string) {
	_ = w.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: encoded(fields...), EndStream: end, EndHeaders: true})
}

func (w *wire) body(id uint32, end bool, text string) {
	for len(text) > maxFrame {
		_ = w.fr.WriteData(id, false, []byte(text[:maxFrame]))
		text = text[maxFrame:]
	}
	_ = w.fr.WriteData(id, end, []byte(text))
}

// result is what an exchange has come to.
type result struct {
	exchange.Outcome
	in, out, messagesIn, messagesOut uint64
	legs                             flow.Legs
}

func resultOf(x *exchange.Exchange) result {
	return result{x.Outcome, x.BytesIn.Load(), x.BytesOut.Load(), x.MessagesIn.Load(), x.MessagesOut.Load(), x.Legs}
}

// lent is an HTTP/2 caller whose exchanges a sender of another version carries: the test.
type lent struct {
	*wire
	room    *exchange.Room
	results chan result
	served  chan struct{}
}

// lend serves one caller until the test ends. send is the sender.
func lend(t *testing.T, peer exchange.Peer, l policy.Limits, send func(x *exchange.Exchange, c exchange.Caller)) *lent {
	t.Helper()
	near, away := memPair(t)
	p := &lent{wire: newWire(t, away), room: &exchange.Room{}, results: make(chan result, 10), served: make(chan struct{})}
	bound := &exchange.Binding{Room: p.room, Listener: policy.Listener{Limits: l.WithDefaults()}}
	srv := &Server{Side: flow.SideServer, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
		x.Destination = &exchange.Destination{}
		send(x, x.Downstream.(exchange.Caller))
		if o := &x.Outcome; o.Reason != flow.ReasonNone && !o.Committed {
			o.Answered = x.Downstream.Answer(x)
		}
		p.results <- resultOf(x)
	})}
	go func() {
		defer close(p.served)
		srv.Serve(&exchange.Session{Conn: near, Peer: &peer, Start: time.Now(), Bind: func() *exchange.Binding { return bound }, Report: nobody{}})
	}()
	_, _ = io.WriteString(away, preface)
	_ = p.fr.WriteSettings()
	go p.read()                          // not before: it answers SETTINGS, which would come before the preface
	_ = p.fr.WriteWindowUpdate(0, 1<<20) // the stream's is what counts
	p.told()
	return p
}

// close ends the caller's connection and waits for the Server.
func (p *lent) close() {
	p.t.Helper()
	_ = p.c.Close()
	<-p.served
	if n := p.room.Used(); n != 0 {
		p.t.Errorf("%d bytes of room are left", n)
	}
}

// memPair is a connection in memory.
func memPair(t *testing.T) (near, away net.Conn) {
	t.Helper()
	n, addr := testmesh.NewNet(), netip.MustParseAddrPort("10.0.0.1:80")
	l, err := n.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if away, err = n.Dialer(netip.MustParseAddr("10.0.0.2"))(t.Context(), addr); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, away
}

// wireless is the far end of a connection of bytes, of which all is read.
type wireless struct {
	*testmesh.MemConn
	mu   sync.Mutex
	came []byte
	end  bool
}

func newWireless(c net.Conn) *wireless {
	w := &wireless{MemConn: c.(*testmesh.MemConn)}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			w.mu.Lock()
			w.came = append(w.came, b[:n]...)
			if err != nil {
				w.end = true
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// got is what has come so far, when nothing more comes.
func (w *wireless) got() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.came)
}

func (w *wireless) ended() bool {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}

func (w *wireless) reset() { w.MemConn.Reset() }
