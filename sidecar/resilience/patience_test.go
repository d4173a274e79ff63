package resilience

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// typical is a Picker that knows only that.
type typical time.Duration

func (typical) Pick(time.Time, exchange.Want) (exchange.Choice, flow.Reason) {
	return exchange.Choice{}, flow.ReasonNone
}
func (typical) Another(exchange.Want) bool        { return true }
func (p typical) Typical(time.Time) time.Duration { return time.Duration(p) }

// When a try without an answer is given up for another one.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		name    string
		typical time.Duration
		change  func(x *exchange.Exchange)
		first   time.Duration // 0: it has all the time
	}{
		{"quick service", 5 * time.Millisecond, nil, mostImpatient},
		{"slower one", 40 * time.Millisecond, nil, 320 * time.Millisecond},
		{"slow one: it has the time that there is", 200 * time.Millisecond, nil, 0},
		{"nothing is known", 0, nil, 0},
		{"not safe", 40 * time.Millisecond, func(x *exchange.Exchange) { x.Head.Safe = false }, 0},
		{"a time of its own", 40 * time.Millisecond, func(x *exchange.Exchange) { x.Destination.TryTimeout = 500 * time.Millisecond }, 0},
		{"off", 40 * time.Millisecond, func(x *exchange.Exchange) { x.Destination.TryTimeout = -1 }, 0},
		{"no retries", 40 * time.Millisecond, func(x *exchange.Exchange) { x.Destination.Retry.Attempts = 1 }, 0},
		{"no budget", 40 * time.Millisecond, func(x *exchange.Exchange) { x.Destination.Budget = NewBudget(0, 0) }, 0},
		{"a connection", 40 * time.Millisecond, func(x *exchange.Exchange) { x.Kind = flow.KindConnection }, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newExchange(func(s *policy.Service) { s.Retry.Attempts = 2 })
			x.Head.Safe, x.Destination.Picker = true, typical(c.typical)
			if c.change != nil {
				c.change(x)
			}
			calls := 0
			Deadline(Retry(TryDeadline(tries(&calls, func(x *exchange.Exchange) {
				x.Tries--
				defer func() { x.Tries++ }()
				if c.first == 0 {
					if !x.HeadBy.IsZero() {
						t.Errorf("%s: it is given up after %v", c.name, time.Until(x.HeadBy))
					}
					succeeds(x)
					return
				}
				if got := time.Until(x.AnswerBy()); got != c.first || !x.HeadBy.Before(x.Until()) {
					t.Errorf("%s: it has %v, want %v", c.name, got, c.first)
				}
				time.Sleep(time.Until(x.AnswerBy()))
				x.Outcome.Delivered = true
				reason, text := x.Late(time.Now())
				if x.Outcome.Fail(reason, text); reason != flow.ReasonTryTimeout || !strings.Contains(text, "another endpoint") {
					t.Errorf("%s: %v, %q", c.name, reason, text)
				}
			}, func(x *exchange.Exchange) {
				if x.HeadBy.IsZero() && x.AnswerBy().Equal(x.Deadline) {
					succeeds(x)
				} else {
					t.Errorf("%s: the last try has until %v", c.name, x.AnswerBy())
				}
			})))).Handle(x)
			if !x.Outcome.Answered {
				t.Errorf("%s: %+v", c.name, x.Outcome)
			}
		})
	}
}

// Once an answer has begun the try has its whole time.
func TestPatienceEndsWithTheFirstByte(t *testing.T) {
	now := time.Now()
	x := &exchange.Exchange{Deadline: now.Add(time.Second), HeadBy: now.Add(time.Millisecond)}
	if !x.FirstByte(5) || !x.AnswerBy().Equal(x.Deadline) || x.FirstByte(5) {
		t.Errorf("it has until %v", x.AnswerBy())
	}
}

// A try that would be given up goes on if by then everybody is late, and no longer than there is time.
func TestPatienceGrows(t *testing.T) {
	begun := time.Now()
	for _, c := range []struct {
		name    string
		typical time.Duration
		at      time.Duration
		longer  bool
		by      time.Duration
	}{
		{"it is not over", 100 * time.Millisecond, 100 * time.Millisecond, false, 250 * time.Millisecond},
		{"it is late alone", 10 * time.Millisecond, 250 * time.Millisecond, false, 250 * time.Millisecond},
		{"everybody is late", 100 * time.Millisecond, 250 * time.Millisecond, true, 800 * time.Millisecond},
		{"everybody is late, and there is no time", time.Second, 250 * time.Millisecond, true, time.Second},
	} {
		x := newExchange(nil)
		x.Deadline, x.Began, x.HeadBy, x.Destination.Picker = begun.Add(time.Second), begun, begun.Add(250*time.Millisecond), typical(c.typical)
		if got := x.Longer(begun.Add(c.at)); got != c.longer || !x.AnswerBy().Equal(begun.Add(c.by)) {
			t.Errorf("%s: %v, until %v", c.name, got, x.AnswerBy().Sub(begun))
		}
		x.HeadBy = begun.Add(250 * time.Millisecond)
		if x.Abort(flow.ReasonDownstreamReset); x.Longer(begun.Add(c.at)) {
			t.Errorf("%s: the caller has left", c.name)
		}
	}
}
