// Package balance chooses an endpoint. A Picker is built for one service from the endpoints of one Snapshot and never changes; what is learned
// about endpoints lives in States, which the Pickers of successive Snapshots share.
//
// Step is the choose step of the outbound path. A new algorithm is one file and one line in Algorithms.
package balance

import (
	"math/rand/v2"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// New builds a Picker. It does not change endpoints; random yields numbers in [0, 1) and must be safe for concurrent use.
type New func(endpoints []policy.Endpoint, states *States, random func() float64) exchange.Picker

// Algorithms, by name. Default is used unless policy says otherwise.
var Algorithms = map[string]New{
	Default: newP2C,
}

// Default is the name of the default algorithm.
const Default = "p2c_peak_ewma"

// NewPicker builds a Picker with the default algorithm.
func NewPicker(endpoints []policy.Endpoint, states *States) exchange.Picker {
	return Algorithms[Default](endpoints, states, rand.Float64)
}

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
	if o.Status == 429 {
		return exchange.ResultFailed
	}
	return exchange.ResultOK
}
