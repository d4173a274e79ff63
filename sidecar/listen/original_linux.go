package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// original asks the kernel where a redirected connection was to go. An error says that it was not redirected, or that its namespace tracks no connections.
func original(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var (
		to    netip.AddrPort
		asked error
	)
	err = raw.Control(func(fd uintptr) {
		if addrPort(c.LocalAddr()).Addr().Is4() { // also on a socket that listens for both
			var sa unix.RawSockaddrInet4
			if asked = getsockopt(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); asked == nil {
				to = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port(sa.Port))
			}
			return
		}
		var sa unix.RawSockaddrInet6
		if asked = getsockopt(fd, unix.SOL_IPV6, unix.SO_ORIGINAL_DST, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); asked == nil {
			to = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port(sa.Port))
		}
	})
	if err = errors.Join(err, asked); err != nil {
		return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: %w", err)
	}
	return to, nil
}

// port turns the bytes of a sockaddr, which are in the order of the network.
func port(n uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&n))
	return uint16(b[0])<<8 | uint16(b[1])
}

func getsockopt(fd uintptr, level, name int, value unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(name), uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	if uintptr(length) < size {
		return unix.EINVAL
	}
	return nil
}
