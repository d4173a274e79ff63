package local

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// merger writes the spans of several blocks as one, in the order of any block: traces by start then id, the spans of a trace by start then id. It
// reads only the summaries to find that order, and then goes through the files column by column, a page at a time.
//
// Row groups are not copied as they are: neighbours share the traces that ran while one of them was frozen, so that hardly a row group can stay
// whole (docs/adr/0037).
type merger struct {
	db   *DB
	job  *job
	pace pace

	in     []*input
	runs   []run   // rows in the order of the new block
	parts  []*part // its summaries, in that order
	groups []*group
	meta   blockMeta

	leftTraces, leftSpans int // left out by this merge
}

// input is one of the blocks that are merged.
type input struct {
	b      *block
	bf     *blockFile
	parts  []*part
	groups []int32 // index of its groups in the new block
}

// run is consecutive rows of one input.
type run struct{ in, from, n int32 }

func (m *merger) close() {
	for _, in := range m.in {
		m.db.cache.release(in.bf)
	}
}

// fault decides what an error in reading an input means. Damage takes it out of service, as if a query had met it.
func (m *merger) fault(b *block, err error) error {
	ok, err := m.db.outcome(b, err)
	if ok {
		return nil
	}
	if err == nil {
		return errStale
	}
	return err
}

func (m *merger) open() error {
	for _, b := range m.job.in {
		parts, err := m.db.parts(b)
		if err != nil {
			return err
		}
		bf, err := m.db.cache.open(b)
		if err := m.fault(b, err); err != nil {
			return err
		}
		in := &input{b: b, bf: bf, parts: parts}
		m.in = append(m.in, in)
		if b.gone.Load() {
			return errStale
		}
		if err := m.fault(b, in.check()); err != nil {
			return err
		}
		if err := m.pace.step(); err != nil {
			return err
		}
	}
	return nil
}

// check holds the summaries against the rows: every row belongs to exactly one, in file order.
func (in *input) check() error {
	row := 0
	for _, p := range in.parts {
		if p.row != row || p.spans <= 0 {
			return fmt.Errorf("%w: its summaries and its rows disagree at row %d", errBlock, row)
		}
		row += p.spans
	}
	if row != in.bf.meta.Spans {
		return fmt.Errorf("%w: %d rows have a summary, %d were written", errBlock, row, in.bf.meta.Spans)
	}
	return nil
}

// piece is what one input has of a trace.
type piece struct {
	in int32
	at int // index of the summary in its input
	p  *part
}

// mergedTrace is a trace as the new block will know it.
type mergedTrace struct {
	part   *part
	pieces []piece
}

// order finds the order of rows, and what the new block says of itself.
func (m *merger) order() error {
	var all []piece
	for i, in := range m.in {
		all = slices.Grow(all, len(in.parts))
		for at, p := range in.parts {
			all = append(all, piece{int32(i), at, p}) //nolint:gosec // bounded by maxInputs
		}
	}
	slices.SortFunc(all, func(a, b piece) int {
		return cmp.Or(bytes.Compare(a.p.id[:], b.p.id[:]), cmp.Compare(a.in, b.in))
	})
	var traces []mergedTrace
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].p.id == all[i].p.id {
			j++
		}
		traces = append(traces, mergedTrace{joinParts(all[i:j]), all[i:j]})
		i = j
	}
	if m.job.thin {
		var err error
		if traces, err = m.leaveOut(traces); err != nil {
			return err
		}
	}
	slices.SortFunc(traces, func(a, b mergedTrace) int { return -newerFirst(a.part.start, a.part.id, b.part.start, b.part.id) })
	var mixed [][]piece // traces whose pieces overlap in time
	for _, t := range traces {
		if overlap(t.pieces) {
			mixed = append(mixed, t.pieces)
		}
	}
	keys, err := m.keys(mixed)
	if err != nil {
		return err
	}
	row := 0
	m.parts = make([]*part, 0, len(traces))
	for _, t := range traces {
		t.part.row = row
		row += t.part.spans
		m.parts = append(m.parts, t.part)
		if overlap(t.pieces) {
			m.interleave(t.pieces, keys)
			continue
		}
		for _, p := range t.pieces {
			m.add(p.in, p.p.row, p.p.spans)
		}
	}
	m.describe(row)
	return nil
}

// add appends rows to the order, as part of the last run where they follow it.
func (m *merger) add(in int32, from, n int) {
	if k := len(m.runs) - 1; k >= 0 && m.runs[k].in == in && int(m.runs[k].from+m.runs[k].n) == from {
		m.runs[k].n += int32(n) //nolint:gosec // bounded by maxSpans
		return
	}
	m.runs = append(m.runs, run{in, int32(from), int32(n)}) //nolint:gosec // bounded by maxSpans
}

