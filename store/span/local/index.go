package local

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// A sidecar (NAME.idx beside NAME.parquet) holds what is derived from a block: its description, a bloom filter of its trace ids, those ids with the rows
// that they have, and one summary per trace, so that pages of search results never touch span bodies. It can be rebuilt from the block at any time.
// Specified in docs/format/spans.md.
const (
	idxMagic    = "TULLEIDX"
	idxVersion  = 2
	idxSections = 4
)

// Sections of a sidecar.
const (
	sectionMeta = iota
	sectionBloom
	sectionIDs   // version 1: the summaries
	sectionParts // version 1: none
)

// idxHead is the length of a head: magic, version, for each section length and crc32c, and the crc32c of all that.
func idxHead(sections int) int { return 8 + 4 + sections*8 + 4 }

// idxMeta is the first section of a sidecar.
type idxMeta struct {
	blockMeta
	FileSize  int64  `json:"fileSize"`  // of the Parquet file
	FooterCRC uint32 `json:"footerCrc"` // crc32c of its footer
	IndexCRC  uint32 `json:"indexCrc"`  // crc32c from its page indexes to its end; 0 when a version before wrote it
}

var errIndex = errors.New("sidecar is damaged")

func encodeIndex(m idxMeta, b bloom, parts []*part) ([]byte, error) {
	mj, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	sections := [idxSections][]byte{mj, b, encodeIDs(parts), compress(encodeParts(parts))}
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
	f       File
	head    []byte
	version uint32
}

