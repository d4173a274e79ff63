package local

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	bits64 "math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// A sidecar (NAME.idx beside NAME.parquet) holds what is derived from a block: its description, a bloom filter of its trace ids, those ids with the rows
// that they have, and one summary per trace, so that pages of search results never touch span bodies. Summaries come in chunks, each of which is read for itself.
// It can be rebuilt from the block at any time. Specified in docs/format/spans.md.
const (
	idxMagic    = "TULLEIDX"
	idxVersion  = 4
	chunkTraces = 512 // summaries in a chunk, as this build writes them
)

// Sections of a sidecar.
const (
	sectionMeta = iota
	sectionBloom
	sectionIDs
	sectionParts // one entry for each chunk of summaries, and their tables
	sectionChunks
	idxSections
)

// idxHead is the length of a head: magic, version, for each section length and crc32c, and the crc32c of all that.
const idxHead = 8 + 4 + idxSections*8 + 4

// idxMeta is the first section of a sidecar.
type idxMeta struct {
	blockMeta
	FileSize  int64  `json:"fileSize"`  // of the Parquet file
	FooterCRC uint32 `json:"footerCrc"` // crc32c of its footer
	IndexCRC  uint32 `json:"indexCrc"`  // crc32c from its page indexes to its end; 0 when a version before wrote it
}

var errIndex = errors.New("sidecar is damaged")

func encodeIndex(m idxMeta, b bloom, parts []*part, perChunk int) ([]byte, error) {
	mj, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	directory, chunks := encodeChunks(parts, perChunk)
	sections := [][]byte{mj, b, encodeIDs(parts), directory, chunks}
	out := append([]byte(idxMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(out[8:], idxVersion)
	for _, s := range sections {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(s))) //nolint:gosec // bounded by the seal size
		out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(s, castagnoli))
	}
	out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
	for _, s := range sections {
		out = append(out, s...)
	}
	return out, nil
}

// index is an open sidecar.
type index struct {
	f    File
	head []byte
}

// openIndex refuses another version: what this build needs is derived from the block then.
func openIndex(f File) (*index, error) {
	x := &index{f: f, head: make([]byte, idxHead)}
	n, err := f.ReadAt(x.head, 0)
	if n < 12 {
		return nil, fmt.Errorf("%w: its head: %w", errIndex, err)
	}
	if v := binary.LittleEndian.Uint32(x.head[8:]); string(x.head[:8]) == idxMagic && v != idxVersion {
		return nil, fmt.Errorf("%w: version %d, this build reads %d", errIndex, v, idxVersion)
	}
	if n < idxHead || string(x.head[:8]) != idxMagic || crc32.Checksum(x.head[:idxHead-4], castagnoli) != binary.LittleEndian.Uint32(x.head[idxHead-4:]) {
		return nil, fmt.Errorf("%w: its head", errIndex)
	}
	return x, nil
}

