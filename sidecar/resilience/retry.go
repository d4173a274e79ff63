package resilience

import (
	"math/rand/v2"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	// maxStale bounds how many tries may be lost on pooled connections that closed just as they were used. After the first the next try dials.
	maxStale = 2
	// longestPause bounds how long a request is held because the only endpoint has asked for it, where it has no deadline.
	longestPause = policy.DefaultRequestTimeout
	// lookUp is how often somebody who waits looks whether there is still a reason to.
	lookUp = policy.DefaultBackoffMax
)

// Retry tries again, elsewhere, what is safe to try again:
//
//   - anything of which it is proven that no service processed it: connect or handshake failed, the head was not written, a sidecar closed in order without an answer
//     (Outcome.Unprocessed), or a sidecar has answered that it could not connect to its application, or had no room (Outcome.Told),
//   - idempotent requests after a reset before a response, also one that the far sidecar tells of, a try time-out, or a 503,
//   - safe requests without a body that were answered 500, 502, 504 or 429, where another endpoint has not been asked: of several that do the same, one that fails is more often the
//     fault of where it runs than of the request,
//   - gRPC calls that were answered, by trailers only, with a status that the policy lists (Retry.GRPC, none by default): a gRPC call is a POST, so a status
//     alone is no proof that nothing was done, and only its owner knows which one is,
//   - whatever was answered with a status that the rule lists (route.Retry.Statuses, none by default): its owner says so,
//
// while nothing was answered, the body can be replayed, tries and budget are left, and the deadline is not reached. Other answers are
// answers. A reused connection that had closed in the meantime costs neither a try nor budget: that is no fault of the service.
//
// A request that is itself a retry of a sidecar before this one (Head.Attempt) is tried again only by the first of these rules: n sidecars in a row that try twice would otherwise
// make 2ⁿ of one request.
//
// Between two tries it waits, with full jitter, unless nothing was sent and there is another endpoint; where there is no other endpoint and the only one has said when to come back it waits until then, or passes the answer on if there is no
// time for that.
//
// On the server side, where the peer is the application, only stale connections are replaced.
func Retry(next exchange.Handler) exchange.Handler { return &retry{next: next, sleep: sleep} }

type retry struct {
	next  exchange.Handler
	sleep func(time.Duration)
}

func sleep(d time.Duration) {
	if d > 0 {
		t := time.NewTimer(d)
		<-t.C
	}
}

func (r *retry) Handle(x *exchange.Exchange) {
	d := x.Destination
	x.Gate = r
	stale, again := 0, false
	if x.Side == flow.SideClient {
		x.Spare = d.Budget.Request(x.Start) && attempts(x) > 1 && x.Head.Attempt == 0
	}
	for {
		x.Outcome = exchange.Outcome{}
		r.next.Handle(x)
		o := &x.Outcome
		if again && !o.Stale {
			if aborted := x.Aborted() != flow.ReasonNone || o.Reason == flow.ReasonDownstreamReset; !aborted {
				d.Budget.Retried(time.Now(), helped(o))
			}
			again = false
		}
		if o.Reason == flow.ReasonNone || o.Committed || x.Aborted() != flow.ReasonNone {
			return
		}
		if x.Downstream != nil && !x.Downstream.Replayable() {
			return
		}
		if o.Stale && stale < maxStale && (o.Unprocessed || x.Head.Idempotent) {
			stale++
			x.Fresh = true
			if x.Side == flow.SideClient {
				x.Tries = min(x.Tries, exchange.MaxTries-1)
			}
			continue
		}
		now := time.Now()
		if o.Again {
			// Gate has taken it from the budget already.
		} else if !retryable(x, o) || !left(x, stale) || !x.Deadline.IsZero() && !now.Before(x.Deadline) || !d.Budget.Withdraw(now) {
			return
		}
		wait := pause(x)
		if more := wait + backoff(x); x.Outcome.Unprocessed && another(x) {
			// Nobody else has been asked: there is nobody to spare.
		} else if x.Deadline.IsZero() || now.Add(more).Before(x.Deadline) {
			wait = more
		}
		if !r.wait(x, wait) {
			return
		}
		x.Fresh, again = false, true
		x.Retries++
	}
}

// helped reports whether a retry has ended as its caller would wish.
func helped(o *exchange.Outcome) bool {
	return !o.Again && o.Reason == flow.ReasonNone && o.Status < 500 && o.Status != 429 && !o.GRPC.Failure()
}

