//go:build !unix

package http1

import "github.com/tulle-mesh/tulle/sidecar/exchange"

// socket is for systems whose sockets can be tried.
type socket struct{ parked bool }

func newSocket(*exchange.Session, func() bool) *socket { return nil }

func (*socket) read(*buffer) (int, error) { panic("unreachable: there is no socket") }
func (*socket) look(*buffer) (int, error) { panic("unreachable: there is no socket") }
func (*socket) write([]byte) (int, error) { panic("unreachable: there is no socket") }
