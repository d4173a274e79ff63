package local

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/parquet-go/parquet-go"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Keys of the Parquet file's own metadata.
const (
	kvFormat    = "tulle.format"    // "spans/1"
	kvMeta      = "tulle.meta"      // blockMeta as JSON
	kvResources = "tulle.resources" // base64 of (uvarint length, OTLP TracesData)…, indexed by column resource
	formatName  = "spans/1"
	pageRows    = 4096
	pageBytes   = 1 << 20 // from which on a page of long texts is cut early
)

// leaves are the indexes of the schema's leaf columns.
type leaves struct {
	traceID, spanID, parentID, start, duration, service, name, kind, status, statusMsg, traceState, flags, resource, extra int

	attrKey, attrValue, attrType, attrRaw int

	cols []int
	all  int
}

type spanSchema struct {
	*parquet.Schema
	leaves
}

// schema is built once. A Group's fields are ordered by name on disk.
var schema = sync.OnceValue(func() spanSchema {
	dict := func(n parquet.Node) parquet.Node { return parquet.Encoded(n, &parquet.RLEDictionary) }
	plain := func(n parquet.Node) parquet.Node { return parquet.Encoded(n, &parquet.Plain) }
	delta := func(n parquet.Node) parquet.Node { return parquet.Encoded(n, &parquet.DeltaBinaryPacked) }
	g := parquet.Group{
		"trace_id":        plain(parquet.Leaf(parquet.FixedLenByteArrayType(16))),
		"span_id":         parquet.Compressed(plain(parquet.Leaf(parquet.FixedLenByteArrayType(8))), &parquet.Uncompressed), // random
		"parent_id":       parquet.Optional(plain(parquet.Leaf(parquet.FixedLenByteArrayType(8)))),
		"start_unix_nano": delta(parquet.Int(64)),
		"duration_nano":   delta(parquet.Int(64)),
		"service":         dict(parquet.String()),
		"name":            dict(parquet.String()),
		"kind":            dict(parquet.String()),
		"status":          dict(parquet.String()),
		"status_message":  parquet.Optional(plain(parquet.String())),
		"trace_state":     parquet.Optional(dict(parquet.String())),
		"flags":           dict(parquet.Int(32)),
		"resource":        dict(parquet.Int(32)),
		"extra":           parquet.Optional(plain(parquet.Leaf(parquet.ByteArrayType))),
		"attributes": parquet.Map(dict(parquet.String()), parquet.Group{
			"value": plain(parquet.String()),
			"type":  dict(parquet.Int(32)),
			"raw":   parquet.Optional(plain(parquet.Leaf(parquet.ByteArrayType))),
		}),
	}
	for _, c := range columns {
		var n parquet.Node
		switch {
		case c.typ == colString:
			n = dict(parquet.String())
		case c.packing == alike:
			n = parquet.Compressed(plain(parquet.String()), betterPages)
		case c.typ == colText:
			n = plain(parquet.String())
		case c.packing == often:
			n = plain(parquet.Int(64))
		case c.packing == few:
			n = dict(parquet.Int(64))
		case c.typ == colInt:
			n = delta(parquet.Int(64))
		case c.typ == colBool:
			n = parquet.Leaf(parquet.BooleanType)
		}
		g[c.name()] = parquet.Optional(n)
	}
	s := spanSchema{Schema: parquet.NewSchema("span", g)}
	at := func(path ...string) int {
		l, ok := s.Lookup(path...)
		if !ok {
			panic("local: schema has no column " + strings.Join(path, ".")) // every test seals
		}
		return l.ColumnIndex
	}
	s.leaves = leaves{
		traceID: at("trace_id"), spanID: at("span_id"), parentID: at("parent_id"), start: at("start_unix_nano"), duration: at("duration_nano"),
		service: at("service"), name: at("name"), kind: at("kind"), status: at("status"), statusMsg: at("status_message"), traceState: at("trace_state"),
		flags: at("flags"), resource: at("resource"), extra: at("extra"),
		attrKey: at("attributes", "key_value", "key"), attrValue: at("attributes", "key_value", "value", "value"),
		attrType: at("attributes", "key_value", "value", "type"), attrRaw: at("attributes", "key_value", "value", "raw"),
		all: len(s.Columns()),
	}
	for _, c := range columns {
		s.cols = append(s.cols, at(c.name()))
	}
	return s
})

