package local

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// source is a memtable or a block, as a query sees it.
type source interface {
	// bounds are the earliest and latest span start; ok is false when it is empty.
	bounds() (lo, hi uint64, ok bool)
	// find begins to look for the parts that have a span which matches.
	find(db *DB, p *predicate, e *effort) (finder, error)
	// part is what it knows of one trace, nil for nothing.
	part(db *DB, id flow.TraceID) (*part, error)
	// trace appends all spans of one trace, which the effort's budget holds from then on.
	trace(db *DB, out []row, id flow.TraceID, e *effort) ([]row, error)
	// spans returns matching spans, at least the newest limit of them that are newer than after; full rows come from rows().
	spans(db *DB, p *predicate, limit int, e *effort) ([]hit, error)
}

// finder gives the parts that match, a piece at a time: about from the newest to the oldest. It is not for concurrent use.
type finder interface {
	// bound is what no part that is still to come was ever known to start after; more is false when none comes.
	bound() (hi uint64, more bool)
	// next are some of the parts.
	next() ([]*part, error)
}

// hit is a matching span's place in the order of Spans, and how to read it.
type hit struct {
	start uint64
	trace flow.TraceID
	id    flow.SpanID
	src   source
	at    int
}

func (h hit) compare(o hit) int {
	if c := newerFirst(h.start, h.trace, o.start, o.trace); c != 0 {
		return c
	}
	return bytes.Compare(o.id[:], h.id[:])
}

// newerFirst orders by start descending, then by trace id descending.
func newerFirst(s1 uint64, t1 flow.TraceID, s2 uint64, t2 flow.TraceID) int {
	if s1 != s2 {
		return cmp.Compare(s2, s1)
	}
	return bytes.Compare(t2[:], t1[:])
}

// view is a consistent set of sources and the commit up to which it is complete.
func (db *DB) view() (src []source, commit uint64) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	src = make([]source, 0, len(db.blocks)+len(db.frozen)+1)
	for _, b := range db.blocks {
		src = append(src, b)
	}
	for _, m := range db.frozen {
		src = append(src, m)
	}
	return append(src, db.active), db.commit
}

func (m *memtable) bounds() (lo, hi uint64, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.minStart, m.maxStart, m.count > 0
}

// all is a finder that has found everything.
type all struct {
	parts []*part
	hi    uint64
}

func (a *all) bound() (uint64, bool) { return a.hi, len(a.parts) > 0 }

func (a *all) next() (parts []*part, _ error) {
	parts, a.parts = a.parts, nil
	return parts, nil
}

// eachMatch calls fn with the spans that match, of those that are there when it begins. begin is called before, and what it makes is for fn; both are called with m.mu
// held for reading. The lock is let go of between pieces: a batch need not wait for the whole.
func (m *memtable) eachMatch(p *predicate, e *effort, begin func(), fn func(i int, s *liveSpan)) error {
	t, err := e.begin()
	if err != nil {
		return err
	}
	defer t.end()
	m.mu.RLock()
	n, lm := m.count, m.matcherLocked(p)
	if begin != nil {
		begin()
	}
	m.mu.RUnlock()
	for from := 0; from < n; from += spanChunk {
		if err := t.pass(); err != nil {
			return err
		}
		m.mu.RLock()
		for i := from; i < min(n, from+spanChunk); i++ {
			if s := m.span(uint32(i)); lm.match(s) { //nolint:gosec // bounded by the seal size
				fn(i, s)
			}
		}
		m.mu.RUnlock()
	}
	return nil
}

func (m *memtable) find(_ *DB, p *predicate, e *effort) (finder, error) {
	set := map[flow.TraceID]struct{}{}
	if err := m.eachMatch(p, e, nil, func(_ int, s *liveSpan) { set[s.trace] = struct{}{} }); err != nil {
		return nil, err
	}
	t, err := e.begin()
	if err != nil {
		return nil, err
	}
	defer t.end()
	out := &all{parts: make([]*part, 0, len(set))}
	for ids := range slices.Chunk(slices.Collect(maps.Keys(set)), partChunk) {
		if err := t.pass(); err != nil {
			return nil, err
		}
		m.mu.RLock()
		for _, id := range ids {
			out.parts = append(out.parts, m.partLocked(id, m.traces[id]))
		}
		out.hi = m.maxStart
		m.mu.RUnlock()
	}
	return out, nil
}

