package migrate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
)

func open(t *testing.T) *local.DB {
	t.Helper()
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// fill writes n traces of three spans by two services, each batch numbered as a sidecar numbers it.
func fill(t *testing.T, db store.Spans, n int) {
	t.Helper()
	begin := time.Now().Add(-time.Hour)
	for i := range n {
		td := ptrace.NewTraces()
		for j, service := range []string{"web", "cart"} {
			rs := td.ResourceSpans().AppendEmpty()
			rs.Resource().Attributes().PutStr("service.name", service)
			rs.Resource().Attributes().PutStr(flow.AttrBootID, "00000000000000ab")
			rs.Resource().Attributes().PutInt(flow.AttrSequence, int64(i+1))
			ss := rs.ScopeSpans().AppendEmpty()
			for k := range 1 + j {
				s := ss.Spans().AppendEmpty()
				s.SetTraceID(pcommon.TraceID{1, byte(i >> 8), byte(i)})
				s.SetSpanID(pcommon.SpanID{1, byte(j), byte(k)})
				s.SetName("GET /")
				s.Attributes().PutInt("n", int64(i))
				s.SetStartTimestamp(pcommon.NewTimestampFromTime(begin.Add(time.Duration(i) * time.Second)))
				s.SetEndTimestamp(pcommon.NewTimestampFromTime(begin.Add(time.Duration(i)*time.Second + time.Millisecond)))
			}
		}
		if err := db.Write(t.Context(), td); err != nil {
			t.Fatal(err)
		}
	}
}

func count(t *testing.T, db store.Spans) (n int) {
	t.Helper()
	if err := db.Spans(t.Context(), store.TraceQuery{Limit: 10_000}, func(store.Span) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCopiesAll(t *testing.T) {
	from, to := open(t), open(t)
	fill(t, from, 50)
	file := filepath.Join(t.TempDir(), "at")
	r, err := Run(t.Context(), Config{From: from, To: to, Source: "a", Checkpoint: file, PageTraces: 7})
	if err != nil {
		t.Fatal(err)
	}
	if r.Traces != 50 || r.Spans != 150 || r.Written != 150 || r.Checked != 50 || r.Missing != 0 || r.Resumed {
		t.Errorf("report %+v", r)
	}
	if n := count(t, to); n != 150 {
		t.Errorf("the target has %d spans, want 150", n)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the checkpoint is still there: %v", err)
	}
	td, err := to.Trace(t.Context(), flow.TraceID{1, 0, 3})
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().Get("n"); !ok || v.Type() != pcommon.ValueTypeInt || v.Int() != 3 {
		t.Errorf("attribute n came as %v", v)
	}

	// Again: nothing is written twice.
	if r, err = Run(t.Context(), Config{From: from, To: to, Source: "a", Checkpoint: file}); err != nil || r.Written != 0 || count(t, to) != 150 {
		t.Errorf("the second time: %+v, %v, %d spans", r, err, count(t, to))
	}
}

// spans is embedded under a name that is not one of its methods'.
type spans interface{ store.Spans }

// failing refuses every write after the first n, as a full disk does.
type failing struct {
	spans
	n int
}

func (f *failing) Write(ctx context.Context, td ptrace.Traces) error {
	if f.n--; f.n < 0 {
		return store.ErrFull
	}
	return f.spans.Write(ctx, td)
}

func TestGoesOn(t *testing.T) {
	from, to := open(t), open(t)
	fill(t, from, 50)
	cfg := Config{From: from, To: &failing{to, 3}, Source: "a", Checkpoint: filepath.Join(t.TempDir(), "at"), PageTraces: 10}
	r, err := Run(t.Context(), cfg)
	if !errors.Is(err, store.ErrFull) || r.Traces != 30 {
		t.Fatalf("%+v, %v: want 30 traces and ErrFull", r, err)
	}
	other := cfg
	other.Source = "b"
	if _, err := Run(t.Context(), other); err == nil {
		t.Error("a checkpoint of another source was taken")
	}
	listed := 0
	cfg.To = to
	cfg.Progress = func(Report) { listed++ }
	if r, err = Run(t.Context(), cfg); err != nil || !r.Resumed || r.Traces != 50 || r.Spans != 150 || r.Written != 150 {
		t.Errorf("went on with %+v, %v", r, err)
	}
	if listed != 2+5 {
		t.Errorf("%d pages were read, want the two that were left and five to check", listed)
	}
	if n := count(t, to); n != 150 {
		t.Errorf("the target has %d spans, want 150", n)
	}
}

// forgetful says that it has written.
type forgetful struct{ spans }

func (forgetful) Write(context.Context, ptrace.Traces) error { return nil }

func TestSaysWhatIsMissing(t *testing.T) {
	from, to := open(t), open(t)
	fill(t, from, 5)
	r, err := Run(t.Context(), Config{From: from, To: forgetful{to}, Source: "a", Checkpoint: filepath.Join(t.TempDir(), "at")})
	if !errors.Is(err, ErrIncomplete) || r.Missing != 15 {
		t.Errorf("%+v, %v: want 15 missing", r, err)
	}
}