var statusNames = []string{"unset", "ok", "error"}

func nameOf(names []string, i int32) string {
	if i < 0 || int(i) >= len(names) {
		return names[0]
	}
	return names[i]
}

func indexOf(names []string, s string) int32 { return int32(max(0, slices.Index(names, s))) } //nolint:gosec // small

// bloomBits sizes the filter of trace ids, per row: engines are to read one page in a thousand in vain, and what counts are the ids, not the rows.
func bloomBits(meta *blockMeta) uint {
	return uint(max(1, (16*meta.Traces+meta.Spans-1)/max(1, meta.Spans)))
} //nolint:gosec // 1 to 16

// newParquetWriter begins a block's file. Pages are cut by its user, pageRows rows each; a writer is used once.
func newParquetWriter(w io.Writer, meta blockMeta, groups []*group) (*parquet.GenericWriter[any], error) {
	mj, err := json.Marshal(meta)
	if err != nil {
		return nil, err
	}
	var res []byte
	for _, g := range groups {
		res = binary.AppendUvarint(res, uint64(len(g.key)))
		res = append(res, g.key...)
	}
	return parquet.NewGenericWriter[any](w, schema().Schema,
		parquet.Compression(fastPages),
		parquet.BloomFilters(parquet.SplitBlockFilter(bloomBits(&meta), "trace_id")),
		parquet.DataPageStatistics(false), // the column index has them
		parquet.PageBufferSize(pageBytes), // pages are cut by rows; the writer takes this much for each column that every span has
		parquet.DictionaryMaxBytes(maxDictionary),
		parquet.WriteBufferSize(0),
		parquet.CreatedBy("tulle", "1", ""),
		parquet.KeyValueMetadata(kvFormat, formatName),
		parquet.KeyValueMetadata(kvMeta, string(mj)),
		parquet.KeyValueMetadata(kvResources, base64.StdEncoding.EncodeToString(res)),
	), nil
}

// maxDictionary is the length of a column's dictionary, in bytes, from which on its pages are plain: who wants one page of a column reads all of the dictionary.
const maxDictionary = 128 << 10

// writeParquet writes a frozen memtable and returns its trace summaries in file order.
func writeParquet(w io.Writer, m *memtable, meta blockMeta) ([]*part, error) {
	bw := bufio.NewWriterSize(w, 1<<18)
	pw, err := newParquetWriter(bw, meta, m.groups)
	if err != nil {
		return nil, err
	}
	parts := make([]*part, 0, len(m.traces))
	for id, t := range m.traces {
		parts = append(parts, m.partLocked(id, t))
	}
	slices.SortFunc(parts, func(a, b *part) int { return -newerFirst(a.start, a.id, b.start, b.id) })

	total := 0
	spans := make([]*liveSpan, 0, m.count)
	for _, p := range parts {
		p.row = total
		from := len(spans)
		for _, i := range m.traces[p.id].spans {
			spans = append(spans, m.span(i))
		}
		slices.SortFunc(spans[from:], func(x, y *liveSpan) int {
			if x.start != y.start {
				return cmp.Compare(x.start, y.start)
			}
			return bytes.Compare(x.id[:], y.id[:])
		})
		total += p.spans
	}
	cw := pw.ColumnWriters()
	pages := &pageWriter{memtable: m, cw: cw, buf: make([]parquet.Value, pageRows), nulls: make([]parquet.Value, pageRows)}
	for i := range pages.nulls {
		pages.nulls[i] = parquet.NullValue()
	}
	for from := 0; from < total; from += pageRows {
		if err := pages.write(spans[from:min(total, from+pageRows)]); err != nil {
			return nil, err
		}
	}
	if err := pw.Close(); err != nil {
		return nil, err
	}
	return parts, bw.Flush()
}

