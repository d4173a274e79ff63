//go:build unix && (!linux || race)

package exchange

import (
	"errors"
	"io"
	"syscall"
)

// TryRead reads once from a non-blocking descriptor: syscall.EAGAIN when there is nothing, io.EOF at the end. p is not empty.
//
// This form is for systems other than Linux, and for the race detector, which learns from package syscall what one end of a connection knows of
// the other.
func TryRead(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// TryWrite writes once to a non-blocking descriptor: syscall.EAGAIN when there is no room. p is not empty.
func TryWrite(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, err
		}
		return n, nil
	}
}