func openIndex(f File) (*index, error) {
	x := &index{f: f, head: make([]byte, idxHead(idxSections))}
	n, err := f.ReadAt(x.head, 0)
	if n < idxHead(3) {
		return nil, fmt.Errorf("%w: its head: %w", errIndex, err)
	}
	if x.version = binary.LittleEndian.Uint32(x.head[8:]); x.version == 1 {
		x.head = x.head[:idxHead(3)]
	}
	if size := len(x.head); n < size || string(x.head[:8]) != idxMagic || crc32.Checksum(x.head[:size-4], castagnoli) != binary.LittleEndian.Uint32(x.head[size-4:]) {
		return nil, fmt.Errorf("%w: its head", errIndex)
	}
	if x.version != 1 && x.version != idxVersion {
		return nil, fmt.Errorf("%w: version %d, this build reads 1 and %d", errIndex, x.version, idxVersion)
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

func (x *index) section(n int) ([]byte, error) {
	off := int64(len(x.head))
	for i := range n {
		off += int64(binary.LittleEndian.Uint32(x.head[12+8*i:]))
	}
	size := binary.LittleEndian.Uint32(x.head[12+8*n:])
	st, err := x.f.Stat()
	if err != nil {
		return nil, err
	}
	if off+int64(size) > st.Size() {
		return nil, fmt.Errorf("%w: it is cut short", errIndex)
	}
	b := make([]byte, size)
	if _, err := x.f.ReadAt(b, off); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(x.head[16+8*n:]) {
		return nil, fmt.Errorf("%w: checksum of section %d", errIndex, n)
	}
	return b, nil
}

// readIndexParts reads the trace summaries, in file order (by start, then trace id).
func readIndexParts(f File) ([]*part, error) {
	x, err := openIndex(f)
	if err != nil {
		return nil, err
	}
	if x.version == 1 {
		b, err := x.unpack(sectionIDs)
		if err != nil {
			return nil, err
		}
		return decodeParts1(b)
	}
	ids, err := x.section(sectionIDs)
	if err != nil {
		return nil, err
	}
	b, err := x.unpack(sectionParts)
	if err != nil {
		return nil, err
	}
	return decodeParts(ids, b)
}

func (x *index) unpack(section int) ([]byte, error) {
	z, err := x.section(section)
	if err != nil {
		return nil, err
	}
	b, err := decompress(z)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	return b, nil
}

// findRows finds the rows of a trace without reading summaries; none when the block does not have it. known is false for a sidecar that cannot tell (version 1).
func findRows(f File, id flow.TraceID) (rows rowRange, known bool, err error) {
	x, err := openIndex(f)
	if err != nil || x.version == 1 {
		return rowRange{}, false, err
	}
	b, err := x.section(sectionIDs)
	if err != nil {
		return rowRange{}, false, err
	}
	n, d, err := splitIDs(b)
	if err != nil {
		return rowRange{}, false, err
	}
	for i := range n {
		if string(b[4+16*i:4+16*i+16]) != string(id[:]) {
			continue
		}
		row := 0
		for range i {
			row += d.int()
		}
		spans := d.int()
		if d.bad {
			return rowRange{}, false, fmt.Errorf("%w: counts of spans", errIndex)
		}
		return rowRange{row, row + spans}, true, nil
	}
	return rowRange{}, true, nil
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

// splitIDs gives the number of ids, which begin at byte 4, and the counts behind them.
func splitIDs(b []byte) (n int, counts *decoder, err error) {
	if len(b) >= 4 {
		n = int(binary.LittleEndian.Uint32(b))
	}
	if len(b) < 4 || n > (len(b)-4)/17 { // an id and a count of one byte at least
		return 0, nil, fmt.Errorf("%w: trace ids", errIndex)
	}
	return n, &decoder{b: b[4+16*n:]}, nil
}

// encodeParts is the section of summaries, field by field: what is alike lies together. The parts' ids, counts of spans and rows are in the section of ids.
func encodeParts(parts []*part) []byte {
	var texts, patterns table
	var col [partColumns][]byte
	u := func(c int, n uint64) { col[c] = binary.AppendUvarint(col[c], n) }
	var start, seq uint64
	var pattern []byte
	for _, p := range parts {
		u(0, p.start-start) // ascending
		start = p.start
		u(1, p.lastStart-p.start)
		u(2, p.end-p.start)
		u(3, uint64(p.errors)) //nolint:gosec // counts
		rooted := uint64(0)
		if p.rooted {
			rooted = 1
		}
		u(4, (p.rootStart-p.start)<<1|rooted)
		u(5, texts.id(p.rootName))
		u(5, texts.id(p.rootOwner))
		pattern = binary.AppendUvarint(pattern[:0], uint64(len(p.services)))
		for _, s := range p.services {
			pattern = binary.AppendUvarint(pattern, texts.id(s.Service))
			pattern = binary.AppendUvarint(pattern, uint64(s.Spans))  //nolint:gosec // counts
			pattern = binary.AppendUvarint(pattern, uint64(s.Errors)) //nolint:gosec // counts
		}
		u(6, patterns.id(string(pattern)))
		u(7, uint64(len(p.history)))
		for _, h := range p.history {
			if len(p.history) > 1 { // else it is the start
				u(7, h.start-p.start)
			}
			col[8] = binary.AppendVarint(col[8], int64(h.seq-seq)) //nolint:gosec // wraps and back
			seq = h.seq
		}
		col[9] = append(col[9], p.rootSpan[:rootSpanBytes]...)
	}
	out := patterns.append(texts.append(nil))
	for _, c := range col {
		out = binary.AppendUvarint(out, uint64(len(c)))
		out = append(out, c...)
	}
	return out
}

// rootSpanBytes of the span that names a part are kept: they break ties between parts of one trace whose first spans start in the same nanosecond.
const rootSpanBytes = 2

const partColumns = 10

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

func decodeParts(ids, b []byte) ([]*part, error) {
	n, counts, err := splitIDs(ids)
	if err != nil {
		return nil, err
	}
	d := &decoder{b: b}
	texts, patterns := d.table(), d.table()
	bad := d.bad
	text := func(i uint64) string {
		if i < uint64(len(texts)) {
			return texts[i]
		}
		bad = true
		return ""
	}
	services := make([][]store.ServiceCount, len(patterns)) // shared between parts, which are immutable
	for i, p := range patterns {
		s := &decoder{b: []byte(p)}
		services[i] = make([]store.ServiceCount, s.count())
		for k := range services[i] {
			services[i][k] = store.ServiceCount{Service: text(s.uvarint()), Spans: s.int(), Errors: s.int()}
		}
		bad = bad || s.bad
	}
	var col [partColumns]decoder
	for i := range col {
		col[i].b = d.bytes(d.count())
	}
	all := make([]part, n)
	parts := make([]*part, n)
	row := 0
	var start, seq uint64
	for i := range all {
		p := &all[i]
		parts[i] = p
		copy(p.id[:], ids[4+16*i:])
		p.spans, p.row = counts.int(), row
		row += p.spans
		start += col[0].uvarint()
		p.start = start
		p.lastStart, p.end = start+col[1].uvarint(), start+col[2].uvarint()
		p.errors = col[3].int()
		r := col[4].uvarint()
		p.rooted, p.rootStart = r&1 == 1, start+r>>1
		p.rootName, p.rootOwner = text(col[5].uvarint()), text(col[5].uvarint())
		if k := col[6].uvarint(); k < uint64(len(services)) {
			p.services = services[k]
		} else {
			bad = true
		}
		h := col[7].int()
		if bad = bad || h == 0 || h > len(col[8].b); bad {
			break
		}
		p.history = make([]startAt, h)
		for k := range p.history {
			seq += uint64(col[8].varint()) //nolint:gosec // wraps and back
			p.history[k] = startAt{seq, p.start}
			if h > 1 {
				p.history[k].start += col[7].uvarint()
			}
		}
		copy(p.rootSpan[:rootSpanBytes], col[9].bytes(rootSpanBytes))
	}
	for i := range col {
		bad = bad || col[i].bad
	}
	if bad || d.bad || counts.bad {
		return nil, fmt.Errorf("%w: a trace summary", errIndex)
	}
	return parts, nil
}

// decodeParts1 reads what version 1 wrote.
func decodeParts1(b []byte) (parts []*part, err error) {
	d := decoder{b: b}
	texts := make([]string, d.count())
	for i := range texts {
		texts[i] = string(d.bytes(d.count()))
	}
	text := func() string {
		if i := d.uvarint(); i < uint64(len(texts)) {
			return texts[i]
		}
		d.bad = true
		return ""
	}
	n := d.count()
	parts = make([]*part, 0, n)
	for range n {
		p := &part{}
		copy(p.id[:], d.bytes(16))
		p.start = d.uvarint()
		p.lastStart = p.start + d.uvarint()
		p.end = p.start + d.uvarint()
		p.spans, p.errors = d.int(), d.int()
		p.rooted = d.uvarint() == 1
		p.rootStart = p.start + d.uvarint()
		copy(p.rootSpan[:], d.bytes(8))
		p.rootName, p.rootOwner = text(), text()
		p.row = d.int()
		p.services = make([]store.ServiceCount, d.count())
		for i := range p.services {
			p.services[i] = store.ServiceCount{Service: text(), Spans: d.int(), Errors: d.int()}
		}
		p.history = make([]startAt, d.count())
		for i := range p.history {
			p.history[i] = startAt{d.uvarint(), p.start + d.uvarint()}
		}
		if d.bad {
			return nil, fmt.Errorf("%w: a trace summary", errIndex)
		}
		parts = append(parts, p)
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

func (d *decoder) varint() int64 {
	n, w := binary.Varint(d.b)
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
