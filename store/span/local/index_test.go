package local

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
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
		p := &part{start: start, end: start + r.Uint64N(1<<40), spans: 4 + r.IntN(300), errors: r.IntN(3), rooted: r.IntN(3) > 0, row: row}
		binary.LittleEndian.PutUint64(p.id[:], r.Uint64())
		binary.LittleEndian.PutUint64(p.id[8:], r.Uint64())
		p.rootStart = start + r.Uint64N(1<<10)
		p.rootName, p.rootOwner = names[r.IntN(len(names))], names[r.IntN(len(names))]
		for k := range r.IntN(3) {
			p.services = append(p.services, store.ServiceCount{Service: names[k], Spans: r.IntN(5), Errors: r.IntN(2)})
		}
		if p.services == nil {
			p.services = []store.ServiceCount{}
		}
		seq, at := 1+r.Uint64N(1<<40), p.start
		for range r.IntN(3) {
			at += 1 + r.Uint64N(1000)
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
		ids, err := parseIDs(encodeIDs(parts))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		var texts, patterns table
		b := encodeParts(parts, &texts, &patterns)
		if err := ids.parseTables(&decoder{b: patterns.append(texts.append(nil))}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, err := decodeParts(ids, 0, ids.len(), b)
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
	var texts, patterns table
	b := encodeParts(parts, &texts, &patterns)
	f.Add(encodeIDs(parts), patterns.append(texts.append(nil)), b)
	f.Fuzz(func(_ *testing.T, ids, tables, b []byte) { // no panic, no great allocation
		if t, err := parseIDs(ids); err == nil && t.parseTables(&decoder{b: tables}) == nil {
			_, _ = decodeParts(t, 0, t.len(), b)
		}
	})
}

// What is kept of a sidecar finds every trace and its rows, and every chunk by itself; and nothing starts later than a chunk's bound says.
func TestChunksAndTheirTable(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 5)) //nolint:gosec // reproducible on purpose
		parts := randomParts(r, r.IntN(60))
		per := 1 + r.IntN(20)
		data, err := encodeIndex(idxMeta{}, newBloom(len(parts)), parts, per)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "x.idx")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path) //nolint:gosec // the test's own
		if err != nil {
			t.Fatal(err)
		}
		all, err := readIndexParts(f)
		if err != nil || len(all) != len(parts) {
			t.Fatalf("seed %d: %d of %d summaries, %v", seed, len(all), len(parts), err)
		}
		table, err := readTraces(f)
		if err != nil || table.len() != len(parts) || table.pieces() != (len(parts)+per-1)/per {
			t.Fatalf("seed %d: %d traces in %d chunks, %v", seed, table.len(), table.pieces(), err)
		}
		var wg sync.WaitGroup
		for range 3 { // the second who asks makes the order by id
			wg.Go(func() {
				for i, p := range parts {
					if got := table.find(p.id); got != i {
						t.Errorf("seed %d: trace %d is found at %d", seed, i, got)
					}
					if got := table.span(i); got != (rowRange{p.row, p.row + p.spans}) {
						t.Errorf("seed %d: the rows of trace %d are said to be %v", seed, i, got)
					}
				}
				if got := table.find(flow.TraceID{1, 2, 3}); got != -1 {
					t.Errorf("seed %d: a trace that is nowhere is found at %d", seed, got)
				}
			})
		}
		wg.Wait()
		for k := table.pieces() - 1; k >= 0; k-- { // each for itself
			chunk, err := readChunk(f, table, k)
			if err != nil {
				t.Fatal(err)
			}
			from, to := table.piece(k)
			if want := parts[k*per : min((k+1)*per, len(parts))]; !reflect.DeepEqual(chunk, want) || from != want[0].row || to != want[len(want)-1].row+want[len(want)-1].spans {
				t.Errorf("seed %d: chunk %d of rows %d to %d is %+v, want %+v", seed, k, from, to, chunk, want)
			}
			for _, p := range parts[:min((k+1)*per, len(parts))] {
				if start, ok := p.asOf(p.history[0].seq); !ok || start > table.chunks[k].hi {
					t.Errorf("seed %d: a trace of chunk %d or before was known to start at %d, its bound is %d", seed, k, start, table.chunks[k].hi)
				}
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A block that goes while a search is at it has nothing more to give.
func TestBlockGoesDuringASearch(t *testing.T) {
	dir := t.TempDir()
	db := open(t, Config{Dir: dir, SealSpans: 40, SealAge: time.Hour, compaction: never})
	now := time.Now().Add(-time.Hour)
	for n := range uint64(40) { // traces of two spans, between which the search ends
		s := storetest.Span{Trace: n % 20, ID: n + 1, Service: "web", Name: "op", Start: now.Add(time.Duration(n%20) * time.Second), Duration: time.Millisecond}
		if n >= 20 {
			s.Start = now.Add(time.Minute)
		}
		if err := db.Write(t.Context(), storetest.Batch(s)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "a block", func() bool { return db.Stats().Blocks == 1 })
	p, _, err := compile(store.TraceQuery{Service: "web", Start: now.Add(-time.Second), End: now.Add(30 * time.Second)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	db.mu.RLock()
	b := db.blocks[0]
	db.mu.RUnlock()
	f, err := b.find(db, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if parts, err := f.next(); err != nil || len(parts) == 0 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	g, err := b.find(db, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.removeBlock(b)
	for {
		if _, more := g.bound(); !more {
			break
		}
		if parts, err := g.next(); err != nil || len(parts) > 0 {
			t.Fatalf("%d parts, %v", len(parts), err)
		}
	}
}

// Ids of which somebody has chosen most bytes are found as quickly as others.
func TestBucketsOfChosenIDs(t *testing.T) {
	var parts []*part
	for i := range 4000 {
		p := &part{spans: 1, row: i}
		binary.BigEndian.PutUint64(p.id[8:], uint64(i)) //nolint:gosec // small
		parts = append(parts, p)
	}
	table := tracesOf(parts)
	for i, p := range parts {
		if got := table.find(p.id); got != i {
			t.Fatalf("trace %d is found at %d", i, got)
		}
	}
	for k := range len(table.first) - 1 {
		if n := table.first[k+1] - table.first[k]; n > 32 {
			t.Errorf("a bucket has %d of %d ids", n, len(parts))
		}
	}
}

// A sidecar of another version is made anew from its block, whole.
func TestOldSidecarIsMadeAnew(t *testing.T) {
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
		b, err := os.ReadFile(path) //nolint:gosec // the test's own
		if err != nil {
			t.Fatal(err)
		}
		b[8] = idxVersion - 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
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

// What a filter says of a trace that the block lacks is corrected by its sidecar, unless that is damaged: then whoever reads on mends it.
func TestFalsePositivesAreCorrected(t *testing.T) {
	dir := t.TempDir()
	db := open(t, Config{Dir: dir, SealSpans: 40, SealAge: time.Hour, compaction: never})
	now := time.Now().Add(-time.Hour)
	for n := range uint64(40) {
		if err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: n + 1, ID: n + 1, Service: "web", Name: "op", Start: now, Duration: time.Millisecond})); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "a block", func() bool { return db.Stats().Blocks == 1 })
	db.mu.RLock()
	b := db.blocks[0]
	db.mu.RUnlock()
	for n := range uint64(40) {
		if db.cache.lacks(b, storetest.TraceID(n+1)) {
			t.Fatalf("it lacks trace %d, which was written", n+1)
		}
	}
	other := storetest.TraceID(1000)
	if !db.cache.lacks(b, other) {
		t.Error("it does not lack a trace that was not written")
	}
	for i := range b.bloom { // says yes to everything
		b.bloom[i] = 0xff
	}
	if _, err := db.Trace(t.Context(), other); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, kept := db.cache.tables.get(b); kept {
		t.Error("what was looked at once is kept")
	}
	whole, err := os.ReadFile(b.idx())
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		damaged := slices.Clone(whole)
		damaged[at] ^= 0x5a
		if err := os.WriteFile(b.idx(), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if db.cache.lacks(b, storetest.TraceID(7)) {
			t.Fatalf("with byte %d damaged it lacks a trace that was written", at)
		}
	}
}
