package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// Why is the reason for an ejection by the sidecar itself. The vocabulary is closed.
type Why uint8

const (
	// WhyUnreachable is several tries in a row without a connection.
	WhyUnreachable Why = iota + 1
	// WhyErrors is several failed tries in a row, while others do well.
	WhyErrors
	// WhyFailing is a larger share of failed tries than others have.
	WhyFailing
	// WhySlow is a longer response time than others have.
	WhySlow
	numWhy
)

var whyNames = [numWhy]string{"", "unreachable", "errors", "failing", "slow"}

func (w Why) String() string { return whyNames[w] }

// Ejection is what the sidecar has done to an endpoint by itself, and why.
type Ejection struct {
	Endpoint netip.AddrPort
	Why      Why
	Evidence string // for people
	At       time.Time
	Until    time.Time // of the probe
	Times    int       // in a row
}

// The constants of the local reflex.
const (
	reflexAfter = 5 // consecutive unreachable tries

	judgeEvery  = time.Second
	windowOf    = 10 * time.Second // what is judged are the last one to two
	judgeFrom   = 20               // tries, or answers, below which nothing is judged
	judgePeers  = 2                // others that have as many
	slowFrom    = 50 * time.Millisecond
	patientTerm = 5                // times the first term: of what takes a window to see
	forgiveIn   = 30 * time.Second // without an ejection a term counts half
	goodAgain   = 5                // answers in a row that end an ejection which the cap, or panic, spares
	wellBelow   = failingStep      // moving share of failed tries
)

// window is what came of the tries of some seconds.
type window struct {
	tries, failed, answers uint32
	took                   float64 // seconds, of the answers
}

// record takes a try into the window of t.
func (st *state) recordLocked(t int64, took time.Duration, failed, answered bool) {
	if n := t / int64(windowOf); n != st.windowAt {
		if n == st.windowAt+1 {
			st.windows[1] = st.windows[0]
		} else {
			st.windows[1] = window{}
		}
		st.windows[0], st.windowAt = window{}, n
	}
	w := &st.windows[0]
	w.tries++
	if failed {
		w.failed++
	}
	if answered {
		w.answers++
		w.took += took.Seconds()
	}
}

// recentLocked is what came of the tries of the last one to two windows.
func (st *state) recentLocked(t int64) window {
	var sum window
	for i, w := range st.windows {
		if n := t/int64(windowOf) - st.windowAt; n+int64(i) <= 1 {
			sum.tries += w.tries
			sum.failed += w.failed
			sum.answers += w.answers
			sum.took += w.took
		}
	}
	return sum
}

// tryEndedLocked moves the reflex by the end of a try, and returns an ejection to be told of.
func (st *state) tryEndedLocked(t int64, took time.Duration, failed, unreachable, probe bool) (e Ejection, told bool) {
	s := st.states
	if !failed {
		st.errors, st.unreachable = 0, 0
	} else if st.errors++; unreachable {
		st.unreachable++
	} else {
		st.unreachable = 0
	}
	if st.openUntil.Load() != 0 {
		bad := failed || probe && st.why == WhySlow && took > st.tolerable
		switch {
		case probe && bad && st.why != WhyUnreachable && !s.othersDoWell(st, t): // by now they fail as well
			st.closeLocked(t)
		case probe && bad:
			return st.openLocked(t, st.why, st.evidence+"; the request that was to find out whether it is well again has failed, or was slow"), true
		case probe, !failed && st.why == WhyUnreachable:
			st.closeLocked(t)
		case bad:
			st.good = 0
		default: // the cap spares it, or panic
			if st.good++; st.good >= goodAgain {
				st.closeLocked(t)
			}
		}
		return e, false
	}
	rule := s.rule()
	switch {
	case st.unreachable >= reflexAfter:
		return st.openLocked(t, WhyUnreachable, fmt.Sprintf("%d tries in a row found no connection", st.unreachable)), true
	case rule.Errors > 0 && st.errors >= rule.Errors && (st.errors-rule.Errors)%rule.Errors == 0:
		if !s.othersDoWell(st, t) {
			return e, false
		}
		if !s.room(t) {
			s.spared.Add(1)
			return e, false
		}
		return st.openLocked(t, WhyErrors, fmt.Sprintf("%d tries in a row have failed, while others do well", st.errors)), true
	}
	return e, false
}

// openLocked ejects, for twice as long as the time before unless that is long ago.
func (st *state) openLocked(t int64, why Why, evidence string) Ejection {
	s := st.states
	rule := s.rule()
	if st.openUntil.Load() == 0 {
		for since := t - st.closed; st.penalty > 0 && since > int64(forgiveIn); since -= int64(forgiveIn) {
			if st.penalty /= 2; st.penalty < rule.Base {
				st.penalty, st.times = 0, 0
			}
		}
		st.evidence = evidence
	}
	first := rule.Base
	if why == WhyFailing || why == WhySlow {
		first *= patientTerm
	}
	st.penalty = min(max(2*st.penalty, first), rule.Max)
	st.times++
	st.why, st.good = why, 0
	term := min(time.Duration(float64(st.penalty)*(0.8+0.4*unit(s.source()))), rule.Max) // with jitter: sidecars that eject together do not probe together
	until := t + int64(term)
	if st.openUntil.Swap(until) == 0 {
		st.opened.Store(t)
		s.tripped.Add(1)
		s.ejections[why].Add(1)
	}
	s.generation.Add(1)
	return Ejection{Endpoint: st.address, Why: why, Evidence: evidence, At: time.Unix(0, t), Until: time.Unix(0, until), Times: st.times}
}

