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

// failed selects what counts as an error: a 5xx, or a reason that is the callee's or the mesh's doing (as flow.Reason.Failure).
var failed = []string{
	`code_class="5xx"`,
	`code_class!="5xx",reason!="",reason!~"downstream_reset|bad_request|denied|rate_limited|fault_injected"`,
}

// quote makes a PromQL string of any text.
func quote(s string) string { return strconv.Quote(strings.ToValidUTF8(s, "\uFFFD")) }

// charts draws over one period; marks are what happened meanwhile.
type charts struct {
	*Deps
	period *Period
	marks  []event.Event
}

// line is one query and how it is drawn.
type line struct{ name, tone, query string }

// requestRate is of what sel selects: `destination="catalog",side="server"`.
func (c *charts) requestRate(sel string) line {
	return line{"requests", "a", `sum(rate(tulle_requests_total{` + sel + `,probe=""}[` + c.period.window() + `]))`}
}

func (c *charts) errorRatio(sel string) line {
	sum := ""
	for i, f := range failed {
		if i > 0 {
			sum += " + "
		}
		sum += `(sum(rate(tulle_requests_total{` + sel + `,probe="",` + f + `}[` + c.period.window() + `])) or vector(0))`
	}
	return line{"errors", "bad", `(` + sum + `) / sum(rate(tulle_requests_total{` + sel + `,probe=""}[` + c.period.window() + `]))`}
}

func (c *charts) quantile(name, tone, quantile, sel string) line {
	return line{name, tone, `histogram_quantile(` + quantile + `, sum(rate(tulle_request_duration_seconds{` + sel + `}[` + c.period.window() + `])))`}
}

// red are the charts of what was asked, what failed and how long it took.
func (c *charts) red(ctx context.Context, title, sel string) []*part.Chart {
	latency := c.chart(ctx, "latency", "Latency", part.UnitSeconds, c.quantile("p50", "b", "0.5", sel), c.quantile("p95", "c", "0.95", sel), c.quantile("p99", "a", "0.99", sel))
	latency.Dots = c.exemplars(ctx, sel)
	return []*part.Chart{
		c.chart(ctx, "rate", title, part.UnitRate, c.requestRate(sel)),
		c.chart(ctx, "errors", "Errors", part.UnitRatio, c.errorRatio(sel)),
		latency,
	}
}

// saturation are the charts of how full something is; those of which nothing is known are left out. sel selects both sides, which is `source` and `destination`, or `destination` alone.
func (c *charts) saturation(ctx context.Context, sel string) []*part.Chart {
	client, server := sel+`,side="client"`, sel+`,side="server"`
	all := []*part.Chart{
		c.chart(ctx, "concurrency", "In flight", part.UnitCount,
			line{"callers", "a", `sum(tulle_destination_in_flight{` + client + `})`}, line{"served", "b", `sum(tulle_destination_in_flight{` + server + `})`},
			line{"limit", "c", `sum(tulle_destination_limit{` + server + `})`}),
		c.chart(ctx, "connections", "Connections", part.UnitCount,
			line{"busy", "a", `sum(tulle_destination_connections{` + client + `,state="busy"})`}, line{"idle", "b", `sum(tulle_destination_connections{` + client + `,state="idle"})`}),
		c.chart(ctx, "pending", "Wait for a connection, p99", part.UnitSeconds,
			line{"waited", "a", `histogram_quantile(0.99, sum(rate(tulle_destination_wait_seconds{` + sel + `}[` + c.period.window() + `])))`}),
		c.chart(ctx, "shed", "Turned away", part.UnitRate,
			line{"by a limit", "bad", `sum(rate(tulle_destination_shed_total{` + sel + `}[` + c.period.window() + `]))`}),
	}
	out := all[:0]
	for _, x := range all {
		if !x.Empty() {
			out = append(out, x)
		}
	}
	return out
}

// chart runs the queries over the period.
func (c *charts) chart(ctx context.Context, id, title string, unit part.Unit, lines ...line) *part.Chart {
	p := c.period
	out := &part.Chart{ID: id, Title: title, Unit: unit, Start: p.Start, Step: p.Step, Note: "No data in this time."}
	for _, l := range lines {
		s := part.Series{Name: l.name, Tone: l.tone, Values: make([]float64, p.points())}
		for i := range s.Values {
			s.Values[i] = math.NaN()
		}
		out.Series = append(out.Series, s)
	}
	if c.Metrics.Engine == nil || c.Metrics.Queryable == nil {
		out.Note = "This observer keeps no series, so there is no past to draw."
		return out
	}
	for i, l := range lines {
		if err := c.fill(ctx, out.Series[i].Values, l.query, p.Start, p.End, p.Step); err != nil {
			out.Note = "The query failed: " + err.Error()
		}
	}
	for _, e := range c.marks {
		switch e.Kind {
		case event.KindEjected, event.KindReadmitted, event.KindWeight, event.KindConfig, event.KindDeploy:
			out.Marks = append(out.Marks, part.Mark{Time: e.Time, Title: e.Message})
		}
	}
	return out
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
