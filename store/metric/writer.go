package metric

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/model"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"

	"github.com/tulle-mesh/tulle/store"
)

// Other replaces the identifying label values of series over the budget.
const Other = "other"

// foldable are the labels whose values identify something that may grow without bound; over the budget they become Other. The labels
// not named here have closed vocabularies.
var foldable = map[string]bool{
	"source": true, "destination": true, "service": true, "endpoint": true, "instance": true, "route": true, "version": true, "client": true, "server": true, "span_name": true,
}

// Writer writes families of cumulative series, all at one instant per Write. One Writer has one goroutine using it at a time; several may
// share a DB, as long as they write different series.
//
// A series is admitted once, for as long as it is written. When the store's active series are at the budget, a new series is not admitted: it is
// counted in tulle_store_series_folded_total, and its values are added to the series whose identifying labels (source, destination,
// endpoint …) all read "other". A series once folded stays folded, so "other" only grows like a counter must.
//
// A series that was written by the previous Write and not by this one is ended with a stale marker, so that a query does not see it for
// another five minutes.
type Writer struct {
	db *DB

	mu     sync.Mutex
	series map[string]*entry // by the label set's bytes
	list   []*entry          // the same
	round  uint64
	last   time.Time // of the Write before
	fresh  uint64    // series admitted in this round, which the store does not count yet
	buf    []byte
}

type seriesKind uint8

const (
	gauge seriesKind = iota
	counter
	histo
)

type entry struct {
	key    string // in Writer.series
	labels labels.Labels
	ref    storage.SeriesRef
	round  uint64 // last Write in which it had a value
	folded *entry // the series that takes its values, when over the budget
	kind   seriesKind

	value     float64
	written   float64 // value in the newest Write that had a sample of it
	passed    bool    // this Write has none, see CounterAgain
	hist      *histogram.FloatHistogram
	exemplars []exemplar.Exemplar

	ended bool // the Writer has forgotten it; a Ref to it is void
	// Histograms that the store does not hold any more, or may still hold as the series' newest; see Batch.Room.
	spare, newest *histogram.FloatHistogram
}

// Ref remembers a series of a Writer, so that it is written again without a look-up. The zero Ref is void. A Ref is of one Writer, and becomes void when
// a Write passes the series over.
type Ref struct{ e *entry }

// NewWriter returns a Writer of d.
func (d *DB) NewWriter() *Writer { return &Writer{db: d, series: map[string]*entry{}} }

// Batch collects the samples of one Write.
type Batch struct {
	w *Writer
}

