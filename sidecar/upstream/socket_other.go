//go:build !unix

package upstream

import "net"

func quiet(*net.TCPConn) bool { return true }

func drain(*net.TCPConn) {}
