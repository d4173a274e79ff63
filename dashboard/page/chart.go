package page

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/event"
)

// Charts show this much of the past at this resolution; rates are taken over chartWindow.
const (
	chartSpan   = 15 * time.Minute
	chartStep   = 10 * time.Second
	chartWindow = "30s"
)

// failed selects what counts as an error: a 5xx, or a reason that is the callee's or the mesh's doing (as flow.Reason.Failure).
var failed = []string{
	`code_class="5xx"`,
	`code_class!="5xx",reason!="",reason!~"downstream_reset|bad_request|denied|rate_limited|fault_injected"`,
}

// quote makes a PromQL string of any text.
func quote(s string) string { return strconv.Quote(strings.ToValidUTF8(s, "\uFFFD")) }

// line is one query and how it is drawn.
type line struct{ name, tone, query string }

// selector is what a chart is about: `destination="catalog",side="server"`.
func requestRate(sel string) line {
	return line{"requests", "a", `sum(rate(tulle_requests_total{` + sel + `,probe=""}[` + chartWindow + `]))`}
}

func errorRatio(sel string) line {
	sum := ""
	for i, f := range failed {
		if i > 0 {
			sum += " + "
		}
		sum += `(sum(rate(tulle_requests_total{` + sel + `,probe="",` + f + `}[` + chartWindow + `])) or vector(0))`
	}
	return line{"errors", "bad", `(` + sum + `) / sum(rate(tulle_requests_total{` + sel + `,probe=""}[` + chartWindow + `]))`}
}

func latency(name, tone, quantile, sel string) line {
	return line{name, tone, `histogram_quantile(` + quantile + `, sum(rate(tulle_request_duration_seconds{` + sel + `}[` + chartWindow + `])))`}
}

// chart runs the queries over the last chartSpan before end.
func (d *Deps) chart(ctx context.Context, id, title string, format func(float64) string, end time.Time, marks []event.Event, lines ...line) *part.Chart {
	end = end.Truncate(chartStep)
	c := &part.Chart{ID: id, Title: title, Format: format, Start: end.Add(-chartSpan), Step: chartStep, Note: "No data in the last 15 minutes."}
	n := int(chartSpan/chartStep) + 1
	for _, l := range lines {
		s := part.Series{Name: l.name, Tone: l.tone, Values: make([]float64, n)}
		for i := range s.Values {
			s.Values[i] = math.NaN()
		}
		c.Series = append(c.Series, s)
	}
	if d.Metrics.Engine == nil || d.Metrics.Queryable == nil {
		c.Note = "This observer keeps no series, so there is no past to draw."
		return c
	}
	for i, l := range lines {
		if err := d.fill(ctx, c.Series[i].Values, l.query, c.Start, end, chartStep); err != nil {
			c.Note = "The query failed: " + err.Error()
		}
	}
	for _, e := range marks {
		switch e.Kind {
		case event.KindEjected, event.KindReadmitted, event.KindWeight, event.KindConfig, event.KindDeploy:
			c.Marks = append(c.Marks, part.Mark{Time: e.Time, Title: e.Message})
		}
	}
	return c
}

// fill puts the first series of a query into the points start, start+step, …; points without a value stay as they are.
func (d *Deps) fill(ctx context.Context, into []float64, query string, start, end time.Time, step time.Duration) error {
	q, err := d.Metrics.Engine.NewRangeQuery(ctx, d.Metrics.Queryable, nil, query, start, end, step)
	if err != nil {
		return err
	}
	defer q.Close()
	r := q.Exec(ctx)
	if r.Err != nil {
		return r.Err
	}
	m, ok := r.Value.(promql.Matrix)
	if !ok || len(m) == 0 {
		return nil
	}
	for _, p := range m[0].Floats {
		if i := int(time.UnixMilli(p.T).Sub(start) / step); i >= 0 && i < len(into) {
			into[i] = p.F
		}
	}
	return nil
}
