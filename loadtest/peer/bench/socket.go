//go:build linux

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Load generator and backend share one core and must not be what is measured. They speak over raw sockets in one epoll loop each, without
// net.Conn, goroutines or the scheduler in between.

// receive and send are recv(2) and send(2) that never wait. They do not tell Go's scheduler, which need not know of calls that return at once.
// receive returns io.EOF at the end of the stream, both return unix.EAGAIN when they would have to wait.
func receive(fd int, b []byte) (int, error) {
	n, err := transfer(unix.SYS_RECVFROM, fd, b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func send(fd int, b []byte) (int, error) { return transfer(unix.SYS_SENDTO, fd, b) }

func transfer(call uintptr, fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, errors.New("no buffer")
	}
	for {
		n, _, e := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, e
	}
}

// shut closes a descriptor whose data does not matter any more.
func shut(fd int) { _ = unix.Close(fd) }

// sockaddr is an IPv4 address as the system wants it.
func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// dial connects a blocking socket to a loopback address. Source may be the zero address; otherwise it is the local one, so that the ports of one
// source address need not suffice.
func dial(to netip.AddrPort, source netip.Addr) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := prepare(fd, source); err != nil {
		shut(fd)
		return -1, err
	}
	err = unix.Connect(fd, sockaddr(to))
	if errors.Is(err, unix.EINTR) {
		err = connected(fd)
	}
	if err != nil {
		shut(fd)
		return -1, fmt.Errorf("connecting to %s: %w", to, err)
	}
	return fd, nil
}

// connected waits for a connect(2) that a signal interrupted: it goes on by itself, and must not be made again.
func connected(fd int) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for deadline := time.Now().Add(patience); ; {
		n, err := unix.Poll(poll, int(max(0, time.Until(deadline)).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return os.ErrDeadlineExceeded
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return err
	}
}

func prepare(fd int, source netip.Addr) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	// Bounds a read or write that waits: handshakes, and what follows a failure. The loops do not wait.
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	for _, o := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &limit); err != nil {
			return fmt.Errorf("socket timeout: %w", err)
		}
	}
	if source.IsValid() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
		}
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0))); err != nil {
			return fmt.Errorf("source address %s: %w", source, err)
		}
	}
	return nil
}

// listen opens a non-blocking listening socket.
func listen(at netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		shut(fd)
		return -1, fmt.Errorf("listening on %s: %w", at, err)
	}
	return fd, nil
}

// listenUnix opens a non-blocking listening Unix socket.
func listenUnix(path string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		shut(fd)
		return -1, fmt.Errorf("listening on %s: %w", path, err)
	}
	return fd, nil
}

// source is the i-th of the loopback addresses that load comes from: 127.0.1.1 on. Linux has all of 127.0.0.0/8.
func source(i int) netip.Addr {
	i %= 60_000
	return netip.AddrFrom4([4]byte{127, 0, byte(1 + i/250), byte(1 + i%250)})
}

// patience bounds everything that waits for another process.
const patience = 10 * time.Second

// blocking makes a socket a net.Conn for crypto/tls. A Read never goes past the end of a TLS record, so that after the handshake all bytes that follow are
// still in the socket and the record layer can be taken over (records).
type blocking struct {
	fd   int
	head [5]byte // of the record that is being read
	got  int     // bytes of head that were read from the socket
	out  int     // bytes of head that were handed on
	left int     // bytes of the record's body that are still in the socket
}

func (b *blocking) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.left == 0 && b.out == len(b.head) {
		b.got, b.out = 0, 0
	}
	for b.got < len(b.head) {
		n, err := b.read(b.head[b.got:])
		if err != nil {
			return 0, err
		}
		if b.got += n; b.got == len(b.head) {
			b.left = int(b.head[3])<<8 | int(b.head[4])
		}
	}
	if b.out < len(b.head) {
		n := copy(p, b.head[b.out:])
		b.out += n
		return n, nil
	}
	n, err := b.read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (b *blocking) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(b.fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("nothing came for %s: %w", patience, os.ErrDeadlineExceeded)
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (b *blocking) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(b.fd, p[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (b *blocking) Close() error                     { return nil } // the socket belongs to who made it
func (b *blocking) LocalAddr() net.Addr              { return nil }
func (b *blocking) RemoteAddr() net.Addr             { return nil }
func (b *blocking) SetDeadline(time.Time) error      { return nil } // the socket has its own timeouts
func (b *blocking) SetReadDeadline(time.Time) error  { return nil }
func (b *blocking) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*blocking)(nil)

// handshake makes a TLS 1.3 handshake on a blocking socket and returns the record layer for what follows.
func handshake(fd int, c *tls.Config, client bool) (*records, error) {
	c = c.Clone()
	secrets := &keyLog{}
	c.KeyLogWriter = secrets
	c.MinVersion = tls.VersionTLS13
	side := tls.Client
	if !client {
		side = tls.Server
		c.SessionTicketsDisabled = true // a ticket would be the first record under the keys that records takes over
	}
	tc := side(&blocking{fd: fd}, c)
	if err := tc.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return newRecords(tc.ConnectionState().CipherSuite, secrets, client)
}
