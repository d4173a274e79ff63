//go:build !unix

package exchange

import "net"

// ReadReady never finds anything ready here; callers wait instead.
func ReadReady(*net.TCPConn, []byte) (n int, ready bool, err error) { return 0, false, nil }
