package testmesh

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// Net is a network in memory that behaves as TCP on one machine does where a proxy can tell the difference: it buffers, closes each half by itself, swallows
// the first write after the peer has gone, and resets. Blocked calls are durably blocked, so that it works under testing/synctest. Safe for
// concurrent use.
type Net struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*memListener
	port      uint16
	open      int
	silent    map[netip.AddrPort]bool
	redirect  map[netip.Addr]netip.AddrPort
}

// NewNet makes a network on which nobody listens.
func NewNet() *Net {
	return &Net{listeners: map[netip.AddrPort]*memListener{}, silent: map[netip.AddrPort]bool{}, redirect: map[netip.Addr]netip.AddrPort{}}
}

// Open is how many ends of connections are not closed.
func (n *Net) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

// Silence makes an address answer no one: dialling it takes until the caller gives up.
func (n *Net) Silence(addr netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[addr] = true
}

// Redirect makes whatever a host opens from now on arrive at to.
func (n *Net) Redirect(from netip.Addr, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.redirect[from] = to
}

// Listen is net.Listen.
func (n *Net) Listen(addr netip.AddrPort) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, syscall.EADDRINUSE)
	}
	l := &memListener{n: n, addr: addr}
	l.cond.L = &l.mu
	n.listeners[addr] = l
	return l, nil
}

// Dialer opens connections from one host.
func (n *Net) Dialer(from netip.Addr) func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		n.mu.Lock()
		if to, ok := n.redirect[from]; ok {
			addr = to
		}
		l, silent := n.listeners[addr], n.silent[addr]
		if silent {
			n.mu.Unlock()
			<-ctx.Done()
			return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
		}
		n.port++
		local := netip.AddrPortFrom(from, 10_000+n.port%50_000)
		n.mu.Unlock()
		refused := fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
		if l == nil {
			return nil, refused
		}
		up, down := newHalf(), newHalf()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			return nil, refused
		}
		n.mu.Lock()
		n.open += 2
		n.mu.Unlock()
		l.queue = append(l.queue, &MemConn{n: n, rd: up, wr: down, local: addr, remote: local})
		l.cond.Broadcast()
		return &MemConn{n: n, rd: down, wr: up, local: local, remote: addr}, nil
	}
}

type memListener struct {
	n    *Net
	addr netip.AddrPort

	mu     sync.Mutex
	cond   sync.Cond
	queue  []*MemConn
	closed bool
}

func (l *memListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 {
		if l.closed {
			return nil, net.ErrClosed
		}
		l.cond.Wait()
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

// Close resets what was not accepted, as a kernel does.
func (l *memListener) Close() error {
	l.n.mu.Lock()
	if l.n.listeners[l.addr] == l {
		delete(l.n.listeners, l.addr)
	}
	l.n.mu.Unlock()
	l.mu.Lock()
	left := l.queue
	l.queue, l.closed = nil, true
	l.cond.Broadcast()
	l.mu.Unlock()
	for _, c := range left {
		c.Reset()
	}
	return nil
}

func (l *memListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// memBuffer is how much one direction holds before a write blocks.
const memBuffer = 64 << 10

// half is one direction.
type half struct {
	mu      sync.Mutex
	cond    sync.Cond
	buf     []byte
	eof     bool // the writer has ended
	gone    bool // the reader has closed
	told    bool // the writer has written since
	reset   bool
	shut    [2]bool // reading, writing: closed on that side
	expired [2]bool // reading, writing: the deadline has passed
	timer   [2]*time.Timer
	turn    [2]int // of the timer in force
}

const (
	reading = 0
	writing = 1
)

func newHalf() *half {
	h := &half{}
	h.cond.L = &h.mu
	return h
}

func (h *half) deadline(side int, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer[side] != nil {
		h.timer[side].Stop()
		h.timer[side] = nil
	}
	h.turn[side]++
	turn := h.turn[side]
	d := time.Until(t)
	h.expired[side] = !t.IsZero() && d <= 0
	if !t.IsZero() && d > 0 && !h.shut[side] {
		h.timer[side] = time.AfterFunc(d, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.turn[side] == turn {
				h.expired[side] = true
				h.cond.Broadcast()
			}
		})
	}
	h.cond.Broadcast()
}

// close ends one side's use of h.
func (h *half) close(side int, reset bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shut[side] = true
	if h.timer[side] != nil {
		h.timer[side].Stop()
		h.timer[side] = nil
	}
	if side == reading {
		h.gone, h.buf = true, nil
	} else {
		h.eof = true
	}
	if reset {
		h.reset, h.buf = true, nil
	}
	h.cond.Broadcast()
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.shut[reading]:
			return 0, net.ErrClosed
		case h.expired[reading]:
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.cond.Broadcast()
			return n, nil
		case h.reset:
			return 0, syscall.ECONNRESET
		case h.eof:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.shut[writing], h.eof:
			return n, net.ErrClosed
		case h.expired[writing]:
			return n, os.ErrDeadlineExceeded
		case h.reset:
			return n, syscall.ECONNRESET
		case h.gone && h.told:
			return n, syscall.EPIPE
		case h.gone:
			h.told = true
			return n + len(p), nil
		case len(p) == 0:
			return n, nil
		case len(h.buf) < memBuffer:
			m := min(len(p), memBuffer-len(h.buf))
			h.buf = append(h.buf, p[:m]...)
			p, n = p[m:], n+m
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

// MemConn is one end of a connection in memory.
type MemConn struct {
	n             *Net
	rd, wr        *half
	local, remote netip.AddrPort
	once          sync.Once
}

// Read implements net.Conn.
func (c *MemConn) Read(p []byte) (int, error) { return c.rd.read(p) }

// Write implements net.Conn.
func (c *MemConn) Write(p []byte) (int, error) { return c.wr.write(p) }

// Close ends in order: what was written is still read by the peer.
func (c *MemConn) Close() error { return c.close(false) }

// Reset ends so that the peer fails, and what it has not read is lost.
func (c *MemConn) Reset() { _ = c.close(true) }

func (c *MemConn) close(reset bool) error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.rd.close(reading, reset)
		c.wr.close(writing, reset)
		c.n.mu.Lock()
		c.n.open--
		c.n.mu.Unlock()
		err = nil
	})
	return err
}

// CloseWrite ends the writing half.
func (c *MemConn) CloseWrite() error {
	c.wr.mu.Lock()
	defer c.wr.mu.Unlock()
	c.wr.eof = true
	c.wr.cond.Broadcast()
	return nil
}

// LocalAddr implements net.Conn.
func (c *MemConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn.
func (c *MemConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements net.Conn.
func (c *MemConn) SetDeadline(t time.Time) error {
	c.rd.deadline(reading, t)
	c.wr.deadline(writing, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *MemConn) SetReadDeadline(t time.Time) error {
	c.rd.deadline(reading, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *MemConn) SetWriteDeadline(t time.Time) error {
	c.wr.deadline(writing, t)
	return nil
}