// readIndexFront reads description and bloom filter.
func readIndexFront(f File) (m idxMeta, b bloom, err error) {
	x, err := openIndex(f)
	if err != nil {
		return m, nil, err
	}
	mj, err := x.section(sectionMeta)
	if err != nil {
		return m, nil, err
	}
	if err := json.Unmarshal(mj, &m); err != nil {
		return m, nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if err := m.parse(mj); err != nil {
		return m, nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	b, err = x.section(sectionBloom)
	return m, b, err
}

// place is where a section begins, and its length.
func (x *index) place(n int) (off int64, size uint32) {
	off = int64(len(x.head))
	for i := range n {
		off += int64(binary.LittleEndian.Uint32(x.head[12+8*i:]))
	}
	return off, binary.LittleEndian.Uint32(x.head[12+8*n:])
}

func (x *index) section(n int) ([]byte, error) {
	off, size := x.place(n)
	return x.read(off, size, binary.LittleEndian.Uint32(x.head[16+8*n:]), fmt.Sprintf("section %d", n))
}

func (x *index) read(off int64, size, crc uint32, what string) ([]byte, error) {
	return x.readInto(nil, off, size, crc, what)
}

// readInto is read with room for what is read, if it is enough.
func (x *index) readInto(b []byte, off int64, size, crc uint32, what string) ([]byte, error) {
	st, err := x.f.Stat()
	if err != nil {
		return nil, err
	}
	if off+int64(size) > st.Size() {
		return nil, fmt.Errorf("%w: it is cut short", errIndex)
	}
	b = slices.Grow(b[:0], int(size))[:size]
	if _, err := x.f.ReadAt(b, off); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if crc32.Checksum(b, castagnoli) != crc {
		return nil, fmt.Errorf("%w: checksum of %s", errIndex, what)
	}
	return b, nil
}

// readIndexParts reads all trace summaries, in file order (by start, then trace id).
func readIndexParts(f File) ([]*part, error) {
	x, err := openIndex(f)
	if err != nil {
		return nil, err
	}
	t, err := x.traces()
	if err != nil {
		return nil, err
	}
	parts := make([]*part, 0, t.len())
	for k := range t.chunks {
		ps, err := x.chunk(t, k)
		if err != nil {
			return nil, err
		}
		parts = append(parts, ps...)
	}
	return parts, nil
}

// readTraces reads which traces a block has, and where their summaries are.
func readTraces(f File) (*traces, error) {
	x, err := openIndex(f)
	if err != nil {
		return nil, err
	}
	return x.traces()
}

// idRooms are for the ids of blocks that are looked at once.
var idRooms = sync.Pool{New: func() any { return new([]byte) }}

// hasID says whether a sidecar names a trace. It reads as little as tells it for sure, and keeps nothing.
func hasID(f File, id flow.TraceID) (bool, error) {
	x, err := openIndex(f)
	if err != nil {
		return false, err
	}
	room := idRooms.Get().(*[]byte)
	defer idRooms.Put(room)
	off, size := x.place(sectionIDs)
	b, err := x.readInto(*room, off, size, binary.LittleEndian.Uint32(x.head[16+8*sectionIDs:]), "the trace ids")
	if err != nil {
		return false, err
	}
	*room = b
	n := 0
	if len(b) >= 4 {
		n = int(binary.LittleEndian.Uint32(b))
	}
	if len(b) < 4 || n > (len(b)-4)/16 {
		return false, fmt.Errorf("%w: trace ids", errIndex)
	}
	for ids := b[4 : 4+16*n]; len(ids) > 0; ids = ids[16:] {
		if string(ids[:16]) == string(id[:]) {
			return true, nil
		}
	}
	return false, nil
}

func (x *index) traces() (*traces, error) {
	b, err := x.section(sectionIDs)
	if err != nil {
		return nil, err
	}
	t, err := parseIDs(b)
	if err != nil {
		return nil, err
	}
	if b, err = x.section(sectionParts); err != nil {
		return nil, err
	}
	if len(b) >= 4 {
		t.per, b = int(binary.LittleEndian.Uint32(b)), b[4:]
	}
	if t.per == 0 || len(b)/chunkEntry < (t.len()+t.per-1)/t.per {
		return nil, fmt.Errorf("%w: its chunks are not those of %d traces", errIndex, t.len())
	}
	entries := chunkEntry * ((t.len() + t.per - 1) / t.per)
	tables, err := decompress(b[entries:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if err := t.parseTables(&decoder{b: tables}); err != nil {
		return nil, err
	}
	off, size := x.place(sectionChunks)
	end := off + int64(size)
	for b = b[:entries]; len(b) > 0; b = b[chunkEntry:] {
		c := chunkAt{off, binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:])}
		t.chunks = append(t.chunks, c)
		if off += int64(c.size); off > end {
			return nil, fmt.Errorf("%w: its chunks are longer than their section", errIndex)
		}
	}
	return t, nil
}

// readChunk reads the summaries of one chunk.
func readChunk(f File, t *traces, k int) ([]*part, error) {
	x, err := openIndex(f)
	if err != nil {
		return nil, err
	}
	return x.chunk(t, k)
}

func (x *index) chunk(t *traces, k int) ([]*part, error) {
	c := t.chunks[k]
	z, err := x.read(c.off, c.size, c.crc, fmt.Sprintf("chunk %d", k))
	if err != nil {
		return nil, err
	}
	return decodeParts(t, k*t.per, min((k+1)*t.per, t.len()), z)
}

// traces is what is kept of a sidecar in memory: which traces the block has, in file order, their rows, and where their summaries are. Immutable, but for the order by id.
type traces struct {
	ids    []byte   // 16 of each
	rows   []uint32 // the first of each, and behind the last
	chunks []chunkAt
	per    int     // traces in a chunk
	serial uint64  // no two tables have the same
	whole  []*part // all summaries, where there is no sidecar with chunks

	texts    []string // tables that summaries refer to
	services [][]store.ServiceCount

	asked atomic.Bool // once, so that the next time is worth an order by id

	once   sync.Once // of what find then needs
	first  []uint32  // by bucket of ids: its first in sorted; and behind the last
	sorted []uint32
}

var serials atomic.Uint64 // of traces

// chunkAt is the place of a chunk of summaries in a sidecar.
type chunkAt struct {
	off  int64
	size uint32
	crc  uint32
	hi   uint64 // nothing in this chunk or in one before it was ever known to start later
}

const chunkEntry = 16

func (t *traces) len() int { return len(t.ids) / 16 }

func (t *traces) id(i int) flow.TraceID { return flow.TraceID(t.ids[16*i : 16*i+16]) }

// bytes is about what it takes in memory.
func (t *traces) bytes() int {
	n := 26*t.len() + 24*len(t.chunks) + partBytes*len(t.whole)
	for _, s := range t.texts {
		n += 16 + len(s)
	}
	for _, s := range t.services {
		n += 24 + 32*len(s)
	}
	return n
}

// partBytes is about what a summary takes in memory.
const partBytes = 250

// find gives the place of a trace, -1 for none. Safe for concurrent use.
func (t *traces) find(id flow.TraceID) int {
	n := t.len()
	if !t.asked.Swap(true) {
		for i := range n {
			if string(t.ids[16*i:16*i+16]) == string(id[:]) {
				return i
			}
		}
		return -1
	}
	t.once.Do(func() {
		t.first, t.sorted = make([]uint32, n/4+2), make([]uint32, n)
		of := make([]uint32, n)
		for i := range n {
			of[i] = uint32(t.bucket(t.id(i))) //nolint:gosec // below a length
			t.first[of[i]+1]++
		}
		for k := 1; k < len(t.first); k++ {
			t.first[k] += t.first[k-1]
		}
		at := slices.Clone(t.first)
		for i := range n {
			t.sorted[at[of[i]]] = uint32(i) //nolint:gosec // bounded by the seal size
			at[of[i]]++
		}
	})
	k := t.bucket(id)
	for _, i := range t.sorted[t.first[k]:t.first[k+1]] {
		if string(t.ids[16*i:16*i+16]) == string(id[:]) {
			return int(i)
		}
	}
	return -1
}

// bucket spreads ids evenly, also those of which somebody chose the bytes.
func (t *traces) bucket(id flow.TraceID) int {
	a, _ := bloomHash(id)
	hi, _ := bits64.Mul64(a, uint64(len(t.first)-1)) //nolint:gosec // a length
	return int(hi)                                   //nolint:gosec // below a length
}

// span gives the rows of the trace at a place.
func (t *traces) span(i int) rowRange { return rowRange{int(t.rows[i]), int(t.rows[i+1])} }

// pieces is how many pieces the summaries are in.
func (t *traces) pieces() int {
	if t.whole != nil {
		return 1
	}
	return len(t.chunks)
}

// piece gives the rows from which and before which the traces of a piece are.
func (t *traces) piece(k int) (from, to int) {
	if t.whole != nil {
		return 0, int(t.rows[t.len()])
	}
	return int(t.rows[k*t.per]), int(t.rows[min((k+1)*t.per, t.len())])
}

// tracesOf is for summaries that are all in memory.
func tracesOf(parts []*part) *traces {
	t := &traces{serial: serials.Add(1), whole: parts, rows: make([]uint32, 1, len(parts)+1)}
	for _, p := range parts {
		t.ids = append(t.ids, p.id[:]...)
		t.rows = append(t.rows, uint32(p.row+p.spans)) //nolint:gosec // bounded by the seal size
	}
	return t
}

// encodeIDs is the section of trace ids in row order, and how many spans each has.
func encodeIDs(parts []*part) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+18*len(parts)), uint32(len(parts))) //nolint:gosec // bounded by the seal size
	for _, p := range parts {
		b = append(b, p.id[:]...)
	}
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(p.spans)) //nolint:gosec // counts
	}
	return b
}

