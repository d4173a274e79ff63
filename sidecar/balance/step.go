package balance

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Step chooses an endpoint, passes the exchange on, and tells the picker what came of it.
func Step(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		began := x.Began
		tried := x.Tried[:min(x.Tries, len(x.Tried))]
		if x.Fresh && len(tried) > 0 { // the same endpoint may serve on a new connection; those before it have failed
			tried = tried[:len(tried)-1]
		}
		if keys := x.Destination.Balancer.Affinity; len(keys) > 0 && x.Tries == 0 && !x.Keyed {
			Keep(x, keys)
		}
		choice, reason := x.Destination.Picker.Pick(began, exchange.Want{Tried: tried, Key: x.Key, Keyed: x.Keyed, Subset: x.Decision.Subset, Stay: x.Stay, Away: x.Away})
		if reason != flow.ReasonNone {
			x.Outcome.Unprocessed = true
			detail := "service " + x.Destination.Name
			if x.Decision.Subset != "" {
				detail += ", subset " + x.Decision.Subset
			}
			x.Outcome.Fail(reason, detail)
			return
		}
		x.Choice = choice
		if x.Tries < len(x.Tried) {
			x.Tried[x.Tries] = choice.Endpoint.Address
		}
		x.Tries++
		choice.Load.Begin(&x.Waiting, began)
		next.Handle(x)
		now := time.Now()
		took := now.Sub(began)
		if x.Legs.FirstByte >= 0 { // a long body is not a slow endpoint
			took = x.Start.Add(x.Legs.FirstByte).Sub(began)
		}
		r := result(&x.Outcome)
		if unconnected(x) {
			r = exchange.ResultUnreachable
		}
		if r == exchange.ResultUnknown && abandoned(x) || r == exchange.ResultFailed && hasty(x, now, took) {
			r = exchange.ResultAbandoned
		}
		x.Away = r == exchange.ResultUnreachable
		if x.Head.Mirror { // no evidence: its endpoints are judged by what callers wait for
			r = exchange.ResultUnknown
		}
		if r == exchange.ResultShed { // "later" is for this request; who is chosen for others is seen by how many are turned away
			x.Outcome.RetryAfter = 0
		}
		choice.Load.End(&x.Waiting, now, took, r, x.Outcome.RetryAfter)
	})
}

// abandoned reports whether the caller has left while the endpoint owed an answer: it had the whole request, or was not even connected to. While a body was on its way the caller
// may have been the slow one.
func abandoned(x *exchange.Exchange) bool {
	return x.Outcome.Reason == flow.ReasonDownstreamReset && x.Legs.FirstByte < 0 && (x.Legs.Sent >= 0 || !x.Outcome.Delivered)
}

// unconnected reports whether a try was given up that had found no connection by then.
func unconnected(x *exchange.Exchange) bool {
	return x.Outcome.Reason == flow.ReasonTryTimeout && !x.Outcome.Delivered && x.Legs.Connected < 0 && x.Legs.Sent < 0
}

// hasty reports whether a try was given up sooner than it would be now, for everybody has become late since it began: that is no fault of its endpoint.
func hasty(x *exchange.Exchange, now time.Time, took time.Duration) bool {
	return x.Outcome.Reason == flow.ReasonTryTimeout && !x.HeadBy.IsZero() && took < max(exchange.Patient*x.Destination.Picker.Typical(now), stuckAfter)
}

func result(o *exchange.Outcome) exchange.Result {
	if o.Told == flow.ReasonShed {
		return exchange.ResultShed
	}
	if o.Status == 503 || o.Status == 429 || o.GRPC.HTTP() == 429 || o.GRPC.HTTP() == 503 { // also when the answer was dropped for another try
		switch o.Reason {
		case flow.ReasonNone, flow.ReasonUpstreamStatus:
			return exchange.ResultOverloaded
		}
	}
	switch o.Reason {
	case flow.ReasonConnectRefused, flow.ReasonConnectTimeout, flow.ReasonConnectFailed, flow.ReasonTLSFailed, flow.ReasonIdentityMismatch:
		return exchange.ResultUnreachable
	case flow.ReasonUpstreamReset, flow.ReasonUpstreamProtocol, flow.ReasonRequestTimeout, flow.ReasonTryTimeout, flow.ReasonUpstreamStatus:
		if o.Stale {
			return exchange.ResultUnknown
		}
		return exchange.ResultFailed
	case flow.ReasonDownstreamReset, flow.ReasonBadRequest, flow.ReasonDraining, flow.ReasonShed, flow.ReasonIdleTimeout, flow.ReasonStreamTimeout:
		return exchange.ResultUnknown
	}
	switch status := o.GRPC.HTTP(); {
	case status >= 500:
		return exchange.ResultFailed
	case status == 499: // the caller's doing
		return exchange.ResultUnknown
	}
	return exchange.ResultOK
}
