//go:build unix

package upstream

import (
	"net"
	"syscall"
)

// quiet reports whether nothing has happened on an idle socket: no byte, no end of stream, no error.
func quiet(c *net.TCPConn) bool {
	if c == nil {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ok = err == syscall.EAGAIN
	})
	return err == nil && ok
}

// drain throws away what has arrived on a socket and was not read, without waiting.
func drain(c *net.TCPConn) {
	if c == nil {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		var b [4096]byte
		for range 64 {
			if n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_DONTWAIT); n <= 0 || err != nil {
				return
			}
		}
	})
}
