//go:build !unix

package exchange

import (
	"errors"
	"net"
	"syscall"
)

// Socket is for systems whose sockets can be tried; here there is none.
type Socket struct {
	net.Conn
	Raw syscall.RawConn
}

func (*Socket) hold(uintptr) {}
func (*Socket) release()     {}

func (*Socket) explain(_ string, err error) error { return err }

// TryRead is never called.
func TryRead(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

// TryWrite is never called.
func TryWrite(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

// NewSocket is c.
func NewSocket(c net.Conn) net.Conn { return c }

// ReadReady never finds anything ready; callers wait instead.
func (*Socket) ReadReady([]byte) (n int, ready bool, err error) { return 0, false, nil }

// WriteReady never finds room; callers wait instead.
func (*Socket) WriteReady([]byte) (int, error) { return 0, nil }

// BeforeWait is never called.
func (*Socket) BeforeWait(func()) {}
