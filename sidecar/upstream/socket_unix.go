//go:build unix

package upstream

import (
	"net"
	"syscall"
)

// probe asks the kernel about a socket, without allocating. One goroutine at a time uses it: the owner of the connection.
type probe struct {
	raw    syscall.RawConn // nil: a connection in memory
	ask    func(fd uintptr)
	silent bool
}

// of makes p ready for c.
func (p *probe) of(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return // closed: the next use says so
	}
	p.raw = raw
	p.ask = func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		p.silent = err == syscall.EAGAIN
	}
}

// quiet reports whether nothing has happened on an idle socket: no byte, no end of stream, no error.
func (p *probe) quiet() bool {
	if p.raw == nil {
		return true
	}
	p.silent = false
	return p.raw.Control(p.ask) == nil && p.silent
}

// drain throws away what has arrived on the socket and was not read, without waiting.
func (p *probe) drain() {
	if p.raw == nil {
		return
	}
	_ = p.raw.Control(func(fd uintptr) {
		var b [4096]byte
		for range 64 {
			if n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_DONTWAIT); n <= 0 || err != nil {
				return
			}
		}
	})
}