// partChunk is how many traces are summarised before a batch may come in between.
const partChunk = 256

func (m *memtable) part(_ *DB, id flow.TraceID) (*part, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if t := m.traces[id]; t != nil {
		return m.partLocked(id, t), nil
	}
	return nil, nil //nolint:nilnil // nothing known, no error
}

func (m *memtable) trace(_ *DB, out []row, id flow.TraceID, e *effort) ([]row, error) {
	m.mu.RLock()
	var spans []uint32
	if t := m.traces[id]; t != nil {
		spans = t.spans // more may come behind; these stay
	}
	m.mu.RUnlock()
	if len(spans) == 0 {
		return out, nil
	}
	if err := e.budget.Hold(int64(len(spans)) * spanHeld); err != nil {
		return out, err
	}
	from := len(out)
	if err := m.rows(spans, whole, e, func(_ int, r row) { out = append(out, r) }); err != nil {
		return out, err
	}
	return out, e.budget.Hold(long(out[from:]))
}

// rows calls fn with the rows of spans by their number, in order. As with eachMatch, a batch need not wait for the whole.
func (m *memtable) rows(spans []uint32, o only, e *effort, fn func(k int, r row)) error {
	t, err := e.begin()
	if err != nil {
		return err
	}
	defer t.end()
	for from := 0; from < len(spans); from += partChunk {
		if err := t.pass(); err != nil {
			return err
		}
		m.mu.RLock()
		for k := from; k < min(len(spans), from+partChunk); k++ {
			fn(k, m.row(m.span(spans[k]), o))
		}
		m.mu.RUnlock()
	}
	return nil
}

func (m *memtable) spans(_ *DB, p *predicate, limit int, e *effort) ([]hit, error) {
	var out []hit
	err := m.eachMatch(p, e, nil, func(i int, s *liveSpan) { out = append(out, hit{s.start, s.trace, s.id, m, i}) })
	return topHits(out, limit), err
}

func topHits(hs []hit, limit int) []hit {
	slices.SortFunc(hs, hit.compare)
	return hs[:min(limit, len(hs))]
}

func (b *block) bounds() (lo, hi uint64, ok bool) { return b.meta.MinStart, b.meta.MaxStart, true }

// found is a finder in a block: it takes one chunk of summaries after the other, and only those that it needs.
type found struct {
	db    *DB
	b     *block
	p     *predicate
	e     *effort
	t     *traces
	ready bool // rows says which spans match; else the summaries may be enough
	rows  bits
	left  int // chunks
}

func (b *block) find(db *DB, p *predicate, e *effort) (finder, error) {
	if !p.mayMatch(&b.meta.blockMeta) {
		return &all{}, nil
	}
	f := &found{db: db, b: b, p: p, e: e}
	// Rows first: where none matches, which is the rule in a search through much, the summaries need not be read.
	if !p.onlyService() {
		if err := f.match(); err != nil || f.rows.empty() {
			return &all{}, err
		}
	}
	t, err := db.traces(b)
	if err != nil || t == nil {
		return &all{}, err
	}
	if f.t = t; int(t.rows[t.len()]) > b.meta.Spans {
		_, err := db.outcome(b, fmt.Errorf("%w: a summary names rows that are not there", errBlock))
		return &all{}, err
	}
	f.left = t.pieces()
	f.skip()
	return f, nil
}

// match looks which spans match; none do in a block that is gone.
func (f *found) match() error {
	ok, err := f.db.use(f.b, func(bf *blockFile) (err error) { f.rows, err = bf.match(f.p, f.e); return err })
	if f.ready = true; !ok {
		f.rows = newBits(f.b.meta.Spans, false)
	}
	return err
}

