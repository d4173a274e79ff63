//go:build !linux

package listen

import (
	"net"
	"net/netip"
)

// openTCP listens; Go sets keep-alive on each accepted socket.
func openTCP(addr netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
}
