package store_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/store"
)

// What is held is the sum of what was counted and not given back, never more than there is, and nothing once all queries have ended.
func TestMemoryAgainstASum(t *testing.T) {
	const most = 1000
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 56)) //nolint:gosec // a test
		m := store.NewMemory(most)
		type query struct {
			b     *store.Budget
			end   func()
			drops []func(int64)
			below []int64 // what was held below each mark
			held  int64
		}
		var running []*query
		var sum, peak int64
		for range 300 {
			switch k := r.IntN(10); {
			case k == 0 || len(running) == 0:
				_, b, end := m.Begin(t.Context())
				running = append(running, &query{b: b, end: end})
			case k == 1:
				i := r.IntN(len(running))
				running[i].end()
				sum -= running[i].held
				running = append(running[:i], running[i+1:]...)
			case k == 2:
				q := running[r.IntN(len(running))]
				q.drops, q.below = append(q.drops, q.b.Mark()), append(q.below, q.held)
			case k == 3:
				q := running[r.IntN(len(running))]
				if n := len(q.drops) - 1; n >= 0 {
					keep := r.Int64N(50)
					q.drops[n](keep)
					to := min(q.held, q.below[n]+keep)
					sum -= q.held - to
					q.held, q.drops, q.below = to, q.drops[:n], q.below[:n]
				}
			default:
				q := running[r.IntN(len(running))]
				n := 1 + r.Int64N(300)
				err := q.b.Hold(n)
				switch {
				case n > most-q.held:
					if !errors.Is(err, store.ErrTooLarge) || !errors.Is(err, store.ErrBadQuery) || errors.Is(err, store.ErrBusy) {
						t.Fatalf("seed %d: %d more on %d of %d: %v", seed, n, q.held, most, err)
					}
				case n > most-sum:
					if !errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrTooLarge) {
						t.Fatalf("seed %d: %d more with %d of %d held: %v", seed, n, sum, most, err)
					}
				case err != nil:
					t.Fatalf("seed %d: %d more with %d of %d held: %v", seed, n, sum, most, err)
				default:
					q.held, sum = q.held+n, sum+n
					peak = max(peak, sum)
				}
			}
			if s := m.Stats(); s.Held != sum || s.Peak != peak || s.Queries != len(running) || s.Most != most {
				t.Fatalf("seed %d: %+v, want %d held, %d at most, %d queries", seed, s, sum, peak, len(running))
			}
		}
		for _, q := range running {
			q.end()
		}
		if s := m.Stats(); s.Held != 0 || s.Queries != 0 {
			t.Fatalf("seed %d: after the last query %+v", seed, s)
		}
	}
}

// Queries that run at once never hold more than there is.
func TestMemoryAtOnce(t *testing.T) {
	m := store.NewMemory(1 << 20)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // a test
			for range 200 {
				ctx, _, end := m.Begin(context.Background())
				b := store.BudgetOf(ctx)
				drop := b.Mark()
				for range 5 {
					_ = b.Hold(r.Int64N(1 << 18)) // refusals are as good
				}
				drop(r.Int64N(1 << 10))
				b.Cut("enough")
				end()
			}
		})
	}
	wg.Wait()
	if s := m.Stats(); s.Held != 0 || s.Queries != 0 || s.Peak > s.Most || s.Partial != 16*200 {
		t.Errorf("%+v", s)
	}
}

// Without a budget there is no bound, and the words of a refusal say what to do.
func TestBudgetWords(t *testing.T) {
	none := store.BudgetOf(t.Context())
	none.Mark()(0)
	none.Cut("it has no place to be noted")
	if err := none.Hold(1 << 60); err != nil || none.Partial() != "" {
		t.Errorf("no budget: %v, %q", err, none.Partial())
	}
	m := store.NewMemory(8 << 20)
	_, one, endOne := m.Begin(t.Context())
	defer endOne()
	_, two, endTwo := m.Begin(t.Context())
	defer endTwo()
	if err := one.Hold(5 << 20); err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		"store is busy: other queries hold 5 of the 8 MiB that queries have, and this one needs 4 MiB: try again":                                            two.Hold(4 << 20),
		"bad query: the answer is too large: it needs at least 9 MiB, and queries have 8 MiB: ask for less at a time, or give them more with --query-memory": one.Hold(4 << 20),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	one.Cut("first")
	one.Cut("second")
	if got := one.Partial(); got != "first" {
		t.Errorf("the reason is %q", got)
	}
}
