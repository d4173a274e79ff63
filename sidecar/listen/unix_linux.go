package listen

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockDirectory locks out other sidecars that would make a socket in dir; it does not wait for them. The lock is on the directory itself and leaves no file.
func lockDirectory(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, errBusy)
		}
		return nil, os.NewSyscallError("flock "+dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// permitBefore gives the socket's file no more than mode from its beginning: bind takes the socket's own permissions, less the umask.
func permitBefore(mode uint32) func(network, address string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), mode) })
		return errors.Join(cerr, os.NewSyscallError("fchmod", err))
	}
}
