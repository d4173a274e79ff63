package balance

import (
	"math"
	"net/netip"
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

// state is what is known of one address. It outlives Snapshots. Only End and the reflex write it; Pick reads the atomics.
type state struct {
	states   *States
	address  netip.AddrPort
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

	mu       sync.Mutex // writers of the fields above and:
	waiting  waiting
	unproven bool // average is how long was waited in vain, not what an answer took

	// Of the reflex; see ejection.go.
	errors, unreachable int // tries in a row
	windows             [2]window
	windowAt            int64 // when the first of windows began, in windowOf since 1970
	why                 Why   // it is, or was last, ejected
	evidence            string
	tolerable           time.Duration // WhySlow: what a probe may take
	penalty             time.Duration // before jitter
	times               int           // in a row
	closed              int64         // unix ns; when it was last let in again
	good                int           // answers in a row while it is out
}

func newState(s *States, at netip.AddrPort) *state {
	st := &state{states: s, address: at}
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
	t := now.UnixNano()
	st.mu.Lock()
	st.leaveLocked(w)
	if probe {
		st.probing.Store(false)
	}
	if r == exchange.ResultUnknown {
		st.mu.Unlock()
		return
	}
	inVain := r == exchange.ResultAbandoned && (probe || took >= st.states.patience())
	st.learnLocked(t, took, r, retryAfter)
	var ejected Ejection
	told := false
	if r != exchange.ResultAbandoned && r != exchange.ResultShed || inVain {
		failed := r != exchange.ResultOK
		st.recordLocked(t, took, failed, !failed)
		ejected, told = st.tryEndedLocked(t, took, failed, r == exchange.ResultUnreachable, probe)
	}
	st.mu.Unlock()
	if told {
		st.states.announce(ejected)
	}
	st.states.judge(t)
}

// learnLocked takes a try into the averages.
func (st *state) learnLocked(t int64, took time.Duration, r exchange.Result, retryAfter time.Duration) {
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
	fail := decayed(math.Float64frombits(st.failing.Load()), elapsed, failingDecay)
	switch r {
	case exchange.ResultOK:
		if n := st.answered.Load(); n < enough {
			st.answered.Store(n + 1)
		}
		fail *= 1 - failingStep
	case exchange.ResultAbandoned: // it may be the caller who wants too much
	case exchange.ResultOverloaded:
		fail = 1
		if retryAfter > 0 {
			st.pause(t, retryAfter)
		}
	default:
		fail = fail*(1-failingStep) + failingStep
	}
	st.average.Store(math.Float64bits(sample))
	st.failing.Store(math.Float64bits(fail))
	st.stamp.Store(max(t, st.stamp.Load()))
}

func (st *state) float(bits *atomic.Uint64) float64 { return math.Float64frombits(bits.Load()) }
