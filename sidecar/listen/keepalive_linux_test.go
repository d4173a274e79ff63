package listen

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// Accepted sockets have what the listening socket was given.
func TestKeepAliveIsInherited(t *testing.T) {
	l, err := openTCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	raw, err := a.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for _, o := range []struct{ level, option, want int }{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int(keepAliveIdle / time.Second)},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, int(keepAliveInterval / time.Second)},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepAliveProbes},
			{syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
		} {
			if got, err := syscall.GetsockoptInt(int(fd), o.level, o.option); err != nil || got != o.want {
				t.Errorf("option %d of level %d is %d, want %d (%v)", o.option, o.level, got, o.want, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