// textValue refers to s: the writer of columns only reads.
func textValue(s string) parquet.Value {
	return parquet.ByteArrayValue(unsafe.Slice(unsafe.StringData(s), len(s)))
}

// pageWriter writes a memtable's spans, page by page.
type pageWriter struct {
	*memtable
	cw         []*parquet.ColumnWriter
	buf, nulls []parquet.Value // pageRows of them
	rest       [4][]parquet.Value
}

// write writes one page of every column, column by column. Levels: an optional column has definition level 1 when set; the map's leaves have repetition
// level 0 for the first entry of a row and 1 for the others, definition level 0 for a row without entries. Values name no column: the writer is the column's.
func (m *pageWriter) write(spans []*liveSpan) (err error) {
	sc := schema()
	buf := m.buf[:len(spans)]
	write := func(c int, vals []parquet.Value) {
		if err == nil {
			_, err = m.cw[c].WriteRowValues(vals)
		}
		if err == nil {
			err = m.cw[c].Flush()
		}
	}
	each := func(c int, of func(s *liveSpan) parquet.Value) {
		for i, s := range spans {
			buf[i] = of(s)
		}
		write(c, buf)
	}
	null := parquet.NullValue()
	optional := func(c int, of func(s *liveSpan) (parquet.Value, bool)) {
		for i, s := range spans {
			if v, ok := of(s); ok {
				buf[i] = v.Level(0, 1, c)
			} else {
				buf[i] = null
			}
		}
		write(c, buf)
	}
	str := func(t sym) parquet.Value { return textValue(m.at(t)) }
	someText := func(c int, of func(s *liveSpan) sym) {
		optional(c, func(s *liveSpan) (parquet.Value, bool) { t := of(s); return str(t), t != 0 })
	}
	each(sc.traceID, func(s *liveSpan) parquet.Value { return parquet.FixedLenByteArrayValue(s.trace[:]) })
	each(sc.spanID, func(s *liveSpan) parquet.Value { return parquet.FixedLenByteArrayValue(s.id[:]) })
	optional(sc.parentID, func(s *liveSpan) (parquet.Value, bool) {
		return parquet.FixedLenByteArrayValue(s.parent[:]), !s.parent.IsZero()
	})
	each(sc.start, func(s *liveSpan) parquet.Value { return parquet.Int64Value(int64(s.start)) })                   //nolint:gosec // round trip
	each(sc.duration, func(s *liveSpan) parquet.Value { return parquet.Int64Value(int64(s.end) - int64(s.start)) }) //nolint:gosec // round trip
	each(sc.service, func(s *liveSpan) parquet.Value { return textValue(m.groups[s.group].service) })
	each(sc.name, func(s *liveSpan) parquet.Value { return str(s.name) })
	each(sc.kind, func(s *liveSpan) parquet.Value { return textValue(kindName(s.kind)) })
	each(sc.status, func(s *liveSpan) parquet.Value { return textValue(nameOf(statusNames, s.status)) })
	someText(sc.statusMsg, func(s *liveSpan) sym { return s.statusMsg })
	someText(sc.traceState, func(s *liveSpan) sym { return s.traceState })
	each(sc.flags, func(s *liveSpan) parquet.Value { return parquet.Int32Value(int32(s.flags)) })    //nolint:gosec // round trip
	each(sc.resource, func(s *liveSpan) parquet.Value { return parquet.Int32Value(int32(s.group)) }) //nolint:gosec // round trip
	someText(sc.extra, func(s *liveSpan) sym { return s.extra })
	for i, col := range columns {
		c, bit, at := sc.cols[i], uint64(1)<<i, slot[i]
		if m.cols&bit == 0 {
			write(c, m.nulls[:len(spans)])
			continue
		}
		for k, s := range spans {
			v := null
			if s.set&bit != 0 {
				switch col.typ {
				case colInt:
					v = parquet.Int64Value(s.num[at]).Level(0, 1, c)
				case colBool:
					v = parquet.BooleanValue(s.bools&bit != 0).Level(0, 1, c)
				case colString, colText:
					v = str(s.str[at]).Level(0, 1, c)
				}
			}
			buf[k] = v
		}
		write(c, buf)
	}
	if err != nil {
		return err
	}
	return m.writeRest(spans)
}

