package resilience

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller is a Downstream whose body can or cannot be replayed.
type caller struct{ replayable bool }

func (c caller) Answer(*exchange.Exchange) bool { return true }
func (c caller) Replayable() bool               { return c.replayable }

func newExchange(change func(*policy.Service)) *exchange.Exchange {
	sv := policy.Service{
		Name: "s", RequestTimeout: time.Second, TryTimeout: time.Second, MaxRequests: 2, MaxConnections: 1024,
		Retry: policy.Retry{Attempts: 3, BudgetRatio: 0.2, BudgetMin: 10, BackoffBase: 25 * time.Millisecond, BackoffMax: 250 * time.Millisecond},
	}
	if change != nil {
		change(&sv)
	}
	x := &exchange.Exchange{Kind: flow.KindExchange, Side: flow.SideClient, Start: time.Now(), Downstream: caller{true}, Binding: &exchange.Binding{}}
	x.Reset()
	x.Head.Method, x.Head.Idempotent = "GET", true
	x.Destination = &exchange.Destination{Service: sv, Picker: typical(0), InFlight: new(atomic.Int64), Budget: NewBudget(sv.Retry.BudgetRatio, sv.Retry.BudgetMin)}
	return x
}

// tries makes a handler whose n-th call does the n-th of results, the last one again and again.
func tries(calls *int, results ...func(x *exchange.Exchange)) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		i := min(*calls, len(results)-1)
		*calls++
		x.Tries++
		results[i](x)
	})
}

func fails(r flow.Reason) func(*exchange.Exchange) {
	return func(x *exchange.Exchange) { x.Outcome.Fail(r, "") }
}

func succeeds(x *exchange.Exchange) {
	x.Outcome = exchange.Outcome{Status: 200, Committed: true, Answered: true, Delivered: true}
}

