package local

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// randomParts are summaries as blocks have them: in order of start, rows one behind the other.
func randomParts(r *rand.Rand, n int) []*part {
	names := []string{"", "web", "catalog", "GET /products", "a longer name of an operation"}
	start := r.Uint64N(1 << 60)
	parts := make([]*part, n)
	row := 0
	for i := range parts {
		start += r.Uint64N(1 << r.Uint64N(30))
		p := &part{start: start, lastStart: start + r.Uint64N(1<<20), end: start + r.Uint64N(1<<40), spans: 1 + r.IntN(300), errors: r.IntN(3), rooted: r.IntN(3) > 0, row: row}
		binary.LittleEndian.PutUint64(p.id[:], r.Uint64())
		binary.LittleEndian.PutUint64(p.id[8:], r.Uint64())
		p.rootStart = start + r.Uint64N(1<<10)
		binary.LittleEndian.PutUint16(p.rootSpan[:], uint16(r.Uint32())) //nolint:gosec // wanted
		p.rootName, p.rootOwner = names[r.IntN(len(names))], names[r.IntN(len(names))]
		for k := range r.IntN(3) {
			p.services = append(p.services, store.ServiceCount{Service: names[k], Spans: r.IntN(5), Errors: r.IntN(2)})
		}
		if p.services == nil {
			p.services = []store.ServiceCount{}
		}
		seq, at := 1+r.Uint64N(1<<40), p.start
		for range r.IntN(3) {
			at += r.Uint64N(1000)
			p.history = append([]startAt{{seq, at}}, p.history...)
			seq -= min(seq, r.Uint64N(100))
		}
		p.history = append(p.history, startAt{seq + 1000, p.start})
		row += p.spans
		parts[i] = p
	}
	return parts
}

func TestPartsRoundTrip(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // reproducible on purpose
		parts := randomParts(r, r.IntN(200))
		got, err := decodeParts(encodeIDs(parts), encodeParts(parts))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(got) != len(parts) {
			t.Fatalf("seed %d: %d of %d", seed, len(got), len(parts))
		}
		for i := range parts {
			if !reflect.DeepEqual(got[i], parts[i]) {
				t.Fatalf("seed %d, %d: %+v\nbecame %+v", seed, i, parts[i], got[i])
			}
		}
	}
}

func FuzzDecodeParts(f *testing.F) {
	parts := randomParts(rand.New(rand.NewPCG(1, 3)), 5) //nolint:gosec // reproducible on purpose
	f.Add(encodeIDs(parts), encodeParts(parts))
	f.Fuzz(func(_ *testing.T, ids, b []byte) { _, _ = decodeParts(ids, b) }) // no panic, no great allocation
}

// A sidecar that a version before wrote is read: its summaries, and its traces by id.
func TestOldSidecarIsRead(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().Add(-time.Minute)
	cfg := Config{Dir: dir, SealSpans: 20, SealAge: time.Hour, compaction: never}
	db := open(t, cfg)
	for n := range uint64(20) {
		if err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: n % 7, ID: n + 1, Name: "op", Start: now.Add(time.Duration(n) * time.Second), Duration: time.Second})); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
	}
	until(t, "a block", func() bool { return db.Stats().Blocks == 1 })
	want, err := db.Summaries(t.Context(), store.TraceQuery{})
	if err != nil || len(want.Traces) != 7 {
		t.Fatal(want, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range blockFiles(t, dir, idxSuffix) {
		f, err := os.Open(path) //nolint:gosec // the test's own
		if err != nil {
			t.Fatal(err)
		}
		meta, filter, err := readIndexFront(f)
		if err != nil {
			t.Fatal(err)
		}
		parts, err := readIndexParts(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		mj, err := json.Marshal(meta)
		if err != nil {
			t.Fatal(err)
		}
		sections := [][]byte{mj, filter, compress(encodeParts1(parts))}
		out := append([]byte(idxMagic), 1, 0, 0, 0)
		for _, s := range sections {
			out = binary.LittleEndian.AppendUint32(out, uint32(len(s))) //nolint:gosec // small
			out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(s, castagnoli))
		}
		out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
		for _, s := range sections {
			out = append(out, s...)
		}
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db = open(t, cfg)
	got, err := db.Summaries(t.Context(), store.TraceQuery{})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	for n := range uint64(7) {
		if td, err := db.Trace(t.Context(), storetest.TraceID(n)); err != nil || td.SpanCount() < 2 {
			t.Errorf("trace %d: %v", n, err)
		}
	}
	var none flow.TraceID
	none[3] = 9
	if _, err := db.Trace(t.Context(), none); err == nil {
		t.Error("a trace that is nowhere was found")
	}
}

// encodeParts1 is what version 1 wrote.
func encodeParts1(parts []*part) []byte {
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