// overlap says that the pieces, sorted by start, may not be one behind the other. It sorts them.
func overlap(ps []piece) bool {
	if len(ps) == 1 {
		return false
	}
	slices.SortStableFunc(ps, func(a, b piece) int { return cmp.Compare(a.p.start, b.p.start) })
	for i := 1; i < len(ps); i++ {
		if ps[i-1].p.end >= ps[i].p.start {
			return true
		}
	}
	return false
}

// joinParts is what a block says of a trace whose pieces, in commit order, it holds together.
func joinParts(ps []piece) *part {
	out := *ps[0].p
	if len(ps) == 1 {
		return &out
	}
	out.services, out.history = slices.Clone(out.services), slices.Clone(out.history)
	for _, x := range ps[1:] {
		p := x.p
		out.start, out.end = min(out.start, p.start), max(out.end, p.end)
		out.spans += p.spans
		out.errors += p.errors
		if better(p.rooted, p.rootStart, p.rootOwner, p.rootName, &out) {
			out.rooted, out.rootStart, out.rootName, out.rootOwner = p.rooted, p.rootStart, p.rootName, p.rootOwner
		}
		for _, s := range p.services {
			i := slices.IndexFunc(out.services, func(o store.ServiceCount) bool { return o.Service == s.Service })
			if i < 0 {
				out.services = append(out.services, s)
				continue
			}
			out.services[i].Spans += s.Spans
			out.services[i].Errors += s.Errors
		}
		for _, h := range p.history {
			if h.start < out.history[len(out.history)-1].start {
				out.history = append(out.history, h)
			}
		}
	}
	sortServices(&out)
	return &out
}

// key is by what the spans of a trace are ordered.
type key struct {
	start uint64
	id    flow.SpanID
}