func TestRetry(t *testing.T) {
	unprocessed := func(r flow.Reason) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) {
			x.Outcome.Unprocessed = true
			x.Outcome.Fail(r, "")
		}
	}
	stale := func(x *exchange.Exchange) {
		x.Outcome.Stale = true
		x.Outcome.Fail(flow.ReasonUpstreamReset, "")
	}
	busy := func(x *exchange.Exchange) {
		if x.Gate.Retry(x, 503) {
			x.Outcome.Again = true
			x.Outcome.Fail(flow.ReasonUpstreamStatus, "")
			return
		}
		x.Outcome = exchange.Outcome{Status: 503, Reason: flow.ReasonUpstreamStatus, Committed: true, Answered: true}
	}
	// grpc is a call that is answered by trailers only, as a sender has to handle it.
	grpc := func(code uint64) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) {
			x.Outcome.GRPC = flow.NewGRPCStatus(code)
			if x.Asks(200, x.Outcome.GRPC) && x.Gate.Retry(x, 200) {
				x.Outcome.Again = true
				x.Outcome.Fail(flow.ReasonUpstreamStatus, "")
				return
			}
			x.Outcome = exchange.Outcome{Status: 200, GRPC: x.Outcome.GRPC, Reason: flow.ReasonUpstreamStatus, Committed: true, Answered: true}
		}
	}
	// answers is an answer with a status, of the far sidecar itself if told says so, as a sender has to handle it.
	answers := func(status int, told flow.Reason) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) {
			x.Outcome.Told = told
			if x.Asks(status, 0) && x.Gate.Retry(x, status) {
				x.Outcome.Status, x.Outcome.Again = status, true
				x.Outcome.Fail(flow.ReasonUpstreamStatus, "")
				return
			}
			x.Outcome = exchange.Outcome{Status: status, Reason: flow.ReasonUpstreamStatus, Committed: true, Answered: true}
		}
	}
	later := func(d time.Duration) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) {
			x.Outcome.RetryAfter = d
			answers(503, flow.ReasonNone)(x)
		}
	}
	rule := func(r route.Retry) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.Decision.Action = &route.Action{Retry: &r} }
	}
	both := func(changes ...func(*exchange.Exchange)) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) {
			for _, f := range changes {
				f(x)
			}
		}
	}
	again := func(x *exchange.Exchange) { x.Head.Attempt = 2 }
	safe := func(x *exchange.Exchange) { x.Head.Safe = true }
	alone := func(x *exchange.Exchange) { x.Destination.Picker = single{} }
	for _, c := range []struct {
		name   string
		change func(x *exchange.Exchange)
		tries  []func(*exchange.Exchange)
		calls  int
	}{
		{"the far sidecar could not connect, post", post, []func(*exchange.Exchange){answers(503, flow.ReasonConnectRefused)}, 3},
		{"the far sidecar could not connect in time, post", post, []func(*exchange.Exchange){answers(504, flow.ReasonConnectTimeout)}, 3},
		{"the far sidecar sheds, post", post, []func(*exchange.Exchange){answers(503, flow.ReasonShed)}, 3},
		{"it is not to be sent again", nil, []func(*exchange.Exchange){later(exchange.Never)}, 1},
		{"the far sidecar was reset", nil, []func(*exchange.Exchange){answers(502, flow.ReasonUpstreamReset)}, 3},
		{"the far sidecar was reset, post", post, []func(*exchange.Exchange){answers(502, flow.ReasonUpstreamReset)}, 1},
		{"the far sidecar denies", nil, []func(*exchange.Exchange){answers(403, flow.ReasonDenied)}, 1},
		{"the far sidecar had no time left", nil, []func(*exchange.Exchange){answers(504, flow.ReasonRequestTimeout)}, 1},
		{"500, safe", safe, []func(*exchange.Exchange){answers(500, flow.ReasonNone), succeeds}, 2},
		{"502, safe", safe, []func(*exchange.Exchange){answers(502, flow.ReasonNone), succeeds}, 2},
		{"504, safe", safe, []func(*exchange.Exchange){answers(504, flow.ReasonNone), succeeds}, 2},
		{"429, safe", safe, []func(*exchange.Exchange){answers(429, flow.ReasonNone), succeeds}, 2},
		{"501, safe", safe, []func(*exchange.Exchange){answers(501, flow.ReasonNone)}, 1},
		{"500, safe, and there is no other", both(safe, alone), []func(*exchange.Exchange){answers(500, flow.ReasonNone)}, 1},
		{"500, safe, a retry of somebody else", both(safe, again), []func(*exchange.Exchange){answers(500, flow.ReasonNone)}, 1},
		{"502 of the service", nil, []func(*exchange.Exchange){answers(502, flow.ReasonNone)}, 1},
		{"502 that the rule lists, post", both(post, rule(route.Retry{Statuses: []int{502, 504}})), []func(*exchange.Exchange){answers(502, flow.ReasonNone)}, 3},
		{"500 that the rule does not list", rule(route.Retry{Statuses: []int{502, 504}}), []func(*exchange.Exchange){answers(500, flow.ReasonNone)}, 1},
		{"attempts of the rule", rule(route.Retry{Attempts: 5}), []func(*exchange.Exchange){answers(503, flow.ReasonNone)}, 5},
		{"no attempts by the rule", rule(route.Retry{Attempts: 1}), []func(*exchange.Exchange){fails(flow.ReasonConnectRefused)}, 1},
		{"more attempts than are remembered", rule(route.Retry{Attempts: 100}), []func(*exchange.Exchange){answers(503, flow.ReasonNone)}, exchange.MaxTries},
		{"a retry of somebody else, 503", again, []func(*exchange.Exchange){answers(503, flow.ReasonNone)}, 1},
		{"a retry of somebody else, listed", both(again, rule(route.Retry{Statuses: []int{502}})), []func(*exchange.Exchange){answers(502, flow.ReasonNone)}, 1},
		{"a retry of somebody else, shed", again, []func(*exchange.Exchange){answers(503, flow.ReasonShed)}, 1},
		{"a retry of somebody else, reset", again, []func(*exchange.Exchange){fails(flow.ReasonUpstreamReset)}, 1},
		{"a retry of somebody else, refused", again, []func(*exchange.Exchange){fails(flow.ReasonConnectRefused), succeeds}, 2},
		{"a retry of somebody else, not sent by the far sidecar", again, []func(*exchange.Exchange){answers(503, flow.ReasonConnectRefused), succeeds}, 2},
		{"come back later, and there are others", nil, []func(*exchange.Exchange){later(time.Hour), succeeds}, 2},
		{"come back later, and there is no other", alone, []func(*exchange.Exchange){later(400 * time.Millisecond), succeeds}, 2},
		{"come back too late, and there is no other", alone, []func(*exchange.Exchange){later(time.Second), succeeds}, 1},
		{"success", nil, []func(*exchange.Exchange){succeeds}, 1},
		{"refused, then success", nil, []func(*exchange.Exchange){fails(flow.ReasonConnectRefused), succeeds}, 2},
		{"refused for ever", nil, []func(*exchange.Exchange){fails(flow.ReasonConnectRefused)}, 3},
		{"reset, idempotent", nil, []func(*exchange.Exchange){fails(flow.ReasonUpstreamReset), succeeds}, 2},
		{"reset, post", post, []func(*exchange.Exchange){fails(flow.ReasonUpstreamReset), succeeds}, 1},
		{"reset, post, unprocessed", post, []func(*exchange.Exchange){unprocessed(flow.ReasonUpstreamReset), succeeds}, 2},
		{"refused, post", post, []func(*exchange.Exchange){unprocessed(flow.ReasonConnectRefused), succeeds}, 2},
		{"503, idempotent", nil, []func(*exchange.Exchange){busy}, 3},
		{"503, post", post, []func(*exchange.Exchange){busy}, 1},
		{"UNAVAILABLE, not listed", post, []func(*exchange.Exchange){grpc(14)}, 1},
		{"UNAVAILABLE, listed", listed("UNAVAILABLE"), []func(*exchange.Exchange){grpc(14)}, 3},
		{"UNAVAILABLE, then success", listed("UNAVAILABLE"), []func(*exchange.Exchange){grpc(14), succeeds}, 2},
		{"UNAVAILABLE, another is listed", listed("ABORTED"), []func(*exchange.Exchange){grpc(14)}, 1},
		{"UNAVAILABLE, listed, body lost", func(x *exchange.Exchange) { listed("UNAVAILABLE")(x); x.Downstream = caller{false} }, []func(*exchange.Exchange){grpc(14)}, 1},
		{"500 is an answer", nil, []func(*exchange.Exchange){func(x *exchange.Exchange) {
			x.Outcome = exchange.Outcome{Status: 500, Reason: flow.ReasonUpstreamStatus, Committed: true, Answered: true}
		}}, 1},
		{"request time-out", nil, []func(*exchange.Exchange){fails(flow.ReasonRequestTimeout)}, 1},
		{"garbage", nil, []func(*exchange.Exchange){fails(flow.ReasonUpstreamProtocol)}, 1},
		{"caller left", nil, []func(*exchange.Exchange){fails(flow.ReasonDownstreamReset)}, 1},
		{"body lost", func(x *exchange.Exchange) { x.Downstream = caller{false} }, []func(*exchange.Exchange){fails(flow.ReasonConnectRefused)}, 1},
		{"off", func(x *exchange.Exchange) { x.Destination.Retry.Attempts = 1 }, []func(*exchange.Exchange){fails(flow.ReasonConnectRefused)}, 1},
		{"off, but stale", func(x *exchange.Exchange) { x.Destination.Retry.Attempts = 1 }, []func(*exchange.Exchange){stale, succeeds}, 2},
		{"stale, post", post, []func(*exchange.Exchange){stale, succeeds}, 1},
		{"aborted", func(x *exchange.Exchange) { x.Abort(flow.ReasonDraining) }, []func(*exchange.Exchange){fails(flow.ReasonConnectRefused)}, 1},
		{"server side", func(x *exchange.Exchange) { x.Side = flow.SideServer }, []func(*exchange.Exchange){fails(flow.ReasonConnectRefused)}, 1},
		{"server side, stale", func(x *exchange.Exchange) { x.Side = flow.SideServer }, []func(*exchange.Exchange){stale, succeeds}, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newExchange(nil)
			if c.change != nil {
				c.change(x)
			}
			calls := 0
			Deadline(Retry(tries(&calls, c.tries...))).Handle(x)
			if calls != c.calls {
				t.Errorf("%s: %d tries, want %d", c.name, calls, c.calls)
			}
			if waited := time.Since(x.Start); waited > 500*time.Millisecond && c.calls < 5 {
				t.Errorf("%s: waited %s", c.name, waited)
			}
			if x.Retries != c.calls-1 && !strings.Contains(c.name, "stale") {
				t.Errorf("%s: %d retries", c.name, x.Retries)
			}
		})
	}
}

