package metric

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"
)

// Derived is a family under a name that other people's boards and tools know, computed from a stored one when it is asked for: it takes no room and none of the budget. What
// others have stored under the name is read beside it.
//
// Two stored series must not become one: what the family's own labels do not tell apart stays as labels of ours (Keep). A derived family is asked for by the equality of
// its name, and listed where names are; of a histogram NAME (when Scale is 1), NAME_bucket, NAME_count and NAME_sum.
type Derived struct {
	Name  string
	Of    string            // stored
	Where []*labels.Matcher // of the stored series
	// Scale is what values of a histogram are multiplied by, 1000 for milliseconds; 0 for a counter, which stays as it is.
	Scale  float64
	Labels []DerivedLabel
	Keep   []string // labels that stay as they are
	Help   string
}

// DerivedLabel is how one label comes about: Fixed, or the value of the stored label From, through Map where there is one. An empty value is no label.
type DerivedLabel struct {
	Name, From, Fixed string
	Map               func(string) string
}

func (l *DerivedLabel) value(of labels.Labels) string {
	v := l.Fixed
	if l.From != "" {
		v = of.Get(l.From)
	}
	if l.Map != nil {
		v = l.Map(v)
	}
	return v
}

// labels are those of the series that stands for a stored one, or for a classic view of it.
func (f *Derived) labels(of labels.Labels, name string, b *labels.ScratchBuilder) labels.Labels {
	b.Reset()
	b.Add(model.MetricNameLabel, name)
	for i := range f.Labels {
		if v := f.Labels[i].value(of); v != "" {
			b.Add(f.Labels[i].Name, v)
		}
	}
	for _, k := range f.Keep {
		if v := of.Get(k); v != "" {
			b.Add(k, v)
		}
	}
	if le := of.Get(model.BucketLabel); le != "" && f.Scale != 0 {
		if bound, err := strconv.ParseFloat(le, 64); err == nil && !math.IsInf(bound, 0) {
			le = labels.FormatOpenMetricsFloat(bound * f.Scale)
		}
		b.Add(model.BucketLabel, le)
	}
	b.Sort()
	return b.Labels()
}

// derivation is what a selection asks of a derived family.
type derivation struct {
	family   *Derived
	name     string            // as asked
	suffix   string            // of a classic view, or ""
	stored   []*labels.Matcher // of the series it comes from
	matchers []*labels.Matcher // that only its own labels can answer
}

// derivation reads a selection; nil when it asks for no derived family by name.
func (d *DB) derivation(ms []*labels.Matcher) *derivation {
	at := slices.IndexFunc(ms, func(m *labels.Matcher) bool { return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual })
	if at < 0 {
		return nil
	}
	x := &derivation{name: ms[at].Value}
	base := x.name
	if x.family = d.derived[base]; x.family == nil || x.family.Scale != 0 && x.family.Scale != 1 {
		x.family = nil
		for _, suffix := range classicSuffixes {
			if b, ok := strings.CutSuffix(base, suffix); ok && d.derived[b] != nil && d.derived[b].Scale != 0 {
				x.family, x.suffix = d.derived[b], suffix
			}
		}
		if x.family == nil {
			return nil
		}
	}
	x.stored = append(x.stored, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, x.family.Of+x.suffix))
	x.stored = append(x.stored, x.family.Where...)
	for i, m := range ms {
		if i == at {
			continue
		}
		if slices.Contains(x.family.Keep, m.Name) {
			x.stored = append(x.stored, m)
			continue
		}
		if k := slices.IndexFunc(x.family.Labels, func(l DerivedLabel) bool { return l.Name == m.Name && l.From != "" && l.Map == nil }); k >= 0 {
			renamed := *m
			renamed.Name = x.family.Labels[k].From
			x.stored = append(x.stored, &renamed)
			continue
		}
		x.matchers = append(x.matchers, m)
	}
	return x
}

func (x *derivation) accepts(l labels.Labels) bool {
	return !slices.ContainsFunc(x.matchers, func(m *labels.Matcher) bool { return !m.Matches(l.Get(m.Name)) })
}

// derivedQuerier adds the derived families to what is stored and to its classic views.
type derivedQuerier struct {
	*querier
	mint, maxt int64
}

// series are those of a selection, without samples.
func (q *derivedQuerier) series(ctx context.Context, ms []*labels.Matcher) storage.SeriesSet {
	return q.Select(ctx, false, &storage.SelectHints{Start: q.mint, End: q.maxt, Func: "series"}, ms...)
}

func (q *derivedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	x := q.db.derivation(ms)
	if x == nil {
		return q.querier.Select(ctx, sorted, hints, ms...)
	}
	var own *storage.SelectHints
	if hints != nil {
		h := *hints
		h.Limit = 0 // what is left out is only known afterwards
		own = &h
	}
	s := &derivedSet{derivation: x, stored: q.querier.Select(ctx, sorted, hints, ms...), of: q.querier.Select(ctx, false, own, x.stored...), seen: map[uint64]bool{}}
	if !sorted {
		return s
	}
	return sortedSet(s)
}

// derivedSet is what is stored under the name, then what is derived.
type derivedSet struct {
	*derivation
	stored, of storage.SeriesSet
	seen       map[uint64]bool // hashes of what is stored: of a series that is both, the stored one counts
	b          labels.ScratchBuilder
	now        storage.Series
}

