package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// eager merges two and more sealed blocks at once, without pauses.
var eager = compaction{maxSpans: 1 << 18, maxBytes: 256 << 20, maxInputs: 64, fanIn: 2, grace: time.Hour, share: 1, every: time.Hour, retry: 10 * time.Millisecond}

// never merges nothing by itself.
var never = unmerged

// scattered is span k of trace n, whose spans come in several batches, some of them late.
func scattered(n, k uint64) storetest.Span {
	s := storetest.Span{
		Trace: n, ID: 100*n + k + 1, Service: fmt.Sprintf("svc-%d", (n+k)%5), Name: fmt.Sprintf("op-%d", n%7), Kind: ptrace.SpanKindServer,
		Start: base.Add(time.Duration(n)*time.Millisecond + time.Duration((k*7)%5)*300*time.Microsecond), Duration: time.Duration(k+1) * time.Millisecond, //nolint:gosec // small
		Attrs: map[string]any{"k": int64(k), "pad": strings.Repeat("x", int(n%30)), flow.AttrPath: fmt.Sprintf("/p/%d", n), flow.AttrMethod: "GET"}, //nolint:gosec // small
	}
	if k > 0 {
		s.Parent = 100*n + 1
	}
	if (n+k)%9 == 0 {
		s.Attrs[flow.AttrReason] = "timeout"
	}
	if k%3 == 0 {
		delete(s.Attrs, "k")
		s.Attrs[flow.AttrStatus] = 200
	}
	return s
}

// everything reads all that a store says: each trace, and the pages of several searches.
func everything(t *testing.T, db *DB, traces uint64) string {
	t.Helper()
	var out strings.Builder
	for n := range traces {
		td, err := db.Trace(t.Context(), storetest.TraceID(n))
		if err != nil {
			t.Fatalf("trace %d: %v", n, err)
		}
		fmt.Fprintln(&out, storetest.Canonical(td))
	}
	for _, q := range []store.TraceQuery{
		{Limit: 7},
		{Limit: 1000, Errors: true},
		{Limit: 50, Service: "svc-3"},
		{Limit: 50, Operation: "op-2", MinDuration: 2 * time.Millisecond},
		{Limit: 50, Attributes: []store.AttributeMatch{{Key: "k", Op: "=", Value: "2"}}},
		{Limit: 50, Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Op: "=", Value: "/p/3"}}},
		{Limit: 50, Attributes: []store.AttributeMatch{{Key: flow.AttrStatus, Op: "exists"}}},
		{Limit: 50, Start: base.Add(10 * time.Millisecond), End: base.Add(30 * time.Millisecond)},
	} {
		for {
			p, err := db.Summaries(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range p.Traces {
				fmt.Fprintf(&out, "%+v\n", s)
			}
			if q.Cursor = p.Next; q.Cursor == "" {
				break
			}
		}
		q.Cursor = ""
		if err := db.Spans(t.Context(), q, func(s store.Span) bool { fmt.Fprintf(&out, "%+v\n", s); return true }); err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range []func() (any, error){
		func() (any, error) { return db.Services(t.Context()) },
		func() (any, error) { return db.Operations(t.Context(), "") },
		func() (any, error) { return db.AttributeKeys(t.Context()) },
	} {
		v, err := list()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&out, v)
	}
	return out.String()
}

// mergeAll merges every block of the store into one, as plan would if it were time. The store must not merge by itself.
func mergeAll(t *testing.T, db *DB, level int) {
	t.Helper()
	db.mu.RLock()
	blocks := db.blocks
	db.mu.RUnlock()
	if err := db.merge(&job{in: blocks, level: level, dir: "2026-01-02"}); err != nil {
		t.Fatal(err)
	}
	until(t, "the old blocks are gone", func() bool { db.wake(db.compact); return len(blockFiles(t, db.cfg.Dir, parquetSuffix)) == 1 })
}

// sealAll waits until all is sealed; the store's SealAge is short.
func sealAll(t *testing.T, db *DB) {
	t.Helper()
	(&settled{DB: db}).seal(t)
}

