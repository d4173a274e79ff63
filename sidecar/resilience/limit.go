package resilience

import (
	"strconv"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Limit sheds what exceeds the destination's concurrency: exchanges over MaxRequests (an HTTP/1.1 exchange holds a connection, so also over
// MaxConnections), TCP connections over MaxConnections. Nothing is queued: a full queue only hides that there is too much.
func Limit(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		d := x.Destination
		limit, requests := d.Limit(x.Kind, x.Protocol)
		n := d.InFlight.Add(1)
		defer d.InFlight.Add(-1)
		if limit >= 0 && n > int64(limit) {
			setting := "MaxConnections"
			if requests {
				setting = "MaxRequests"
			}
			if d.Shed != nil {
				d.Shed.Count(requests)
			}
			x.Outcome.Unprocessed = true
			x.Outcome.Fail(flow.ReasonShed, setting+" of "+strconv.Itoa(limit)+" towards "+d.Name)
			return
		}
		next.Handle(x)
	})
}
