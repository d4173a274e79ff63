package balance

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Step chooses an endpoint, passes the exchange on, and tells the picker what came of it.
func Step(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		began := time.Now()
		tried := x.Tried[:min(x.Tries, len(x.Tried))]
		if x.Fresh { // the same endpoint may serve on a new connection
			tried = nil
		}
		choice, reason := x.Destination.Picker.Pick(began, tried)
		if reason != flow.ReasonNone {
			x.Outcome.Unprocessed = true
			x.Outcome.Fail(reason, "service "+x.Destination.Name)
			return
		}
		x.Choice = choice
		if x.Tries < len(x.Tried) {
			x.Tried[x.Tries] = choice.Endpoint.Address
		}
		x.Tries++
		next.Handle(x)
		now := time.Now()
		took := now.Sub(began)
		if x.Legs.FirstByte >= 0 { // a long body is not a slow endpoint
			took = x.Start.Add(x.Legs.FirstByte).Sub(began)
		}
		choice.Load.End(now, took, result(&x.Outcome))
	})
}

func result(o *exchange.Outcome) exchange.Result {
	switch o.Reason {
	case flow.ReasonConnectRefused, flow.ReasonConnectTimeout, flow.ReasonConnectFailed, flow.ReasonTLSFailed, flow.ReasonIdentityMismatch:
		return exchange.ResultUnreachable
	case flow.ReasonUpstreamReset, flow.ReasonUpstreamProtocol, flow.ReasonRequestTimeout, flow.ReasonTryTimeout, flow.ReasonUpstreamStatus:
		if o.Stale {
			return exchange.ResultUnknown
		}
		return exchange.ResultFailed
	case flow.ReasonDownstreamReset, flow.ReasonBadRequest, flow.ReasonDraining, flow.ReasonShed, flow.ReasonIdleTimeout:
		return exchange.ResultUnknown
	}
	switch status := o.GRPC.HTTP(); {
	case status >= 500 || status == 429 || o.Status == 429:
		return exchange.ResultFailed
	case status == 499: // the caller's doing
		return exchange.ResultUnknown
	}
	return exchange.ResultOK
}
