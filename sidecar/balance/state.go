package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// The constants of the average; see P2C.
const (
	seed         = 30 * time.Millisecond
	decay        = 10 * time.Second
	failingDecay = 2 * time.Second
	failingStep  = 0.2 // weight of one try in the share of failed tries
	failingCost  = 20
	floor        = 100 * time.Microsecond // an average never falls below: costs stay comparable
	maxPause     = 5 * time.Minute        // an endpoint is not left alone for longer, whatever it asks for
)

// The constants of the local reflex.
const (
	reflexAfter = 5 // consecutive unreachable tries
	reflexFirst = time.Second
	reflexMax   = 30 * time.Second
)

// state is what is known of one address. It outlives Snapshots. Only End and the reflex write it; Pick reads the atomics.
type state struct {
	states   *States
	inFlight atomic.Int64
	average  atomic.Uint64 // math.Float64bits, seconds, as of stamp
	failing  atomic.Uint64 // math.Float64bits, share, as of stamp
	stamp    atomic.Int64  // unix ns
	paused   atomic.Int64  // unix ns; until when the endpoint has asked to be left alone
	// openUntil is when the reflex lets the next probe through; 0: closed (healthy).
	openUntil atomic.Int64
	opened    atomic.Int64 // unix ns; when it opened
	probing   atomic.Bool  // the one probe of an open reflex is out

	// Of slow start; see entry.warm.
	fresh  atomic.Bool  // it came after others, and was not looked at yet
	wasOut atomic.Bool  // when a situation was last made
	since  atomic.Int64 // unix ns; when it came, or came back; 0: it was there from the beginning

	oldest   atomic.Int64 // unix ns; since when the first of waiting waits; 0: nobody waits
	answered atomic.Int64 // tries, up to enough

	mu          sync.Mutex // writers of the fields above and:
	unreachable int
	penalty     time.Duration
	waiting     waiting
	unproven    bool // average is how long was waited in vain, not what an answer took
}

func newState(s *States) *state {
	st := &state{states: s}
	st.average.Store(math.Float64bits(seed.Seconds()))
	return st
}

func decayed(v float64, elapsed int64, tau time.Duration) float64 {
	if elapsed <= 0 {
		return v
	}
	return v * math.Exp(-float64(elapsed)/float64(tau))
}

// cost is P2C's; ratio is mean weight ÷ weight. What nobody has answered yet counts as if it were answered now: an endpoint that hangs is slow before its first
// time-out says so.
func (st *state) cost(now int64, ratio float64) float64 {
	elapsed := now - st.stamp.Load()
	avg := math.Float64frombits(st.average.Load())
	fail := math.Float64frombits(st.failing.Load())
	if elapsed > int64(time.Second) { // within a second the decay is under 10 %, not worth an exponential on the hot path
		avg = decayed(avg, elapsed, decay)
		fail = decayed(fail, elapsed, failingDecay)
	}
	if since := st.oldest.Load(); since != 0 && float64(now-since) > avg*1e9 {
		avg = max(avg, st.waited(now).Seconds())
	}
	return max(avg, floor.Seconds()) * (1 + float64(st.inFlight.Load())*ratio) * (1 + failingCost*fail)
}

// load is one try on its way: the state and whether it is the reflex's probe, or counted for bounds. Types instead of a struct, so that making an
// exchange.Load of a *state allocates nothing.
type (
	plainLoad   state
	reflexLoad  state
	boundedLoad state
)

func (l *plainLoad) Begin(w *exchange.Waiting, now time.Time)   { (*state)(l).begin(w, now) }
func (l *reflexLoad) Begin(w *exchange.Waiting, now time.Time)  { (*state)(l).begin(w, now) }
func (l *boundedLoad) Begin(w *exchange.Waiting, now time.Time) { (*state)(l).begin(w, now) }

func (l *plainLoad) End(w *exchange.Waiting, now time.Time, took time.Duration, r exchange.Result, retryAfter time.Duration) {
	(*state)(l).end(w, now, took, r, retryAfter, false)
}

func (l *reflexLoad) End(w *exchange.Waiting, now time.Time, took time.Duration, r exchange.Result, retryAfter time.Duration) {
	(*state)(l).end(w, now, took, r, retryAfter, true)
}

func (l *boundedLoad) End(w *exchange.Waiting, now time.Time, took time.Duration, r exchange.Result, retryAfter time.Duration) {
	l.states.bounded.Add(-1)
	(*state)(l).end(w, now, took, r, retryAfter, false)
}

// pause leaves the endpoint alone for d.
func (st *state) pause(now int64, d time.Duration) {
	until := now + int64(min(d, maxPause))
	st.paused.Store(until)
	for {
		longest := st.states.paused.Load()
		if until <= longest || st.states.paused.CompareAndSwap(longest, until) {
			return
		}
	}
}

func (st *state) end(w *exchange.Waiting, now time.Time, took time.Duration, r exchange.Result, retryAfter time.Duration, probe bool) {
	st.inFlight.Add(-1)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.leaveLocked(w)
	if probe {
		defer st.probing.Store(false)
	}
	if r == exchange.ResultUnknown {
		return
	}
	t := now.UnixNano()
	elapsed := t - st.stamp.Load()
	avg := decayed(math.Float64frombits(st.average.Load()), elapsed, decay)
	if r == exchange.ResultAbandoned && took.Seconds() <= avg {
		return // that much was to be expected
	}
	sample := took.Seconds()
	if r != exchange.ResultOK {
		sample = max(sample, seed.Seconds(), avg) // a refused connect, or request, is quick, and no reason to come back
	}
	switch {
	case sample >= avg:
		st.unproven = r != exchange.ResultOK && (st.unproven || took.Seconds() >= avg)
	case r == exchange.ResultOK && st.unproven: // each answer refutes half of it
		sample = max(sample, avg/2)
		st.unproven = sample == avg/2
	default:
		w := math.Exp(-math.Max(float64(elapsed), float64(time.Millisecond)) / float64(decay))
		sample = math.Float64frombits(st.average.Load())*w + sample*(1-w)
	}
	fail := decayed(math.Float64frombits(st.failing.Load()), elapsed, failingDecay) * (1 - failingStep)
	switch r {
	case exchange.ResultOK:
		if n := st.answered.Load(); n < enough {
			st.answered.Store(n + 1)
		}
	case exchange.ResultAbandoned: // it may be the caller who wants too much
		fail /= 1 - failingStep
	case exchange.ResultOverloaded:
		fail = 1
		if retryAfter > 0 {
			st.pause(t, retryAfter)
		}
	default:
		fail += failingStep
	}
	st.average.Store(math.Float64bits(sample))
	st.failing.Store(math.Float64bits(fail))
	st.stamp.Store(max(t, st.stamp.Load()))

	if r == exchange.ResultAbandoned {
		return
	}
	if r != exchange.ResultUnreachable {
		st.unreachable, st.penalty = 0, 0
		if st.openUntil.Swap(0) != 0 {
			st.states.tripped.Add(-1)
			st.states.generation.Add(1)
		}
		return
	}
	st.unreachable++
	if st.unreachable < reflexAfter && !probe {
		return
	}
	open := st.openUntil.Load()
	if open != 0 && !probe {
		return // tries that were on their way when it tripped
	}
	st.penalty = min(max(2*st.penalty, reflexFirst), reflexMax)
	if st.openUntil.Swap(t+int64(st.penalty)) == 0 {
		st.opened.Store(t)
		st.states.tripped.Add(1)
	}
	st.states.generation.Add(1)
}

func (st *state) float(bits *atomic.Uint64) float64 { return math.Float64frombits(bits.Load()) }