func parseIDs(b []byte) (*traces, error) {
	n := 0
	if len(b) >= 4 {
		n = int(binary.LittleEndian.Uint32(b))
	}
	if len(b) < 4 || n > (len(b)-4)/17 { // an id and a count of one byte at least
		return nil, fmt.Errorf("%w: trace ids", errIndex)
	}
	t := &traces{serial: serials.Add(1), ids: b[4 : 4+16*n : 4+16*n], rows: make([]uint32, n+1)}
	counts := decoder{b: b[4+16*n:]}
	row := uint64(0)
	for i := range n {
		row += counts.uvarint()
		if counts.bad || row > math.MaxInt32 {
			return nil, fmt.Errorf("%w: counts of spans", errIndex)
		}
		t.rows[i+1] = uint32(row) //nolint:gosec // checked
	}
	return t, nil
}

// encodeChunks gives the directory of the chunks of summaries, which ends with their tables, and the chunks.
func encodeChunks(parts []*part, n int) (directory, chunks []byte) {
	var texts, patterns table
	entries := binary.LittleEndian.AppendUint32(nil, uint32(n)) //nolint:gosec // small
	hi := uint64(0)
	for chunk := range slices.Chunk(parts, n) {
		for _, p := range chunk {
			hi = max(hi, p.history[0].start) // the later it became known, the earlier it starts
		}
		z := encodeParts(chunk, &texts, &patterns)
		entries = binary.LittleEndian.AppendUint32(entries, uint32(len(z))) //nolint:gosec // bounded by the seal size
		entries = binary.LittleEndian.AppendUint32(entries, crc32.Checksum(z, castagnoli))
		entries = binary.LittleEndian.AppendUint64(entries, hi)
		chunks = append(chunks, z...)
	}
	return append(entries, compress(patterns.append(texts.append(nil)))...), chunks
}

