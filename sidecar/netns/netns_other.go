//go:build !linux

// Package netns opens sockets in a network namespace that is not the process' own. Only Linux has any.
package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Space is one network namespace.
type Space struct{}

var errNone = errors.New("network namespaces need Linux")

// Open says that there are none.
func Open(string) (*Space, error) { return nil, errNone }

// Close does nothing.
func (*Space) Close() {}

// Gone is true: there is none.
func (*Space) Gone() bool { return true }

// AwaitGone returns at once.
func (*Space) AwaitGone(context.Context, time.Duration) bool { return true }

// Do fails.
func (*Space) Do(func() error) error { return errNone }

// Dial fails.
func (*Space) Dial(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errNone }
