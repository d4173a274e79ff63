package tap_test

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
	"github.com/tulle-mesh/tulle/store/tap"
)

func batch(n int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, "web")
	for range n {
		s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetTraceID([16]byte{1})
		s.SetSpanID([8]byte{2})
		s.Attributes().PutInt(flow.AttrStatus, 503)
	}
	return td
}

func open(t *testing.T) *tap.Spans {
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return tap.New(db)
}

func TestWatchersSeeWhatIsWritten(t *testing.T) {
	s := open(t)
	if err := s.Write(t.Context(), batch(1)); err != nil { // before anybody watches
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), batch(2)); err != nil {
		t.Fatal(err)
	}
	got := <-w.Batches()
	if len(got) != 2 || got[0].Service != "web" || got[0].Attributes[flow.AttrStatus] != "503" || got[0].SpanID != (flow.SpanID{2}) {
		t.Errorf("%+v", got)
	}
	cancel()
	if _, ok := <-w.Batches(); ok {
		t.Error("something came that was not written")
	}
	if err := s.Write(t.Context(), batch(1)); err != nil { // after the last has left
		t.Fatal(err)
	}
	if err := s.Spans(t.Context(), store.TraceQuery{}, func(store.Span) bool { return true }); err != nil {
		t.Errorf("the store behind it: %v", err)
	}
}

// Ingest never waits, and a slow watcher is told what it missed.
func TestSlowWatcherMissesAndIsTold(t *testing.T) {
	s := open(t)
	w, err := s.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range tap.Backlog + 3 {
		if err := s.Write(t.Context(), batch(2)); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.Dropped(); n != 6 || w.Dropped() != 0 {
		t.Errorf("%d spans dropped, want 6 once", n)
	}
}

func TestWatchersAreBounded(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	for range tap.MaxWatchers {
		if _, err := s.Watch(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Watch(t.Context()); !errors.Is(err, tap.ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for { // AfterFunc runs by itself
		if _, err := s.Watch(t.Context()); err == nil {
			break
		}
	}
}

// What is not stored is not shown.
func TestRefusedBatchesAreNotShown(t *testing.T) {
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := tap.New(db)
	w, err := s.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), batch(1)); !errors.Is(err, store.ErrClosed) {
		t.Fatal(err)
	}
	select {
	case b := <-w.Batches():
		t.Errorf("shown: %+v", b)
	default:
	}
}