// Write calls fill, then appends all that it added, with the timestamp at, as one transaction. Written counters must be cumulative. On error
// nothing of the batch is visible; errors.Is(err, store.ErrFull|store.ErrClosed) tell why.
func (w *Writer) Write(ctx context.Context, at time.Time, fill func(*Batch)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.round++
	w.fresh = 0
	fill(&Batch{w})
	app := w.db.tsdb.Appender(ctx)
	ts := at.UnixMilli()
	// A sample newer than everything in the store is in order, so the store keeps its histogram as the series' newest until the next one comes. Others it may keep longer.
	inOrder := ts > w.db.tsdb.Head().MaxTime()
	var firstErr error
	kept := w.list[:0]
	for _, e := range w.list {
		if e.round == w.round {
			kept = append(kept, e)
		}
		if e.folded != nil {
			if e.round != w.round {
				delete(w.series, e.key)
				e.ended = true
			}
			continue
		}
		if e.round != w.round {
			// The labels disappear from the Writer; the store keeps what was written.
			if e.kind == histo {
				_, _ = app.AppendHistogram(e.ref, e.labels, ts, nil, &histogram.FloatHistogram{Sum: math.Float64frombits(value.StaleNaN)})
			} else {
				_, _ = app.Append(e.ref, e.labels, ts, math.Float64frombits(value.StaleNaN))
			}
			delete(w.series, e.key)
			e.ended = true
			continue
		}
		if e.passed && len(e.exemplars) == 0 {
			e.value = 0
			continue
		}
		var err error
		if e.ref == 0 && !w.last.IsZero() {
			w.begin(app, e)
		}
		if e.kind == histo {
			e.ref, err = app.AppendHistogram(e.ref, e.labels, ts, nil, e.hist)
			e.spare = e.newest
			if e.newest = e.hist; !inOrder || err != nil {
				e.spare, e.newest = nil, nil
			}
			e.hist = nil
		} else {
			e.ref, err = app.Append(e.ref, e.labels, ts, e.value)
			e.value, e.written = 0, e.value
		}
		if err != nil {
			w.db.rejected.WithLabelValues(rejection(err)).Inc()
			if firstErr == nil && rejection(err) == "error" {
				firstErr = fmt.Errorf("metrics store: append %s: %w", e.labels, err)
			}
			continue
		}
		for _, x := range e.exemplars {
			_, _ = app.AppendExemplar(e.ref, e.labels, x) // a repeated or late exemplar is not an error worth a word
		}
		e.exemplars = e.exemplars[:0]
	}
	clear(w.list[len(kept):])
	w.list, w.last = kept, at
	if firstErr != nil {
		_ = app.Rollback()
		w.forget()
		return wrap(firstErr)
	}
	if err := app.Commit(); err != nil {
		w.forget()
		return wrap(fmt.Errorf("metrics store: commit: %w", err))
	}
	return nil
}

// forget drops what is known of the samples in the store: after a failure nobody knows which histograms it holds, and the values were not taken.
func (w *Writer) forget() {
	for _, e := range w.list {
		e.spare, e.newest = nil, nil
		e.written, e.passed = math.NaN(), false
	}
}

// begin gives a new cumulative series a zero at the Write before, when it was zero: rate() sees only differences between samples, and would miss
// what was counted before the first.
func (w *Writer) begin(app storage.Appender, e *entry) {
	ts := w.last.UnixMilli()
	switch e.kind {
	case counter:
		_, _ = app.Append(0, e.labels, ts, 0)
	case histo:
		_, _ = app.AppendHistogram(0, e.labels, ts, nil, &histogram.FloatHistogram{Schema: e.hist.Schema, ZeroThreshold: e.hist.ZeroThreshold})
	}
}

func wrap(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w (free some space or lower the retention): %w", store.ErrFull, err)
	}
	return err
}

func rejection(err error) string {
	switch {
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		return "duplicate"
	case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrTooOldSample):
		return "too_old"
	default:
		return "error"
	}
}

// Counter adds the cumulative v to the series in this batch. The pairs are label names and values; empty values are dropped, as Prometheus
// does. A counter that appears after the first Write is taken to have been zero at the Write before.
func (b *Batch) Counter(name string, v float64, pairs ...string) Ref {
	e, ref := b.entry(name, counter, pairs)
	e.value += v
	return ref
}

// Gauge adds v to the series in this batch.
func (b *Batch) Gauge(name string, v float64, pairs ...string) {
	e, _ := b.entry(name, gauge, pairs)
	e.value += v
}

// Histogram is Counter for native histograms; h may be changed afterwards.
func (b *Batch) Histogram(name string, h *histogram.FloatHistogram, pairs ...string) Ref {
	e, ref := b.entry(name, histo, pairs)
	e.addHistogram(h.Copy())
	return ref
}

// addHistogram takes h for its own.
func (e *entry) addHistogram(h *histogram.FloatHistogram) {
	if e.hist == nil {
		e.hist = h
		return
	}
	if sum, _, _, err := e.hist.Add(h); err == nil {
		e.hist = sum
	}
}

