package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/store"
)

func (t *turns) effortOf(ctx context.Context) *effort { return &effort{turns: t, ctx: ctx} }

// work does n pieces of 200 µs each, or as many as it may before an error.
func work(e *effort, n int, piece func()) error {
	t, err := e.begin()
	if err != nil {
		return err
	}
	defer t.end()
	for range n {
		if err := t.pass(); err != nil {
			return err
		}
		time.Sleep(200 * time.Microsecond) // virtual
		if piece != nil {
			piece()
		}
	}
	return nil
}

// writing marks a batch every 20 ms until stop, each of 1 ms.
func writing(t *turns, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		done := t.batch()
		time.Sleep(time.Millisecond)
		done()
		time.Sleep(19 * time.Millisecond)
	}
}

// TestTurnsQuiet: where nobody writes, all searches run at once.
func TestTurnsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTurns(2)
		begin := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := work(s.effortOf(t.Context()), 50, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took != 10*time.Millisecond {
			t.Errorf("20 searches of 10 ms took %s", took)
		}
	})
}

// TestTurnsBesideBatches: while batches come, as many search at once as there are cores but one, each gets its share, and a small search does not wait for large ones.
func TestTurnsBesideBatches(t *testing.T) {
	for _, cores := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(cores), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTurns(cores)
				stop := make(chan struct{})
				var writer sync.WaitGroup
				writer.Go(func() { writing(s, stop) })
				synctest.Wait()
				const large = 8
				var pieces [large]atomic.Int64
				var wg sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				most := 0
				for i := range large {
					wg.Go(func() {
						if err := work(s.effortOf(ctx), 1<<30, func() {
							s.mu.Lock()
							most = max(most, s.running)
							s.mu.Unlock()
							pieces[i].Add(1)
						}); !errors.Is(err, context.Canceled) {
							t.Error(err)
						}
					})
				}
				time.Sleep(time.Second)
				begin := time.Now()
				if err := work(s.effortOf(t.Context()), 10, nil); err != nil {
					t.Fatal(err)
				}
				// Its own 2 ms, a turn before it, and at most one batch in between.
				if took := time.Since(begin); took > 6*time.Millisecond {
					t.Errorf("a small search beside %d large ones took %s", large, took)
				}
				cancel()
				wg.Wait()
				close(stop)
				writer.Wait()
				if want := max(1, cores-1); most != want {
					t.Errorf("%d at once, want %d", most, want)
				}
				least, all := pieces[0].Load(), int64(0)
				for i := range pieces {
					least, all = min(least, pieces[i].Load()), all+pieces[i].Load()
				}
				if least*large < all*8/10 {
					t.Errorf("the least of %d searches did %d pieces of %d", large, least, all)
				}
				// A second and what the small one took, of which a twentieth are batches.
				if share := float64(all) * 200e-6 / float64(max(1, cores-1)); share < 0.9 {
					t.Errorf("the searches worked %.2f s of a core in a second", share)
				}
				if s.running != 0 || len(s.waiting) != 0 || s.queued.Load() != 0 {
					t.Errorf("%d run and %d wait after all", s.running, len(s.waiting))
				}
			})
		})
	}
}

// TestTurnsBesideOneBatch: beside writers that never pause, searches have a small share of the time, all together, and do end.
func TestTurnsBesideOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTurns(4)
		done := s.batch()
		defer done()
		begin := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := work(s.effortOf(t.Context()), 125, nil); err != nil { // 25 ms
					t.Error(err)
				}
			})
		}
		wg.Wait()
		took, worked := time.Since(begin), 200*time.Millisecond
		// What was saved is there at once; the rest at its share.
		if want := (worked - saved) * besides; took < want*9/10 || took > want*11/10 {
			t.Errorf("%s of work took %s, want about %s", worked, took, want)
		}
	})
}

// TestTurnsGoOn: searches that wait for a batch go on when it is done.
func TestTurnsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTurns(2)
		done := s.batch()
		e := s.effortOf(t.Context())
		if err := work(e, int(saved/(200*time.Microsecond))+5, nil); err != nil { // spends what is saved
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var ended time.Time
		wg.Go(func() {
			if err := work(e, 20, nil); err != nil {
				t.Error(err)
			}
			ended = time.Now()
		})
		synctest.Wait()
		at := time.Now()
		done()
		wg.Wait()
		if took := ended.Sub(at); took > 4*time.Millisecond {
			t.Errorf("4 ms of work ended %s after the batch", took)
		}
	})
}

// TestTurnsCancel: who waits gives up with its context, and leaves nothing behind.
func TestTurnsCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTurns(2)
		s.batch()()
		held, err := s.effortOf(t.Context()).begin()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() { got <- work(s.effortOf(ctx), 1, nil) }()
		synctest.Wait()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if _, err := s.effortOf(ctx).begin(); !errors.Is(err, context.Canceled) {
			t.Errorf("begin with a context that is done: %v", err)
		}
		held.end()
		held.end()
		if s.running != 0 || len(s.waiting) != 0 || s.queued.Load() != 0 {
			t.Errorf("%d run and %d wait after all", s.running, len(s.waiting))
		}
		if err := work(s.effortOf(t.Context()), 1, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestCancelWithinBlock: a search ends with its context in the middle of a block, which is not to blame for it.
func TestCancelWithinBlock(t *testing.T) {
	db := open(t, Config{Dir: t.TempDir(), SealSpans: 100})
	for i := range 2 {
		if err := db.Write(t.Context(), meshBatch(i)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "a block", func() bool { return db.Stats().Blocks == 1 })
	p, _, err := compile(store.TraceQuery{Errors: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	src, _ := db.view()
	b := src[0].(*block)
	for _, search := range map[string]func(e *effort) error{
		"find":  func(e *effort) error { _, err := b.find(db, p, e); return err },
		"spans": func(e *effort) error { _, err := b.spans(db, p, 10, e); return err },
		"tally": func(e *effort) error { c := newCounts(0, 1<<60, 1); return b.tally(db, p, p, &c, e) },
		"rows": func(e *effort) error {
			_, err := db.use(b, func(bf *blockFile) error { _, err := bf.rows([]rowRange{{0, 10}}, whole, e); return err })
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		e := db.effort(ctx)
		cancel()
		if err := search(e); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want that the context is done", err)
		}
	}
	if b.gone.Load() || db.Stats().Corrupt != 0 {
		t.Error("the block is blamed")
	}
}