// skip leaves out chunks without a row that matches.
func (f *found) skip() {
	for f.ready && f.left > 0 && !f.rows.anyIn(f.t.piece(f.left-1)) {
		f.left--
	}
}

func (f *found) bound() (uint64, bool) {
	if f.left == 0 {
		return 0, false
	}
	if f.t.whole != nil {
		return f.b.meta.MaxStart, true
	}
	return f.t.chunks[f.left-1].hi, true
}

// read gives a chunk of summaries.
func (f *found) read(k int) ([]*part, error) {
	t, err := f.e.begin()
	if err != nil {
		return nil, err
	}
	defer t.end()
	return f.db.chunk(f.b, f.t, k)
}

func (f *found) next() (out []*part, err error) {
	f.left--
	parts, err := f.read(f.left)
	if err != nil {
		return nil, err
	}
	for _, pt := range parts {
		match, known := false, false
		if !f.ready {
			if match, known = f.p.byPart(pt); !known {
				if err := f.match(); err != nil {
					return nil, err
				}
			}
		}
		if match || !known && f.rows.anyIn(pt.row, pt.row+pt.spans) {
			out = append(out, pt)
		}
	}
	f.skip()
	return out, nil
}

func (b *block) part(db *DB, id flow.TraceID) (*part, error) {
	t, at, err := b.locate(db, id)
	if err != nil || at < 0 {
		return nil, err
	}
	return db.summaryAt(b, t, at)
}

// locate gives the place of a trace, below zero for none.
func (b *block) locate(db *DB, id flow.TraceID) (t *traces, at int, err error) {
	if !b.bloom.has(id) || db.cache.lacks(b, id) {
		return nil, -1, nil
	}
	if t, err = db.traces(b); err != nil || t == nil {
		return nil, -1, err
	}
	return t, t.find(id), nil
}

func (b *block) trace(db *DB, out []row, id flow.TraceID, e *effort) ([]row, error) {
	t, i, err := b.locate(db, id)
	if err != nil || i < 0 {
		return out, err
	}
	at := t.span(i)
	var noRoom error // the block is not to blame for it
	_, err = db.use(b, func(bf *blockFile) error {
		if at.to > bf.meta.Spans {
			return fmt.Errorf("%w: a summary names rows that are not there", errBlock)
		}
		n := int64(at.to - at.from)
		ahead := n * max(0, bf.average()-longText)
		if noRoom = e.budget.Hold(n*spanHeld + ahead); noRoom != nil {
			return nil //nolint:nilerr // it is given back below
		}
		rows, err := bf.rows([]rowRange{at}, whole, e)
		if err != nil {
			return err
		}
		if noRoom = e.budget.Hold(long(rows) - ahead); noRoom != nil {
			return nil //nolint:nilerr // it is given back below
		}
		for i := range rows {
			if rows[i].trace != id {
				return fmt.Errorf("%w: rows %d to %d are not of trace %s", errBlock, at.from, at.to, id)
			}
		}
		out = append(out, rows...)
		return nil
	})
	return out, cmp.Or(err, noRoom)
}

func (b *block) spans(db *DB, p *predicate, limit int, e *effort) (out []hit, err error) {
	if !p.mayMatch(&b.meta.blockMeta) {
		return nil, nil
	}
	_, err = db.use(b, func(bf *blockFile) error {
		rows, err := bf.match(p, e)
		if err != nil || rows.empty() {
			return err
		}
		t, err := db.traces(b)
		if err != nil || t == nil {
			return err
		}
		var ranges []rowRange
		var of []flow.TraceID
		for i := range t.len() {
			at := t.span(i)
			for r := at.from; r < min(at.to, bf.meta.Spans); r++ {
				if rows.has(r) {
					ranges, of = addRow(ranges, r), append(of, t.id(i))
				}
			}
		}
		keys, err := bf.keys(ranges, e)
		if err != nil {
			return err
		}
		i := 0
		for _, r := range ranges {
			for row := r.from; row < r.to; row++ {
				if out = append(out, hit{keys.start[i], of[i], keys.id[i], b, row}); len(out) > 8*limit+1024 {
					out = topHits(out, limit)
				}
				i++
			}
		}
		return nil
	})
	if b.gone.Load() {
		return nil, err
	}
	return topHits(out, limit), err
}

