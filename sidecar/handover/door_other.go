//go:build !linux

package handover

import (
	"context"
	"net"
)

// Door is where the next process knocks: here nobody can.
type Door struct{}

// Taking is from one process that runs; there is none.
type Taking struct{}

// Open returns a Door on which nobody can knock.
func Open(_ context.Context, cfg Config) (*Door, *Taking, error) {
	if err := cfg.check(); err != nil {
		return nil, nil, err
	}
	return &Door{}, nil, nil
}

// Run waits for ctx.
func (*Door) Run(ctx context.Context) { <-ctx.Done() }

// Close does nothing.
func (*Door) Close() {}

// From is nobody.
func (*Taking) From() Hello { return Hello{} }

// Socket has none.
func (*Taking) Socket(Socket) (net.Listener, error) { return nil, nil } //nolint:nilnil // there is none

// Commit does nothing.
func (*Taking) Commit() error { return nil }

// Close does nothing.
func (*Taking) Close() {}
