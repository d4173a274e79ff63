//go:build !linux

package listen

import "syscall"

// lockDirectory does nothing: two sidecars must not be started with one path at the same moment.
func lockDirectory(string) (unlock func(), err error) { return func() {}, nil }

// permitBefore does nothing: the umask says what the file permits until OpenUnix has set it.
func permitBefore(uint32) func(network, address string, raw syscall.RawConn) error { return nil }