// writeRest writes a page of the attributes without columns.
func (m *pageWriter) writeRest(spans []*liveSpan) error {
	sc := schema()
	out := &m.rest
	for i := range out {
		clear(out[i])
		out[i] = out[i][:0]
	}
	at := [4]int{sc.attrKey, sc.attrValue, sc.attrType, sc.attrRaw}
	for _, s := range spans {
		if s.attrs == 0 {
			for i, c := range at {
				out[i] = append(out[i], parquet.NullValue().Level(0, 0, c))
			}
			continue
		}
		rep := 0
		decodeAttrs(m.at(s.attrs), func(a attr) bool {
			out[0] = append(out[0], textValue(a.key).Level(rep, 1, sc.attrKey))
			out[1] = append(out[1], textValue(a.value).Level(rep, 1, sc.attrValue))
			out[2] = append(out[2], parquet.Int32Value(int32(a.typ)).Level(rep, 1, sc.attrType))
			if a.raw != nil {
				out[3] = append(out[3], parquet.ByteArrayValue(a.raw).Level(rep, 2, sc.attrRaw))
			} else {
				out[3] = append(out[3], parquet.NullValue().Level(rep, 1, sc.attrRaw))
			}
			rep = 1
			return true
		})
	}
	for i, c := range at {
		if _, err := m.cw[c].WriteRowValues(out[i]); err != nil {
			return err
		}
		if err := m.cw[c].Flush(); err != nil {
			return err
		}
	}
	return nil
}

// errBlock marks damage in a block, as opposed to a failure to read it.
var errBlock = errors.New("block is damaged")

// blockFile is an open Parquet file. Safe for concurrent use.
type blockFile struct {
	f      File
	pf     *parquet.File
	meta   blockMeta
	groups []*group
	at     []int // by leaf of schema(): its column in this file; -1 when the file was written before there was one
	refs   int   // guarded by the cache
	evict  bool  // guarded by the cache
	turn   *turn // of whoever reads pages of it; nil in the cache
}

// in is the block as one goroutine reads it in its turn. It is valid as long as the block is.
func (b *blockFile) in(t *turn) *blockFile {
	return &blockFile{f: b.f, pf: b.pf, meta: b.meta, groups: b.groups, at: b.at, turn: t}
}

