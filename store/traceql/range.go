package traceql

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store"
)

// metric is the last stage of a query for series.
type metric struct {
	name      string
	of        expr // what is added up, nil for rate and count_over_time
	quantiles []float64
	by        []*field
}

// metrics is the table of functions of spans over time: whether they take a field, and how they make a number of those of one step.
var metrics = map[string]*struct {
	field bool
	value func(vs []float64, seconds, quantile float64) float64
}{
	"rate":               {false, func(vs []float64, seconds, _ float64) float64 { return float64(len(vs)) / seconds }},
	"count_over_time":    {false, func(vs []float64, _, _ float64) float64 { return float64(len(vs)) }},
	"min_over_time":      {true, func(vs []float64, _, _ float64) float64 { return slices.Min(vs) }},
	"max_over_time":      {true, func(vs []float64, _, _ float64) float64 { return slices.Max(vs) }},
	"sum_over_time":      {true, func(vs []float64, _, _ float64) float64 { return sum(vs) }},
	"avg_over_time":      {true, func(vs []float64, _, _ float64) float64 { return sum(vs) / float64(len(vs)) }},
	"quantile_over_time": {true, func(vs []float64, _, q float64) float64 { return quantile(vs, q) }},
}

func sum(vs []float64) (s float64) {
	for _, v := range vs {
		s += v
	}
	return s
}

// quantile of all values, exactly: between two neighbours in proportion.
func quantile(vs []float64, q float64) float64 {
	vs = slices.Sorted(slices.Values(vs))
	at := q * float64(len(vs)-1)
	lo := int(math.Floor(at))
	hi := min(lo+1, len(vs)-1)
	return vs[lo] + (vs[hi]-vs[lo])*(at-float64(lo))
}

func (p *parser) metricStage() *Error {
	m := &metric{name: p.tok.text}
	row := metrics[m.name]
	if len(p.q.stages) == 0 {
		p.q.stages = []stage{find{&filter{}}}
	}
	var inside func() (expr, *Error)
	if row.field {
		inside = func() (expr, *Error) {
			e, err := p.expr(0)
			for err == nil && m.name == "quantile_over_time" && p.is(",") {
				if err = p.next(); err != nil {
					break
				}
				if v := p.tok.value.float(); p.tok.kind != tokNumber || v < 0 || v > 1 {
					return nil, p.unexpected("a quantile from 0 to 1, like .99,")
				}
				m.quantiles = append(m.quantiles, p.tok.value.float())
				err = p.next()
			}
			if err == nil && m.name == "quantile_over_time" && len(m.quantiles) == 0 {
				return nil, p.unexpected("a comma and a quantile, like .99,")
			}
			return e, err
		}
	}
	var err *Error
	if m.of, err = p.call(inside); err != nil {
		return err
	}
	if p.word("by") {
		if _, err := p.call(func() (expr, *Error) { return nil, p.fieldList(&m.by) }); err != nil {
			return err
		}
	}
	p.q.metric = m
	return nil
}

// Series is one line of a query for series.
type Series struct {
	Labels []Attribute // in the order of by(…), then the quantile
	Points []float64   // one for each step; NaN where there is nothing to say
}

// MaxPoints bounds the steps of Range.
const MaxPoints = 11_000

// maxSeries bounds the lines of Range, maxCells their steps together.
const (
	maxSeries = 1000
	maxCells  = 1_000_000
)

// Range makes the series of a query for series: of every step from start on, before end, what its spans that start in it are together. It looks at o.Budget traces at
// most; of Options only Budget is used.
func Range(ctx context.Context, spans store.Spans, q *Query, start, end time.Time, step time.Duration, o Options) ([]Series, Result, error) {
	if q.metric == nil {
		return nil, Result{}, &Error{1, "the query is for traces; put | rate() or another function over time behind it"}
	}
	n := 0
	if step > 0 && end.After(start) {
		n = int((end.Sub(start) + step - 1) / step)
	}
	if n == 0 || n > MaxPoints {
		return nil, Result{}, &Error{1, fmt.Sprintf("from start to end there are %d steps; 1 to %d are possible: change start, end or step", n, MaxPoints)}
	}
	type key [8]Value
	type line struct {
		labels []Attribute
		values [][]float64
	}
	if len(q.metric.by) > len(key{}) {
		return nil, Result{}, &Error{1, fmt.Sprintf("by() has %d fields; at most %d are possible", len(q.metric.by), len(key{}))}
	}
	lines := map[key]*line{}
	var order []*line
	o.Start, o.End = start, end
	tooMany := false
	res, err := Search(ctx, spans, q, o, func(f Found) bool {
		seen := map[*Span]bool{}
		for _, set := range f.Sets {
			for _, s := range set.Spans {
				at := s.StartTimestamp().AsTime().Sub(start)
				if seen[s] || at < 0 || at >= end.Sub(start) {
					continue
				}
				seen[s] = true
				v := 1.0
				if q.metric.of != nil {
					x := q.metric.of.eval(s)
					if !x.numeric() {
						continue
					}
					if v = x.float(); x.Kind == Duration {
						v /= 1e9
					}
				}
				var k key
				for i, b := range q.metric.by {
					k[i] = b.eval(s)
				}
				l := lines[k]
				if l == nil {
					if len(order) == maxSeries || (len(order)+1)*n > maxCells {
						tooMany = true
						continue
					}
					l = &line{values: make([][]float64, n)}
					for i, b := range q.metric.by {
						l.labels = append(l.labels, Attribute{strings.TrimPrefix(b.String(), "."), k[i]})
					}
					lines[k] = l
					order = append(order, l)
				}
				l.values[at/step] = append(l.values[at/step], v)
			}
		}
		return true
	})
	if err != nil {
		return nil, res, err
	}
	res.Partial = res.Partial || tooMany
	quantiles := q.metric.quantiles
	if len(quantiles) == 0 {
		quantiles = []float64{0}
	}
	row := metrics[q.metric.name]
	var out []Series
	for _, l := range order {
		for _, p := range quantiles {
			s := Series{Labels: slices.Clone(l.labels), Points: make([]float64, n)}
			if len(q.metric.quantiles) > 0 {
				s.Labels = append(s.Labels, Attribute{"p", stringValue(strconv.FormatFloat(p, 'g', -1, 64))})
			}
			for i, vs := range l.values {
				switch {
				case len(vs) > 0:
					s.Points[i] = row.value(vs, step.Seconds(), p)
				case row.field:
					s.Points[i] = math.NaN()
				}
			}
			out = append(out, s)
		}
	}
	return out, res, nil
}
