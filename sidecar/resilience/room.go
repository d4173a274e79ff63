package resilience

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Room sheds exchanges for which the sidecar's buffers have no room. The speaker has asked; what is in flight finishes.
func Room(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Crowded {
			x.Binding.Room.Reached(exchange.LimitBufferBytes)
			x.Outcome.Unprocessed = true
			x.Outcome.Fail(flow.ReasonShed, x.Binding.Room.Full())
			return
		}
		next.Handle(x)
	})
}