func footerCRC(f io.ReaderAt, size int64) (uint32, error) {
	var tail [8]byte
	if size < 12 {
		return 0, fmt.Errorf("%w: %d bytes long", errBlock, size)
	}
	if _, err := f.ReadAt(tail[:], size-8); err != nil {
		return 0, err
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if string(tail[4:]) != "PAR1" || n > size-12 {
		return 0, fmt.Errorf("%w: no Parquet footer", errBlock)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, size-8-n); err != nil {
		return 0, err
	}
	return crc32.Checksum(b, castagnoli), nil
}

// indexCRC is the checksum of everything from the page indexes up to the footer, which knows where they begin; nothing else in the file covers them.
func indexCRC(f io.ReaderAt, size int64, pf *parquet.File) (uint32, error) {
	from := size
	for _, c := range pf.Metadata().RowGroups[0].Columns {
		for _, at := range []int64{c.ColumnIndexOffset, c.OffsetIndexOffset} {
			if at > 0 {
				from = min(from, at)
			}
		}
	}
	b := make([]byte, size-from)
	if _, err := f.ReadAt(b, from); err != nil {
		return 0, err
	}
	return crc32.Checksum(b, castagnoli), nil
}

// openParquet opens a block. want is what its sidecar says of it, nil when there is none.
func openParquet(f File, want *idxMeta) (bf *blockFile, err error) {
	defer recoverDamage(&err)
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if want != nil {
		if st.Size() != want.FileSize {
			return nil, fmt.Errorf("%w: %d bytes long, %d were written", errBlock, st.Size(), want.FileSize)
		}
		crc, err := footerCRC(f, st.Size())
		if err != nil {
			return nil, err
		}
		if crc != want.FooterCRC {
			return nil, fmt.Errorf("%w: checksum of its footer", errBlock)
		}
	}
	pf, err := parquet.OpenFile(f, st.Size(), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(16<<10))
	if err != nil {
		return nil, blame(err)
	}
	if want != nil && want.IndexCRC != 0 {
		crc, err := indexCRC(f, st.Size(), pf)
		if err != nil {
			return nil, err
		}
		if crc != want.IndexCRC {
			return nil, fmt.Errorf("%w: checksum of its page indexes", errBlock)
		}
	}
	bf = &blockFile{f: f, pf: pf}
	if v, _ := pf.Lookup(kvFormat); v != formatName {
		return nil, fmt.Errorf("%w: format %q, this build reads %q", errBlock, v, formatName)
	}
	mj, _ := pf.Lookup(kvMeta)
	if err := bf.meta.parse([]byte(mj)); err != nil {
		return nil, fmt.Errorf("%w: its description: %w", errBlock, err)
	}
	if bf.at, err = fileColumns(pf); err != nil {
		return nil, err
	}
	if len(pf.RowGroups()) != 1 || pf.NumRows() != int64(bf.meta.Spans) {
		return nil, fmt.Errorf("%w: %d rows in %d groups, %d spans were written", errBlock, pf.NumRows(), len(pf.RowGroups()), bf.meta.Spans)
	}
	rj, _ := pf.Lookup(kvResources)
	res, err := base64.StdEncoding.DecodeString(rj)
	if err != nil {
		return nil, fmt.Errorf("%w: its resources: %w", errBlock, err)
	}
	d := decoder{b: res}
	for len(d.b) > 0 {
		g, err := parseGroup(string(d.bytes(d.count())))
		if err != nil || d.bad {
			return nil, fmt.Errorf("%w: its resources: %w", errBlock, err)
		}
		bf.groups = append(bf.groups, g)
	}
	return bf, nil
}

// fileColumns finds the leaves of schema() in a file. Only columns of single attributes may be missing: of blocks that are older than they.
func fileColumns(pf *parquet.File) ([]int, error) {
	sc := schema()
	at := make([]int, sc.all)
	for leaf, path := range sc.Columns() {
		at[leaf] = -1
		if l, ok := pf.Schema().Lookup(path...); ok {
			at[leaf] = l.ColumnIndex
		} else if !slices.Contains(sc.cols, leaf) {
			return nil, fmt.Errorf("%w: it has no column %s", errBlock, strings.Join(path, "."))
		}
	}
	return at, nil
}

// chunk is what the file has of a leaf of schema(), nil for nothing.
func (b *blockFile) chunk(leaf int) parquet.ColumnChunk {
	if b.at[leaf] < 0 {
		return nil
	}
	return b.pf.RowGroups()[0].ColumnChunks()[b.at[leaf]]
}

// average is how many bytes a span has in its columns, before they are compressed.
func (b *blockFile) average() (n int64) {
	for _, c := range b.pf.Metadata().RowGroups[0].Columns {
		n += c.MetaData.TotalUncompressedSize
	}
	return n / int64(max(1, b.meta.Spans))
}

// recoverDamage turns a panic of the Parquet reader on damaged bytes into an error.
func recoverDamage(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errBlock, p)
	}
}