// encodeParts is a chunk of summaries, field by field: what is alike lies together. The parts' ids, counts of spans and rows are in the section of ids, their texts and
// patterns of services in the tables.
func encodeParts(parts []*part, texts, patterns *table) []byte {
	var col [partColumns][]uint64
	u := func(c int, n uint64) { col[c] = append(col[c], n) }
	var start, seq uint64
	var pattern []byte
	for _, p := range parts {
		u(colStart, p.start-start) // ascending
		start = p.start
		u(colEnd, p.end-p.start)
		u(colErrors, uint64(p.errors)) //nolint:gosec // counts
		rooted := uint64(0)
		if p.rooted {
			rooted = 1
		}
		u(colRoot, (p.rootStart-p.start)<<1|rooted)
		u(colName, texts.id(p.rootName))
		u(colOwner, texts.id(p.rootOwner))
		pattern = binary.AppendUvarint(pattern[:0], uint64(len(p.services)))
		for _, s := range p.services {
			pattern = binary.AppendUvarint(pattern, texts.id(s.Service))
			pattern = binary.AppendUvarint(pattern, uint64(s.Spans))  //nolint:gosec // counts
			pattern = binary.AppendUvarint(pattern, uint64(s.Errors)) //nolint:gosec // counts
		}
		u(colServices, patterns.id(string(pattern)))
		u(colHistory, uint64(len(p.history)))
		for k, h := range p.history {
			if k > 0 {
				u(colEarlier, p.history[k-1].start-h.start) // descending
			}
			d := int64(h.seq - seq)               //nolint:gosec // wraps and back
			u(colSeq, uint64(d)<<1^uint64(d>>63)) //nolint:gosec // zigzag
			seq = h.seq
		}
	}
	var out planes
	for _, c := range col {
		out.add(c)
	}
	z := compress(out.packed)
	return append(append(binary.AppendUvarint(nil, uint64(len(z))), z...), out.raw...)
}

