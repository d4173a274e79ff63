package resilience

import (
	"sync"
	"time"
)

// Budget allows retries as a share of requests plus a floor per second, over a sliding window of ten one-second buckets. Safe for concurrent
// use.
type Budget struct {
	ratio, floor float64

	mu       sync.Mutex
	second   int64
	requests [budgetSeconds]float64
	retries  [budgetSeconds]float64

	allRequests, allRetries float64 // of the window
}

const budgetSeconds = 10

// NewBudget allows ratio × requests + floor × 10 retries in any window of ten seconds.
func NewBudget(ratio, floor float64) *Budget { return &Budget{ratio: ratio, floor: floor} }

// Request implements exchange.Budget.
func (b *Budget) Request(now time.Time) (spare bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.advanceLocked(now)
	b.requests[i]++
	b.allRequests++
	return b.spareLocked()
}

func (b *Budget) spareLocked() bool {
	return b.allRetries+1 <= b.ratio*b.allRequests+b.floor*budgetSeconds
}

// Withdraw implements exchange.Budget.
func (b *Budget) Withdraw(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.advanceLocked(now)
	if !b.spareLocked() {
		return false
	}
	b.retries[i]++
	b.allRetries++
	return true
}

func (b *Budget) advanceLocked(now time.Time) int {
	s := now.Unix()
	if s-b.second >= budgetSeconds {
		clear(b.requests[:])
		clear(b.retries[:])
		b.allRequests, b.allRetries = 0, 0
		b.second = s
	}
	for ; b.second < s; b.second++ {
		k := (b.second + 1) % budgetSeconds
		b.allRequests -= b.requests[k]
		b.allRetries -= b.retries[k]
		b.requests[k], b.retries[k] = 0, 0
	}
	return int(((b.second % budgetSeconds) + budgetSeconds) % budgetSeconds)
}