// rowRange is [from, to).
type rowRange struct{ from, to int }

// scan calls each for every row of the ranges (ascending, disjoint) with the values of one leaf column. Values are valid until each returns.
func (b *blockFile) scan(leaf int, ranges []rowRange, each func(row int, v []parquet.Value) error) (err error) {
	defer recoverDamage(&err)
	chunk := b.chunk(leaf)
	if chunk == nil {
		return fmt.Errorf("%w: it has no column %s", errBlock, strings.Join(schema().Columns()[leaf], "."))
	}
	pages := chunk.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	var (
		page parquet.Page
		vals []parquet.Value
		at   int  // offset in vals
		row  = -1 // row of vals[at]
		end  = -1 // row behind the page
		free = func() {
			if page != nil {
				parquet.Release(page)
				page = nil
			}
		}
	)
	defer func() { free() }()
	nulls, err := b.nulls(leaf, chunk)
	if err != nil {
		return err
	}
	for k, r := range ranges {
		for want := r.from; want < r.to; {
			if to, all := nulls.upTo(want); all {
				for ; want < min(to, r.to); want++ {
					if err := each(want, nulls.value[:]); err != nil {
						return err
					}
				}
				continue
			}
			if row < 0 || want < row || want >= end {
				if want != end || row < 0 {
					if err := pages.SeekToRow(int64(want)); err != nil {
						return blame(err)
					}
				}
				free()
				if err := b.turn.pass(); err != nil {
					return err
				}
				page, err = pages.ReadPage()
				if err != nil {
					return blame(err)
				}
				end = want + int(page.NumRows())
				if page.NumRows() == 0 {
					return fmt.Errorf("%w: empty page", errBlock)
				}
				rows := page.Slice(0, int64(lastBefore(ranges[k:], end)-want)) // only what is asked for is decoded into values
				n := int(rows.NumValues())
				vals = slices.Grow(vals[:0], n)[:n]
				got, err := rows.Values().ReadValues(vals)
				if err != nil && !errors.Is(err, io.EOF) || got != n {
					return fmt.Errorf("%w: page has %d of %d values: %w", errBlock, got, n, err)
				}
				at, row = 0, want
			}
			next := at + 1
			for next < len(vals) && vals[next].RepetitionLevel() > 0 {
				next++
			}
			if at >= len(vals) {
				return fmt.Errorf("%w: page ends early", errBlock)
			}
			if row == want {
				if err := each(row, vals[at:next]); err != nil {
					return err
				}
				want++
			}
			at = next
			row++
		}
	}
	return nil
}

// nulls tells of pages of an optional column that hold no value: they need not be read.
type nulls struct {
	bounds parquet.ColumnIndex
	at     parquet.OffsetIndex
	rows   int
	value  [1]parquet.Value
}

func (b *blockFile) nulls(leaf int, chunk parquet.ColumnChunk) (n nulls, err error) {
	if n.bounds, err = chunk.ColumnIndex(); err != nil {
		return n, blame(err)
	}
	if n.at, err = chunk.OffsetIndex(); err != nil {
		return n, blame(err)
	}
	n.rows, n.value[0] = b.meta.Spans, parquet.NullValue().Level(0, 0, leaf)
	return n, nil
}

// upTo says that all is null from a row to before another.
func (n *nulls) upTo(row int) (to int, all bool) {
	pages := n.at.NumPages()
	k := sort.Search(pages, func(i int) bool { return int(n.at.FirstRowIndex(i)) > row }) - 1
	if k < 0 || !n.bounds.NullPage(k) {
		return 0, false
	}
	if k+1 < pages {
		return int(n.at.FirstRowIndex(k + 1)), true
	}
	return n.rows, true
}

// lastBefore is the end of the last row of the ranges before row end.
func lastBefore(ranges []rowRange, end int) int {
	last := 0
	for _, r := range ranges {
		if r.from >= end {
			break
		}
		last = min(r.to, end)
	}
	return last
}

