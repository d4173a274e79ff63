package store

import (
	"context"
	"fmt"
	"sync"
)

// ErrTooLarge: the answer needs more memory than queries have. Not retryable: the question must be made smaller, as with every ErrBadQuery, which it wraps.
var ErrTooLarge = fmt.Errorf("%w: the answer is too large", ErrBadQuery)

// Memory is what all queries together may hold at a time: the traces and spans that were read and not let go of yet. It is counted before it is taken, by the store that
// reads and by those who keep what was read in another form, in bytes of heap as nearly as they are known beforehand.
//
// A query alone may have all of it. One that wants more than there is at the moment, because others hold the rest, is told to come again (ErrBusy); one that could not
// have it even alone is refused (ErrTooLarge). Nobody waits, since two that wait for one another's memory would do so for ever. Safe for concurrent use.
type Memory struct {
	most int64

	mu    sync.Mutex
	stats MemoryStats
}

// MemoryStats is how Memory is used.
type MemoryStats struct {
	Most     int64  // bytes that queries may hold
	Held     int64  // bytes that they hold now
	Peak     int64  // the most that they held at once since the start
	Queries  int    // that are running
	Busy     uint64 // refusals because others held the rest
	TooLarge uint64 // refusals because even all would not do
	Partial  uint64 // queries that were answered in part
}

// NewMemory makes one of most bytes, above 0.
func NewMemory(most int64) *Memory { return &Memory{most: most} }

// Stats is how it is used now.
func (m *Memory) Stats() MemoryStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Most = m.most
	return s
}

// Begin puts a budget for one query into a context. end gives back all that the query still holds; it must be called, once.
func (m *Memory) Begin(ctx context.Context) (_ context.Context, _ *Budget, end func()) {
	b := &Budget{of: m}
	m.mu.Lock()
	m.stats.Queries++
	m.mu.Unlock()
	return context.WithValue(ctx, budgetKey{}, b), b, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.stats.Queries--
		m.stats.Held -= b.held
		b.held = 0
		if b.partial != "" {
			m.stats.Partial++
		}
	}
}

// Budget is one query's share. A nil Budget has no bounds, and nothing is counted. Safe for concurrent use.
type Budget struct {
	of      *Memory
	held    int64 // guarded by of.mu
	partial string
}

type budgetKey struct{}

// BudgetOf is the budget of the query that ctx belongs to; nil for none.
func BudgetOf(ctx context.Context) *Budget {
	b, _ := ctx.Value(budgetKey{}).(*Budget)
	return b
}

// Hold counts n bytes, 0 or more, that are about to be taken. On an error, which wraps ErrBusy or ErrTooLarge, nothing was counted.
func (b *Budget) Hold(n int64) error {
	if b == nil || n <= 0 {
		return nil
	}
	m := b.of
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case n > m.most-b.held:
		m.stats.TooLarge++
		return fmt.Errorf("%w: it needs at least %d MiB, and queries have %d MiB: ask for less at a time, or give them more with --query-memory", ErrTooLarge, mib(n)+mib(b.held), mib(m.most))
	case n > m.most-m.stats.Held:
		m.stats.Busy++
		return fmt.Errorf("%w: other queries hold %d of the %d MiB that queries have, and this one needs %d MiB: try again", ErrBusy, mib(m.stats.Held-b.held), mib(m.most), mib(n)+mib(b.held))
	}
	b.held += n
	m.stats.Held += n
	m.stats.Peak = max(m.stats.Peak, m.stats.Held)
	return nil
}

// mib rounds up.
func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// Mark notes what is held; drop gives back what was held since, but for keep bytes. Whoever reads one thing after the other and keeps none of them, or keeps them in a
// smaller form, marks before each and drops it after: else all of them count until the query ends. Marks of one query are dropped by who made them, the last first.
func (b *Budget) Mark() (drop func(keep int64)) {
	if b == nil {
		return func(int64) {}
	}
	m := b.of
	m.mu.Lock()
	defer m.mu.Unlock()
	at := b.held
	return func(keep int64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if more := b.held - at - keep; more > 0 {
			b.held -= more
			m.stats.Held -= more
		}
	}
}

// Cut notes that the answer is not all, and why, in words for the person who asked; the first reason stays. Every API says so in a header or trailer beside its own way.
func (b *Budget) Cut(why string) {
	if b == nil {
		return
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	if b.partial == "" {
		b.partial = why
	}
}

// Partial is why the answer is not all; "" when it is.
func (b *Budget) Partial() string {
	if b == nil {
		return ""
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	return b.partial
}