// A store says the same before and after its blocks were merged, and once more after a start, however its traces were spread.
func TestMergeChangesNothing(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // reproducible on purpose
			dir := t.TempDir()
			cfg := Config{Dir: dir, SealAge: 4 * time.Millisecond, compaction: never}
			db := open(t, cfg)
			traces := uint64(10 + r.IntN(60)) //nolint:gosec // small
			var spans []storetest.Span
			for n := range traces {
				for k := range uint64(1 + r.IntN(6)) { //nolint:gosec // small
					spans = append(spans, scattered(n, k))
				}
			}
			if seed%3 > 0 { // mostly in order, or not at all
				r.Shuffle(len(spans), func(i, j int) {
					if seed%3 == 2 || max(i, j)-min(i, j) < 8 {
						spans[i], spans[j] = spans[j], spans[i]
					}
				})
			}
			blocks := 2 + r.IntN(5)
			for b := range blocks {
				for part := range slices.Chunk(spans[len(spans)*b/blocks:len(spans)*(b+1)/blocks], 3) {
					if err := db.Write(t.Context(), storetest.Batch(part...)); err != nil {
						t.Fatal(err)
					}
				}
				sealAll(t, db)
			}
			want := everything(t, db, traces)
			first, err := db.Summaries(t.Context(), store.TraceQuery{Limit: 3})
			if err != nil {
				t.Fatal(err)
			}
			before, err := db.Summaries(t.Context(), store.TraceQuery{Limit: 1000, Cursor: first.Next})
			if err != nil {
				t.Fatal(err)
			}
			mergeAll(t, db, levelWindow)
			if n := db.Stats().Blocks; n != 1 {
				t.Fatalf("%d blocks", n)
			}
			same := func(when string) {
				t.Helper()
				if got := everything(t, db, traces); got != want || db.Stats().Corrupt != 0 {
					t.Fatalf("%s\n%s\nwant\n%s", when, got, want)
				}
			}
			same("after the merge")
			after, err := db.Summaries(t.Context(), store.TraceQuery{Limit: 1000, Cursor: first.Next})
			if err != nil || fmt.Sprintf("%+v", after) != fmt.Sprintf("%+v", before) {
				t.Fatalf("a cursor from before the merge: %v\n%+v\nwant\n%+v", err, after, before)
			}
			again := func() {
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				db = open(t, cfg)
			}
			again()
			same("after a start")
			for _, f := range blockFiles(t, dir, idxSuffix) {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
			again()
			same("with a sidecar made anew")
		})
	}
}

// Whoever reads while blocks are merged finds every trace, whole and once, at any moment.
func TestReadersSeeEveryTraceWhileBlocksAreMerged(t *testing.T) {
	db := open(t, Config{Dir: t.TempDir(), SealSpans: 30, SealAge: time.Hour, compaction: eager})
	const batches, merges = 300, 10
	var acked atomic.Uint64
	var over atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // reproducible on purpose
			for n := acked.Load(); !over.Load(); n = acked.Load() {
				if n == 0 {
					continue
				}
				k := r.Uint64N(n)
				if td, err := db.Trace(t.Context(), storetest.TraceID(k)); err != nil || td.SpanCount() != 3 {
					t.Errorf("trace %d of %d: %v", k, n, err)
					return
				}
				p, err := db.Summaries(t.Context(), store.TraceQuery{Limit: 10_000})
				if err != nil || uint64(len(p.Traces)) < n {
					t.Errorf("%d traces, %d are acknowledged: %v", len(p.Traces), n, err)
					return
				}
				for _, s := range p.Traces {
					if s.Spans != 3 {
						t.Errorf("trace %s has %d spans", s.ID, s.Spans)
						return
					}
				}
			}
		})
	}
	for n := range uint64(batches) {
		for errors.Is(db.Write(t.Context(), numbered(n)), store.ErrBusy) {
			runtime.Gosched()
		}
		acked.Store(n + 1)
	}
	deadline := time.Now().Add(30 * time.Second)
	for db.compacted.Load() < merges && time.Now().Before(deadline) && !t.Failed() {
		<-time.After(5 * time.Millisecond) // readers go on until enough was merged
	}
	over.Store(true)
	readers.Wait()
	if db.compacted.Load() < merges {
		t.Errorf("only %d blocks were merged meanwhile", db.compacted.Load())
	}
}