// rows reads whole spans. Columns are read at once, on as many cores as there are and e is given: each has its own fields of the rows.
func (b *blockFile) rows(ranges []rowRange, o only, e *effort) ([]row, error) {
	sc := schema()
	n := 0
	for _, r := range ranges {
		n += r.to - r.from
	}
	out := make([]row, n)
	cols, width := make([]colValue, n*len(o.cols)), len(o.cols)
	for i := range out {
		out[i].cols = cols[i*width : (i+1)*width]
	}
	// text keeps equal texts of a column once.
	type text func(v parquet.Value) string
	var todo []func(*blockFile, text) error
	read := func(b *blockFile, leaf int, set func(r *row, v []parquet.Value) error) error {
		i := 0
		return b.scan(leaf, ranges, func(_ int, v []parquet.Value) error {
			i++
			return set(&out[i-1], v)
		})
	}
	one := func(leaf int, set func(r *row, v parquet.Value, text text)) {
		todo = append(todo, func(b *blockFile, text text) error {
			return read(b, leaf, func(r *row, v []parquet.Value) error {
				if len(v) != 1 {
					return fmt.Errorf("%w: %d values in one row", errBlock, len(v))
				}
				if !v[0].IsNull() {
					set(r, v[0], text)
				}
				return nil
			})
		})
	}
	one(sc.traceID, func(r *row, v parquet.Value, _ text) { copy(r.trace[:], v.ByteArray()) })
	one(sc.spanID, func(r *row, v parquet.Value, _ text) { copy(r.id[:], v.ByteArray()) })
	one(sc.parentID, func(r *row, v parquet.Value, _ text) { copy(r.parent[:], v.ByteArray()) })
	one(sc.start, func(r *row, v parquet.Value, _ text) { r.start = uint64(v.Int64()) })  //nolint:gosec // round trip
	one(sc.duration, func(r *row, v parquet.Value, _ text) { r.end = uint64(v.Int64()) }) //nolint:gosec // round trip; the start is added below
	one(sc.name, func(r *row, v parquet.Value, text text) { r.name = text(v) })
	one(sc.kind, func(r *row, v parquet.Value, _ text) { r.kind = indexOf(kindNames, string(v.ByteArray())) })
	one(sc.status, func(r *row, v parquet.Value, _ text) { r.status = indexOf(statusNames, string(v.ByteArray())) })
	one(sc.statusMsg, func(r *row, v parquet.Value, text text) { r.statusMsg = text(v) })
	one(sc.traceState, func(r *row, v parquet.Value, text text) { r.traceState = text(v) })
	one(sc.flags, func(r *row, v parquet.Value, _ text) { r.flags = uint32(v.Int32()) }) //nolint:gosec // round trip
	one(sc.resource, func(r *row, v parquet.Value, _ text) {
		if i := int(v.Int32()); i >= 0 && i < len(b.groups) {
			r.group = b.groups[i]
		}
	})
	if o.all {
		one(sc.extra, func(r *row, v parquet.Value, _ text) { r.extra = string(v.ByteArray()) })
	}
	for k, i := range o.cols {
		c := columns[i]
		if b.meta.Cols&(1<<i) == 0 {
			continue
		}
		one(sc.cols[i], func(r *row, v parquet.Value, text text) {
			cv := colValue{set: true}
			switch c.typ {
			case colInt:
				cv.num = v.Int64()
			case colBool:
				if v.Boolean() {
					cv.num = 1
				}
			case colString, colText:
				cv.str = text(v)
			}
			r.cols[k] = cv
		})
	}
	if len(b.meta.Keys) > 0 && o.rest(b.meta.hasRest) {
		todo = append(todo, func(b *blockFile, text text) error {
			many := func(leaf int, set func(a *attr, v parquet.Value)) error {
				return read(b, leaf, func(r *row, v []parquet.Value) error {
					if len(v) == 1 && v[0].DefinitionLevel() == 0 {
						return nil
					}
					if r.attrs == nil {
						r.attrs = make([]attr, len(v))
					}
					if len(v) != len(r.attrs) {
						return fmt.Errorf("%w: attributes of different length", errBlock)
					}
					for i := range v {
						if !v[i].IsNull() {
							set(&r.attrs[i], v[i])
						}
					}
					return nil
				})
			}
			return cmp.Or(
				many(sc.attrKey, func(a *attr, v parquet.Value) { a.key = text(v) }),
				many(sc.attrValue, func(a *attr, v parquet.Value) { a.value = text(v) }),
				many(sc.attrType, func(a *attr, v parquet.Value) { a.typ = attrType(v.Int32()) }), //nolint:gosec // 0 to 7
				many(sc.attrRaw, func(a *attr, v parquet.Value) { a.raw = slices.Clone(v.ByteArray()) }),
			)
		})
	}
	workers := min(runtime.GOMAXPROCS(0), len(todo), maxReaders)
	var next atomic.Int64
	if err := together(workers, func(int) error {
		t, err := e.begin()
		if err != nil {
			return err
		}
		defer t.end()
		own := b.in(t)
		texts := map[string]string{} // shared between rows and columns
		for {
			k := int(next.Add(1)) - 1
			if k >= len(todo) {
				return nil
			}
			if err := todo[k](own, func(v parquet.Value) string {
				k := v.ByteArray()
				s, ok := texts[string(k)]
				if !ok {
					s = string(k)
					texts[s] = s
				}
				return s
			}); err != nil {
				return err
			}
		}
	}); err != nil {
		return nil, err
	}
	for i := range out {
		out[i].end += out[i].start
		if out[i].group == nil {
			return nil, fmt.Errorf("%w: a span names a resource that is not there", errBlock)
		}
	}
	return out, nil
}

