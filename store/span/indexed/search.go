package indexed

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

const (
	ahead       = 16  // traces that are read at once
	seenHeld    = 64  // bytes of one trace that was met
	summaryHeld = 600 // of one summary
	spanHeld    = 2 << 10
)

// Hit is a span that the index lists.
type Hit struct {
	Start int64 // µs since 1970
	Trace flow.TraceID
}

// Hits gives hits newest first; false after the last.
type Hits func() (Hit, bool, error)

// Engine is what an engine can do. Both are safe for concurrent use.
type Engine interface {
	// Hits lists at least every span that meets c; it may list others. end ends it.
	Hits(ctx context.Context, c *Condition) (hits Hits, end func(), err error)
	// Read gives a whole trace. store.ErrNotFound when it is not there (any more).
	Read(ctx context.Context, id flow.TraceID) (ptrace.Traces, error)
}

// Merge gives the hits of all, newest first.
func Merge(all []Hits) Hits {
	h := merged{}
	started := false
	add := func(from Hits) error {
		hit, ok, err := from()
		if err == nil && ok {
			heap.Push(&h, head{hit, from})
		}
		return err
	}
	return func() (Hit, bool, error) {
		if !started {
			started = true
			for _, from := range all {
				if err := add(from); err != nil {
					return Hit{}, false, err
				}
			}
		}
		if len(h) == 0 {
			return Hit{}, false, nil
		}
		out := heap.Pop(&h).(head)
		return out.Hit, true, add(out.from)
	}
}

type head struct {
	Hit
	from Hits
}

type merged []head

func (m merged) Len() int           { return len(m) }
func (m merged) Less(i, j int) bool { return m[i].Start > m[j].Start }
func (m merged) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *merged) Push(x any)        { *m = append(*m, x.(head)) }
func (m *merged) Pop() any {
	old := *m
	out := old[len(old)-1]
	*m = old[:len(old)-1]
	return out
}

// walk reads the traces that have a hit, each once, and shows them; memory of each is given back when see returns. After some of them it calls passed: every trace with a hit
// that starts after that µs was seen. It ends when passed returns true, or after the last.
func walk(ctx context.Context, e Engine, c *Condition, see func(flow.TraceID, ptrace.Traces) error, passed func(int64) bool) error {
	hits, end, err := e.Hits(ctx, c)
	if err != nil {
		return err
	}
	defer end()
	seen := map[flow.TraceID]bool{}
	for {
		var ids []flow.TraceID
		last, more := int64(-1), true
		for len(ids) < ahead {
			hit, ok, err := hits()
			if err != nil {
				return err
			}
			if !ok {
				last, more = -1, false
				break
			}
			last = hit.Start
			if !seen[hit.Trace] {
				if err := store.BudgetOf(ctx).Hold(seenHeld); err != nil {
					return err
				}
				seen[hit.Trace] = true
				ids = append(ids, hit.Trace)
			}
		}
		if err := read(ctx, e, ids, see); err != nil {
			return err
		}
		if passed(last) || !more {
			return nil
		}
	}
}

func read(ctx context.Context, e Engine, ids []flow.TraceID, see func(flow.TraceID, ptrace.Traces) error) error {
	drop := store.BudgetOf(ctx).Mark()
	kept := int64(0)
	defer func() { drop(kept) }()
	traces, errs := make([]ptrace.Traces, len(ids)), make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { traces[i], errs[i] = e.Read(ctx, id) })
	}
	wg.Wait()
	for i, id := range ids {
		if errors.Is(errs[i], store.ErrNotFound) {
			continue // expired, or only its index was written so far
		}
		if errs[i] != nil {
			return errs[i]
		}
		if err := see(id, traces[i]); err != nil {
			return err
		}
	}
	return nil
}

// newer orders by start, then by trace, the newest first.
func newer(a, b store.TraceSummary) int {
	return cmp.Or(b.Start.Compare(a.Start), bytes.Compare(b.TraceID[:], a.TraceID[:]))
}

