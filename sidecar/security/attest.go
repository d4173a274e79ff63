package security

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Attest judges exchanges of the own application that come by a Unix socket: the process that connected must be one that the policy names. (Who listens at the
// application's socket is judged where it is dialled.)
func Attest(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if u := x.Binding.Listener.Unix; u != nil {
			if why := u.Refuses(x.Peer.Application); why != "" {
				x.Outcome.Fail(flow.ReasonDenied, why)
				return
			}
		}
		next.Handle(x)
	})
}
