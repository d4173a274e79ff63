package local

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/store"
)

// turns shares the cores between those who write spans and those who search them, so that no search, and no number of them, keeps a batch waiting.
//
// While batches come, searches together have one core less than there are, at least one, each for a short turn: who waits with the least work behind it is next, so a
// small search does not wait for large ones to end. And while a batch is being worked on, which does not include its wait for the disk, they rest, but for a small share of the time: without it
// a search would never end beside writers that never pause. Where no batch came for a while, searches have all cores and nothing is counted.
//
// What takes a turn must hold no lock that a writer or another search may want, and must not begin a second one before it has ended the first. Safe for concurrent use.
type turns struct {
	cores int // that searches have while batches come
	clock func() time.Duration

	batches atomic.Int32 // that are being worked on
	last    atomic.Int64 // when one was, by clock
	queued  atomic.Int32 // how many wait

	mu      sync.Mutex
	running int           // turns
	waiting waiters       // the least worked first
	credit  time.Duration // of work beside batches; below zero after a turn that was longer than there was
	counted time.Duration // when credit was, by clock
	armed   bool          // a look at what waits is due
}

const (
	aTurn    = time.Millisecond // after which others are asked for
	lull     = time.Second      // without a batch: nobody writes
	besides  = 20               // searches work a batch's time divided by this beside it
	saved    = 100 * time.Millisecond
	lookOver = 2 * time.Millisecond // from one look at what waits to the next
)

// newTurns is for a machine of so many cores.
func newTurns(cores int) *turns {
	begin := time.Now()
	t := &turns{cores: max(1, cores-1), clock: func() time.Duration { return time.Since(begin) }, credit: saved}
	t.last.Store(int64(-lull))
	return t
}

// batch says that one is worked on, until done is called.
func (t *turns) batch() (done func()) {
	t.batches.Add(1)
	t.last.Store(int64(t.clock()))
	return func() {
		t.last.Store(int64(t.clock()))
		if t.batches.Add(-1) == 0 && t.queued.Load() > 0 {
			t.look()
		}
	}
}

// quiet says that nobody writes.
func (t *turns) quiet() bool {
	return t.batches.Load() == 0 && t.clock()-time.Duration(t.last.Load()) >= lull
}

// countLocked adds the credit of the time that went by, and takes away what was used of it.
func (t *turns) countLocked(used time.Duration) {
	now := t.clock()
	t.credit = min(saved, t.credit+(now-t.counted)/besides) - used
	t.counted = now
}

func (t *turns) freeLocked() bool {
	return t.quiet() || t.running < t.cores && (t.batches.Load() == 0 || t.credit > 0)
}

// look lets go on who may.
func (t *turns) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lookLocked()
}

func (t *turns) lookLocked() {
	t.countLocked(0)
	for len(t.waiting) > 0 && t.freeLocked() {
		w := heap.Pop(&t.waiting).(*waiter)
		t.queued.Add(-1)
		t.running++
		w.granted = true
		close(w.ready)
	}
	if len(t.waiting) > 0 && !t.armed { // credit grows and quiet comes without anybody who says so
		t.armed = true
		time.AfterFunc(lookOver, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.armed = false
			t.lookLocked()
		})
	}
}

// waiter is a goroutine that wants a turn.
type waiter struct {
	worked  time.Duration
	ready   chan struct{} // closed when it has one
	granted bool          // guarded by turns.mu
	at      int           // in waiting
}

type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].worked < w[j].worked }
func (w waiters) Swap(i, j int)      { w[i], w[j] = w[j], w[i]; w[i].at, w[j].at = i, j }
func (w *waiters) Push(x any)        { x.(*waiter).at = len(*w); *w = append(*w, x.(*waiter)) }
func (w *waiters) Pop() any {
	old := *w
	x := old[len(old)-1]
	*w = old[:len(old)-1]
	return x
}

// effort is one search: what it may hold, and how much it worked. A nil effort has no bounds and waits for nobody. Safe for concurrent use.
type effort struct {
	turns  *turns
	ctx    context.Context //nolint:containedctx // an effort is one call's
	budget *store.Budget
	worked atomic.Int64 // ns, of all its goroutines
}

// effort begins that of a call.
func (db *DB) effort(ctx context.Context) *effort {
	return &effort{turns: db.turns, ctx: ctx, budget: store.BudgetOf(ctx)}
}

// turn is a goroutine at work for an effort. It is not for concurrent use; a nil turn never waits.
type turn struct {
	of     *effort
	since  time.Duration // by the clock
	beside bool          // a batch was worked on meanwhile
}

// begin waits until the effort may work. Whoever begins must end it. The error is the effort's context's.
func (e *effort) begin() (*turn, error) {
	if e == nil {
		return nil, nil //nolint:nilnil // a nil turn works
	}
	t := &turn{of: e}
	return t, t.take()
}

// take waits for a turn; on an error it has none.
func (t *turn) take() error {
	s := t.of.turns
	if err := t.of.ctx.Err(); err != nil {
		t.of = nil
		return err
	}
	s.mu.Lock()
	s.countLocked(0)
	if s.freeLocked() && len(s.waiting) == 0 {
		s.running++
		s.mu.Unlock()
		t.start()
		return nil
	}
	w := &waiter{worked: time.Duration(t.of.worked.Load()), ready: make(chan struct{})}
	heap.Push(&s.waiting, w)
	s.queued.Add(1)
	s.lookLocked()
	s.mu.Unlock()
	select {
	case <-w.ready:
		t.start()
		return nil
	case <-t.of.ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.granted {
		s.running--
		s.lookLocked()
	} else {
		heap.Remove(&s.waiting, w.at)
		s.queued.Add(-1)
	}
	err := t.of.ctx.Err()
	t.of = nil
	return err
}

func (t *turn) start() {
	t.since, t.beside = t.of.turns.clock(), t.of.turns.batches.Load() > 0
}

// pass lets others go first when it is their turn. It is called wherever nothing is held that others may want, about every few hundred microseconds of work. On an error,
// the context's, the turn has ended.
func (t *turn) pass() error {
	if t == nil || t.of == nil {
		return nil
	}
	s := t.of.turns
	beside := s.batches.Load() > 0
	if !beside && s.clock()-t.since < aTurn {
		return nil
	}
	if !s.give(t, beside) {
		return t.of.ctx.Err()
	}
	return t.take()
}

// give counts the work of a turn, and ends it if somebody else is to go on.
func (t *turns) give(of *turn, beside bool) bool {
	worked := t.clock() - of.since
	done := time.Duration(of.of.worked.Add(int64(worked)))
	t.mu.Lock()
	defer t.mu.Unlock()
	if beside || of.beside {
		t.countLocked(worked)
	}
	of.since += worked
	of.beside = beside
	if t.quiet() || t.running <= t.cores && !(beside && t.credit <= 0) && (len(t.waiting) == 0 || t.waiting[0].worked >= done) {
		return false
	}
	t.running--
	t.lookLocked()
	return true
}

// end ends it; a second time, or after an error, it does nothing.
func (t *turn) end() {
	if t == nil || t.of == nil {
		return
	}
	s := t.of.turns
	worked := s.clock() - t.since
	t.of.worked.Add(int64(worked))
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.beside || s.batches.Load() > 0 {
		s.countLocked(worked)
	}
	t.of = nil
	s.running--
	if len(s.waiting) > 0 {
		s.lookLocked()
	}
}
