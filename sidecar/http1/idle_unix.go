//go:build unix

package http1

import (
	"io"
	"net"
	"syscall"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// newIdleReader returns a read that takes a buffer only when there are bytes, for plaintext sockets; nil for others.
func newIdleReader(sess *exchange.Session) func(*buffer) (int, error) {
	if sess.TCP == nil || sess.Conn != net.Conn(sess.TCP) {
		return nil
	}
	raw, err := sess.TCP.SyscallConn()
	if err != nil {
		return nil
	}
	r := &idleReader{raw: raw}
	r.try = r.tryRead
	return r.read
}

type idleReader struct {
	raw syscall.RawConn
	try func(fd uintptr) bool
	buf *buffer
	n   int
	err error
}

func (r *idleReader) read(u *buffer) (int, error) {
	r.buf, r.n, r.err = u, 0, nil
	if err := r.raw.Read(r.try); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// tryRead runs with the descriptor non-blocking; false means wait until it is readable.
func (r *idleReader) tryRead(fd uintptr) bool {
	u := r.buf
	u.acquire(smallBuffer)
	for {
		n, err := syscall.Read(int(fd), u.b[u.w:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			u.release()
			return false
		case err != nil:
			r.err = err
		case n == 0:
			r.err = io.EOF
		default:
			u.w += n
			r.n = n
		}
		if r.n == 0 {
			u.release()
		}
		return true
	}
}
