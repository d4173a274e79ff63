package metric

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
)

// OutsideJob is the label job of a series from outside that came without one.
const OutsideJob = "remote_write"

// What one series from outside may cost.
const (
	maxOutsideLabels = 64
	maxOutsideBytes  = 8 << 10 // names and values together
)

// Reserved says whether only Tulle itself writes series of this name: they are evidence, or what rules remember of alerts, and nobody who
// can reach a port may add to them.
func Reserved(name string) bool {
	return strings.HasPrefix(name, "tulle_") || name == "ALERTS" || name == "ALERTS_FOR_STATE"
}

// Outside takes series that others write: by remote write, by OTLP. It is a storage.Appendable and a storage.AppendableV2.
//
// What must stay true: a series from outside never is one of Tulle's own. Reserved names are refused, and all others carry a label job, which
// Tulle's own never do (OutsideJob where they came without). New ones are admitted while the store has fewer active series than
// Config.OutsideSeriesBudget, so that they cannot take the room of the mesh's; they are refused and not folded into "other", because what cannot
// be known to be a counter cannot be added up.
//
// A refused sample is an error that wraps storage.ErrOutOfBounds, which Prometheus' handlers know not to be worth another try. With a
// Refusals in the context it is noted there instead, as is a sample that is too old, a duplicate or invalid, and Append returns no error, so that
// the rest of a request is kept.
type Outside struct{ db *DB }

// Outside returns the way in for series of others.
func (d *DB) Outside() *Outside { return &Outside{d} }

// Refusals are the samples of one request that were not taken. One request has one goroutine.
type Refusals struct {
	Samples int
	First   error // of the first of them; nil when there are none
}

type refusalsKey struct{}

// WithRefusals returns a context for one request, and where its refused samples are noted.
func WithRefusals(ctx context.Context) (context.Context, *Refusals) {
	r := &Refusals{}
	return context.WithValue(ctx, refusalsKey{}, r), r
}

func (r *Refusals) note(err error) {
	r.Samples++
	if r.First == nil {
		r.First = err
	}
}

// Appender is for remote write, either version.
func (o *Outside) Appender(ctx context.Context) storage.Appender {
	app := o.db.tsdb.Appender(ctx)
	return &outsideAppender{Appender: app, admission: o.admission(ctx, app)}
}

// AppenderV2 is for OTLP.
func (o *Outside) AppenderV2(ctx context.Context) storage.AppenderV2 {
	app := o.db.tsdb.AppenderV2(ctx)
	return &outsideAppenderV2{AppenderV2: app, admission: o.admission(ctx, app)}
}

func (o *Outside) admission(ctx context.Context, app any) admission {
	a := admission{db: o.db}
	a.known, _ = app.(storage.GetRef)
	a.refusals, _ = ctx.Value(refusalsKey{}).(*Refusals)
	return a
}

// admission decides about the samples of one request.
type admission struct {
	db       *DB
	known    storage.GetRef
	refusals *Refusals
}

// refusal is why a sample is not taken.
type refusal struct{ reason, text string }

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return storage.ErrOutOfBounds }

// admit returns the labels under which a series is kept, or why it is not: a *refusal.
func (a *admission) admit(l labels.Labels) (labels.Labels, error) {
	name := l.Get(model.MetricNameLabel)
	if Reserved(name) {
		return l, &refusal{"reserved", name + " is a name that only Tulle itself writes; drop or rename it with write_relabel_configs"}
	}
	n, size := 0, 0
	l.Range(func(x labels.Label) { n++; size += len(x.Name) + len(x.Value) })
	if n > maxOutsideLabels || size > maxOutsideBytes {
		return l, &refusal{"labels", fmt.Sprintf("a series of %.100s has %d labels in %d bytes; at most %d in %d are kept", name, n, size, maxOutsideLabels, maxOutsideBytes)}
	}
	if l.Get(model.JobLabel) == "" {
		b := labels.NewBuilder(l)
		b.Set(model.JobLabel, OutsideJob)
		l = b.Labels()
	}
	active := a.db.tsdb.Head().NumSeries()
	if active < uint64(a.db.cfg.OutsideSeriesBudget) {
		return l, nil
	}
	if a.known != nil {
		if ref, _ := a.known.GetRef(l, l.Hash()); ref != 0 {
			return l, nil
		}
	}
	return l, &refusal{"budget", fmt.Sprintf("no room for new series from outside, such as %.100s: the store has %d active ones, and admits others' below %d; send fewer with write_relabel_configs",
		name, active, a.db.cfg.OutsideSeriesBudget)}
}

