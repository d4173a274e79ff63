package metric

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// Classic views: NAME_bucket with le, NAME_count and NAME_sum of a native histogram NAME, for boards and tools that know only those. They are
// computed when they are asked for and never stored; what is stored under such a name, by others, is read as it is.
//
// The bounds are powers of two of seconds, from 2^-12 (0.24 ms) to 2^7 (128 s), so that a count is exact at every schema from 0 on: each is a bound of
// the native buckets too. Histograms with custom buckets have no view. A view is asked for by the equality of its name; a regular expression
// over names finds what is stored.
var classicBounds, classicTexts = func() (bounds []float64, texts []string) {
	for e := -12; e <= 7; e++ {
		bounds = append(bounds, math.Ldexp(1, e))
	}
	bounds = append(bounds, math.Inf(1))
	for _, b := range bounds {
		texts = append(texts, labels.FormatOpenMetricsFloat(b))
	}
	return bounds, texts
}()

// classicSuffixes are the views of a histogram.
var classicSuffixes = []string{"_bucket", "_count", "_sum"}

// view is what a selection asks of a native histogram.
type view struct {
	base, suffix string
	matchers     []*labels.Matcher // of the native histogram
	le           []*labels.Matcher // of the bounds
}

// viewOf reads a selection; ok is false when it asks for no view by name.
func viewOf(ms []*labels.Matcher) (v view, ok bool) {
	at := slices.IndexFunc(ms, func(m *labels.Matcher) bool { return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual })
	if at < 0 {
		return v, false
	}
	for _, v.suffix = range classicSuffixes {
		if v.base, ok = strings.CutSuffix(ms[at].Value, v.suffix); ok && v.base != "" {
			break
		}
		ok = false
	}
	if !ok {
		return v, false
	}
	for i, m := range ms {
		switch {
		case i == at:
			v.matchers = append(v.matchers, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, v.base))
		case m.Name == model.BucketLabel && v.suffix == "_bucket":
			v.le = append(v.le, m)
		default:
			v.matchers = append(v.matchers, m)
		}
	}
	return v, true
}

// bounds are the indices of the bounds that are asked for; one that stands for all where the view has none.
func (v *view) bounds() []int {
	if v.suffix != "_bucket" {
		return []int{0}
	}
	var out []int
	for i, text := range classicTexts {
		if !slices.ContainsFunc(v.le, func(m *labels.Matcher) bool { return !m.Matches(text) }) {
			out = append(out, i)
		}
	}
	return out
}

// querier adds the classic views to what is stored.
type querier struct {
	storage.Querier
	db *DB
}

func (q *querier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	v, ok := viewOf(ms)
	if !ok {
		return q.Querier.Select(ctx, sorted, hints, ms...)
	}
	var own *storage.SelectHints
	if hints != nil {
		h := *hints
		h.Limit = 0
		if h.Func == "series" { // without samples nobody knows which series are histograms
			h.Func = ""
		}
		own = &h
	}
	s := &viewSet{view: v, at: v.bounds(), stored: q.Querier.Select(ctx, sorted, hints, ms...), native: q.Querier.Select(ctx, sorted, own, v.matchers...), seen: map[uint64]bool{}}
	if !sorted {
		return s
	}
	return sortedSet(s)
}

func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	values, warnings, err := q.Querier.LabelValues(ctx, name, hints, ms...)
	if err != nil {
		return nil, warnings, err
	}
	if name == model.MetricNameLabel {
		for _, n := range slices.Clone(values) {
			if _, ok := q.db.natives.Load(n); ok {
				for _, suffix := range classicSuffixes {
					values = append(values, n+suffix)
				}
			}
		}
	}
	if v, ok := viewOf(ms); ok {
		more, w, err := q.Querier.LabelValues(ctx, name, hints, v.matchers...)
		if warnings.Merge(w); err != nil {
			return nil, warnings, err
		}
		switch {
		case name == model.MetricNameLabel && len(more) > 0:
			more = []string{v.base + v.suffix}
		case name == model.BucketLabel && v.suffix == "_bucket":
			names, w, err := q.Querier.LabelValues(ctx, model.MetricNameLabel, hints, v.matchers...)
			if warnings.Merge(w); err != nil {
				return nil, warnings, err
			}
			if more = nil; len(names) > 0 {
				for _, i := range v.bounds() {
					more = append(more, classicTexts[i])
				}
			}
		}
		values = append(values, more...)
	}
	return distinct(values, hints), warnings, nil
}