// single is a Picker that knows no other endpoint.
type single struct{ typical }

func (single) Another(exchange.Want) bool { return false }

func post(x *exchange.Exchange) { x.Head.Method, x.Head.Idempotent = "POST", false }

func listed(names ...string) func(*exchange.Exchange) {
	return func(x *exchange.Exchange) {
		post(x)
		x.Destination.Retry.GRPC, _ = policy.ParseGRPCStatuses(names)
	}
}

// The sooner of the caller's timeout and the policy's ends an exchange, and what is left of the caller's goes on.
func TestCallersTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			request, try, caller time.Duration
			deadline, left       time.Duration // left: 100 ms after the beginning
		}{
			{time.Second, time.Second, 0, time.Second, 0},
			{time.Second, time.Second, 400 * time.Millisecond, 400 * time.Millisecond, 300 * time.Millisecond},
			{time.Second, time.Second, time.Hour, time.Second, 900 * time.Millisecond},
			{time.Second, 200 * time.Millisecond, 400 * time.Millisecond, 400 * time.Millisecond, 200 * time.Millisecond},
			{-1, -1, 400 * time.Millisecond, 400 * time.Millisecond, 300 * time.Millisecond},
			{-1, -1, 0, 0, 0},
			{time.Second, time.Second, 50 * time.Millisecond, 50 * time.Millisecond, 1},
		} {
			x := newExchange(func(s *policy.Service) { s.RequestTimeout, s.TryTimeout = c.request, c.try })
			x.Head.Timeout = c.caller
			Deadline(exchange.HandlerFunc(func(x *exchange.Exchange) {
				time.Sleep(100 * time.Millisecond)
				TryDeadline(exchange.HandlerFunc(func(x *exchange.Exchange) {
					want := time.Time{}
					if c.deadline != 0 {
						want = x.Start.Add(c.deadline)
					}
					if left := x.Left(time.Now()); !x.Deadline.Equal(want) || left != c.left {
						t.Errorf("%+v: deadline after %s, %s left", c, x.Deadline.Sub(x.Start), left)
					}
				})).Handle(x)
			})).Handle(x)
		}
	})
}