// Planned again and again, every history of blocks comes to rest, with as few blocks as the bound on their size allows, and nothing is merged across
// partitions or out of order.
func TestPlanComesToRest(t *testing.T) {
	hour := int64(time.Hour)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // reproducible on purpose
		c := compactionDefaults
		c.maxSpans, c.maxInputs = 1000, 64+r.IntN(64)
		win := time.Duration(windows[r.IntN(len(windows))]) * time.Hour
		var blocks []*block
		now, seq := 1000*24*hour, uint64(1)
		rewritten, total := 0, 0
		run := func() {
			for steps := 0; ; steps++ {
				j := c.plan(blocks, thinPlan{window: win}, time.Unix(0, now))
				if j == nil {
					return
				}
				if steps > 5000 {
					t.Fatalf("seed %d: no rest", seed)
				}
				at := slices.Index(blocks, j.in[0])
				out := &block{}
				out.meta.FirstSeq, out.meta.Level = j.in[0].meta.FirstSeq, j.level
				length := time.Hour
				if j.level == levelWindow {
					length = win
				}
				for i, b := range j.in {
					if blocks[at+i] != b || b.partition(length) != j.in[0].partition(length) || b.meta.Level > j.level {
						t.Fatalf("seed %d: %d blocks that are no neighbours of one partition", seed, len(j.in))
					}
					out.meta.Spans += b.meta.Spans
					out.size += b.size
					out.meta.Received, out.meta.LastSeq = b.meta.Received, b.meta.LastSeq
				}
				if len(j.in) < 2 || len(j.in) > c.maxInputs || out.meta.Spans > c.maxSpans {
					t.Fatalf("seed %d: %d blocks of %d spans", seed, len(j.in), out.meta.Spans)
				}
				rewritten += out.meta.Spans
				blocks = slices.Replace(blocks, at, at+len(j.in), out)
			}
		}
		rate := 1 + r.IntN(60)
		for range 400 + r.IntN(2000) {
			b := &block{size: 1}
			b.meta.Spans = 1 + r.IntN(2*rate)
			b.meta.Received, b.meta.FirstSeq, b.meta.LastSeq = now, seq, seq
			total += b.meta.Spans
			seq++
			blocks = append(blocks, b)
			now += int64(time.Minute) + r.Int64N(int64(time.Minute))
			run()
		}
		now += 48 * hour
		run()
		for i := 1; i < len(blocks); i++ {
			a, b := blocks[i-1], blocks[i]
			if a.partition(win) == b.partition(win) && a.meta.Spans+b.meta.Spans <= c.maxSpans && max(a.meta.Level, b.meta.Level) < levelWindow {
				t.Fatalf("seed %d: two small blocks are left side by side", seed)
			}
		}
		if float64(rewritten) > 4.5*float64(total) {
			t.Errorf("seed %d: %d spans were rewritten for %d that came, window %v, %d files at once", seed, rewritten, total, win, c.maxInputs)
		}
		most := int(time.Duration(seq)*90*time.Second/win) + 2 + 2*total/c.maxSpans //nolint:gosec // small
		if len(blocks) > most {
			t.Errorf("seed %d: %d blocks for %d spans in windows of %v, at most %d expected", seed, len(blocks), total, win, most)
		}
	}
}

func TestWindowIsBoundedByRetention(t *testing.T) {
	for retain, want := range map[time.Duration]time.Duration{
		time.Hour: time.Hour, 7 * time.Hour: time.Hour, 14 * time.Hour: 2 * time.Hour, 24 * time.Hour: 3 * time.Hour, 72 * time.Hour: 8 * time.Hour, 7 * 24 * time.Hour: 24 * time.Hour,
		365 * 24 * time.Hour: 24 * time.Hour,
	} {
		if got := window(retain); got != want {
			t.Errorf("retention %v: window %v, want %v", retain, got, want)
		}
	}
}
