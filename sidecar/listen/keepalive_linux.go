package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
func openTCP(addr netip.AddrPort) (net.Listener, error) { return openWith(addr, nil) }

// openTransparent listens for connections to any address that the kernel hands to the socket; accepted sockets have the original destination for their own.
func openTransparent(addr netip.AddrPort) (net.Listener, error) {
	return openWith(addr, func(set func(level, option, value int)) {
		set(unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		if addr.Addr().Is6() {
			set(unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
		}
	})
}

// openWith listens; more sets further options of the socket.
func openWith(addr netip.AddrPort, more func(set func(level, option, value int))) (net.Listener, error) {
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
				if more != nil {
					more(set)
				}
			})
			return errors.Join(err, failed)
		},
	}
	return lc.Listen(context.Background(), "tcp", addr.String())
}
