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

// A sidecar (NAME.idx beside NAME.parquet) holds what is derived from a block: its description, a bloom filter of its trace ids, and one
// summary per trace, so that pages of search results never touch span bodies. It can be rebuilt from the block at any time.
// Specified in docs/format/spans.md.
const (
	idxMagic   = "TULLEIDX"
	idxVersion = 1
	idxHead    = 8 + 4 + 3*8 + 4 // magic, version, 3 × (length, crc32c), crc32c of the head
)

// idxMeta is the first section of a sidecar.
type idxMeta struct {
	blockMeta
	FileSize  int64  `json:"fileSize"`  // of the Parquet file
	FooterCRC uint32 `json:"footerCrc"` // crc32c of its footer
}

var errIndex = errors.New("sidecar is damaged")

func encodeIndex(m idxMeta, b bloom, parts []*part) ([]byte, error) {
	mj, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	sections := [3][]byte{mj, b, compress(encodeParts(parts))}
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

// readIndexFront reads description and bloom filter.
func readIndexFront(f File) (m idxMeta, b bloom, err error) {
	head := make([]byte, idxHead)
	if _, err := f.ReadAt(head, 0); err != nil {
		return m, nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if string(head[:8]) != idxMagic || crc32.Checksum(head[:idxHead-4], castagnoli) != binary.LittleEndian.Uint32(head[idxHead-4:]) {
		return m, nil, fmt.Errorf("%w: its head", errIndex)
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v != idxVersion {
		return m, nil, fmt.Errorf("%w: version %d, this build reads %d", errIndex, v, idxVersion)
	}
	mj, err := readSection(f, head, 0)
	if err != nil {
		return m, nil, err
	}
	if err := json.Unmarshal(mj, &m); err != nil {
		return m, nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if err := m.parse(mj); err != nil {
		return m, nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	b, err = readSection(f, head, 1)
	return m, b, err
}

func readSection(f File, head []byte, n int) ([]byte, error) {
	off := int64(idxHead)
	for i := range n {
		off += int64(binary.LittleEndian.Uint32(head[12+8*i:]))
	}
	size := binary.LittleEndian.Uint32(head[12+8*n:])
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if off+int64(size) > st.Size() {
		return nil, fmt.Errorf("%w: it is cut short", errIndex)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, off); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[16+8*n:]) {
		return nil, fmt.Errorf("%w: checksum of section %d", errIndex, n)
	}
	return b, nil
}

// readIndexParts reads the trace summaries, in file order (by start, then trace id).
func readIndexParts(f File) ([]*part, error) {
	head := make([]byte, idxHead)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	z, err := readSection(f, head, 2)
	if err != nil {
		return nil, err
	}
	b, err := decompress(z)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	return decodeParts(b)
}

func encodeParts(parts []*part) []byte {
	var texts []string
	idx := map[string]uint64{}
	id := func(s string) uint64 {
		i, ok := idx[s]
		if !ok {
			i = uint64(len(texts))
			idx[s] = i
			texts = append(texts, s)
		}
		return i
	}
	var body []byte
	u := func(n uint64) { body = binary.AppendUvarint(body, n) }
	for _, p := range parts {
		body = append(body, p.id[:]...)
		u(p.start)
		u(p.lastStart - p.start)
		u(p.end - p.start)
		u(uint64(p.spans))  //nolint:gosec // counts
		u(uint64(p.errors)) //nolint:gosec // counts
		if p.rooted {
			u(1)
		} else {
			u(0)
		}
		u(p.rootStart - p.start)
		body = append(body, p.rootSpan[:]...)
		u(id(p.rootName))
		u(id(p.rootOwner))
		u(uint64(p.row)) //nolint:gosec // row index
		u(uint64(len(p.services)))
		for _, s := range p.services {
			u(id(s.Service))
			u(uint64(s.Spans))  //nolint:gosec // counts
			u(uint64(s.Errors)) //nolint:gosec // counts
		}
		u(uint64(len(p.history)))
		for _, h := range p.history {
			u(h.seq)
			u(h.start - p.start)
		}
	}
	out := binary.AppendUvarint(nil, uint64(len(texts)))
	for _, s := range texts {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	out = binary.AppendUvarint(out, uint64(len(parts)))
	return append(out, body...)
}

func decodeParts(b []byte) (parts []*part, err error) {
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
