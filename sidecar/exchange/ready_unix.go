//go:build unix

package exchange

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// ReadReady reads what is there, without waiting and without regard to a deadline that has not passed. ready is false when there is nothing yet;
// err is io.EOF at the end.
func ReadReady(c *net.TCPConn, p []byte) (n int, ready bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, true, err
	}
	ready = true
	waitErr := raw.Read(func(fd uintptr) bool {
		for {
			switch n, err = syscall.Read(int(fd), p); {
			case errors.Is(err, syscall.EINTR):
				continue
			case errors.Is(err, syscall.EAGAIN):
				n, ready, err = 0, false, nil
			case err != nil:
				n = 0
			case n == 0:
				err = io.EOF
			}
			return true
		}
	})
	if waitErr != nil {
		return 0, true, waitErr
	}
	return n, ready, err
}
