package exchange

import (
	"net/netip"
	"sync"
	"time"
)

// Learnt is what was found out about addresses and may change: it is forgotten after LearntFor. The zero value is ready; a nil one knows nothing. Safe for concurrent use.
type Learnt struct {
	mu sync.RWMutex
	m  map[netip.AddrPort]time.Time // until
}

const (
	// LearntFor is how long it counts.
	LearntFor = 5 * time.Minute
	maxLearnt = 1024 // one more replaces an arbitrary one
)

// Has reports whether a was added in the last LearntFor.
func (l *Learnt) Has(a netip.AddrPort, now time.Time) bool {
	if l == nil {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	until, ok := l.m[a]
	return ok && now.Before(until)
}

// Add adds a.
func (l *Learnt) Add(a netip.AddrPort, now time.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[netip.AddrPort]time.Time{}
	}
	if _, ok := l.m[a]; !ok && len(l.m) >= maxLearnt {
		for other := range l.m {
			delete(l.m, other)
			break
		}
	}
	l.m[a] = now.Add(LearntFor)
}
