//go:build !linux

package listen

import (
	"errors"
	"net"
	"net/netip"
)

// original: connections are redirected by Linux only.
func original(*net.TCPConn) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.New("this system does not redirect connections")
}