// Exchanges that share connections are not bounded by how many connections there may be.
func TestLimitByProtocol(t *testing.T) {
	for _, c := range []struct {
		came, service flow.Protocol
		limit         int
		requests      bool
	}{
		{flow.ProtocolHTTP1, flow.ProtocolHTTP, 10, false},
		{flow.ProtocolHTTP2, flow.ProtocolHTTP, 100, true},
		{flow.ProtocolGRPC, flow.ProtocolGRPC, 100, true},
		{flow.ProtocolHTTP1, flow.ProtocolHTTP2, 100, true},
		{flow.ProtocolGRPC, flow.ProtocolHTTP1, 10, false},
	} {
		d := exchange.Destination{Service: policy.Service{Protocol: c.service, MaxRequests: 100, MaxConnections: 10}}
		if limit, requests := d.Limit(flow.KindExchange, c.came); limit != c.limit || requests != c.requests {
			t.Errorf("%s to %s: %d, by requests %v", c.came, c.service, limit, requests)
		}
	}
}

func TestRetryNeverPassesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExchange(func(s *policy.Service) {
			s.RequestTimeout = 100 * time.Millisecond
			s.Retry.Attempts, s.Retry.BackoffBase, s.Retry.BackoffMax = 8, time.Hour, time.Hour
		})
		calls := 0
		Deadline(Retry(tries(&calls, func(x *exchange.Exchange) {
			time.Sleep(30 * time.Millisecond)
			x.Outcome.Fail(flow.ReasonConnectTimeout, "")
		}))).Handle(x)
		if took := time.Since(x.Start); took > 130*time.Millisecond {
			t.Errorf("took %s with a deadline of 100 ms", took)
		}
		if calls < 2 {
			t.Errorf("%d tries: a back-off that does not fit must be shortened", calls)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for _, c := range []struct {
			request, try    time.Duration
			deadline, until time.Duration // 0: none
		}{
			{time.Second, time.Second, time.Second, time.Second},
			{time.Second, 100 * time.Millisecond, time.Second, 100 * time.Millisecond},
			{time.Second, time.Hour, time.Second, time.Second},
			{-1, 100 * time.Millisecond, 0, 100 * time.Millisecond},
			{-1, -1, 0, 0},
		} {
			x := newExchange(func(s *policy.Service) { s.RequestTimeout, s.TryTimeout = c.request, c.try })
			Deadline(TryDeadline(exchange.HandlerFunc(func(x *exchange.Exchange) {
				for _, v := range []struct {
					what string
					got  time.Time
					want time.Duration
				}{{"deadline", x.Deadline, c.deadline}, {"until", x.Until(), c.until}} {
					want := time.Time{}
					if v.want != 0 {
						want = start.Add(v.want)
					}
					if !v.got.Equal(want) {
						t.Errorf("request %s, try %s: %s is %v, want %v", c.request, c.try, v.what, v.got, want)
					}
				}
			}))).Handle(x)
		}
	})
}