// CounterAgain is Counter for the series of ref. It does nothing and returns false when ref is void: then Counter is to be called. A counter that stands
// still gets a sample in every second Write.
func (b *Batch) CounterAgain(ref Ref, v float64) bool {
	e := b.again(ref)
	if e == nil {
		return false
	}
	e.value += v
	if e == ref.e {
		e.passed = !e.passed && e.ref != 0 && v == e.written
	}
	return true
}

// HistogramAgain is Histogram for the series of ref, which must be that of a histogram; false when ref is void. It takes h for its own.
func (b *Batch) HistogramAgain(ref Ref, h *histogram.FloatHistogram) bool {
	e := b.again(ref)
	if e == nil {
		return false
	}
	e.addHistogram(h)
	return true
}

// Room is a histogram to fill for HistogramAgain with the same ref: a former one of that series, with whatever it had, or a new one.
func (b *Batch) Room(ref Ref) *histogram.FloatHistogram {
	if e := ref.e; e != nil && e.spare != nil {
		h := e.spare
		e.spare = nil
		return h
	}
	return &histogram.FloatHistogram{}
}

// again is the entry of ref in this batch, nil when it is void.
func (b *Batch) again(ref Ref) *entry {
	e := ref.e
	if e == nil || e.ended {
		return nil
	}
	e.round = b.w.round
	if e.folded != nil {
		e = e.folded
		e.round = b.w.round
	}
	return e
}

// Exemplar attaches a trace to the series, which must have got its value already.
func (b *Batch) Exemplar(name, traceID string, v float64, at time.Time, pairs ...string) {
	key := b.key(name, pairs)
	e := b.w.series[string(key)]
	if e == nil || e.folded != nil || e.round != b.w.round {
		return
	}
	e.exemplars = append(e.exemplars, exemplar.Exemplar{Labels: labels.FromStrings("trace_id", traceID), Value: v, Ts: at.UnixMilli(), HasTs: true})
}

// key is valid until the next one.
func (b *Batch) key(name string, pairs []string) []byte {
	buf := append(b.w.buf[:0], name...)
	for _, p := range pairs {
		buf = append(buf, 0xff)
		buf = append(buf, p...)
	}
	b.w.buf = buf
	return buf
}

func (b *Batch) entry(name string, kind seriesKind, pairs []string) (*entry, Ref) {
	w := b.w
	key := b.key(name, pairs)
	e := w.series[string(key)]
	if e == nil {
		key := string(key) // foldedEntry makes another
		e = &entry{key: key, labels: labelsOf(name, pairs), kind: kind}
		if kind == histo {
			w.db.natives.Store(name, true)
		}
		if w.db.tsdb.Head().NumSeries()+w.fresh >= uint64(w.db.cfg.ActiveSeriesBudget) {
			if folded, changed := fold(pairs); changed {
				w.db.folded.WithLabelValues(name).Inc()
				e.folded = b.foldedEntry(name, kind, folded)
			}
		}
		if e.folded == nil {
			w.fresh++
		}
		w.series[key] = e
		w.list = append(w.list, e)
	}
	ref := Ref{e}
	e = b.again(ref)
	e.passed = false
	return e, ref
}

func (b *Batch) foldedEntry(name string, kind seriesKind, pairs []string) *entry {
	key := string(b.key(name, pairs))
	e := b.w.series[key]
	if e == nil {
		e = &entry{key: key, labels: labelsOf(name, pairs), kind: kind}
		b.w.series[key] = e
		b.w.list = append(b.w.list, e)
	}
	return e
}

func fold(pairs []string) (out []string, changed bool) {
	out = append(out, pairs...)
	for i := 0; i+1 < len(out); i += 2 {
		if foldable[out[i]] && out[i+1] != "" && out[i+1] != Other {
			out[i+1] = Other
			changed = true
		}
	}
	return out, changed
}

func labelsOf(name string, pairs []string) labels.Labels {
	m := make(map[string]string, len(pairs)/2+1)
	m[model.MetricNameLabel] = name
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			m[pairs[i]] = pairs[i+1]
		}
	}
	return labels.FromMap(m)
}
