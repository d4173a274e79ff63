//go:build unix

package exchange

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Socket is a TCP or Unix connection whose system calls the Go scheduler does not hear of: they never block, because the descriptor is non-blocking, and
// telling the scheduler of each costs more than most of them, above all at low load, where the first one after a pause wakes the runtime's
// monitor thread. Waiting is left to the runtime's poller as ever, and so are deadlines.
//
// At most one goroutine reads and one writes at a time. Everything else is the connection's.
type Socket struct {
	stream
	Raw     syscall.RawConn
	in, out transfer
	once    func(fd uintptr) bool // of WriteReady
	look    func(fd uintptr) bool // of a Read that does not wait
	waits   func()                // of BeforeWait; nil: none
	held    bool                  // by hold
	fd      uintptr               // while it is held
}

// stream is what TCP and Unix connections have in common.
type stream interface {
	net.Conn
	CloseWrite() error
	SyscallConn() (syscall.RawConn, error)
}

// transfer is a Read or a Write under way. do is made once, for a closure per call would be garbage.
type transfer struct {
	do  func(fd uintptr) bool
	p   []byte
	n   int
	err error
}

// NewSocket is c as a Socket, or c itself when it is not a TCP or Unix connection that allows it.
func NewSocket(c net.Conn) net.Conn {
	var of stream
	switch c := c.(type) {
	case *net.TCPConn:
		of = c
	case *net.UnixConn:
		of = c
	default:
		return c
	}
	raw, err := of.SyscallConn()
	if err != nil {
		return c
	}
	s := &Socket{stream: of, Raw: raw}
	s.in.do, s.out.do, s.once, s.look = s.readNow, s.writeNow, s.writeOnce, s.readOnce
	return s
}

// BeforeWait makes each Read call f, at most once, when there is nothing to read and it is about to wait. f may do anything with s but read: it may close
// it. Not while a Read is under way.
func (s *Socket) BeforeWait(f func()) { s.waits = f }

// hold makes Reads take what is there, or fail with errNotReady, until release: they are made within a Raw.Read of s, whose descriptor is fd, by what reads
// through a layer above s and then waits without that layer.
func (s *Socket) hold(fd uintptr) { s.held, s.fd = true, fd }

func (s *Socket) release() { s.held = false }

// Read implements net.Conn.
func (s *Socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.held {
		n, err := TryRead(s.fd, p)
		if err == syscall.EAGAIN { //nolint:errorlint // of a system call
			return 0, errNotReady
		}
		return n, s.explain("read", err)
	}
	t := &s.in
	t.p, t.n, t.err = p, 0, nil
	if s.waits != nil {
		// f is called between two reads, and never in one: Close waits for those under way.
		if err := s.Raw.Read(s.look); err == nil && t.err == syscall.EAGAIN { //nolint:errorlint // of a system call
			s.waits()
			t.n, t.err = 0, nil
		} else {
			t.p = nil
			if err == nil {
				err = t.err
			}
			return t.n, s.explain("read", err)
		}
	}
	err := s.Raw.Read(t.do)
	t.p = nil
	if err == nil {
		err = t.err
	} else {
		t.n = 0
	}
	return t.n, s.explain("read", err)
}

func (s *Socket) readNow(fd uintptr) bool {
	t := &s.in
	t.n, t.err = TryRead(fd, t.p)
	return t.err != syscall.EAGAIN //nolint:errorlint // of a system call
}

func (s *Socket) readOnce(fd uintptr) bool {
	s.readNow(fd)
	return true
}

// ReadReady reads what is there, without waiting. ready is false when there is nothing yet; err is io.EOF at the end.
func (s *Socket) ReadReady(p []byte) (n int, ready bool, err error) {
	waitErr := s.Raw.Read(func(fd uintptr) bool {
		n, err = TryRead(fd, p)
		return true
	})
	switch {
	case waitErr != nil:
		return 0, true, s.explain("read", waitErr)
	case errors.Is(err, syscall.EAGAIN):
		return 0, false, nil
	}
	return n, true, s.explain("read", err)
}

// Write implements net.Conn: it writes all of p, or fails.
func (s *Socket) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t := &s.out
	t.p, t.n, t.err = p, 0, nil
	err := s.Raw.Write(t.do)
	t.p = nil
	if err == nil {
		err = t.err
	}
	return t.n, s.explain("write", err)
}

// WriteReady writes what there is room for, without waiting.
func (s *Socket) WriteReady(p []byte) (int, error) {
	t := &s.out
	t.p, t.n, t.err = p, 0, nil
	err := s.Raw.Write(s.once)
	t.p = nil
	if err == nil {
		err = t.err
	}
	return t.n, s.explain("write", err)
}

func (s *Socket) writeOnce(fd uintptr) bool {
	s.writeNow(fd)
	return true
}

func (s *Socket) writeNow(fd uintptr) bool {
	t := &s.out
	for t.n < len(t.p) {
		n, err := TryWrite(fd, t.p[t.n:])
		if err == syscall.EAGAIN { //nolint:errorlint // of a system call
			return false
		}
		if err != nil {
			t.err = err
			return true
		}
		t.n += n
	}
	return true
}

// explain gives err the form that the net package gives errors.
func (s *Socket) explain(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // ours, never wrapped
		return err
	}
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		err = os.NewSyscallError(op, errno)
	default: // of the poller: a deadline, or closed
		var oe *net.OpError
		if errors.As(err, &oe) {
			err = oe.Err
		}
	}
	return &net.OpError{Op: op, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}