func (st *state) closeLocked(t int64) {
	if st.openUntil.Swap(0) == 0 {
		return
	}
	st.closed, st.errors, st.unreachable, st.windows = t, 0, 0, [2]window{}
	st.states.tripped.Add(-1)
	st.states.generation.Add(1)
}

// source is where random numbers come from.
func (s *States) source() func() uint64 {
	if f := s.random.Load(); f != nil {
		return *f
	}
	return rand.Uint64
}

// rule is the one in force.
func (s *States) rule() policy.Ejection {
	if r := s.ejection.Load(); r != nil {
		return *r
	}
	return policy.Ejection{}.WithDefaults()
}

// Settle sets when endpoints are ejected; e is without zero values. tell, which may be nil, is told of each ejection, by the goroutine of some exchange.
func (s *States) Settle(e policy.Ejection, tell func(Ejection)) {
	s.ejection.Store(&e)
	if tell != nil {
		s.tell.Store(&tell)
	}
}

// Count is how many endpoints are out now by the reflex, how often that was since the boot for each reason, and how often the cap has spared one.
func (s *States) Count() (now int64, ejections [numWhy]uint64, spared uint64) {
	for i := range ejections {
		ejections[i] = s.ejections[i].Load()
	}
	return s.tripped.Load(), ejections, s.spared.Load()
}

// room reports whether one more may be out: reflex and overrides have one cap together.
func (s *States) room(t int64) bool {
	all := s.peers.Load()
	if all == nil {
		return false
	}
	n := s.tripped.Load()
	for _, until := range all.overrides {
		if t < until {
			n++
		}
	}
	return n < int64(Cap(len(all.states)))
}

// othersDoWell reports whether at least half of the others, and one, fail hardly ever: what fails everywhere is no endpoint's fault.
func (s *States) othersDoWell(st *state, t int64) bool {
	all := s.peers.Load()
	if all == nil {
		return false
	}
	well, n := 0, 0
	for _, o := range all.states {
		if o == st || o.openUntil.Load() != 0 {
			continue
		}
		n++
		if decayed(o.float(&o.failing), t-o.stamp.Load(), failingDecay) < wellBelow {
			well++
		}
	}
	return well > 0 && 2*well >= n
}

// peers are the endpoints of the latest Picker. Immutable.
type peers struct {
	states    []*state
	overrides []int64 // unix ns; when ejections by the controller end
}

// judge compares endpoints with each other, once a second, on the goroutine of whoever ends a try then.
func (s *States) judge(t int64) {
	if last := s.judged.Load(); t-last < int64(judgeEvery) || !s.judged.CompareAndSwap(last, t) {
		return
	}
	all, rule := s.peers.Load(), s.rule()
	if all != nil && len(all.states) > 1 {
		s.typical.Store(all.median(t))
	}
	if all == nil || len(all.states) <= judgePeers || rule.Failing <= 0 && rule.Slow <= 0 || !s.judging.TryLock() {
		return
	}
	defer s.judging.Unlock()
	shares, times := s.shares[:0], s.times[:0]
	recent := s.recent[:0]
	for _, st := range all.states {
		st.mu.Lock()
		w := st.recentLocked(t)
		st.mu.Unlock()
		recent = append(recent, w)
		if w.tries >= judgeFrom {
			shares = append(shares, w.share())
		}
		if w.answers >= judgeFrom {
			times = append(times, w.mean())
		}
	}
	slices.Sort(shares)
	slices.Sort(times)
	s.shares, s.times, s.recent = shares, times, recent
	for i, st := range all.states {
		w := &recent[i]
		if st.openUntil.Load() != 0 {
			continue
		}
		if rule.Failing > 0 && w.tries >= judgeFrom && len(shares) > judgePeers {
			if usual := others(shares, w.share()); w.share()-usual >= float64(rule.Failing)/100 {
				s.eject(st, t, WhyFailing, 0, fmt.Sprintf("%.0f %% of its last %d tries have failed, where others have %.0f %%", 100*w.share(), w.tries, 100*usual))
				continue
			}
		}
		if rule.Slow > 0 && w.answers >= judgeFrom && len(times) > judgePeers {
			usual := others(times, w.mean())
			if mean := w.mean(); mean >= float64(rule.Slow)*usual && mean-usual >= slowFrom.Seconds() {
				s.eject(st, t, WhySlow, 2*usual+slowFrom.Seconds(), fmt.Sprintf("its last %d answers took %v, where others take %v", w.answers, seconds(mean), seconds(usual)))
			}
		}
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Microsecond)
}

func (w *window) share() float64 { return float64(w.failed) / float64(max(w.tries, 1)) }
func (w *window) mean() float64  { return w.took / float64(max(w.answers, 1)) }

// others is the median of sorted without one v, the lower one of two.
func others(sorted []float64, v float64) float64 {
	at, _ := slices.BinarySearch(sorted, v)
	i := (len(sorted) - 2) / 2
	if i >= at {
		i++
	}
	return sorted[i]
}

func (s *States) eject(st *state, t int64, why Why, tolerable float64, evidence string) {
	if !s.room(t) {
		s.spared.Add(1)
		return
	}
	st.mu.Lock()
	if st.openUntil.Load() != 0 {
		st.mu.Unlock()
		return
	}
	st.tolerable = time.Duration(math.Min(tolerable, 3600) * float64(time.Second))
	e := st.openLocked(t, why, evidence)
	st.mu.Unlock()
	s.announce(e)
}

func (s *States) announce(e Ejection) {
	if tell := s.tell.Load(); tell != nil {
		(*tell)(e)
	}
}