func (s *derivedSet) Next() bool {
	if s.stored.Next() {
		s.now = s.stored.At()
		s.seen[s.now.Labels().Hash()] = true
		return true
	}
	if s.stored.Err() != nil {
		return false
	}
	for s.of.Next() {
		of := s.of.At()
		l := s.family.labels(of.Labels(), s.name, &s.b)
		if !s.accepts(l) || s.seen[l.Hash()] {
			continue
		}
		scale := 1.0
		if s.suffix == "_sum" {
			scale = s.family.Scale
		}
		s.now = &derivedSeries{Series: of, labels: l, scale: scale}
		return true
	}
	return false
}

func (s *derivedSet) At() storage.Series { return s.now }
func (s *derivedSet) Err() error         { return errors.Join(s.stored.Err(), s.of.Err()) }
func (s *derivedSet) Warnings() annotations.Annotations {
	var w annotations.Annotations
	w.Merge(s.stored.Warnings())
	w.Merge(s.of.Warnings())
	return w
}

// derivedSeries has the samples of another series.
type derivedSeries struct {
	storage.Series
	labels labels.Labels
	scale  float64
}

func (s *derivedSeries) Labels() labels.Labels { return s.labels }

func (s *derivedSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	if s.scale == 1 {
		return s.Series.Iterator(it)
	}
	of := s.Series.Iterator(nil)
	c := &column{rows: &rows{width: 1}}
	for vt := of.Next(); vt != chunkenc.ValNone; vt = of.Next() {
		if vt == chunkenc.ValFloat {
			t, v := of.At()
			if !value.IsStaleNaN(v) {
				v *= s.scale
			}
			c.times, c.values = append(c.times, t), append(c.values, v)
		}
	}
	return &viewIterator{storage.NewListSeriesIterator(c), of.Err()}
}

// names are those of the derived families of which something is stored, or may be.
func (f *Derived) names() (out []string) {
	if f.Scale == 0 || f.Scale == 1 {
		out = append(out, f.Name)
	}
	if f.Scale != 0 {
		for _, suffix := range classicSuffixes {
			out = append(out, f.Name+suffix)
		}
	}
	return out
}

func (q *derivedQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	values, warnings, err := q.querier.LabelValues(ctx, name, hints, ms...)
	if err != nil {
		return nil, warnings, err
	}
	add := func(of *Derived, ms []*labels.Matcher) error {
		for i := range of.Labels {
			l := &of.Labels[i]
			if l.Name != name {
				continue
			}
			from := cmp.Or(l.From, model.MetricNameLabel)
			found, w, err := q.querier.LabelValues(ctx, from, nil, ms...)
			if warnings.Merge(w); err != nil {
				return err
			}
			for _, v := range found {
				if v = l.value(labels.FromStrings(from, v)); v != "" {
					values = append(values, v)
				}
			}
		}
		return nil
	}
	switch x := q.db.derivation(ms); {
	case x != nil: // rare, and few: the series say it
		set := q.series(ctx, ms)
		for set.Next() {
			if v := set.At().Labels().Get(name); v != "" {
				values = append(values, v)
			}
		}
		warnings.Merge(set.Warnings())
		if err := set.Err(); err != nil {
			return nil, warnings, err
		}
	case len(ms) > 0:
		return values, warnings, nil
	case name == model.MetricNameLabel:
		have := map[string]bool{}
		for _, v := range values {
			have[v] = true
		}
		for _, f := range q.db.derived {
			if have[f.Of] {
				values = append(values, f.names()...)
			}
		}
	default:
		for _, f := range q.db.derived {
			if err := add(f, append([]*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, f.Of)}, f.Where...)); err != nil {
				return nil, warnings, err
			}
		}
	}
	return distinct(values, hints), warnings, nil
}

func (q *derivedQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	names, warnings, err := q.querier.LabelNames(ctx, hints, ms...)
	if err != nil {
		return nil, warnings, err
	}
	if q.db.derivation(ms) == nil {
		return names, warnings, nil
	}
	set := q.series(ctx, ms)
	for set.Next() {
		set.At().Labels().Range(func(l labels.Label) { names = append(names, l.Name) })
	}
	warnings.Merge(set.Warnings())
	slices.Sort(names)
	return slices.Compact(names), warnings, set.Err()
}

// derivedExemplars finds exemplars under the names of derived families, with their labels.
type derivedExemplars struct {
	storage.ExemplarQuerier
	db *DB
}

func (q derivedExemplars) Select(start, end int64, ms ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	var own [][]*labels.Matcher
	var out []exemplar.QueryResult
	var b labels.ScratchBuilder
	for _, one := range ms {
		x := q.db.derivation(one)
		if x == nil {
			own = append(own, one)
			continue
		}
		found, err := q.ExemplarQuerier.Select(start, end, x.stored)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			if r.SeriesLabels = x.family.labels(r.SeriesLabels, strings.TrimSuffix(x.name, x.suffix), &b); x.accepts(r.SeriesLabels) {
				out = append(out, r)
			}
		}
	}
	if len(own) > 0 {
		found, err := q.ExemplarQuerier.Select(start, end, own...)
		if err != nil {
			return nil, err
		}
		out = append(found, out...)
	}
	return out, nil
}
