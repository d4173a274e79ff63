//go:build unix

package main

import "syscall"

// openFiles is how many descriptors the process may have. Go has raised the soft limit to the hard one.
func openFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<30 {
		return 1 << 30
	}
	return int(l.Cur) //nolint:gosec // bounded above
}
