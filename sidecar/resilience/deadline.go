// Package resilience holds the steps that decide how long and how often something is tried, and how much at a time. Each step is one file.
// None of them starts a goroutine; all of them work on the clock of the time package, so that tests run them under testing/synctest.
package resilience

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Deadline sets x.Deadline from the destination's request timeout and what the caller says that it will wait, the shorter of both, counted from the
// first byte of the request; of a relayed connection from now, for it is the connect that it bounds, and the caller may have been awaited before.
func Deadline(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		t := x.Destination.RequestTimeout
		if caller := x.Head.Timeout; caller > 0 && (t <= 0 || caller < t) {
			t = caller
		}
		switch {
		case t > 0 && x.Kind == flow.KindConnection:
			x.Deadline = time.Now().Add(t)
		case t > 0:
			x.Deadline = x.Start.Add(t)
		}
		next.Handle(x)
	})
}

// TryDeadline sets x.TryDeadline at every try: the try timeout, but never past x.Deadline. It stands inside Retry.
func TryDeadline(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		x.TryDeadline = x.Deadline
		if t := x.Destination.TryTimeout; t > 0 && t != x.Destination.RequestTimeout {
			if by := time.Now().Add(t); x.Deadline.IsZero() || by.Before(x.Deadline) {
				x.TryDeadline = by
			}
		}
		next.Handle(x)
	})
}