// addRow appends a row behind all of the ranges.
func addRow(ranges []rowRange, row int) []rowRange {
	if n := len(ranges); n > 0 && ranges[n-1].to == row {
		ranges[n-1].to++
		return ranges
	}
	return append(ranges, rowRange{row, row + 1})
}

// What a query holds, in bytes of heap: measured on spans of the mesh (TestTraceHolds).
const (
	spanHeld = 4608 // a span as row and as OTLP, with two dozen attributes
	partHeld = 600  // a summary with a few services, and its place among the candidates
)

// longText is from where on the texts of a span are counted for themselves: shorter ones are within spanHeld.
const longText = 1 << 10

// long is what rows hold beyond spanHeld.
func long(rows []row) (n int64) {
	for i := range rows {
		r := &rows[i]
		texts := len(r.extra) + len(r.statusMsg)
		for k := range r.attrs {
			texts += len(r.attrs[k].value) + len(r.attrs[k].raw)
		}
		for k := range r.cols {
			if len(r.cols[k].str) > longText { // shorter ones are kept once
				texts += len(r.cols[k].str)
			}
		}
		n += int64(max(0, texts-longText))
	}
	return n
}

// Trace returns every stored span of one trace. The budget in ctx holds it from then on; an error that wraps store.ErrTooLarge or ErrBusy says that there is no room.
func (db *DB) Trace(ctx context.Context, id flow.TraceID) (ptrace.Traces, error) {
	none := ptrace.NewTraces()
	leave, err := db.enter(ctx, "read trace "+id.String())
	if err != nil {
		return none, err
	}
	defer leave()
	src, _ := db.view()
	e := db.effort(ctx)
	var rows []row
	for _, s := range src {
		if err := ctx.Err(); err != nil {
			return none, err
		}
		if rows, err = s.trace(db, rows, id, e); err != nil {
			if errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrBusy) {
				err = fmt.Errorf("read trace %s: %w", id, err)
			}
			return none, err
		}
	}
	if len(rows) == 0 {
		if n := leftOut(src, 0, math.MaxUint64); n > 0 {
			return none, fmt.Errorf("trace %s: %w (thinning left out %d ordinary traces of old blocks)", id, store.ErrNotFound, n)
		}
		return none, fmt.Errorf("trace %s: %w", id, store.ErrNotFound)
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.start, b.start), bytes.Compare(a.id[:], b.id[:]))
	})
	td, err := toTraces(rows)
	if err != nil {
		return none, fmt.Errorf("read trace %s: %w", id, err)
	}
	return td, nil
}

