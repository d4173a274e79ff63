// Package migrate copies the spans of one store to another, whatever engines the two are: it knows only the contract in package store.
//
// Traces are copied newest first, page by page. After each page a checkpoint is written, from which a later Run goes on. What is written is first held against what the
// target has, so that neither a page that was written in part, nor a target that had some of the spans before, leads to doubles.
package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// ErrIncomplete: all was copied, and the target does not have all of it.
var ErrIncomplete = errors.New("the target lacks spans")

// Config of one migration. Nobody else may write to From meanwhile; To may be written to.
type Config struct {
	From, To   store.Spans
	Source     string       // what From is called; a checkpoint of another source is refused
	Checkpoint string       // file; its folder must exist
	PageTraces int          // traces from one checkpoint to the next, 1 to 10,000; 0: 1,000
	Progress   func(Report) // called after each page; may be nil
}

// Report is how far it came.
type Report struct {
	Source   string `json:"source"`
	Resumed  bool   `json:"resumed"`  // an earlier run had begun
	Traces   uint64 `json:"traces"`   // copied or found in the target, of all runs
	Spans    uint64 `json:"spans"`    // of these traces
	Written  uint64 `json:"written"`  // spans that were not in the target before, of all runs; a page that was interrupted counts by what its second try wrote
	Checked  uint64 `json:"checked"`  // traces that were read again from both at the end
	Missing  uint64 `json:"missing"`  // spans that the target then did not have
	Damaged  uint64 `json:"damaged"`  // traces that are listed and cannot be found by their id
	Checking bool   `json:"checking"` // all is copied
}

// checkpoint is the file: where to go on.
type checkpoint struct {
	Report
	Cursor string `json:"cursor"`
}

const (
	defaultPage = 1000
	batchSpans  = 1000 // spans of one batch to the target
	mostTries   = 120  // of a batch that the target is too busy for, half a second apart
)

// far is later than any span: clocks that are ahead are no reason to leave spans out.
var far = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// Run copies all spans and then checks that the target has them; only then the checkpoint is removed. An error leaves it where it is: Run with the same Config goes on.
// The error wraps ErrIncomplete when the target lacks something after all was copied; the next Run begins anew then, and copies what is missing.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if cfg.PageTraces == 0 {
		cfg.PageTraces = defaultPage
	}
	at, err := load(cfg)
	if err != nil {
		return at.Report, err
	}
	m := &migration{Config: cfg, at: at}
	if err := m.copy(ctx); err != nil {
		return m.at.Report, fmt.Errorf("migrate: %w", err)
	}
	if err := m.check(ctx); err != nil {
		return m.at.Report, fmt.Errorf("check what was migrated: %w", err)
	}
	if err := os.Remove(cfg.Checkpoint); err != nil && !errors.Is(err, os.ErrNotExist) {
		return m.at.Report, fmt.Errorf("remove the checkpoint: %w", err)
	}
	if m.at.Missing > 0 {
		return m.at.Report, fmt.Errorf("%w: %d spans of %d traces were not found in it; run the same command again, it copies what is missing", ErrIncomplete, m.at.Missing, m.at.Checked)
	}
	return m.at.Report, nil
}

func load(cfg Config) (checkpoint, error) {
	at := checkpoint{Report: Report{Source: cfg.Source}}
	raw, err := os.ReadFile(cfg.Checkpoint)
	if errors.Is(err, os.ErrNotExist) {
		return at, nil
	}
	if err != nil {
		return at, fmt.Errorf("read the checkpoint: %w", err)
	}
	var old checkpoint
	if err := json.Unmarshal(raw, &old); err != nil {
		return at, fmt.Errorf("checkpoint %s: %w; remove it to begin anew, which makes no doubles", cfg.Checkpoint, err)
	}
	if old.Source != cfg.Source {
		return at, fmt.Errorf("checkpoint %s is of a migration from %s, not from %s: finish that one, or remove the file to begin anew", cfg.Checkpoint, old.Source, cfg.Source)
	}
	old.Resumed = true
	return old, nil
}

type migration struct {
	Config
	at checkpoint

	batch   ptrace.Traces // not yet written
	pending int           // its spans
}

// save replaces the checkpoint; a crash leaves the old one or the new one.
func (m *migration) save() error {
	raw, err := json.Marshal(m.at)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(m.Checkpoint), filepath.Base(m.Checkpoint)+".*")
	if err != nil {
		return fmt.Errorf("write the checkpoint: %w", err)
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.Checkpoint)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write the checkpoint: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// pages calls each for every trace of the source from cursor on, and after for every page with the next one's cursor, "" after the last.
func (m *migration) pages(ctx context.Context, cursor string, each func(store.TraceSummary) error, after func(next string) error) error {
	for {
		page, err := m.From.Summaries(ctx, store.TraceQuery{End: far, Limit: m.PageTraces, Cursor: cursor})
		if err != nil {
			return fmt.Errorf("list the traces of %s: %w", m.Source, err)
		}
		for _, t := range page.Traces {
			if err := each(t); err != nil {
				return err
			}
		}
		if err := after(page.Next); err != nil {
			return err
		}
		if m.Progress != nil {
			m.Progress(m.at.Report)
		}
		if cursor = page.Next; cursor == "" {
			return nil
		}
	}
}