func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	names, warnings, err := q.Querier.LabelNames(ctx, hints, ms...)
	if err != nil {
		return nil, warnings, err
	}
	v, ok := viewOf(ms)
	if !ok {
		return names, warnings, nil
	}
	more, w, err := q.Querier.LabelNames(ctx, hints, v.matchers...)
	if warnings.Merge(w); err != nil {
		return nil, warnings, err
	}
	if v.suffix == "_bucket" && len(more) > 0 {
		more = append(more, model.BucketLabel)
	}
	names = append(names, more...)
	slices.Sort(names)
	return slices.Compact(names), warnings, nil
}

// viewSet is what is stored under the name, then the views of the native histograms, all bounds of one after the other.
type viewSet struct {
	view
	at             []int // bounds
	stored, native storage.SeriesSet
	seen           map[uint64]bool // hashes of what is stored: of a series that is both, the stored one counts
	queue          []storage.Series
	now            storage.Series
	it             chunkenc.Iterator
	cache          bucketCache
}

func (s *viewSet) Next() bool {
	if s.stored.Next() {
		s.now = s.stored.At()
		s.seen[s.now.Labels().Hash()] = true
		return true
	}
	if s.stored.Err() != nil {
		return false
	}
	for len(s.queue) == 0 {
		if !s.native.Next() {
			return false
		}
		s.derive(s.native.At())
	}
	s.now, s.queue = s.queue[0], s.queue[1:]
	return true
}

func (s *viewSet) derive(of storage.Series) {
	s.it = of.Iterator(s.it)
	switch s.it.Next() {
	case chunkenc.ValHistogram, chunkenc.ValFloatHistogram:
	default:
		return
	}
	b := labels.NewBuilder(of.Labels())
	b.Set(model.MetricNameLabel, s.base+s.suffix)
	for _, i := range s.at {
		if s.suffix == "_bucket" {
			b.Set(model.BucketLabel, classicTexts[i])
		}
		if l := b.Labels(); !s.seen[l.Hash()] {
			s.queue = append(s.queue, &viewSeries{labels: l, of: of, suffix: s.suffix, bound: i, cache: &s.cache})
		}
	}
}

func (s *viewSet) At() storage.Series { return s.now }
func (s *viewSet) Err() error         { return errors.Join(s.stored.Err(), s.native.Err()) }
func (s *viewSet) Warnings() annotations.Annotations {
	var w annotations.Annotations
	w.Merge(s.stored.Warnings())
	w.Merge(s.native.Warnings())
	return w
}

// distinct are the values in order, each once, as many as are asked for.
func distinct(values []string, hints *storage.LabelHints) []string {
	slices.Sort(values)
	values = slices.Compact(values)
	if hints != nil && hints.Limit > 0 && len(values) > hints.Limit {
		values = values[:hints.Limit]
	}
	return values
}

