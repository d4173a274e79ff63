package exchange

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// HungUp reports whether the peer of a connection has closed it, or its half of it, also where bytes that nobody has read stand before its end. It does not wait; false where
// the kernel does not say it.
func HungUp(c net.Conn) bool {
	for {
		switch of := c.(type) {
		case syscall.Conn:
			raw, err := of.SyscallConn()
			return err == nil && hungUp(raw)
		case interface{ NetConn() net.Conn }: // TLS, and what stands before it
			c = of.NetConn()
		default:
			return false
		}
	}
}

func hungUp(raw syscall.RawConn) (gone bool) {
	err := raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return err == nil && gone
}