// maxReaders bounds on how many cores one trace is read.
const maxReaders = 4

// rebuild derives the trace summaries from the bodies, for a lost or damaged sidecar. The history of starts is not in the bodies: every part
// counts as known since the block's first commit.
func (b *blockFile) rebuild() ([]*part, error) {
	var parts []*part
	byID := map[flow.TraceID]*part{}
	for from := 0; from < b.meta.Spans; from += pageRows {
		rows, err := b.rows([]rowRange{{from, min(from+pageRows, b.meta.Spans)}}, whole, nil)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			r := &rows[i]
			p := byID[r.trace]
			fresh := p == nil
			if fresh {
				p = &part{id: r.trace, start: ^uint64(0), row: from + i}
				byID[r.trace] = p
				parts = append(parts, p)
			}
			p.spans++
			p.add(r.start, r.end, isError(r.status, r.cols[reasonCol].str), r.group.service)
			root := r.parent.IsZero()
			if fresh || better(root, r.start, r.group.service, r.name, p) {
				p.rooted, p.rootStart, p.rootName, p.rootOwner = root, r.start, r.name, r.group.service
			}
		}
	}
	for _, p := range parts {
		p.history = []startAt{{b.meta.FirstSeq, p.start}}
		sortServices(p)
	}
	return parts, nil
}

// starts are the keys by which Spans orders, of the rows of some ranges.
type starts struct {
	start []uint64
	id    []flow.SpanID
}

func (b *blockFile) keys(ranges []rowRange, e *effort) (s starts, err error) {
	sc := schema()
	t, err := e.begin()
	if err != nil {
		return s, err
	}
	defer t.end()
	b = b.in(t)
	if err := b.scan(sc.start, ranges, func(_ int, v []parquet.Value) error {
		s.start = append(s.start, uint64(v[0].Int64())) //nolint:gosec // round trip
		return nil
	}); err != nil {
		return s, err
	}
	err = b.scan(sc.spanID, ranges, func(_ int, v []parquet.Value) error {
		s.id = append(s.id, flow.SpanID(v[0].ByteArray()))
		return nil
	})
	return s, err
}
