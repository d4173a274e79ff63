//go:build !unix

package upstream

import "net"

type probe struct{}

func (*probe) of(net.Conn) {}

func (*probe) quiet() bool { return true }

func (*probe) drain() {}
