package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// How long a connection is silent before the kernel asks whether its peer is still there, how often it asks, and how many unanswered questions
// end it. These are Go's own defaults.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveProbes   = 9
)

// openTCP listens. Accepted sockets inherit keep-alive from the listening one (tcp(7), socket(7)), which spares four system calls per
// connection.
func openTCP(addr netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // not once more for each
		Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) {
				set := func(level, option, value int) {
					failed = errors.Join(failed, syscall.SetsockoptInt(int(fd), level, option, value))
				}
				set(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
				set(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int(keepAliveIdle/time.Second))
				set(syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, int(keepAliveInterval/time.Second))
				set(syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepAliveProbes)
			})
			return errors.Join(err, failed)
		},
	}
	return lc.Listen(context.Background(), "tcp", addr.String())
}
