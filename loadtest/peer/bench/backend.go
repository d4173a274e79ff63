//go:build linux

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// backendOrder starts a backend.
type backendOrder struct {
	Plain, TLS netip.AddrPort
	Unix       string // path of a Unix socket; plaintext; "" for none
	PKI        pki
}

// backendReport says that it serves.
type backendReport struct {
	Err string
}

// backend answers GET /SIZE with a body of that size, and with a message of that size the gRPC calls of callee, plaintext on one address and mTLS on another, in one
// epoll loop. Connections belong to the loop's
// goroutine once they are in the table; handshakes are made before, beside it.
type backend struct {
	ep    int
	plain int // listening sockets
	after int // TLS; -1 without
	local int // of a Unix socket; -1 without
	stop  int // eventfd: ends the loop
	tls   *tls.Config
	kept  map[int][]byte // answers by size; the head is a prefix whose length is in heads
	heads map[int]int

	answers, requests map[int][]byte // of calls: messages by size

	handshakes sync.WaitGroup
	mu         sync.Mutex
	conns      map[int]*served // by descriptor
}

// served is one connection.
type served struct {
	fd   int
	in   []byte
	raw  []byte
	out  []byte // what could not be sent yet
	text []byte // TLS: scratch
	rec  *records
	two  *callee // speaks HTTP/2; nil for HTTP/1.1
}

// backendMain is the backend's process.
func backendMain(c *parent) error {
	var o backendOrder
	if err := c.next(&o); err != nil {
		return err
	}
	runtime.GOMAXPROCS(2) // the loop, and handshakes beside it
	b, err := newBackend(o)
	if err != nil {
		return c.say(backendReport{Err: err.Error()})
	}
	if err := c.say(backendReport{}); err != nil {
		return err
	}
	go func() { // ends with the process
		_ = c.next(&o) // the parent closes its end
		os.Exit(0)
	}()
	return b.loop()
}

func newBackend(o backendOrder) (*backend, error) {
	b := &backend{after: -1, local: -1, kept: map[int][]byte{}, heads: map[int]int{}, answers: map[int][]byte{}, requests: map[int][]byte{}, conns: map[int]*served{}}
	var err error
	if b.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if b.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if b.plain, err = listen(o.Plain); err != nil {
		return nil, err
	}
	listening := []int{b.plain, b.stop}
	if o.Unix != "" {
		if b.local, err = listenUnix(o.Unix); err != nil {
			return nil, err
		}
		listening = append(listening, b.local)
	}
	for _, fd := range listening {
		if err := unix.EpollCtl(b.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return nil, fmt.Errorf("epoll: %w", err)
		}
	}
	if !o.TLS.IsValid() {
		return b, nil
	}
	if b.tls, err = o.PKI.server(backendAccount); err != nil {
		return nil, err
	}
	if b.after, err = listen(o.TLS); err != nil {
		return nil, err
	}
	return b, unix.EpollCtl(b.ep, unix.EPOLL_CTL_ADD, b.after, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(b.after)})
}

// close ends the loop.
func (b *backend) close() { _, _ = unix.Write(b.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// admit makes the handshake of an accepted connection and gives it to the loop.
func (b *backend) admit(fd int) {
	if prepare(fd, netip.Addr{}) != nil {
		shut(fd)
		return
	}
	rec, err := handshake(fd, b.tls, false)
	if err != nil || b.add(fd, rec) != nil {
		shut(fd)
	}
}

func (b *backend) add(fd int, rec *records) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[fd] = &served{fd: fd, rec: rec}
	if err := unix.EpollCtl(b.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		delete(b.conns, fd)
		return err
	}
	return nil
}

func (b *backend) loop() error {
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(b.ep, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:n] {
			fd := int(e.Fd)
			switch fd {
			case b.plain, b.local:
				b.accept(fd)
				continue
			case b.after:
				b.acceptTLS()
				continue
			case b.stop:
				return b.end()
			}
			b.mu.Lock()
			c := b.conns[fd]
			b.mu.Unlock()
			if c == nil {
				continue
			}
			if b.serve(c, e.Events) != nil {
				b.mu.Lock()
				delete(b.conns, fd)
				b.mu.Unlock()
				shut(fd)
			}
		}
	}
}

func (b *backend) accept(listening int) {
	for {
		fd, _, err := unix.Accept4(listening, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		if listening == b.plain && unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) != nil || b.add(fd, nil) != nil {
			shut(fd)
		}
	}
}