// A rule has the last word about times; 0 leaves the service's, -1 is none.
func TestTimesOfARule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for _, c := range []struct {
			rule            route.Timeouts
			deadline, until time.Duration // 0: none
			idle            time.Duration
		}{
			{route.Timeouts{}, time.Second, 200 * time.Millisecond, time.Hour},
			{route.Timeouts{Request: 3 * time.Second, Try: time.Second, Idle: time.Minute}, 3 * time.Second, time.Second, time.Minute},
			{route.Timeouts{Request: 100 * time.Millisecond}, 100 * time.Millisecond, 100 * time.Millisecond, time.Hour},
			{route.Timeouts{Try: -1, Idle: -1}, time.Second, time.Second, -1},
			{route.Timeouts{Request: -1}, 0, 200 * time.Millisecond, time.Hour},
			{route.Timeouts{Request: -1, Try: -1}, 0, 0, time.Hour},
		} {
			x := newExchange(func(s *policy.Service) { s.TryTimeout, s.IdleTimeout = 200*time.Millisecond, time.Hour })
			x.Decision.Action = &route.Action{Timeouts: c.rule}
			ran := false
			Deadline(TryDeadline(exchange.HandlerFunc(func(x *exchange.Exchange) {
				ran = true
				want := func(d time.Duration) time.Time {
					if d == 0 {
						return time.Time{}
					}
					return start.Add(d)
				}
				if !x.Deadline.Equal(want(c.deadline)) || !x.Until().Equal(want(c.until)) || x.Idle() != c.idle {
					t.Errorf("%+v: until %v, each try %v, idle %v", c.rule, x.Deadline, x.Until(), x.Idle())
				}
			}))).Handle(x)
			if !ran {
				t.Errorf("%+v: it was not sent", c.rule)
			}
		}
	})
}

// What came too late is failed at once, and never sent.
func TestWhatIsOverIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExchange(nil)
		x.Head.Timeout = 50 * time.Millisecond
		time.Sleep(50 * time.Millisecond)
		Deadline(Retry(exchange.HandlerFunc(func(*exchange.Exchange) { t.Error("it was sent") }))).Handle(x)
		if o := x.Outcome; o.Reason != flow.ReasonRequestTimeout || o.Delivered || !o.Unprocessed || !strings.Contains(o.Detail, "50ms") {
			t.Errorf("%+v", o)
		}
	})
}

