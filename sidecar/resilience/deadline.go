// Package resilience holds the steps that decide how long and how often something is tried, and how much at a time. Each step is one file.
// None of them starts a goroutine; all of them work on the clock of the time package, so that tests run them under testing/synctest.
package resilience

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Deadline sets x.Deadline from the rule's request timeout, else the destination's, and what the caller says that it will wait, the shorter of both, counted from the
// first byte of the request; of a relayed connection from now, for it is the connect that it bounds, and the caller may have been awaited before. What has waited for longer than its caller
// does already is not begun. Of a stream the request timeout is over when its answer has begun (exchange.Stream); without one, what bounds streams bounds the wait for it, too.
func Deadline(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		t, caller := requestTimeout(x), x.Head.Timeout
		if t <= 0 && x.Kind == flow.KindExchange {
			t = x.StreamTimeout()
		}
		if caller > 0 && (t <= 0 || caller < t) {
			t = caller
		}
		switch {
		case t > 0 && x.Kind == flow.KindConnection:
			x.Deadline = time.Now().Add(t)
		case t > 0:
			x.Deadline = x.Start.Add(t)
		}
		if t > 0 && t == caller && x.Since() >= t {
			x.Outcome.Unprocessed = true
			x.Outcome.Fail(flow.ReasonRequestTimeout, "the caller waits for "+caller.String()+", which were over before it was sent on")
			return
		}
		next.Handle(x)
	})
}

// requestTimeout is that of x's rule, or else of its service; not above 0: there is none.
func requestTimeout(x *exchange.Exchange) time.Duration {
	if a := x.Decision.Action; a != nil && a.Timeouts.Request != 0 {
		return a.Timeouts.Request
	}
	return x.Destination.RequestTimeout
}

// tryTimeout is likewise; usual: neither says anything of it.
func tryTimeout(x *exchange.Exchange) (t time.Duration, usual bool) {
	if a := x.Decision.Action; a != nil && a.Timeouts.Try != 0 {
		return a.Timeouts.Try, false
	}
	d := x.Destination
	return d.TryTimeout, d.TryTimeout == d.RequestTimeout && d.TryTimeout > 0
}

// TryDeadline begins a try, and sets x.TryDeadline: the try timeout, but never past x.Deadline. It stands inside Retry. Where there is no try timeout it sets x.HeadBy (see patience).
func TryDeadline(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		x.TryDeadline, x.Began = x.Deadline, time.Now()
		t, usual := tryTimeout(x)
		if t > 0 && !usual {
			if by := x.Began.Add(t); x.Deadline.IsZero() || by.Before(x.Deadline) {
				x.TryDeadline = by
			}
		}
		x.HeadBy = time.Time{}
		if usual && x.Spare {
			x.HeadBy = patience(x)
		}
		next.Handle(x)
	})
}

// mostImpatient is how long is waited at least: a pause of a garbage collector, or a lost packet, is no reason to try elsewhere.
const mostImpatient = 250 * time.Millisecond

// patience is until when an answer to this try has to begin; zero: as long as there is time. Where there is another endpoint, another try and room in the budget, a request that is
// safe to send again (RFC 9110, section 9.2.1) does not wait for an endpoint that hangs until its own time is over: after eight times what the service takes as a rule it goes to
// another one, which has the rest of the time. The last try has all of it: nothing fails because it was slow. A service that is slow as a whole changes what is typical.
func patience(x *exchange.Exchange) time.Time {
	d := x.Destination
	if x.Tries+1 >= attempts(x) || x.Kind != flow.KindExchange || !x.Head.Safe || d.Picker == nil || x.Downstream == nil || !x.Downstream.Replayable() {
		return time.Time{}
	}
	if x.Typical = d.Picker.Typical(x.Began); x.Typical <= 0 {
		return time.Time{}
	}
	by := x.Began.Add(max(exchange.Patient*x.Typical, mostImpatient))
	if until := x.Until(); !until.IsZero() && !by.Before(until) {
		return time.Time{}
	}
	return by
}
