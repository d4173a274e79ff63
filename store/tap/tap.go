// Package tap lets people watch spans as they come in. New stands before a store: what has been written is shown to whoever has subscribed at that moment. Nothing is
// done while nobody has.
//
// Ingest never waits for a watcher: each has a queue of Backlog batches, and what does not fit is dropped and counted for it.
package tap

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/store"
)

const (
	// Backlog is how many batches wait for one watcher. A sidecar sends at most 512 spans in one, about once a second.
	Backlog = 64
	// MaxWatchers bounds how many may watch at a time.
	MaxWatchers = 32
)

// ErrTooMany: MaxWatchers are there already; retryable.
var ErrTooMany = errors.New("too many are watching live requests already")

// backend has another name than Spans, which is a method of it.
type backend interface{ store.Spans }

// Spans is a store that can be watched. Safe for concurrent use.
type Spans struct {
	backend
	anybody atomic.Int32

	mu       sync.Mutex
	watchers map[*Watcher]struct{}
}

// New lets what is written to s be watched.
func New(s store.Spans) *Spans { return &Spans{backend: s, watchers: map[*Watcher]struct{}{}} }

// Write stores td and then shows it.
func (t *Spans) Write(ctx context.Context, td ptrace.Traces) error {
	if err := t.backend.Write(ctx, td); err != nil || t.anybody.Load() == 0 {
		return err
	}
	batch := store.Flat(td)
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.watchers {
		select {
		case w.batches <- batch:
		default:
			w.dropped.Add(uint64(len(batch)))
		}
	}
	return nil
}

// Watcher gets what comes in. Its batches are shared: read only.
type Watcher struct {
	batches chan []store.Span
	dropped atomic.Uint64
}

// Batches yields each batch that was written, until the context of Watch ends; then it is closed.
func (w *Watcher) Batches() <-chan []store.Span { return w.batches }

// Dropped is how many spans did not fit since it was last asked.
func (w *Watcher) Dropped() uint64 { return w.dropped.Swap(0) }

// Watch shows what is written from now on until ctx ends. ErrTooMany.
func (t *Spans) Watch(ctx context.Context) (*Watcher, error) {
	w := &Watcher{batches: make(chan []store.Span, Backlog)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.watchers) == MaxWatchers {
		return nil, ErrTooMany
	}
	t.watchers[w] = struct{}{}
	t.anybody.Add(1)
	context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.watchers, w)
		t.anybody.Add(-1)
		close(w.batches)
	})
	return w, nil
}