func TestLimit(t *testing.T) {
	first := newExchange(nil)
	var run func(depth int)
	shed := 0
	run = func(depth int) {
		x := newExchange(nil)
		x.Destination = first.Destination
		Limit(exchange.HandlerFunc(func(*exchange.Exchange) {
			if depth < 5 {
				run(depth + 1)
			}
		})).Handle(x)
		if x.Outcome.Reason == flow.ReasonShed {
			shed++
		}
	}
	run(1)
	if shed != 1 || first.Destination.InFlight.Load() != 0 {
		t.Errorf("%d shed with a limit of 2 and 3 at a time, %d left in flight", shed, first.Destination.InFlight.Load())
	}
}

func TestBudget(t *testing.T) {
	now := time.Unix(1000, 0)
	b := NewBudget(0.2, 1)
	for range 100 {
		b.Request(now)
	}
	n := 0
	for b.Withdraw(now) {
		n++
	}
	if n != 30 { // 20 % of 100, plus 1 per second for ten seconds
		t.Errorf("%d retries for 100 requests, want 30", n)
	}
	if b.Withdraw(now.Add(9 * time.Second)) {
		t.Error("the budget came back within the window")
	}
	n = 0
	for b.Withdraw(now.Add(10 * time.Second)) {
		n++
	}
	if n != 10 {
		t.Errorf("%d retries in an empty window, want 10", n)
	}
}

// A budget is spent where it helps: twice the requests if half of the retries succeed, next to nothing if none does, and it is there again soon after they do.
func TestBudgetGoesByWhatHelps(t *testing.T) {
	for _, c := range []struct {
		name        string
		fails       float64 // of first tries, and of retries
		least, most float64 // retries per request
	}{
		{"nothing helps", 1, 0.01, 0.06},
		{"half help", 0.5, 0.45, 0.5},
		{"one of five fails", 0.2, 0.2, 0.2},
		{"one of ten helps", 0.9, 0.05, 0.3},
	} {
		b := NewBudget(0.2, 10)
		now := time.Unix(1000, 0)
		requests, retries, owed := 0, 0.0, 0.0
		turn := func(fails float64) {
			now = now.Add(10 * time.Millisecond) // 100 requests per second
			b.Request(now)
			requests++
			if owed += fails; owed >= 1 {
				owed--
				if b.Withdraw(now) {
					retries++
					b.Retried(now, float64((int(retries)*7)%10) >= 10*fails)
				}
			}
		}
		for range 1000 { // all is well
			turn(0)
		}
		requests = 0
		for range 3000 {
			turn(c.fails)
		}
		if got := retries / float64(requests); got < c.least || got > c.most {
			t.Errorf("%s: %.3f retries per request, want %v to %v", c.name, got, c.least, c.most)
		}
		for range 1500 {
			turn(0)
		}
		requests, retries = 0, 0
		for range 1000 {
			turn(0.3)
		}
		if got := retries / float64(requests); got < 0.28 {
			t.Errorf("%s: %.3f retries per request after it, want 0.3", c.name, got)
		}
	}
	b := NewBudget(0, 0)
	if now := time.Unix(1000, 0); b.Request(now) || b.Withdraw(now) {
		t.Error("there is something of nothing")
	}
}

// The budget is told how each retry has ended.
func TestRetriesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			results        []func(*exchange.Exchange)
			helped, failed float64
		}{
			{[]func(*exchange.Exchange){succeeds}, 0, 0},
			{[]func(*exchange.Exchange){fails(flow.ReasonConnectRefused), succeeds}, 1, 0},
			{[]func(*exchange.Exchange){fails(flow.ReasonConnectRefused)}, 0, 2},
			{[]func(*exchange.Exchange){fails(flow.ReasonConnectRefused), fails(flow.ReasonConnectRefused), succeeds}, 1, 1},
			{[]func(*exchange.Exchange){fails(flow.ReasonConnectRefused), fails(flow.ReasonDownstreamReset)}, 0, 0},
		} {
			calls := 0
			x := newExchange(nil)
			Retry(tries(&calls, c.results...)).Handle(x)
			if b := x.Destination.Budget.(*Budget); b.all.helped != c.helped || b.all.failed != c.failed {
				t.Errorf("after %d tries %+v, want %v and %v", calls, b.all, c.helped, c.failed)
			}
		}
	})
}
