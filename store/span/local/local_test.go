package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/storetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDir) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

// until polls a condition with a deadline.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		wait := time.NewTimer(time.Millisecond)
		<-wait.C
	}
}

// events collects what the store reports.
type events struct {
	mu sync.Mutex
	es []event.Event
}

func (e *events) add(x event.Event) { e.mu.Lock(); defer e.mu.Unlock(); e.es = append(e.es, x) }
func (e *events) has(kind event.Kind, part string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.es {
		if x.Kind == kind && strings.Contains(x.Message, part) {
			return true
		}
	}
	return false
}

// roomy is the real file system with plenty of space, whatever the machine has.
type roomy struct{ OS }

func (roomy) Free(string) (uint64, uint64, error) { return 50 << 30, 100 << 30, nil }

func open(t *testing.T, cfg Config) *DB {
	t.Helper()
	if cfg.FS == nil {
		cfg.FS = roomy{}
	}
	cfg.perChunk = 3 // small blocks have several chunks too
	db, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// settled is a DB for the suite, brought into a state by settle between writing and reading.
type settled struct {
	*DB
	cfg    Config
	settle func(t *testing.T, s *settled)
}

func (s *settled) Settle(t *testing.T) { s.settle(t, s) }

func (s *settled) seal(t *testing.T) {
	t.Helper()
	until(t, "everything is sealed", func() bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		s.active.mu.RLock()
		defer s.active.mu.RUnlock()
		return len(s.frozen) == 0 && s.active.count == 0
	})
}

func (s *settled) reopen(t *testing.T) {
	t.Helper()
	if err := s.DB.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.DB = db
	t.Cleanup(func() { _ = db.Close() })
}

func blockFiles(t *testing.T, dir, suffix string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "blocks", "*", "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestConformance(t *testing.T) {
	for _, v := range []struct {
		name   string
		cfg    Config
		settle func(t *testing.T, s *settled)
	}{
		{"live", Config{SealAge: time.Hour}, func(*testing.T, *settled) {}},
		{"sealed", Config{SealSpans: 40, SealAge: 5 * time.Millisecond}, func(t *testing.T, s *settled) { s.seal(t) }},
		{"reopened", Config{SealSpans: 300, SealAge: time.Hour}, func(t *testing.T, s *settled) { s.reopen(t) }},
		{"sealed and reopened without sidecars", Config{SealSpans: 100, SealAge: 5 * time.Millisecond}, func(t *testing.T, s *settled) {
			s.seal(t)
			for _, f := range blockFiles(t, s.cfg.Dir, idxSuffix) {
				if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) { // the one of a block that was just merged is gone already
					t.Fatal(err)
				}
			}
			s.reopen(t)
		}},
		{"interval sync", Config{SyncInterval: time.Millisecond, SealSpans: 100}, func(t *testing.T, s *settled) { s.reopen(t) }},
	} {
		t.Run(v.name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Spans {
				cfg := v.cfg
				cfg.Dir = t.TempDir()
				cfg.FS = roomy{}
				return &settled{DB: open(t, cfg), cfg: cfg, settle: v.settle}
			})
		})
	}
}

// Searches beyond the bound wait for a place, and say that the store is busy when they got none.
func TestSearchesAreBounded(t *testing.T) {
	db := open(t, Config{Dir: t.TempDir()})
	for range maxSearches {
		db.searches <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := db.Summaries(ctx, store.TraceQuery{}); !errors.Is(err, store.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	<-db.searches
	for range 3 { // a place that was used is free again
		if _, err := db.Summaries(t.Context(), store.TraceQuery{}); err != nil {
			t.Error(err)
		}
		if err := db.Spans(t.Context(), store.TraceQuery{}, func(store.Span) bool { return true }); err != nil {
			t.Error(err)
		}
	}
}