// together calls do for 0 to n-1 at once and returns the first error by index.
func together(n int, do func(i int) error) error {
	if n == 1 {
		return do(0)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return cmp.Or(errs...)
}

// wider is how many sources are opened next: twice as many each time, so that a search through everything keeps all cores busy and one that ends soon reads at most as much again.
func wider(width int) int { return min(2*width, 8*runtime.GOMAXPROCS(0)) }

// cursor is a place between two traces in the order of Summaries, as of commit W.
type cursor struct {
	commit uint64
	start  uint64
	id     flow.TraceID
}

const cursorVersion = 1

func (c cursor) String() string {
	b := []byte{cursorVersion}
	b = binary.BigEndian.AppendUint64(b, c.commit)
	b = binary.BigEndian.AppendUint64(b, c.start)
	return base64.RawURLEncoding.EncodeToString(append(b, c.id[:]...))
}

func parseCursor(s string) (c cursor, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 33 || b[0] != cursorVersion {
		return c, badQuery("the cursor is not one that this store gave; begin again without it")
	}
	c.commit = binary.BigEndian.Uint64(b[1:])
	c.start = binary.BigEndian.Uint64(b[9:])
	copy(c.id[:], b[17:])
	return c, nil
}

// candidate is a trace on its way to a page. Unresolved, it stands at the place of one of its parts; resolved, at its own. Or it is a source that has more to come,
// at its bound.
type candidate struct {
	start uint64
	id    flow.TraceID
	parts []*part // what all sources know of it; nil: unresolved
	more  finder
}

type candidates []candidate

func (h candidates) Len() int { return len(h) }
func (h candidates) Less(i, j int) bool {
	if h[i].start == h[j].start && (h[i].more != nil) != (h[j].more != nil) {
		return h[i].more != nil // it may have one that is before the other
	}
	return newerFirst(h[i].start, h[i].id, h[j].start, h[j].id) < 0
}
func (h candidates) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *candidates) Push(x any)   { *h = append(*h, x.(candidate)) }
func (h *candidates) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// Summaries returns one page, newest first by trace start, then by trace id descending.
//
// Paging stands still while spans arrive: the first page notes the last commit, the cursor carries it, and every page orders traces by their
// start as known at that commit and leaves out traces that were unknown then. So a trace that is complete before the first page appears exactly once,
// and one that grows meanwhile at most once; what a summary counts is as of the page's own time.
//
// Sources are opened newest first, and only as far as the page needs, each a piece at a time: the candidates of a piece stand at their part's start; when one comes
// up, its parts elsewhere are looked up (bloom filters) and it moves to the trace's start, or is taken if it stands there already.
func (db *DB) Summaries(ctx context.Context, q store.TraceQuery) (store.TracePage, error) {
	var page store.TracePage
	leave, e, err := db.search(ctx, "list traces")
	if err != nil {
		return page, err
	}
	defer leave()
	p, limit, err := compile(q, time.Now())
	if err != nil {
		return page, err
	}
	src, commit := db.view()
	var after *cursor
	if q.Cursor != "" {
		c, err := parseCursor(q.Cursor)
		if err != nil {
			return page, err
		}
		after, commit = &c, c.commit
	}
	type bounded struct {
		source
		lo, hi uint64
	}
	var order []bounded
	for _, s := range src {
		if lo, hi, ok := s.bounds(); ok {
			order = append(order, bounded{s, lo, hi})
		}
	}
	slices.SortStableFunc(order, func(a, b bounded) int { return cmp.Compare(b.hi, a.hi) })
	var (
		h     candidates
		seen  = map[flow.TraceID]bool{}
		last  cursor
		next  = 0
		width = 1 // how many sources are opened at once
	)
	page.Traces, page.LeftOut = []store.TraceSummary{}, leftOut(src, p.from, p.to)
	budget := e.budget
	drop := budget.Mark()
	defer func() { drop(int64(len(page.Traces)) * partHeld) }()
	for {
		if err := ctx.Err(); err != nil {
			return store.TracePage{}, err
		}
		for next < len(order) && (len(h) == 0 || order[next].hi >= h[0].start) {
			at := order[next:min(len(order), next+width)]
			begun := make([]finder, len(at))
			if err := together(len(at), func(i int) (err error) { begun[i], err = at[i].find(db, p, e); return err }); err != nil {
				return store.TracePage{}, err
			}
			for _, f := range begun {
				if hi, more := f.bound(); more {
					heap.Push(&h, candidate{start: hi, more: f})
				}
			}
			next += len(at)
			width = wider(width) // what there is was not enough
			if err := ctx.Err(); err != nil {
				return store.TracePage{}, err
			}
		}
		if len(h) == 0 {
			return page, nil
		}
		c := heap.Pop(&h).(candidate)
		if c.more != nil {
			parts, err := c.more.next()
			if err != nil {
				return store.TracePage{}, err
			}
			if err := budget.Hold(int64(len(parts)) * partHeld); err != nil {
				return store.TracePage{}, err
			}
			for _, pt := range parts {
				if start, ok := pt.asOf(commit); ok && !seen[pt.id] { // otherwise it came after the first page
					heap.Push(&h, candidate{start: start, id: pt.id})
				}
			}
			if hi, more := c.more.bound(); more {
				heap.Push(&h, candidate{start: min(hi, c.start), more: c.more})
			}
			continue
		}
		if c.parts == nil {
			if seen[c.id] {
				continue
			}
			seen[c.id] = true
			start, known := ^uint64(0), false
			for i := range order {
				pt, err := order[i].part(db, c.id)
				if err != nil {
					return store.TracePage{}, err
				}
				if pt == nil {
					continue
				}
				c.parts = append(c.parts, pt)
				if s, ok := pt.asOf(commit); ok {
					start, known = min(start, s), true
				}
			}
			if !known {
				continue
			}
			c.start = start
			if len(h) > 0 && !(candidates{c, h[0]}).Less(0, 1) || next < len(order) && order[next].hi >= c.start {
				heap.Push(&h, c)
				continue
			}
		}
		if after != nil && newerFirst(c.start, c.id, after.start, after.id) <= 0 {
			continue
		}
		if len(page.Traces) == limit {
			page.Next = last.String()
			return page, nil
		}
		page.Traces = append(page.Traces, summary(c.parts))
		last = cursor{commit, c.start, c.id}
	}
}