func (b *backend) acceptTLS() {
	for {
		fd, _, err := unix.Accept4(b.after, unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		b.handshakes.Go(func() { b.admit(fd) })
	}
}

// end closes everything.
func (b *backend) end() error {
	b.handshakes.Wait()
	for fd := range b.conns {
		shut(fd)
	}
	for _, fd := range []int{b.plain, b.after, b.local, b.stop, b.ep} {
		if fd >= 0 {
			shut(fd)
		}
	}
	return nil
}

// serve does what an event asks for; an error ends the connection.
func (b *backend) serve(c *served, events uint32) error {
	if len(c.out) > 0 && events&unix.EPOLLOUT != 0 {
		out := c.out
		c.out = c.out[:0]
		if err := b.write(c, out, true); err != nil {
			return err
		}
	}
	if events&^unix.EPOLLOUT == 0 {
		return nil
	}
	c.in = slices.Grow(c.in, 4<<10)
	if c.rec == nil {
		n, err := receive(c.fd, c.in[len(c.in):cap(c.in)])
		if err != nil {
			return ignoreAgain(err)
		}
		c.in = c.in[:len(c.in)+n]
	} else {
		c.raw = slices.Grow(c.raw, 4<<10)
		n, err := receive(c.fd, c.raw[len(c.raw):cap(c.raw)])
		if err != nil {
			return ignoreAgain(err)
		}
		var rest []byte
		if c.in, rest, err = c.rec.open(c.in, c.raw[:len(c.raw)+n]); err != nil {
			return err
		}
		c.raw = c.raw[:copy(c.raw[:cap(c.raw)], rest)]
	}
	if c.two == nil && len(c.in) >= len(preface) && string(c.in[:len(preface)]) == preface {
		c.two = newCallee(b)
		c.in = c.in[:copy(c.in, c.in[len(preface):])]
	}
	if c.two != nil {
		rest, err := c.two.mux.take(c.in)
		if err != nil {
			return err
		}
		c.in = c.in[:copy(c.in, rest)]
		out := c.two.mux.out
		c.two.mux.out = out[:0]
		if len(out) == 0 {
			return nil
		}
		return b.write(c, out, false)
	}
	for {
		end := bytes.Index(c.in, headEnd)
		if end < 0 {
			return nil
		}
		answer, err := b.answer(c.in[:end+len(headEnd)])
		if err != nil {
			return err
		}
		if err := b.write(c, answer, false); err != nil {
			return err
		}
		c.in = c.in[:copy(c.in, c.in[end+len(headEnd):])]
	}
}

func ignoreAgain(err error) error {
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}

// answer is the answer to a request; valid until the next call.
func (b *backend) answer(head []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(head, []byte("GET /"))
	digits, _, _ := bytes.Cut(rest, []byte(" "))
	size, err := strconv.Atoi(string(digits))
	at := bytes.Index(head, []byte(idName))
	if !ok || err != nil || size < idDigits || size > 1<<20 || at < 0 || len(head) < at+len(idName)+idDigits {
		return nil, fmt.Errorf("no request of this comparison: %q", head[:min(len(head), 60)])
	}
	text := b.kept[size]
	if text == nil {
		text = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: bench\r\ncontent-type: application/octet-stream\r\n"+
			"cache-control: no-store\r\ncontent-length: %d\r\n\r\n", size)
		b.heads[size] = len(text)
		text = append(text, pattern(size)...)
		b.kept[size] = text
	}
	copy(text[b.heads[size]:], head[at+len(idName):at+len(idName)+idDigits])
	return text, nil
}

// write sends p, or keeps what cannot be sent yet. Sealed says that p is what goes onto the wire.
func (b *backend) write(c *served, p []byte, sealed bool) error {
	if c.rec != nil && !sealed {
		c.text = c.rec.seal(c.text[:0], p)
		p = c.text
	}
	waiting := len(c.out) > 0
	if !waiting {
		n, err := send(c.fd, p)
		if ignoreAgain(err) != nil {
			return err
		}
		p = p[n:]
	}
	if len(p) > 0 || sealed {
		c.out = append(c.out, p...)
		want := uint32(unix.EPOLLIN)
		if len(c.out) > 0 {
			want |= unix.EPOLLOUT
		}
		if err := unix.EpollCtl(b.ep, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: want, Fd: int32(c.fd)}); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	return nil
}