func (m *migration) copy(ctx context.Context) error {
	if m.at.Checking {
		return nil
	}
	m.batch = ptrace.NewTraces()
	page := Report{} // what this page adds; it counts once it is all written
	return m.pages(ctx, m.at.Cursor, func(t store.TraceSummary) error {
		from, have, err := m.both(ctx, t.TraceID)
		if err != nil {
			return err
		}
		if from.SpanCount() == 0 {
			page.Damaged++
			return nil
		}
		page.Traces++
		page.Spans += uint64(from.SpanCount()) //nolint:gosec // a count
		n, err := m.add(ctx, from, have)
		page.Written += n
		return err
	}, func(next string) error {
		if err := m.flush(ctx); err != nil {
			return err
		}
		m.at.Cursor, m.at.Checking = next, next == ""
		m.at.Traces += page.Traces
		m.at.Spans += page.Spans
		m.at.Written += page.Written
		m.at.Damaged += page.Damaged
		page = Report{}
		return m.save()
	})
}

// check reads everything again, from both.
func (m *migration) check(ctx context.Context) error {
	m.at.Checked, m.at.Missing = 0, 0
	return m.pages(ctx, "", func(t store.TraceSummary) error {
		from, have, err := m.both(ctx, t.TraceID)
		if err != nil {
			return err
		}
		m.at.Checked++
		return eachMissing(from, have, m.To.Capabilities().Repeats, func(ptrace.ResourceSpans, ptrace.ScopeSpans, ptrace.Span) error {
			m.at.Missing++
			return nil
		})
	}, func(string) error { return nil })
}

// both reads a trace; an empty one is what is not found.
func (m *migration) both(ctx context.Context, id flow.TraceID) (from, have ptrace.Traces, err error) {
	read := func(s store.Spans, what string) (ptrace.Traces, error) {
		t, err := s.Trace(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return ptrace.NewTraces(), nil
		case err != nil:
			return t, fmt.Errorf("read trace %s of the %s: %w", id, what, err)
		}
		return t, nil
	}
	if from, err = read(m.From, "source"); err != nil {
		return from, have, err
	}
	have, err = read(m.To, "target")
	return from, have, err
}

// key tells the spans of a trace apart. Whole microseconds are what every engine keeps.
type key struct {
	id    pcommon.SpanID
	start int64
}

func keyOf(s ptrace.Span) key { return key{s.SpanID(), s.StartTimestamp().AsTime().UnixMicro()} }

// eachMissing calls yield for each span of from that have does not have. With repeats one that is there twice must be in have twice.
func eachMissing(from, have ptrace.Traces, repeats bool, yield func(ptrace.ResourceSpans, ptrace.ScopeSpans, ptrace.Span) error) error {
	there := map[key]int{}
	for _, rs := range have.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				there[keyOf(s)]++
			}
		}
	}
	for _, rs := range from.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				k := keyOf(s)
				if there[k] > 0 {
					if repeats {
						there[k]--
					}
					continue
				}
				if !repeats {
					there[k]++
				}
				if err := yield(rs, ss, s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// add puts what have lacks into the batch, and writes batches that are full.
func (m *migration) add(ctx context.Context, from, have ptrace.Traces) (n uint64, err error) {
	var ofResource, ofScope any
	var scope ptrace.ScopeSpans
	var resource ptrace.ResourceSpans
	err = eachMissing(from, have, m.To.Capabilities().Repeats, func(rs ptrace.ResourceSpans, ss ptrace.ScopeSpans, s ptrace.Span) error {
		if m.pending >= batchSpans {
			if err := m.flush(ctx); err != nil {
				return err
			}
			ofResource, ofScope = nil, nil
		}
		if ofResource != any(rs) {
			resource = m.batch.ResourceSpans().AppendEmpty()
			rs.Resource().CopyTo(resource.Resource())
			resource.Resource().Attributes().Remove(flow.AttrSequence) // of the batch that it came in: others of that batch would be taken for repeats
			resource.SetSchemaUrl(rs.SchemaUrl())
			ofResource, ofScope = rs, nil
		}
		if ofScope != any(ss) {
			scope = resource.ScopeSpans().AppendEmpty()
			ss.Scope().CopyTo(scope.Scope())
			scope.SetSchemaUrl(ss.SchemaUrl())
			ofScope = ss
		}
		s.CopyTo(scope.Spans().AppendEmpty())
		m.pending++
		n++
		return nil
	})
	return n, err
}

// flush writes the batch. A target that is busy is asked again for a minute.
func (m *migration) flush(ctx context.Context) error {
	if m.pending == 0 {
		return nil
	}
	for try := 1; ; try++ {
		err := m.To.Write(ctx, m.batch)
		if err == nil {
			m.batch, m.pending = ptrace.NewTraces(), 0
			return nil
		}
		if !errors.Is(err, store.ErrBusy) || try == mostTries {
			return fmt.Errorf("write %d spans to the target: %w", m.pending, err)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
