package local

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// What is worth keeping stays whole, of the rest one in ten does, and the store says how many are gone.
func TestThinningKeepsWhatIsWorthKeeping(t *testing.T) {
	db := open(t, Config{Dir: t.TempDir(), SealAge: 4 * time.Millisecond, compaction: never})
	const ordinary = 3000
	span := func(trace, id uint64, name string, d time.Duration, attrs map[string]any) storetest.Span {
		if attrs == nil {
			attrs = map[string]any{}
		}
		for k, v := range map[string]any{flow.AttrSourceService: "web", flow.AttrDestService: "catalog"} {
			if _, ok := attrs[k]; !ok {
				attrs[k] = v
			}
		}
		return storetest.Span{Trace: trace, ID: id, Service: "web", Name: name, Start: base.Add(time.Duration(trace) * time.Millisecond), Duration: d, Attrs: attrs} //nolint:gosec // small
	}
	var spans []storetest.Span
	for n := range uint64(ordinary) {
		spans = append(spans, span(n, 10*n+1, "op", 10*time.Millisecond, nil), span(n, 10*n+2, "inner", 5*time.Millisecond, nil))
	}
	worth := map[uint64]string{}
	add := func(n uint64, why string, s ...storetest.Span) { worth[n] = why; spans = append(spans, s...) }
	add(10_001, "error", span(10_001, 1, "op", time.Millisecond, map[string]any{flow.AttrReason: "timeout"}), span(10_001, 2, "inner", time.Millisecond, nil))
	add(10_002, "slow", span(10_002, 3, "op", 10*time.Millisecond, nil), span(10_002, 4, "inner", 11*time.Millisecond, nil)) // not slow for "op"
	add(10_003, "rare operation", span(10_003, 5, "never", time.Millisecond, nil), span(10_003, 6, "op", time.Millisecond, nil))
	add(10_004, "rare edge", span(10_004, 7, "op", time.Millisecond, map[string]any{flow.AttrDestService: "attic"}))
	add(10_005, "marked", span(10_005, 8, "op", time.Millisecond, map[string]any{keepAttr: true}))
	add(10_006, "in another block too", span(10_006, 9, "op", time.Millisecond, nil))
	for chunk := range slices.Chunk(spans, 500) {
		if err := db.Write(t.Context(), storetest.Batch(chunk...)); err != nil {
			t.Fatal(err)
		}
	}
	sealAll(t, db)
	db.mu.RLock()
	in := db.blocks
	db.mu.RUnlock()
	if err := db.Write(t.Context(), storetest.Batch(span(10_006, 20, "op", time.Millisecond, nil))); err != nil {
		t.Fatal(err)
	}
	sealAll(t, db)
	before := db.Stats()
	if err := db.merge(&job{in: in, level: levelThinned, dir: "2026-01-02", thin: true}); err != nil {
		t.Fatal(err)
	}
	for n, why := range worth {
		td, err := db.Trace(t.Context(), storetest.TraceID(n))
		want := 0
		for _, s := range spans {
			if s.Trace == n {
				want++
			}
		}
		if n == 10_006 {
			want++
		}
		if err != nil || td.SpanCount() != want {
			t.Errorf("%s: %d of %d spans, %v", why, td.SpanCount(), want, err)
		}
	}
	left, doubt := 0, 0
	for n := range uint64(ordinary) {
		td, err := db.Trace(t.Context(), storetest.TraceID(n))
		switch stays := sampled(storetest.TraceID(n), defaultThinKeep); {
		case err == nil && !stays && td.SpanCount() == 2: // the other block's filter cannot rule it out
			left++
			doubt++
		case err == nil && td.SpanCount() != 2, err != nil && stays:
			t.Fatalf("ordinary trace %d, sampled %v: %d spans, %v", n, stays, td.SpanCount(), err)
		case err != nil && !strings.Contains(err.Error(), "thinning left out"):
			t.Fatalf("not told: %v", err)
		case err == nil:
			left++
		}
	}
	if left < ordinary/13 || left > ordinary/8 || doubt > 10 {
		t.Errorf("%d of %d ordinary traces are left, %d of them in doubt", left, ordinary, doubt)
	}
	s := db.Stats()
	if gone := uint64(ordinary - left); s.LeftOutTraces != gone || s.LeftOutSpans != 2*gone || s.Spans != before.Spans-2*gone { //nolint:gosec // positive
		t.Errorf("%d traces, %d spans counted, %d of %d spans left; %d traces are gone", s.LeftOutTraces, s.LeftOutSpans, s.Spans, before.Spans, gone)
	}
	page, err := db.Summaries(t.Context(), store.TraceQuery{Start: base, End: base.Add(time.Hour)})
	if err != nil || page.LeftOut != s.LeftOutTraces {
		t.Errorf("a page says %d, %v", page.LeftOut, err)
	}
	if page, err = db.Summaries(t.Context(), store.TraceQuery{Start: base.Add(time.Hour)}); err != nil || page.LeftOut != 0 {
		t.Errorf("a page of another time says %d, %v", page.LeftOut, err)
	}
}

