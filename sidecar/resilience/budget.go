package resilience

import (
	"sync"
	"time"
)

// Budget allows retries as a share of requests plus a floor per second, over a sliding window of ten one-second buckets, by what retries of that window have brought:
//
//   - One that has helped costs a quarter of one that has not: what is bounded are retries that only make things worse. A service that fails by chance has all of its requests tried twice.
//   - While fewer than a quarter of them help there is less, by the square: when nothing helps next to nothing is left, but for one now and then that finds out whether it does again. A few
//     retries that have not helped, as when one endpoint of several is gone, are no sign of that.
//
// Safe for concurrent use.
type Budget struct {
	ratio, floor float64

	mu      sync.Mutex
	second  int64
	buckets [budgetSeconds]bucket
	all     bucket // of the window
}

// bucket is what was in a second.
type bucket struct{ requests, spent, helped, failed float64 }

const (
	budgetSeconds = 10
	helpedCosts   = 0.25
	helpful       = 0.25 // share of retries that help, from which on the whole budget is there
	unsure        = 2    // so many retries that help are taken for granted
)

// NewBudget allows ratio × requests + floor × 10 retries in any window of ten seconds, if they do not help four times as many if they do.
func NewBudget(ratio, floor float64) *Budget { return &Budget{ratio: ratio, floor: floor} }

// Request implements exchange.Budget.
func (b *Budget) Request(now time.Time) (spare bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.advanceLocked(now)
	b.buckets[i].requests++
	b.all.requests++
	return b.spareLocked()
}

func (b *Budget) spareLocked() bool {
	use := (b.all.helped + unsure) / ((b.all.helped+b.all.failed)*helpful + unsure)
	whole := b.ratio*b.all.requests + b.floor*budgetSeconds
	return b.all.spent+1 <= max(min(1, whole), min(1, use*use)*whole)
}

// Withdraw implements exchange.Budget.
func (b *Budget) Withdraw(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.advanceLocked(now)
	if !b.spareLocked() {
		return false
	}
	b.buckets[i].spent++
	b.all.spent++
	return true
}

// Retried implements exchange.Budget.
func (b *Budget) Retried(now time.Time, helped bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.buckets[b.advanceLocked(now)]
	if !helped {
		k.failed++
		b.all.failed++
		return
	}
	k.helped++
	b.all.helped++
	k.spent -= 1 - helpedCosts
	b.all.spent -= 1 - helpedCosts
}

func (b *Budget) advanceLocked(now time.Time) int {
	s := now.Unix()
	if s-b.second >= budgetSeconds {
		clear(b.buckets[:])
		b.all = bucket{}
		b.second = s
	}
	for ; b.second < s; b.second++ {
		k := &b.buckets[(b.second+1)%budgetSeconds]
		b.all.requests -= k.requests
		b.all.spent -= k.spent
		b.all.helped -= k.helped
		b.all.failed -= k.failed
		*k = bucket{}
	}
	return int(((b.second % budgetSeconds) + budgetSeconds) % budgetSeconds)
}