// sortedSet reads a set whole and puts it in order.
func sortedSet(s storage.SeriesSet) storage.SeriesSet {
	var all []storage.Series
	for s.Next() {
		all = append(all, s.At())
	}
	slices.SortFunc(all, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &listSet{all: all, set: s}
}

// listSet is a set that was read whole.
type listSet struct {
	all []storage.Series
	now storage.Series
	set storage.SeriesSet
}

func (s *listSet) Next() bool {
	if len(s.all) == 0 {
		return false
	}
	s.now, s.all = s.all[0], s.all[1:]
	return true
}
func (s *listSet) At() storage.Series                { return s.now }
func (s *listSet) Err() error                        { return s.set.Err() }
func (s *listSet) Warnings() annotations.Annotations { return s.set.Warnings() }

// viewSeries is one bound, the count or the sum of a native histogram.
type viewSeries struct {
	labels labels.Labels
	of     storage.Series
	suffix string
	bound  int
	cache  *bucketCache
}

func (s *viewSeries) Labels() labels.Labels { return s.labels }

func (s *viewSeries) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	c := &column{of: s.bound}
	if s.suffix == "_bucket" {
		c.rows = s.cache.read(s.of)
	} else {
		c.rows = readRows(s.of, 1, func(h *histogram.FloatHistogram, row []float64) {
			if row[0] = h.Count; s.suffix == "_sum" {
				row[0] = h.Sum
			}
		})
	}
	return &viewIterator{storage.NewListSeriesIterator(c), c.err}
}

// rows are the samples of a native histogram as columns of floats.
type rows struct {
	times  []int64
	values []float64 // width for each time
	width  int
	err    error
}

// bucketCache remembers the histogram that was read last: the engine reads its bounds one after the other.
type bucketCache struct {
	of   storage.Series
	rows *rows
}

func (c *bucketCache) read(of storage.Series) *rows {
	if c.of != of {
		c.of, c.rows = of, readRows(of, len(classicBounds), cumulate)
	}
	return c.rows
}

func readRows(of storage.Series, width int, fill func(*histogram.FloatHistogram, []float64)) *rows {
	r := &rows{width: width}
	it := of.Iterator(nil)
	var (
		h  *histogram.FloatHistogram
		at int64
	)
	for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
		if vt == chunkenc.ValFloat {
			continue
		}
		at, h = it.AtFloatHistogram(h)
		n := len(r.values)
		if histogram.IsCustomBucketsSchema(h.Schema) {
			continue
		}
		r.times = append(r.times, at)
		r.values = append(r.values, make([]float64, width)...)
		row := r.values[n:]
		if value.IsStaleNaN(h.Sum) {
			for i := range row {
				row[i] = h.Sum
			}
			continue
		}
		fill(h, row)
	}
	r.err = it.Err()
	return r
}

// cumulate fills in how much is at or below each of classicBounds.
func cumulate(h *histogram.FloatHistogram, row []float64) {
	sum, k := h.ZeroCount, 0
	for it := h.NegativeBucketIterator(); it.Next(); {
		sum += it.At().Count
	}
	for it := h.PositiveBucketIterator(); it.Next(); {
		b := it.At()
		if b.Count == 0 {
			continue
		}
		for k < len(row)-1 && b.Upper > classicBounds[k] {
			row[k] = sum
			k++
		}
		sum += b.Count
	}
	for ; k < len(row)-1; k++ {
		row[k] = sum
	}
	row[len(row)-1] = h.Count
}

// column is one column of rows as samples; it is its own current sample.
type column struct {
	*rows
	of, at int
}

func (c *column) Get(i int) chunks.Sample     { c.at = i; return c }
func (c *column) Len() int                    { return len(c.times) }
func (c *column) T() int64                    { return c.times[c.at] }
func (*column) ST() int64                     { return 0 }
func (c *column) F() float64                  { return c.values[c.at*c.width+c.of] }
func (*column) H() *histogram.Histogram       { return nil }
func (*column) FH() *histogram.FloatHistogram { return nil }
func (*column) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (c *column) Copy() chunks.Sample         { return &column{c.rows, c.of, c.at} }

// viewIterator is the iterator of a column, and says what went wrong when it was read.
type viewIterator struct {
	chunkenc.Iterator
	err error
}

func (it *viewIterator) Err() error { return it.err }

// exemplarQuerier finds the exemplars of a native histogram under the names of its views.
type exemplarQuerier struct{ storage.ExemplarQuerier }

func (q exemplarQuerier) Select(start, end int64, ms ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	with := slices.Clone(ms)
	for _, one := range ms {
		if v, ok := viewOf(one); ok {
			with = append(with, v.matchers)
		}
	}
	return q.ExemplarQuerier.Select(start, end, with...)
}
