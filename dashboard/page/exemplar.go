package page

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/tulle-mesh/tulle/dashboard/part"
)

// mostDots is how many exemplars a chart has: in each part of its time the slowest, which is the one that somebody would open.
const mostDots = 24

// exemplars are requests of which the trace is known, in the time that is drawn; nil when none are kept.
func (c *charts) exemplars(ctx context.Context, sel string) []part.Dot {
	if c.Metrics.Exemplars == nil {
		return nil
	}
	matchers, err := parser.NewParser(parser.Options{}).ParseMetricSelector(`tulle_request_duration_seconds{` + sel + `}`)
	if err != nil {
		return nil
	}
	q, err := c.Metrics.Exemplars.ExemplarQuerier(ctx)
	if err != nil {
		return nil
	}
	found, err := q.Select(c.period.Start.UnixMilli(), c.period.End.UnixMilli(), matchers)
	if err != nil {
		return nil
	}
	var slowest [mostDots]part.Dot
	long := c.period.End.Sub(c.period.Start)
	for _, series := range found {
		for _, e := range series.Exemplars {
			id := e.Labels.Get("trace_id")
			if id == "" {
				continue
			}
			at := time.UnixMilli(e.Ts)
			k := min(mostDots-1, max(0, int(int64(at.Sub(c.period.Start))*mostDots/int64(long))))
			if e.Value > slowest[k].Value {
				slowest[k] = dot(at, e.Value, id, series.SeriesLabels)
			}
		}
	}
	var out []part.Dot
	for _, s := range slowest {
		if s.Href != "" {
			out = append(out, s)
		}
	}
	return out
}

func dot(at time.Time, seconds float64, id string, l labels.Labels) part.Dot {
	title := "Trace at " + at.UTC().Format("15:04:05") + ": " + part.Seconds(seconds) + ", " + l.Get("source") + " → " + l.Get("destination")
	if c := l.Get("code_class"); c != "" {
		title += ", " + c
	}
	return part.Dot{Time: at, Value: seconds, Title: title, Href: TraceURL(id)}
}
