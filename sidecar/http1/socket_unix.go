//go:build unix

package http1

import (
	"syscall"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// socket does I/O on a plaintext connection without waiting where it need not: a read takes a buffer only when there are bytes, and only who has to
// wait sets a deadline, because a timer costs more than a look. It belongs to the goroutine of its connection.
type socket struct {
	conn     *exchange.Socket
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
	c, ok := sess.Conn.(*exchange.Socket)
	if !ok {
		return nil
	}
	s := &socket{conn: c, park: park}
	s.tryRead, s.tryWrite = s.readNow, s.writeNow
	return s
}

// read waits for bytes. n and err may both be 0 when park said no.
func (s *socket) read(u *buffer) (n int, err error) {
	s.buf, s.n, s.err, s.parked = u, 0, nil, false
	if err := s.conn.Raw.Read(s.tryRead); err != nil {
		return 0, err
	}
	return s.n, s.err
}

// look reads what is there, without waiting.
func (s *socket) look(u *buffer) (n int, err error) {
	s.buf, s.n, s.err, s.parked = u, 0, nil, true
	err = s.conn.Raw.Read(func(fd uintptr) bool {
		s.readNow(fd)
		return true
	})
	return s.n, err
}

// readNow runs with the descriptor non-blocking; false means wait until it is readable.
func (s *socket) readNow(fd uintptr) bool {
	u := s.buf
	u.acquire(smallBuffer)
	n, err := exchange.TryRead(fd, u.b[u.w:])
	if err == nil {
		u.w += n
		s.n = n
		return true
	}
	u.release()
	if err == syscall.EAGAIN { //nolint:errorlint // of a system call
		if s.parked {
			return false
		}
		s.parked = true
		return !s.park()
	}
	s.err = err
	return true
}

// write writes what there is room for, without waiting.
func (s *socket) write(p []byte) (n int, err error) {
	s.out, s.n, s.err = p, 0, nil
	err = s.conn.Raw.Write(s.tryWrite)
	s.out = nil
	if err != nil {
		return 0, err
	}
	return s.n, s.err
}

func (s *socket) writeNow(fd uintptr) bool {
	if s.n, s.err = exchange.TryWrite(fd, s.out); s.err == syscall.EAGAIN { //nolint:errorlint // of a system call
		s.err = nil
	}
	return true
}