// Columns of a chunk of summaries.
const (
	colStart = iota // after the start of the trace before
	colEnd          // after the start
	colErrors
	colRoot // its start after the trace's, × 2, plus 1 when it is there
	colName
	colOwner
	colServices // pattern of them
	colHistory  // how many entries; the last has the trace's start
	colEarlier  // of each entry but a trace's first: how much earlier than the entry before
	colSeq      // of each entry: after that of the entry before, zigzag
	partColumns
)

// planes are columns as bytes: of each column all lowest bytes, then all second ones and so on, as many as its largest value has. A column begins with that number and
// with a bit for each plane of which no byte is frequent, in packed; those planes lie in raw, for nothing makes them smaller, and they would spoil what zstd finds in the others.
type planes struct{ packed, raw []byte }

func (w *planes) add(vals []uint64) {
	all := uint64(0)
	for _, v := range vals {
		all |= v
	}
	n := (bits64.Len64(all) + 7) / 8
	head := len(w.packed)
	w.packed = append(w.packed, byte(n), 0)
	plane := make([]byte, len(vals))
	for p := range n {
		var count [256]int
		most := 0
		for i, v := range vals {
			b := byte(v >> (8 * p)) //nolint:gosec // that byte
			plane[i] = b
			count[b]++
			most = max(most, count[b])
		}
		if most <= 4+len(vals)/64 { // of even ones each is there every 256th time
			w.packed[head+1] |= 1 << p
			w.raw = append(w.raw, plane...)
			continue
		}
		w.packed = append(w.packed, plane...)
	}
}

// planeReader reads planes, column by column.
type planeReader struct{ packed, raw decoder }

func (d *planeReader) next(n int) []uint64 {
	vals := make([]uint64, n)
	head := d.packed.bytes(2)
	if d.packed.bad || head[0] > 8 {
		d.packed.bad = true
		return vals
	}
	for p := range int(head[0]) {
		from := &d.packed
		if head[1]>>p&1 == 1 {
			from = &d.raw
		}
		for i, v := range from.bytes(n) {
			vals[i] |= uint64(v) << (8 * p)
		}
	}
	return vals
}

// table numbers strings in order of appearance.
type table struct {
	all []string
	idx map[string]uint64
}

func (t *table) id(s string) uint64 {
	i, ok := t.idx[s]
	if !ok {
		if t.idx == nil {
			t.idx = map[string]uint64{}
		}
		i = uint64(len(t.all))
		t.idx[s] = i
		t.all = append(t.all, s)
	}
	return i
}