// summary merges what the sources know of one trace.
func summary(parts []*part) store.TraceSummary {
	first := parts[0]
	s := store.TraceSummary{TraceID: first.id, ID: first.id.String()}
	lo, hi := ^uint64(0), uint64(0)
	services := map[string]store.ServiceCount{}
	for _, p := range parts {
		lo, hi = min(lo, p.start), max(hi, p.end)
		s.Spans += p.spans
		s.Errors += p.errors
		for _, c := range p.services {
			t := services[c.Service]
			services[c.Service] = store.ServiceCount{Service: c.Service, Spans: t.Spans + c.Spans, Errors: t.Errors + c.Errors}
		}
		if better(p.rooted, p.rootStart, p.rootOwner, p.rootName, first) {
			first = p
		}
	}
	s.RootService, s.RootOperation, s.Partial = first.rootOwner, first.rootName, !first.rooted
	s.Start = unixTime(lo)
	s.Duration = time.Duration(duration(lo, hi)) //nolint:gosec // < 2^63 for real clocks
	for _, c := range services {
		s.Services = append(s.Services, c)
	}
	slices.SortFunc(s.Services, func(a, b store.ServiceCount) int { return cmp.Compare(a.Service, b.Service) })
	return s
}

// Spans calls yield for matching spans, newest first: by start, then trace id, then span id, all descending. q.Cursor is not used.
func (db *DB) Spans(ctx context.Context, q store.TraceQuery, yield func(store.Span) bool) error {
	leave, e, err := db.search(ctx, "search spans")
	if err != nil {
		return err
	}
	defer e.budget.Mark()(0) // of what yield keeps, nothing is the store's
	rows, err := db.newest(ctx, q, e)
	leave() // yield may take its time
	if err != nil {
		return err
	}
	only := onlyOf(q.Only)
	for i := range rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !yield(rows[i].flat(only)) {
			return nil
		}
	}
	return nil
}

// bounded is a source with the starts of its first and its last span.
type bounded struct {
	source
	lo, hi uint64
}

// latestFirst are the sources that have spans, by their last ones.
func latestFirst(src []source) (order []bounded) {
	for _, s := range src {
		if lo, hi, ok := s.bounds(); ok {
			order = append(order, bounded{s, lo, hi})
		}
	}
	slices.SortStableFunc(order, func(a, b bounded) int { return cmp.Compare(b.hi, a.hi) })
	return order
}

