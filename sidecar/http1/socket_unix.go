//go:build unix

package http1

import (
	"io"
	"net"
	"syscall"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// socket does I/O on a plaintext connection without waiting where it need not: a read takes a buffer only when there are bytes, and only who has to
// wait sets a deadline, because a timer costs more than a look. It belongs to the goroutine of its connection.
type socket struct {
	raw      syscall.RawConn
	tryRead  func(fd uintptr) bool
	tryWrite func(fd uintptr) bool

	park   func() bool // called once per read, before it waits; false: do not
	parked bool
	buf    *buffer
	out    []byte
	n      int
	err    error
}

// newSocket is nil for connections that are no plaintext sockets.
func newSocket(sess *exchange.Session, park func() bool) *socket {
	if sess.TCP == nil || sess.Conn != net.Conn(sess.TCP) {
		return nil
	}
	raw, err := sess.TCP.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw, park: park}
	s.tryRead, s.tryWrite = s.readNow, s.writeNow
	return s
}

// read waits for bytes. n and err may both be 0 when park said no.
func (s *socket) read(u *buffer) (n int, err error) {
	s.buf, s.n, s.err, s.parked = u, 0, nil, false
	if err := s.raw.Read(s.tryRead); err != nil {
		return 0, err
	}
	return s.n, s.err
}

// readNow runs with the descriptor non-blocking; false means wait until it is readable.
func (s *socket) readNow(fd uintptr) bool {
	u := s.buf
	u.acquire(smallBuffer)
	for {
		n, err := syscall.Read(int(fd), u.b[u.w:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			u.release()
			if s.parked {
				return false
			}
			s.parked = true
			return !s.park()
		case err != nil:
			s.err = err
		case n == 0:
			s.err = io.EOF
		default:
			u.w += n
			s.n = n
		}
		if s.n == 0 {
			u.release()
		}
		return true
	}
}

// write writes what there is room for, without waiting.
func (s *socket) write(p []byte) (n int, err error) {
	s.out, s.n, s.err = p, 0, nil
	err = s.raw.Write(s.tryWrite)
	s.out = nil
	if err != nil {
		return 0, err
	}
	return s.n, s.err
}

func (s *socket) writeNow(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), s.out)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
		case err != nil:
			s.err = err
		default:
			s.n = n
		}
		return true
	}
}
