package balance

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Parameters of the peak-EWMA estimate and of the local reflex.
const (
	// Seed is the estimate for an endpoint that never answered.
	Seed = 30 * time.Millisecond
	// Decay is the time constant with which an estimate forgets.
	Decay = 10 * time.Second
	// Penalty is what a failure counts as, at least: a failure that comes fast must not look attractive.
	Penalty = time.Second
	// UnreachableAfter consecutive failed connects or handshakes make the sidecar skip an endpoint by itself …
	UnreachableAfter = 5
	// … at first for SkipBase, doubling up to SkipMax. DESIGN gives a sidecar at most 30 s of its own.
	SkipBase = time.Second
	SkipMax  = 30 * time.Second
)

// States keeps what is known of the endpoints of one service, by address, across Snapshots. The zero value is ready. Safe for concurrent use.
type States struct {
	skipped atomic.Int32 // how many are skipped; may be too high when a skipped endpoint was removed, never too low

	mu sync.Mutex
	m  map[netip.AddrPort]*state
}

// take returns the states of the addresses, in order, and forgets all others.
func (s *States) take(addrs []netip.AddrPort) []*state {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[netip.AddrPort]*state, len(addrs))
	out := make([]*state, len(addrs))
	for i, a := range addrs {
		st := m[a]
		if st == nil {
			if st = s.m[a]; st == nil {
				st = &state{of: s}
			}
			m[a] = st
		}
		out[i] = st
	}
	s.m = m
	return out
}

// state is what one sidecar knows of one endpoint.
type state struct {
	of        *States
	inflight  atomic.Int64
	skipUntil atomic.Int64 // unix ns; 0: not skipped
	probing   atomic.Bool  // one probation request is out

	mu       sync.Mutex
	ewma     float64 // ns
	at       time.Time
	failures int           // consecutive unreachable
	skip     time.Duration // last skip
}

// estimate is the latency expected now, in ns: the peak-EWMA, decaying while nothing new is learned.
func (s *state) estimate(now time.Time) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.estimateLocked(now)
}

func (s *state) estimateLocked(now time.Time) float64 {
	if s.at.IsZero() {
		return float64(Seed)
	}
	dt := now.Sub(s.at)
	if dt <= 0 {
		return s.ewma
	}
	if dt < time.Millisecond {
		return s.ewma * (1 - float64(dt)/float64(Decay))
	}
	return s.ewma * math.Exp(-float64(dt)/float64(Decay))
}

// End implements exchange.Load.
func (s *state) End(now time.Time, took time.Duration, result exchange.Result) {
	s.inflight.Add(-1)
	s.probing.Store(false)
	if result == exchange.ResultUnknown {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rtt := float64(took)
	if result != exchange.ResultOK {
		rtt = max(rtt, s.ewma, float64(Penalty))
	}
	decayed := s.estimateLocked(now)
	switch {
	case s.at.IsZero(), rtt >= decayed: // a peak counts at once
		s.ewma = rtt
	default:
		w := math.Exp(-float64(max(now.Sub(s.at), 0)) / float64(Decay))
		s.ewma = s.ewma*w + rtt*(1-w)
	}
	s.at = now
	if result != exchange.ResultUnreachable {
		s.failures, s.skip = 0, 0
		if s.skipUntil.Load() != 0 {
			s.skipUntil.Store(0)
			s.of.skipped.Add(-1)
		}
		return
	}
	if s.failures++; s.failures < UnreachableAfter {
		return
	}
	s.skip = min(max(SkipBase, 2*s.skip), SkipMax)
	if s.skipUntil.Load() == 0 {
		s.of.skipped.Add(1)
	}
	s.skipUntil.Store(now.Add(s.skip).UnixNano())
}
