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
}

const budgetSeconds = 10

// NewBudget allows ratio × requests + floor × 10 retries in any window of ten seconds.
func NewBudget(ratio, floor float64) *Budget { return &Budget{ratio: ratio, floor: floor} }

// Request implements exchange.Budget.
func (b *Budget) Request(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests[b.advanceLocked(now)]++
}

// Withdraw implements exchange.Budget.
func (b *Budget) Withdraw(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.advanceLocked(now)
	var requests, retries float64
	for k := range budgetSeconds {
		requests += b.requests[k]
		retries += b.retries[k]
	}
	if retries+1 > b.ratio*requests+b.floor*budgetSeconds {
		return false
	}
	b.retries[i]++
	return true
}

func (b *Budget) advanceLocked(now time.Time) int {
	s := now.Unix()
	if s-b.second >= budgetSeconds {
		clear(b.requests[:])
		clear(b.retries[:])
		b.second = s
	}
	for ; b.second < s; b.second++ {
		k := (b.second + 1) % budgetSeconds
		b.requests[k], b.retries[k] = 0, 0
	}
	return int(((b.second % budgetSeconds) + budgetSeconds) % budgetSeconds)
}
