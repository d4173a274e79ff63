//go:build !linux

package listen

import (
	"errors"
	"net"
	"net/netip"
)

// openTCP listens; Go sets keep-alive on each accepted socket.
func openTCP(addr netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
}

// openTransparent: connections are handed over by Linux only.
func openTransparent(netip.AddrPort) (net.Listener, error) {
	return nil, errors.New("interception by TPROXY needs Linux")
}