// Summaries is store.Spans.Summaries. A cursor is the place of the last trace: a trace that grows to an earlier begin between two pages may be on both.
func Summaries(ctx context.Context, e Engine, q store.TraceQuery) (store.TracePage, error) {
	c, err := Compile(q, time.Now())
	if err != nil {
		return store.TracePage{}, err
	}
	var after *store.TraceSummary
	if q.Cursor != "" {
		if after, err = place(q.Cursor); err != nil {
			return store.TracePage{}, err
		}
	}
	if err := store.BudgetOf(ctx).Hold(int64(c.Limit) * summaryHeld); err != nil {
		return store.TracePage{}, err
	}
	var top []store.TraceSummary // the best that are known, at most one more than the page has
	err = walk(ctx, e, c, func(id flow.TraceID, td ptrace.Traces) error {
		hit := false
		each(td, func(r pcommon.Resource, sp ptrace.Span) { hit = hit || c.matches(r, sp) })
		if !hit {
			return nil
		}
		s := summary(id, td)
		if after != nil && newer(*after, s) >= 0 {
			return nil
		}
		i, _ := slices.BinarySearchFunc(top, s, newer)
		if top = slices.Insert(top, i, s); len(top) > c.Limit+1 {
			top = top[:c.Limit+1]
		}
		return nil
	}, func(us int64) bool { return len(top) > c.Limit && top[c.Limit].Start.UnixMicro() > us })
	if err != nil {
		return store.TracePage{}, err
	}
	page := store.TracePage{Traces: top}
	if len(top) > c.Limit {
		page.Traces = top[:c.Limit]
		page.Next = cursor(page.Traces[c.Limit-1])
	}
	return page, nil
}

func cursor(t store.TraceSummary) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(t.Start.UnixNano())) //nolint:gosec // read back the same way
	return base64.RawURLEncoding.EncodeToString(append(b, t.TraceID[:]...))
}

func place(cursor string) (*store.TraceSummary, error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(b) != 24 {
		return nil, bad("the cursor %q is not one of this store: begin at the first page", cursor)
	}
	return &store.TraceSummary{Start: time.Unix(0, int64(binary.BigEndian.Uint64(b))), TraceID: flow.TraceID(b[8:])}, nil //nolint:gosec // see cursor
}

// Spans is store.Spans.Spans.
func Spans(ctx context.Context, e Engine, q store.TraceQuery, yield func(store.Span) bool) error {
	c, err := Compile(q, time.Now())
	if err != nil {
		return err
	}
	left, over := c.Limit, false
	var top []store.Span // matched and not yielded, newest first, at most left
	order := func(a, b store.Span) int {
		return cmp.Or(b.Start.Compare(a.Start), bytes.Compare(b.TraceID[:], a.TraceID[:]), bytes.Compare(b.SpanID[:], a.SpanID[:]))
	}
	if err := store.BudgetOf(ctx).Hold(int64(c.Limit) * spanHeld); err != nil {
		return err
	}
	return walk(ctx, e, c, func(_ flow.TraceID, td ptrace.Traces) error {
		i, flat := 0, []store.Span(nil)
		each(td, func(r pcommon.Resource, sp ptrace.Span) {
			if c.matches(r, sp) {
				if flat == nil {
					flat = store.Flat(td) // in the order in which they are visited
				}
				at, _ := slices.BinarySearchFunc(top, flat[i], order)
				if at < left {
					top = slices.Insert(top, at, flat[i])
					top = top[:min(len(top), left)]
				}
			}
			i++
		})
		return nil
	}, func(us int64) bool {
		n := 0
		for ; !over && n < len(top) && top[n].Start.UnixMicro() > us; n++ {
			left--
			over = !yield(top[n]) || left == 0
		}
		top = slices.Delete(top, 0, n)
		return over
	})
}

// Count is store.Spans.Count.
func Count(ctx context.Context, e Engine, q store.TraceQuery, steps store.Steps) (store.Counts, error) {
	if err := steps.Validate(); err != nil {
		return store.Counts{}, err
	}
	if q.Start.Before(steps.From) {
		q.Start = steps.From
	}
	if end := steps.End(); q.End.IsZero() || q.End.After(end) {
		q.End = end
	}
	out := store.Counts{Steps: steps, Spans: make([]uint64, steps.N), Errors: make([]uint64, steps.N)}
	q.Limit, q.Cursor = 0, ""
	c, err := Compile(q, time.Now())
	if err != nil {
		return out, err
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	err = walk(ctx, e, c, func(_ flow.TraceID, td ptrace.Traces) error {
		each(td, func(r pcommon.Resource, sp ptrace.Span) {
			if !c.matches(r, sp) {
				return
			}
			if at := int(sp.StartTimestamp().AsTime().Sub(steps.From) / steps.Step); at >= 0 && at < steps.N {
				out.Spans[at]++
				if failed(sp) {
					out.Errors[at]++
				}
			}
		})
		return nil
	}, func(int64) bool { return false })
	if err != nil && ctx.Err() != nil {
		out.Partial, err = true, nil
	}
	return out, err
}