// settle counts a sample. A refusal is noted where there is a place for it, and then is no error; what another try may mend always is one.
func (a *admission) settle(err error) error {
	if err == nil {
		a.db.taken.Inc()
		return nil
	}
	var (
		r       *refusal
		invalid histogram.Error
	)
	switch {
	case errors.As(err, &r):
		a.db.refused.WithLabelValues(r.reason).Inc()
	case errors.As(err, &invalid):
		a.db.refused.WithLabelValues("invalid").Inc()
	case rejection(err) != "error":
		a.db.refused.WithLabelValues(rejection(err)).Inc()
	default:
		return err
	}
	if a.refusals == nil {
		return err
	}
	a.refusals.note(err)
	return nil
}

type outsideAppender struct {
	storage.Appender
	admission
}

func (a *outsideAppender) Append(_ storage.SeriesRef, l labels.Labels, t int64, v float64) (ref storage.SeriesRef, err error) {
	if l, err = a.admit(l); err == nil {
		ref, err = a.Appender.Append(0, l, t, v)
	}
	return ref, a.settle(err)
}

func (a *outsideAppender) AppendHistogram(_ storage.SeriesRef, l labels.Labels, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) (ref storage.SeriesRef, err error) {
	if l, err = a.admit(l); err == nil {
		ref, err = a.Appender.AppendHistogram(0, l, t, h, fh)
	}
	return ref, a.settle(err)
}

// AppendExemplar, the zero samples and UpdateMetadata follow a sample: of a refused series they find nothing that they belong to.
func (a *outsideAppender) AppendExemplar(_ storage.SeriesRef, l labels.Labels, e exemplar.Exemplar) (storage.SeriesRef, error) {
	l, err := a.admit(l)
	if err != nil {
		return 0, nil //nolint:nilerr // its samples have said so
	}
	return a.Appender.AppendExemplar(0, l, e)
}

func (a *outsideAppender) AppendSTZeroSample(_ storage.SeriesRef, l labels.Labels, t, st int64) (storage.SeriesRef, error) {
	l, err := a.admit(l)
	if err != nil {
		return 0, nil //nolint:nilerr // the same
	}
	return a.Appender.AppendSTZeroSample(0, l, t, st)
}

func (a *outsideAppender) AppendHistogramSTZeroSample(_ storage.SeriesRef, l labels.Labels, t, st int64, h *histogram.Histogram, fh *histogram.FloatHistogram) (storage.SeriesRef, error) {
	l, err := a.admit(l)
	if err != nil {
		return 0, nil //nolint:nilerr // the same
	}
	return a.Appender.AppendHistogramSTZeroSample(0, l, t, st, h, fh)
}

func (a *outsideAppender) UpdateMetadata(storage.SeriesRef, labels.Labels, metadata.Metadata) (storage.SeriesRef, error) {
	return 0, nil // the store keeps none
}

type outsideAppenderV2 struct {
	storage.AppenderV2
	admission
}

func (a *outsideAppenderV2) Append(_ storage.SeriesRef, l labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) (ref storage.SeriesRef, err error) {
	if l, err = a.admit(l); err == nil {
		ref, err = a.AppenderV2.Append(0, l, st, t, v, h, fh, opts)
	}
	var partial *storage.AppendPartialError
	if errors.As(err, &partial) { // the sample was written, an exemplar was not
		a.db.taken.Inc()
		return ref, err
	}
	return ref, a.settle(err)
}
