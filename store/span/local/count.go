package local

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/tulle-mesh/tulle/store"
)

// Count counts the spans that q selects by when they start; q.Limit and q.Cursor are not used. It reads the columns that the conditions need, and the starts of what
// meets them, newest blocks first. When ctx is done before all are read, what was counted so far is given, marked partial.
func (db *DB) Count(ctx context.Context, q store.TraceQuery, steps store.Steps) (store.Counts, error) {
	if err := steps.Validate(); err != nil {
		return store.Counts{}, err
	}
	// What is counted lies in the steps, and in q's own time.
	if q.Start.Before(steps.From) {
		q.Start = steps.From
	}
	if end := steps.End(); q.End.IsZero() || q.End.After(end) {
		q.End = end
	}
	out := store.Counts{Steps: steps, Spans: make([]uint64, steps.N), Errors: make([]uint64, steps.N)}
	leave, e, err := db.search(ctx, "count spans")
	if err != nil {
		return out, err
	}
	defer leave()
	q.Limit, q.Cursor = 0, ""
	p, _, err := compile(q, time.Now())
	if err != nil {
		return out, err
	}
	failing, _, err := compile(store.TraceQuery{Errors: true}, time.Now())
	if err != nil {
		return out, err
	}
	src, _ := db.view()
	order := latestFirst(src)
	order = slices.DeleteFunc(order, func(s bounded) bool { return s.hi < p.from || s.lo >= p.to })
	from, step := uint64(steps.From.UnixNano()), uint64(steps.Step) //nolint:gosec // checked
	for len(order) > 0 {
		if ctx.Err() != nil {
			out.Partial = true
			return out, nil
		}
		at := order[:min(len(order), 4)]
		order = order[len(at):]
		counts := make([]counts, len(at))
		if err := together(len(at), func(i int) error {
			counts[i] = newCounts(from, step, steps.N)
			switch s := at[i].source.(type) {
			case *memtable:
				return s.tally(p, failing, &counts[i], e)
			case *block:
				return s.tally(db, p, failing, &counts[i], e)
			}
			return nil
		}); err != nil {
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				out.Partial = true
				return out, nil
			}
			return out, err
		}
		for _, c := range counts {
			for i := range c.spans {
				out.Spans[i] += c.spans[i]
				out.Errors[i] += c.errors[i]
			}
		}
	}
	return out, nil
}

// counts are of one source.
type counts struct {
	from, step    uint64
	spans, errors []uint64
}

func newCounts(from, step uint64, n int) counts {
	return counts{from, step, make([]uint64, n), make([]uint64, n)}
}

func (c *counts) add(start uint64, failed bool) {
	i := (start - c.from) / c.step
	if start < c.from || i >= uint64(len(c.spans)) {
		return
	}
	c.spans[i]++
	if failed {
		c.errors[i]++
	}
}

func (m *memtable) tally(p, failing *predicate, c *counts, e *effort) error {
	var fails *liveMatcher
	return m.eachMatch(p, e, func() { fails = m.matcherLocked(failing) }, func(_ int, s *liveSpan) { c.add(s.start, fails.match(s)) })
}

func (b *block) tally(db *DB, p, failing *predicate, c *counts, e *effort) error {
	if !p.mayMatch(&b.meta.blockMeta) {
		return nil
	}
	_, err := db.use(b, func(bf *blockFile) error {
		rows, err := bf.match(p, e)
		if err != nil || rows.empty() {
			return err
		}
		failed := newBits(bf.meta.Spans, false)
		if failing.mayMatch(&bf.meta) {
			if failed, err = bf.match(failing, e); err != nil {
				return err
			}
		}
		t, err := e.begin()
		if err != nil {
			return err
		}
		defer t.end()
		return bf.in(t).pages(schema().start, nil, func(row int, page parquet.Page) error {
			data := page.Data()
			for i, v := range data.Int64() {
				if rows.has(row + i) {
					c.add(uint64(v), failed.has(row+i)) //nolint:gosec // round trip
				}
			}
			return nil
		})
	})
	return err
}