func (db *DB) newest(ctx context.Context, q store.TraceQuery, e *effort) ([]row, error) {
	p, limit, err := compile(q, time.Now())
	if err != nil {
		return nil, err
	}
	o := onlyOf(q.Only)
	src, _ := db.view()
	order := latestFirst(src)
	var hits []hit
	for next, width := 0, 1; next < len(order) && (len(hits) < limit || hits[limit-1].start <= order[next].hi); width = wider(width) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at := order[next:min(len(order), next+width)]
		more := make([][]hit, len(at))
		if err := together(len(at), func(i int) (err error) { more[i], err = at[i].spans(db, p, limit, e); return err }); err != nil {
			return nil, err
		}
		hits = topHits(slices.Concat(append(more, hits)...), limit)
		next += len(at)
	}
	if err := e.budget.Hold(int64(len(hits)) * spanHeld); err != nil {
		return nil, fmt.Errorf("search spans: %w", err)
	}
	// Read each source once.
	out := make([]row, len(hits))
	have := make([]bool, len(hits))
	bySource := map[source][]int{}
	for i, h := range hits {
		bySource[h.src] = append(bySource[h.src], i)
	}
	for s, idx := range bySource {
		switch s := s.(type) {
		case *memtable:
			at := make([]uint32, len(idx))
			for k, i := range idx {
				at[k] = uint32(hits[i].at) //nolint:gosec // bounded by the seal size
			}
			if err := s.rows(at, o, e, func(k int, r row) { out[idx[k]], have[idx[k]] = r, true }); err != nil {
				return nil, err
			}
		case *block:
			slices.SortFunc(idx, func(a, b int) int { return cmp.Compare(hits[a].at, hits[b].at) })
			ranges := make([]rowRange, len(idx))
			for k, i := range idx {
				ranges[k] = rowRange{hits[i].at, hits[i].at + 1}
			}
			if _, err := db.use(s, func(bf *blockFile) error {
				rows, err := bf.rows(ranges, o, e)
				if err != nil {
					return err
				}
				for k, i := range idx {
					out[i], have[i] = rows[k], true
				}
				return nil
			}); err != nil {
				return nil, err
			}
		}
	}
	kept := out[:0]
	for i := range out {
		if have[i] {
			kept = append(kept, out[i])
		}
	}
	return kept, nil
}

// eachMeta calls fn with the operations of every source, and its attribute keys: of the map, the columns, resources and events.
func (db *DB) eachMeta(ctx context.Context, what string, fn func(ops []opKey, keys ...[]string)) error {
	leave, err := db.enter(ctx, what)
	if err != nil {
		return err
	}
	defer leave()
	src, _ := db.view()
	for _, s := range src {
		switch s := s.(type) {
		case *block:
			fn(s.meta.Ops, s.meta.Keys, s.meta.ColNames, s.meta.ResKeys, s.meta.Events.Keys)
		case *memtable:
			s.mu.RLock()
			m := s.metaLocked()
			s.mu.RUnlock()
			fn(m.Ops, m.Keys, m.ColNames, m.ResKeys, m.Events.Keys)
		}
	}
	return ctx.Err()
}

func sorted[K cmp.Ordered](m map[K]struct{}) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Services lists the services that have spans.
func (db *DB) Services(ctx context.Context) ([]string, error) {
	set := map[string]struct{}{}
	err := db.eachMeta(ctx, "list services", func(ops []opKey, _ ...[]string) {
		for _, o := range ops {
			set[o.Service] = struct{}{}
		}
	})
	return sorted(set), err
}

// Operations lists the span names and kinds of one service, of all for "".
func (db *DB) Operations(ctx context.Context, service string) ([]store.Operation, error) {
	set := map[store.Operation]struct{}{}
	err := db.eachMeta(ctx, "list operations", func(ops []opKey, _ ...[]string) {
		for _, o := range ops {
			if service == "" || o.Service == service {
				set[store.Operation{Name: o.Name, Kind: kindName(o.Kind)}] = struct{}{}
			}
		}
	})
	out := make([]store.Operation, 0, len(set))
	for o := range set {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b store.Operation) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind))
	})
	return out, err
}

// AttributeKeys lists attribute names of spans, resources and events.
func (db *DB) AttributeKeys(ctx context.Context) ([]string, error) {
	set := map[string]struct{}{}
	err := db.eachMeta(ctx, "list attributes", func(_ []opKey, keys ...[]string) {
		for _, l := range keys {
			for _, k := range l {
				set[k] = struct{}{}
			}
		}
	})
	return sorted(set), err
}
