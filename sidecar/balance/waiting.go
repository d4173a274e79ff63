package balance

import (
	"math"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	// longestWait is how long a try without an answer says something of its endpoint. Who waits for longer may be meant to: a stream without an event yet, a long poll. After it only
	// the time-out, or the answer, counts.
	longestWait = 10 * time.Second
	// stuckAfter is how old a try without an answer is that spares its endpoint exploration: it is as good as another one.
	stuckAfter = 250 * time.Millisecond
	// enough is how many answers an endpoint has given whose average says what is typical.
	enough = 20
	// typicalEvery is how old what is typical may be, and typicalOf of how many endpoints it is worked out.
	typicalEvery = 50 * time.Millisecond
	typicalOf    = 64
	owesOf       = 32
)

// waiting is the list of tries without an answer, the oldest first. Those that were excused are taken out by whoever meets them, at the latest by End, so that an answer costs
// no lock.
type waiting struct{ first, last *exchange.Waiting }

func (st *state) begin(w *exchange.Waiting, now time.Time) {
	w.Excused.Store(false)
	w.Connecting.Store(false)
	w.Since, w.Listed = now.UnixNano(), true
	st.mu.Lock()
	l := &st.waiting
	w.Prev, w.Next = l.last, nil
	if l.last == nil {
		l.first = w
		st.oldest.Store(w.Since)
	} else {
		l.last.Next = w
	}
	l.last = w
	st.mu.Unlock()
}

func (st *state) leaveLocked(w *exchange.Waiting) {
	if w == nil || !w.Listed {
		return
	}
	l := &st.waiting
	if w.Next == nil {
		l.last = w.Prev
	} else {
		w.Next.Prev = w.Prev
	}
	if w.Prev != nil {
		w.Prev.Next = w.Next
	} else if l.first = w.Next; l.first == nil {
		st.oldest.Store(0)
	} else {
		st.oldest.Store(l.first.Since)
	}
	w.Next, w.Prev, w.Listed = nil, nil, false
}

// waited is for how long the oldest try that may still expect an answer has waited for it. It does not wait for the lock: then it knows of none.
func (st *state) waited(now int64) time.Duration {
	if !st.mu.TryLock() {
		return 0
	}
	defer st.mu.Unlock()
	for w := st.waiting.first; w != nil; w = st.waiting.first {
		if age := time.Duration(now - w.Since); age <= longestWait && !w.Excused.Load() {
			return max(age, 0)
		}
		st.leaveLocked(w)
	}
	return 0
}

// owes is waited of the first try that has a connection, among as many as are looked at: what cannot be connected to is no service that has become slow.
func (st *state) owes(now int64) time.Duration {
	if !st.mu.TryLock() {
		return 0
	}
	defer st.mu.Unlock()
	w := st.waiting.first
	for range owesOf {
		switch {
		case w == nil:
			return 0
		case w.Connecting.Load() || w.Excused.Load() || time.Duration(now-w.Since) > longestWait:
			w = w.Next
		default:
			return max(time.Duration(now-w.Since), 0)
		}
	}
	return 0
}

// stuck reports whether e owes an answer for so long that there is no need to explore it.
func (e *entry) stuck(now int64) bool {
	since := e.oldest.Load()
	return since != 0 && now-since > int64(stuckAfter) && e.waited(now) > stuckAfter
}

// Typical implements exchange.Picker: the median of the averages of endpoints that have answered enough, the lower one of two, with what they have not answered yet. One that
// hangs among several does not change it; all of them together do, at once: where everybody is late there is nobody to go to, and one more try is one more to wait for.
func (p *Picker) Typical(now time.Time) time.Duration {
	if len(p.entries) < 2 {
		return 0
	}
	t, s := now.UnixNano(), p.states
	if last := s.typicalAt.Load(); t-last >= int64(typicalEvery) && s.typicalAt.CompareAndSwap(last, t) {
		s.typical.Store(s.peers.Load().median(t))
	}
	return time.Duration(s.typical.Load())
}

// patience is after how long a try that had no answer was given up with reason.
func (s *States) patience() time.Duration {
	if t := time.Duration(s.typical.Load()); t > 0 {
		return max(exchange.Patient*t, stuckAfter)
	}
	return longestWait
}

func (p *peers) median(now int64) int64 {
	var list [typicalOf]float64
	n := 0
	for i := 0; i < len(p.states) && n < len(list); i += 1 + len(p.states)/(len(list)+1) {
		if e := p.states[i]; e.answered.Load() >= enough {
			list[n] = decayed(math.Float64frombits(e.average.Load()), now-e.stamp.Load(), decay)
			list[n] = max(list[n], e.owes(now).Seconds())
			n++
		}
	}
	if n == 0 {
		return 0
	}
	slices.Sort(list[:n])
	return int64(max(list[(n-1)/2]*float64(time.Second), float64(floor)))
}
