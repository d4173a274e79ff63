package tempoapi

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/traceql"
)

// The shapes of tempopb's QueryRangeResponse in JSON.
type (
	rangeAnswer struct {
		Series  []seriesAnswer `json:"series"`
		Metrics searchMetrics  `json:"metrics"`
	}
	seriesAnswer struct {
		Labels     []keyValue `json:"labels"`
		Samples    []sample   `json:"samples,omitempty"`
		PromLabels string     `json:"promLabels"`
		Value      *float64   `json:"value,omitempty"` // of one instant
	}
	sample struct {
		TimestampMs string  `json:"timestampMs"`
		Value       float64 `json:"value"`
	}
)

// window reads start and end, or since, which is an hour where nothing is said.
func (a *api) window(r *http.Request) (start, end time.Time, err error) {
	v := r.URL.Query()
	if end, err = instant(v, "end", a.Clock()); err != nil {
		return start, end, err
	}
	since, err := duration(v, "since")
	if err != nil {
		return start, end, err
	}
	if since == 0 {
		since = time.Hour
	}
	if start, err = instant(v, "start", end.Add(-since)); err == nil && !start.Before(end) {
		err = bad("start", v.Get("start"), "before end")
	}
	return start, end, err
}

func (a *api) queryRange(w http.ResponseWriter, r *http.Request) error {
	start, end, err := a.window(r)
	if err != nil {
		return err
	}
	step, err := duration(r.URL.Query(), "step")
	if err != nil {
		return err
	}
	if step == 0 {
		step = max(time.Second, end.Sub(start)/120).Round(time.Second)
	}
	start = start.Truncate(step) // so that the same instants stand whenever it is asked
	return a.series(w, r, start, end, step)
}

// queryInstant is one value of the whole window.
func (a *api) queryInstant(w http.ResponseWriter, r *http.Request) error {
	start, end, err := a.window(r)
	if err != nil {
		return err
	}
	return a.series(w, r, start, end, 0)
}

func (a *api) series(w http.ResponseWriter, r *http.Request, start, end time.Time, step time.Duration) error {
	v := r.URL.Query()
	query := v.Get("q")
	if query == "" {
		query = v.Get("query")
	}
	q, err := traceql.Parse(query)
	if err != nil {
		return err
	}
	one := step == 0
	if one {
		step = end.Sub(start)
	}
	lines, res, err := traceql.Range(r.Context(), a.Spans, q, start, end, step, traceql.Options{Budget: rangeBudget})
	if err != nil {
		return err
	}
	out := rangeAnswer{Series: []seriesAnswer{}, Metrics: metricsOf(res)}
	for _, l := range lines {
		s := seriesAnswer{Labels: keyValues(l.Labels), PromLabels: promLabels(l.Labels)}
		if s.Labels == nil {
			s.Labels = []keyValue{}
		}
		for i, p := range l.Points {
			switch {
			case math.IsNaN(p) || math.IsInf(p, 0):
			case one:
				s.Value = &l.Points[i]
			default:
				s.Samples = append(s.Samples, sample{strconv.FormatInt(start.Add(time.Duration(i)*step).UnixMilli(), 10), p})
			}
		}
		out.Series = append(out.Series, s)
	}
	slices.SortFunc(out.Series, func(x, y seriesAnswer) int { return strings.Compare(x.PromLabels, y.PromLabels) })
	return writeJSON(w, out)
}

func promLabels(as []traceql.Attribute) string {
	s := "{"
	for i, a := range as {
		if i > 0 {
			s += ", "
		}
		s += a.Name + "=" + strconv.Quote(label(a))
	}
	return s + "}"
}
