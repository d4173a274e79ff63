package resilience

import (
	"math/rand/v2"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// maxStale bounds how many tries may be lost on pooled connections that closed just as they were used. After the first the next try dials.
const maxStale = 2

// Retry tries again, elsewhere, what is safe to try again:
//
//   - anything of which it is proven that no peer processed it (Outcome.Unprocessed: connect or handshake failed, the head was not
//     written, a sidecar closed in order without an answer),
//   - idempotent requests after a failure to connect, a reset before a response, a try time-out, or a 503,
//   - gRPC calls that were answered, by trailers only, with a status that the policy lists (Retry.GRPC, none by default): a gRPC call is a POST, so a status
//     alone is no proof that nothing was done, and only its owner knows which one is,
//
// while nothing was answered, the body can be replayed, tries and budget are left, and the deadline is not reached. Other 5xx answers are
// answers. A reused connection that had closed in the meantime costs neither a try nor budget: that is no fault of the service.
//
// On the server side, where the peer is the application, only the last rule applies.
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
	stale := 0
	if x.Side == flow.SideClient {
		x.Spare = d.Budget.Request(x.Start) && min(d.Retry.Attempts, exchange.MaxTries) > 1
	}
	for {
		x.Outcome = exchange.Outcome{}
		r.next.Handle(x)
		o := &x.Outcome
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
		} else if !retryable(x, o) || !left(x, stale) || !d.Budget.Withdraw(now) {
			return
		}
		wait := backoff(d.Retry, x.Tries)
		if !x.Deadline.IsZero() && !now.Add(wait).Before(x.Deadline) {
			if wait = 0; !now.Before(x.Deadline) {
				return
			}
		}
		r.sleep(wait)
		x.Fresh = false
	}
}

// Retry implements exchange.Gate.
func (r *retry) Retry(x *exchange.Exchange, status int) bool {
	if wanted := status == 503 && x.Head.Idempotent || x.Destination.Retry.GRPC.Has(x.Outcome.GRPC); !wanted || !left(x, 0) || x.Downstream == nil || !x.Downstream.Replayable() || x.Aborted() != flow.ReasonNone {
		return false
	}
	now := time.Now()
	return (x.Deadline.IsZero() || now.Before(x.Deadline)) && x.Destination.Budget.Withdraw(now)
}

func left(x *exchange.Exchange, stale int) bool {
	return x.Side == flow.SideClient && x.Tries-stale < min(x.Destination.Retry.Attempts, exchange.MaxTries)
}

func retryable(x *exchange.Exchange, o *exchange.Outcome) bool {
	switch o.Reason {
	case flow.ReasonConnectRefused, flow.ReasonConnectTimeout, flow.ReasonConnectFailed, flow.ReasonTLSFailed, flow.ReasonIdentityMismatch:
		return true
	case flow.ReasonUpstreamReset, flow.ReasonTryTimeout:
		return o.Unprocessed || x.Head.Idempotent
	}
	return false
}

// backoff is full jitter: uniform in [0, min(max, base × 2^(tries-1))).
func backoff(r policy.Retry, tries int) time.Duration {
	d := r.BackoffBase
	for i := 1; i < tries && d < r.BackoffMax; i++ {
		d *= 2
	}
	if d = min(d, r.BackoffMax); d <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(d)))
}