// Names with ids in them make everything rare: then rarity says nothing.
func TestNamesWithIDsAreNotRare(t *testing.T) {
	db := open(t, Config{Dir: t.TempDir(), SealAge: 4 * time.Millisecond, compaction: never})
	var spans []storetest.Span
	for n := range uint64(300) {
		spans = append(spans, storetest.Span{Trace: n, ID: n + 1, Service: "web", Name: fmt.Sprintf("GET /items/%d", n), Start: base, Duration: time.Millisecond})
	}
	if err := db.Write(t.Context(), storetest.Batch(spans...)); err != nil {
		t.Fatal(err)
	}
	sealAll(t, db)
	if err := db.merge(&job{in: db.blocks, level: levelThinned, dir: "2026-01-02", thin: true}); err != nil {
		t.Fatal(err)
	}
	if s := db.Stats(); s.LeftOutTraces < 240 {
		t.Errorf("only %d of 300 were left out", s.LeftOutTraces)
	}
}

// Nothing is left out while there is room; then the oldest windows are thinned first, and no younger ones than asked.
func TestThinningIsPlannedOnlyUnderPressure(t *testing.T) {
	c := compactionDefaults
	day := int64(24 * time.Hour)
	now := time.Unix(0, 100*day+day/2)
	var blocks []*block
	for d := range int64(4) { // days 97 to 100
		for h := range int64(2) {
			b := &block{size: 1}
			b.meta.Received, b.meta.Level, b.meta.Spans = (97+d)*day+h*int64(time.Hour), levelWindow, 200_000
			blocks = append(blocks, b)
		}
	}
	p := thinPlan{after: 24 * time.Hour, window: 24 * time.Hour}
	if j := c.plan(blocks, p, now); j != nil {
		t.Fatalf("without pressure: %+v", j)
	}
	p.now = true
	for _, want := range []int{0, 1, 2, 3} {
		j := c.plan(blocks, p, now)
		if j == nil || !j.thin || len(j.in) != 1 || j.in[0] != blocks[want] || j.level != levelThinned {
			t.Fatalf("block %d: %+v", want, j)
		}
		j.in[0].meta.Level, j.in[0].meta.Spans = levelThinned, 20_000
		if want%2 == 1 { // what is thinned fits together now
			j := c.plan(blocks, p, now)
			if j == nil || j.thin || len(j.in) != 2 || j.level != levelThinned {
				t.Fatalf("the day of block %d: %+v", want, j)
			}
			for _, b := range j.in {
				b.meta.Spans = c.maxSpans // as if merged: they do not fit any more
			}
		}
	}
	if j := c.plan(blocks, p, now); j != nil { // day 99 is over, but not for 24 hours
		t.Fatalf("too young: %+v", j)
	}
}

// With a small budget of bytes, errors are found that are older than any that would be left without thinning.
func TestThinningMakesRoomForErrors(t *testing.T) {
	fill := func(keep int) (dir string, bytes uint64) {
		dir = t.TempDir()
		db := open(t, Config{Dir: dir, SealSpans: 1000, SealAge: time.Hour, ThinBytes: 1, ThinAfter: time.Nanosecond, ThinKeep: keep, compaction: never})
		for n := uint64(0); n < 10_000; n += 1000 {
			if err := db.Write(t.Context(), erring(n, 1000)); err != nil {
				t.Fatal(err)
			}
			until(t, "the block is sealed", func() bool { return db.Stats().Blocks == int(n)/1000+1 }) //nolint:gosec // small
		}
		db.mu.RLock()
		blocks := db.blocks
		db.mu.RUnlock()
		for _, b := range blocks {
			if err := db.merge(&job{in: []*block{b}, level: levelThinned, dir: "2026-01-02", thin: keep > 1}); err != nil {
				t.Fatal(err)
			}
		}
		bytes = db.Stats().Bytes
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return dir, bytes
	}
	oldest := func(dir string, budget uint64) int {
		db := open(t, Config{Dir: dir, RetainBytes: budget, compaction: never})
		db.retain(time.Now())
		p, err := db.Summaries(t.Context(), store.TraceQuery{Errors: true, Limit: 10_000})
		if err != nil || len(p.Traces) == 0 {
			t.Fatalf("%d errors, %v", len(p.Traces), err)
		}
		return int(p.Traces[len(p.Traces)-1].Start.Sub(base) / time.Millisecond)
	}
	plain, bytes := fill(1)
	thinned, _ := fill(10)
	budget := bytes / 2
	if a, b := oldest(plain, budget), oldest(thinned, budget); a < 4000 || b > a-2000 {
		t.Errorf("in %d bytes the oldest error is of trace %d without thinning, %d with", budget, a, b)
	}
}

// erring is a batch of ordinary traces from n on, of which one in twenty has an error.
func erring(n uint64, traces int) ptrace.Traces {
	var spans []storetest.Span
	for range traces {
		s := storetest.Span{Trace: n, ID: n + 1, Service: "svc", Name: "op", Start: base.Add(time.Duration(n) * time.Millisecond), Attrs: map[string]any{"n": int64(n)}} //nolint:gosec // small
		if n%20 == 0 {
			s.Attrs[flow.AttrReason] = "timeout"
		}
		spans = append(spans, s)
		n++
	}
	return storetest.Batch(spans...)
}