// wait waits for d. False: nobody waits for the answer any more.
func (r *retry) wait(x *exchange.Exchange, d time.Duration) bool {
	for ; d > lookUp; d -= lookUp {
		if r.sleep(lookUp); x.Aborted() != flow.ReasonNone || x.Downstream != nil && !x.Downstream.Replayable() {
			return false
		}
	}
	r.sleep(d)
	return true
}

// Retry implements exchange.Gate.
func (r *retry) Retry(x *exchange.Exchange, status int) bool {
	if !answeredAgain(x, status) || !left(x, 0) || x.Downstream == nil || !x.Downstream.Replayable() || x.Aborted() != flow.ReasonNone {
		return false
	}
	now := time.Now()
	until := x.Deadline
	if until.IsZero() {
		until = now.Add(longestPause)
	}
	return now.Add(pause(x)).Before(until) && x.Destination.Budget.Withdraw(now)
}

// answeredAgain reports whether a request may be sent again that was answered, by status, Outcome.GRPC and Outcome.Told.
func answeredAgain(x *exchange.Exchange, status int) bool {
	o := &x.Outcome
	if o.RetryAfter == exchange.Never {
		return false
	}
	switch o.Told {
	case flow.ReasonConnectRefused, flow.ReasonConnectTimeout, flow.ReasonConnectFailed, flow.ReasonTLSFailed, flow.ReasonIdentityMismatch:
		return true // it did not reach the service
	case flow.ReasonRequestTimeout:
		return false // the time of the whole request is over
	}
	if x.Head.Attempt > 1 {
		return false
	}
	switch {
	case o.Told == flow.ReasonShed:
		return true // nor did it here, but it is too much already
	case x.Head.Idempotent && (status == 503 || o.Told == flow.ReasonUpstreamReset || o.Told == flow.ReasonDraining):
		return true
	}
	if x.Head.Safe && exchange.Elsewhere(status) && o.Told == flow.ReasonNone && another(x) {
		return true
	}
	return o.GRPC != 0 && x.Destination.Retry.GRPC.Has(o.GRPC) || x.Listed(status)
}

// attempts is how many tries x may have.
func attempts(x *exchange.Exchange) int {
	n := x.Destination.Retry.Attempts
	if a := x.Decision.Action; a != nil && a.Retry != nil && a.Retry.Attempts > 0 {
		n = a.Retry.Attempts
	}
	return min(n, exchange.MaxTries)
}

func left(x *exchange.Exchange, stale int) bool {
	return x.Side == flow.SideClient && x.Tries-stale < attempts(x)
}

func retryable(x *exchange.Exchange, o *exchange.Outcome) bool {
	switch o.Reason {
	case flow.ReasonConnectRefused, flow.ReasonConnectTimeout, flow.ReasonConnectFailed, flow.ReasonTLSFailed, flow.ReasonIdentityMismatch:
		return true
	case flow.ReasonUpstreamReset, flow.ReasonTryTimeout:
		return o.Unprocessed || x.Head.Idempotent && x.Head.Attempt == 0
	}
	return false
}

// pause is how long the endpoint has asked to be left alone, if there is no other one; the balancer leaves it alone where there is.
func pause(x *exchange.Exchange) time.Duration {
	if x.Outcome.RetryAfter <= 0 || another(x) {
		return 0
	}
	return x.Outcome.RetryAfter
}

// another reports whether there is an endpoint that x has not tried.
func another(x *exchange.Exchange) bool {
	p := x.Destination.Picker
	return p != nil && p.Another(exchange.Want{Tried: x.Tried[:min(x.Tries, len(x.Tried))], Subset: x.Decision.Subset})
}

// backoff is full jitter: uniform in [0, min(max, base × 2^(tries-1))).
func backoff(x *exchange.Exchange) time.Duration {
	d, most := x.Destination.Retry.BackoffBase, x.Destination.Retry.BackoffMax
	if a := x.Decision.Action; a != nil && a.Retry != nil && a.Retry.Backoff > 0 {
		d = a.Retry.Backoff
		most = max(d, most)
	}
	for i := 1; i < x.Tries && d < most; i++ {
		d *= 2
	}
	if d = min(d, most); d <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(d)))
}
