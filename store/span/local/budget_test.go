package local

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// longTrace has spans of one trace, each with the fields of an access log and one text of so many bytes.
func longTrace(t *testing.T, db *DB, spans, text int) flow.TraceID {
	t.Helper()
	id := storetest.TraceID(4711)
	for n := 0; n < spans; {
		td := meshBatch(n / 70 * 12)
		for i, s := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
			s.SetTraceID([16]byte(id))
			s.Attributes().PutStr("note", strconv.Itoa(n)+strings.Repeat(string(rune('a'+i%26)), text)) // no two alike: equal ones are kept once
			n++
		}
		for {
			err := db.Write(t.Context(), td)
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrBusy) {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
	}
	return id
}

func live() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools had
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // a size
}

// What a budget counts for a trace is what reading it holds: never less than nine tenths, and at most twice as much, wherever the trace is, and also where its texts are long.
func TestTraceHolds(t *testing.T) {
	for _, c := range []struct {
		name string
		text int
		cfg  Config
	}{
		{"in memory", 10, Config{}},
		{"sealed", 10, Config{SealSpans: 2100, SealAge: 5 * time.Millisecond}},
		{"sealed, with long texts", 20_000, Config{SealSpans: 280, SealAge: 5 * time.Millisecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Dir = t.TempDir()
			db := open(t, c.cfg)
			spans := 4200
			if c.text > 1000 {
				spans = 560
			}
			id := longTrace(t, db, spans, c.text)
			if c.cfg.SealSpans > 0 {
				(&settled{DB: db}).seal(t)
			}
			if _, err := db.Trace(t.Context(), id); err != nil { // what is cached for everybody is not a query's
				t.Fatal(err)
			}
			var td ptrace.Traces
			var counted int64
			for try := 1; ; try++ { // what goes on beside may free memory meanwhile
				m := store.NewMemory(1 << 30)
				ctx, _, done := m.Begin(t.Context())
				before := live()
				var rows []row
				src, _ := db.view()
				for _, s := range src {
					var err error
					if rows, err = s.trace(db, rows, id, db.effort(ctx)); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				if td, err = toTraces(rows); err != nil {
					t.Fatal(err)
				}
				took := live() - before
				counted = m.Stats().Held
				runtime.KeepAlive(rows)
				done()
				n := td.SpanCount()
				t.Logf("%d spans: %d bytes of heap for a span, %d counted", n, took/int64(n), counted/int64(n))
				if n >= spans && counted*10 >= took*9 && counted <= 2*took {
					break
				}
				if try == 5 {
					t.Fatalf("%d spans: %d bytes were taken and %d counted", n, took, counted)
				}
			}

			little := store.NewMemory(counted - 1)
			ctx, _, end := little.Begin(t.Context())
			_, err := db.Trace(ctx, id)
			if !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), id.String()) || strings.Contains(err.Error(), c.cfg.Dir) {
				t.Errorf("with a byte less: %v", err)
			}
			end()
			if s := db.Stats(); s.Corrupt != 0 || s.LastError != "" || little.Stats().Held != 0 {
				t.Errorf("afterwards: %+v, %+v", s, little.Stats())
			}
			enough := store.NewMemory(counted)
			ctx, _, end = enough.Begin(t.Context())
			again, err := db.Trace(ctx, id)
			end()
			if err != nil {
				t.Fatalf("with just enough: %v", err)
			}
			var p ptrace.ProtoMarshaler
			x, _ := p.MarshalTraces(td)
			y, _ := p.MarshalTraces(again)
			if len(x) == 0 || len(x) != len(y) {
				t.Errorf("%d bytes, then %d", len(x), len(y))
			}
		})
	}
}

// Searches give back what they held, but for what they return, whether they end well or not.
func TestSearchHolds(t *testing.T) {
	db := open(t, Config{Dir: t.TempDir(), SealSpans: 700, SealAge: 5 * time.Millisecond})
	for i := range 40 {
		for errors.Is(db.Write(t.Context(), meshBatch(i)), store.ErrBusy) {
			runtime.Gosched()
		}
	}
	m := store.NewMemory(64 << 20)
	ctx, _, end := m.Begin(t.Context())
	defer end()
	page, err := db.Summaries(ctx, store.TraceQuery{Limit: 10})
	if held := m.Stats().Held; err != nil || len(page.Traces) != 10 || held != 10*partHeld {
		t.Errorf("%d traces, %d bytes held, %v", len(page.Traces), held, err)
	}
	n := 0
	err = db.Spans(ctx, store.TraceQuery{Limit: 500}, func(store.Span) bool {
		if n++; m.Stats().Held < 500*spanHeld {
			t.Errorf("%d bytes are held while 500 spans are shown", m.Stats().Held)
		}
		return n < 7
	})
	if held := m.Stats().Held; err != nil || n != 7 || held != 10*partHeld {
		t.Errorf("%d spans, %d bytes held, %v", n, held, err)
	}
	little := store.NewMemory(1000)
	ctx, _, endLittle := little.Begin(t.Context())
	defer endLittle()
	if _, err := db.Summaries(ctx, store.TraceQuery{}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("list traces with 1000 bytes: %v", err)
	}
	if err := db.Spans(ctx, store.TraceQuery{}, func(store.Span) bool { return true }); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("search spans with 1000 bytes: %v", err)
	}
	if held := little.Stats().Held; held != 0 {
		t.Errorf("%d bytes are held after two refusals", held)
	}
}