// keys reads start and id of the rows of the traces: by input, then row.
func (m *merger) keys(traces [][]piece) ([]map[int]key, error) {
	ranges := make([][]rowRange, len(m.in))
	for _, t := range traces {
		for _, x := range t {
			ranges[x.in] = append(ranges[x.in], rowRange{x.p.row, x.p.row + x.p.spans})
		}
	}
	out := make([]map[int]key, len(m.in))
	sc := schema()
	for i, in := range m.in {
		if len(ranges[i]) == 0 {
			continue
		}
		slices.SortFunc(ranges[i], func(a, b rowRange) int { return cmp.Compare(a.from, b.from) })
		keys := map[int]key{}
		err := in.bf.scan(sc.start, ranges[i], func(row int, v []parquet.Value) error {
			keys[row] = key{start: uint64(v[0].Int64())} //nolint:gosec // round trip
			return nil
		})
		if err == nil {
			err = in.bf.scan(sc.spanID, ranges[i], func(row int, v []parquet.Value) error {
				k := keys[row]
				copy(k.id[:], v[0].ByteArray())
				keys[row] = k
				return nil
			})
		}
		if err := m.fault(in.b, err); err != nil {
			return nil, err
		}
		out[i] = keys
		if err := m.pace.step(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// interleave appends the rows of a trace whose pieces overlap in time.
func (m *merger) interleave(ps []piece, keys []map[int]key) {
	type at struct {
		key
		in  int32
		row int
	}
	var rows []at
	for _, x := range ps {
		for r := x.p.row; r < x.p.row+x.p.spans; r++ {
			rows = append(rows, at{keys[x.in][r], x.in, r})
		}
	}
	slices.SortStableFunc(rows, func(a, b at) int {
		return cmp.Or(cmp.Compare(a.start, b.start), bytes.Compare(a.id[:], b.id[:]))
	})
	for _, r := range rows {
		m.add(r.in, r.row, 1)
	}
}

// describe makes the new block's description and its table of resources.
func (m *merger) describe(spans int) {
	d := blockMeta{
		Spans: spans, Traces: len(m.parts), FirstSeq: m.job.in[0].meta.FirstSeq, LastSeq: m.job.in[len(m.job.in)-1].meta.LastSeq, MinStart: ^uint64(0),
		Level: m.job.level, LeftTraces: m.leftTraces, LeftSpans: m.leftSpans, AllOps: true, AllKeys: true, Events: blockEvents{Known: true},
	}
	for _, p := range m.parts {
		d.MinStart = min(d.MinStart, p.start)
	}
	seqs := newSequences()
	byKey := map[string]int32{}
	for _, in := range m.in {
		x := &in.bf.meta
		d.Received, d.MaxStart = max(d.Received, x.Received), max(d.MaxStart, x.MaxStart) // of a thinned block: nothing is later
		d.Replaces = append(d.Replaces, in.b.name())
		d.LeftTraces += x.LeftTraces
		d.LeftSpans += x.LeftSpans
		seqs.merge(x.Sequences)
		d.Ops = append(d.Ops, x.Ops...)
		d.Keys = append(d.Keys, x.Keys...)
		d.ResKeys = append(d.ResKeys, x.ResKeys...)
		d.Events = d.Events.joined(x.Events)
		d.AllOps, d.AllKeys = d.AllOps && x.AllOps, d.AllKeys && x.AllKeys
		d.Cols |= x.Cols
		for _, g := range in.bf.groups {
			i, ok := byKey[g.key]
			if !ok {
				i = int32(len(m.groups)) //nolint:gosec // bounded by the inputs
				byKey[g.key] = i
				m.groups = append(m.groups, g)
			}
			in.groups = append(in.groups, i)
		}
	}
	d.Sequences = seqs.all()
	slices.SortFunc(d.Ops, compareOps)
	d.Ops = slices.Compact(d.Ops)
	slices.Sort(d.Keys)
	d.Keys = slices.Compact(d.Keys)
	slices.Sort(d.ResKeys)
	d.ResKeys = slices.Compact(d.ResKeys)
	if len(d.Ops) > maxOps {
		d.Ops, d.AllOps = d.Ops[:maxOps+1], false
	}
	if len(d.Keys) > maxKeys {
		d.Keys, d.AllKeys = d.Keys[:maxKeys+1], false
	}
	d.ColNames = namesOf(d.Cols)
	m.meta = d
}

func compareOps(x, y opKey) int {
	return cmp.Or(strings.Compare(x.Service, y.Service), strings.Compare(x.Name, y.Name), cmp.Compare(x.Kind, y.Kind))
}

// write is the new block's body.
func (m *merger) write(w io.Writer) error {
	sc := schema()
	bw := bufio.NewWriterSize(w, 1<<18)
	pw, err := newParquetWriter(bw, m.meta, m.groups)
	if err != nil {
		return err
	}
	cw := pw.ColumnWriters()
	unused := map[int]bool{}
	for i := range columns {
		unused[sc.cols[i]] = m.meta.Cols&(1<<i) == 0
	}
	for _, c := range []int{sc.attrKey, sc.attrValue, sc.attrType, sc.attrRaw} {
		unused[c] = len(m.meta.Keys) == 0
	}
	for c := range sc.all {
		if unused[c] {
			err = m.writeNulls(cw[c], c)
		} else {
			err = m.writeColumn(cw[c], c)
		}
		if err != nil {
			return err
		}
	}
	if err := pw.Close(); err != nil {
		return err
	}
	return bw.Flush()
}

func (m *merger) writeNulls(w *parquet.ColumnWriter, leaf int) error {
	nulls := make([]parquet.Value, min(pageRows, m.meta.Spans))
	for i := range nulls {
		nulls[i] = parquet.NullValue().Level(0, 0, leaf)
	}
	for left := m.meta.Spans; left > 0; {
		n := min(left, pageRows)
		if _, err := w.WriteRowValues(nulls[:n]); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		left -= n
	}
	return m.pace.step()
}

func (m *merger) writeColumn(w *parquet.ColumnWriter, leaf int) error {
	sc := schema()
	cs := make([]*columnCursor, len(m.in))
	defer func() {
		for _, c := range cs {
			if c != nil {
				c.close()
			}
		}
	}()
	at := 0 // index of the trace whose rows come, for the check of ids
	row := 0
	for _, r := range m.runs {
		for r.n > 0 {
			c := cs[r.in]
			if c == nil {
				c = &columnCursor{bf: m.in[r.in].bf, leaf: leaf, next: -1}
				cs[r.in] = c
			}
			vals, n, err := c.read(int(r.from), min(int(r.n), pageRows-row%pageRows))
			if err := m.fault(m.in[r.in].b, err); err != nil {
				return err
			}
			switch leaf {
			case sc.resource:
				err = m.remap(vals, m.in[r.in])
			case sc.traceID:
				for i := range vals {
					for row+i >= m.parts[at].row+m.parts[at].spans {
						at++
					}
					if !bytes.Equal(vals[i].ByteArray(), m.parts[at].id[:]) {
						err = fmt.Errorf("%w: row %d is not of trace %s", errBlock, int(r.from)+i, m.parts[at].id)
						break
					}
				}
			}
			if err := m.fault(m.in[r.in].b, err); err != nil {
				return err
			}
			if _, err := w.WriteRowValues(vals); err != nil {
				return err
			}
			row += n
			r.from += int32(n) //nolint:gosec // at most r.n
			r.n -= int32(n)    //nolint:gosec // at most r.n
			if row%pageRows == 0 || row == m.meta.Spans {
				if err := w.Flush(); err != nil {
					return err
				}
				if err := m.pace.step(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// remap changes indexes of an input's resources into those of the new block, in place.
func (m *merger) remap(vals []parquet.Value, in *input) error {
	for i, v := range vals {
		g := int(v.Int32())
		if g < 0 || g >= len(in.groups) {
			return fmt.Errorf("%w: a span names a resource that is not there", errBlock)
		}
		vals[i] = parquet.Int32Value(in.groups[g]).Level(0, 0, v.Column())
	}
	return nil
}

// columnCursor reads one column of one input, mostly forward. It keeps the two pages used last: where blocks share traces, the order of rows goes back and
// forth a little.
type columnCursor struct {
	bf     *blockFile
	leaf   int
	pages  parquet.Pages
	starts []int64 // first row of each page
	next   int     // page that comes without seeking
	kept   [2]loaded
	used   int // index in kept of the page used last
}

// loaded is one decoded page. Rows are [from, to).
type loaded struct {
	from, to int
	vals     []parquet.Value
	offs     []int32 // index in vals of each row and of the end; empty: one value per row
	page     parquet.Page
}

func (l *loaded) free() {
	if l.page != nil {
		parquet.Release(l.page)
		l.page = nil
	}
}

func (c *columnCursor) close() {
	for _, p := range c.kept {
		p.free()
	}
	if c.pages != nil {
		_ = c.pages.Close()
	}
}

// read returns the values of at most n rows from row on, and of how many. They are valid until the next read, and may be changed once read for good.
func (c *columnCursor) read(row, n int) ([]parquet.Value, int, error) {
	if p := &c.kept[c.used]; row < p.from || row >= p.to {
		c.used = 1 - c.used
		if p := &c.kept[c.used]; row < p.from || row >= p.to {
			if err := c.load(p, row); err != nil {
				p.from, p.to = 0, 0
				return nil, 0, err
			}
		}
	}
	p := &c.kept[c.used]
	n = min(n, p.to-row)
	if len(p.offs) == 0 {
		return p.vals[row-p.from : row-p.from+n], n, nil
	}
	return p.vals[p.offs[row-p.from]:p.offs[row-p.from+n]], n, nil
}

func (c *columnCursor) load(p *loaded, row int) (err error) {
	defer recoverDamage(&err)
	chunk := c.bf.chunk(c.leaf)
	if chunk == nil { // older than the column: nobody has it
		p.from, p.to = row-row%pageRows, min(row-row%pageRows+pageRows, c.bf.meta.Spans)
		p.vals, p.offs = slices.Grow(p.vals[:0], p.to-p.from)[:p.to-p.from], p.offs[:0]
		for i := range p.vals {
			p.vals[i] = parquet.NullValue().Level(0, 0, c.leaf)
		}
		return nil
	}
	if c.pages == nil {
		idx, err := chunk.OffsetIndex()
		if err != nil {
			return blame(err)
		}
		for i := range idx.NumPages() {
			c.starts = append(c.starts, idx.FirstRowIndex(i))
		}
		c.pages = chunk.Pages()
	}
	at := sort.Search(len(c.starts), func(i int) bool { return c.starts[i] > int64(row) }) - 1
	if at < 0 {
		return fmt.Errorf("%w: no page holds row %d", errBlock, row)
	}
	if at != c.next {
		if err := c.pages.SeekToRow(c.starts[at]); err != nil {
			return blame(err)
		}
	}
	c.next = -1
	p.free()
	page, err := c.pages.ReadPage()
	if err != nil {
		return blame(err)
	}
	p.page = page
	n := int(page.NumValues())
	p.vals = slices.Grow(p.vals[:0], n)[:n]
	got, err := page.Values().ReadValues(p.vals)
	if err != nil && !errors.Is(err, io.EOF) || got != n {
		return fmt.Errorf("%w: page has %d of %d values: %w", errBlock, got, n, err)
	}
	p.from, p.to = int(c.starts[at]), int(c.starts[at])+int(page.NumRows())
	p.offs = p.offs[:0]
	if schema().repeated(c.leaf) {
		for i := range p.vals {
			if p.vals[i].RepetitionLevel() == 0 {
				p.offs = append(p.offs, int32(i)) //nolint:gosec // bounded by a page
			}
		}
		p.offs = append(p.offs, int32(n)) //nolint:gosec // bounded by a page
		n = len(p.offs) - 1
	}
	if n != int(page.NumRows()) || row >= p.to {
		return fmt.Errorf("%w: a page holds %d rows of %d", errBlock, n, page.NumRows())
	}
	c.next = at + 1
	return nil
}

// repeated says that a row may have several values in the leaf column.
func (s spanSchema) repeated(leaf int) bool {
	return leaf == s.attrKey || leaf == s.attrValue || leaf == s.attrType || leaf == s.attrRaw
}
