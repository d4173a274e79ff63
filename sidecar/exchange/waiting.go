package exchange

import (
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Waiting is the place of a try among those that its endpoint has not answered yet. But for Excused and Connecting it belongs to who has made Choice.Load.
type Waiting struct {
	// Excused: an answer has begun, or is not to be expected yet. May be set by any goroutine.
	Excused atomic.Bool
	// Connecting: it waits for a connection to be made, and says nothing of how long the service takes. May be set by any goroutine.
	Connecting atomic.Bool
	Since      int64 // unix ns
	Listed     bool
	Next, Prev *Waiting
}

// FirstByte notes that the first byte of an answer has come, at after x.Start. True: until now the try had less time than it has from here on, Until. It is called by the
// goroutine of the exchange, or by one that keeps it waiting meanwhile.
func (x *Exchange) FirstByte(at time.Duration) (prolonged bool) {
	x.Legs.FirstByte = at
	x.Heard.Store(true)
	x.Waiting.Excused.Store(true)
	if a := x.Admission; a != nil {
		x.Admission = nil
		a.Answered(x)
	}
	if x.HeadBy.IsZero() {
		return false
	}
	x.HeadBy = time.Time{}
	return true
}

// Idle is for how long a relay, a tunnel or a stream of x may have no bytes: by its rule, or else its service; not above 0: without limit.
func (x *Exchange) Idle() time.Duration {
	if a := x.Decision.Action; a != nil && a.Timeouts.Idle != 0 {
		return a.Timeouts.Idle
	}
	return x.Destination.IdleTimeout
}

// AnswerBy is until when the first byte of an answer to the current try has to be here; zero: there is no limit.
func (x *Exchange) AnswerBy() time.Time {
	if !x.HeadBy.IsZero() {
		return x.HeadBy
	}
	return x.Until()
}

// Patient is how many times longer than typical an answer is awaited where another endpoint may be quicker (HeadBy). What is typical follows the slowest answers of the last seconds, so that
// an answer in time is rarely given up.
const Patient = 8

// Longer moves HeadBy, when it is over at now, where the service takes longer as a rule than when the try began: where everybody is late a further try is one more to wait for. False: it is to be
// given up. It is called by the goroutine of the exchange.
func (x *Exchange) Longer(now time.Time) bool {
	if x.HeadBy.IsZero() || now.Before(x.HeadBy) || x.Aborted() != flow.ReasonNone {
		return false
	}
	typical := x.Destination.Picker.Typical(now)
	by := x.Began.Add(Patient * typical)
	if !now.Before(by) {
		return false
	}
	if x.HeadBy, x.Typical = by, typical; !x.Until().IsZero() && !by.Before(x.Until()) {
		x.HeadBy = time.Time{}
	}
	return true
}

// Late says which time of the current try is over at now, and for people how.
func (x *Exchange) Late(now time.Time) (flow.Reason, string) {
	r := x.TimeoutReason(now)
	text := "after " + x.Since().Round(time.Millisecond).String()
	if until := x.Until(); !x.HeadBy.IsZero() && (until.IsZero() || now.Before(until)) {
		r = flow.ReasonTryTimeout
		text += ": no answer has begun, where the service has one within " + x.Typical.Round(10*time.Microsecond).String() + "; another endpoint may be quicker"
	}
	return r, text
}