func (t *table) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.all)))
	for _, s := range t.all {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

func (d *decoder) table() []string {
	out := make([]string, d.count())
	for i := range out {
		out[i] = string(d.bytes(d.count()))
	}
	return out
}

// parseTables reads the tables that summaries refer to.
func (t *traces) parseTables(d *decoder) error {
	texts, patterns := d.table(), d.table()
	bad := d.bad
	t.texts, t.services = texts, make([][]store.ServiceCount, len(patterns))
	for i, p := range patterns {
		s := &decoder{b: []byte(p)}
		t.services[i] = make([]store.ServiceCount, s.count())
		for k := range t.services[i] {
			at := s.uvarint()
			if bad = bad || at >= uint64(len(texts)); bad {
				return fmt.Errorf("%w: its tables", errIndex)
			}
			t.services[i][k] = store.ServiceCount{Service: texts[at], Spans: s.int(), Errors: s.int()}
		}
		bad = bad || s.bad
	}
	if bad {
		return fmt.Errorf("%w: its tables", errIndex)
	}
	return nil
}

// decodeParts decodes the summaries of the traces from one place to before another.
func decodeParts(t *traces, from, to int, b []byte) ([]*part, error) {
	n := to - from
	size := &decoder{b: b}
	z := size.bytes(size.count())
	packed, err := decompress(z)
	if err != nil || size.bad {
		return nil, fmt.Errorf("%w: a trace summary: %w", errIndex, err)
	}
	d := planeReader{packed: decoder{b: packed}, raw: decoder{b: size.b}}
	bad := false
	text := func(i uint64) string {
		if i < uint64(len(t.texts)) {
			return t.texts[i]
		}
		bad = true
		return ""
	}
	var col [partColumns][]uint64
	for c := range colEarlier {
		col[c] = d.next(n)
	}
	entries := 0
	for _, h := range col[colHistory] {
		if entries += int(h & math.MaxInt32); h == 0 || h > math.MaxInt32 || entries > len(d.packed.b)+len(d.raw.b)+n { //nolint:gosec // masked
			return nil, fmt.Errorf("%w: a trace summary", errIndex)
		}
	}
	col[colEarlier] = d.next(entries - n)
	col[colSeq] = d.next(entries)
	if d.packed.bad || d.raw.bad {
		return nil, fmt.Errorf("%w: a trace summary", errIndex)
	}
	all, history := make([]part, n), make([]startAt, entries)
	parts := make([]*part, n)
	var start, seq uint64
	for i := range all {
		p := &all[i]
		parts[i] = p
		at := t.span(from + i)
		p.id, p.row, p.spans = t.id(from+i), at.from, at.to-at.from
		start += col[colStart][i]
		p.start = start
		p.end = start + col[colEnd][i]
		p.errors = int(col[colErrors][i] & math.MaxInt32) //nolint:gosec // masked
		r := col[colRoot][i]
		p.rooted, p.rootStart = r&1 == 1, start+r>>1
		p.rootName, p.rootOwner = text(col[colName][i]), text(col[colOwner][i])
		if k := col[colServices][i]; k < uint64(len(t.services)) {
			p.services = t.services[k]
		} else {
			bad = true
		}
		h := int(col[colHistory][i]) //nolint:gosec // checked
		p.history, history = history[:h:h], history[h:]
		for k := range h {
			z := col[colSeq][k]
			seq += z>>1 ^ -(z & 1)
			p.history[k].seq = seq
		}
		known := p.start
		for k := h - 1; k >= 0; k-- {
			p.history[k].start = known
			if k > 0 {
				known += col[colEarlier][k-1]
			}
		}
		col[colSeq], col[colEarlier] = col[colSeq][h:], col[colEarlier][h-1:]
	}
	if bad {
		return nil, fmt.Errorf("%w: a trace summary", errIndex)
	}
	return parts, nil
}

// decoder reads varints with bounds; bad sticks.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	n, w := binary.Uvarint(d.b)
	if w <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[w:]
	return n
}

func (d *decoder) int() int { return int(d.uvarint() & (1<<62 - 1)) } //nolint:gosec // masked

// count is a number of things that each take at least one byte.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
		return 0
	}
	return int(n) //nolint:gosec // bounded
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// bloom is a filter of trace ids: 16 bits per id, 6 probes (false positives about 0.1 %).
type bloom []byte

const bloomProbes = 6

func newBloom(n int) bloom { return make(bloom, max(8, 2*n)) }

func bloomHash(id flow.TraceID) (a, b uint64) {
	mix := func(x uint64) uint64 { // splitmix64's finaliser
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		x *= 0x94d049bb133111eb
		return x ^ x>>31
	}
	lo, hi := binary.LittleEndian.Uint64(id[:8]), binary.LittleEndian.Uint64(id[8:])
	a = mix(lo ^ mix(hi+0x9e3779b97f4a7c15))
	return a, mix(a) | 1
}

func (f bloom) add(id flow.TraceID) {
	a, b := bloomHash(id)
	for range bloomProbes {
		bit := a % uint64(len(f)*8)
		f[bit/8] |= 1 << (bit % 8)
		a += b
	}
}

func (f bloom) has(id flow.TraceID) bool {
	if len(f) == 0 {
		return true
	}
	a, b := bloomHash(id)
	for range bloomProbes {
		bit := a % uint64(len(f)*8)
		if f[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
		a += b
	}
	return true
}
