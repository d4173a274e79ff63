package exchange

import (
	"strconv"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Pend counts x among those that wait for a connection to be made, until Pended. False: there are too many, and x.Outcome says so.
func (x *Exchange) Pend() bool {
	x.Waiting.Connecting.Store(true)
	d := x.Destination
	if d.Pending == nil {
		return true
	}
	if n := d.Pending.Add(1); d.MaxPending <= 0 || n <= int64(d.MaxPending) {
		return true
	}
	d.Pending.Add(-1)
	x.Waiting.Connecting.Store(false)
	if d.Shed != nil {
		d.Shed.Pending.Add(1)
	}
	x.Outcome.Delivered, x.Outcome.Unprocessed = false, true
	x.Outcome.Fail(flow.ReasonShed, "MaxPending of "+strconv.Itoa(d.MaxPending)+" towards "+d.Name)
	return false
}

// Pended ends what Pend has begun.
func (x *Exchange) Pended() {
	x.Waiting.Connecting.Store(false)
	if p := x.Destination.Pending; p != nil {
		p.Add(-1)
	}
}
