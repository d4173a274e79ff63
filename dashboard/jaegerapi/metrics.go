package jaegerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/prometheus/promql"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/spanmetric"
)

// What the Monitor tab of Jaeger reads when it names nothing.
const (
	metricsLookback = time.Hour
	metricsStep     = 5 * time.Second
	metricsRate     = 10 * time.Minute
	// metricsMinStep is what /api/metrics/minstep says, in milliseconds: any step of PromQL.
	metricsMinStep = 1
	// maxPoints bounds the points of one series, as Prometheus does.
	maxPoints = 11_000
)

// family is Jaeger's MetricFamily as its JSON has it. It is OpenMetrics' shape.
type family struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Help    string   `json:"help"`
	Metrics []series `json:"metrics,omitempty"`
}

type series struct {
	Labels []label `json:"labels"`
	Points []point `json:"metricPoints"`
}

type label struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type point struct {
	Value struct {
		Double number `json:"doubleValue"`
	} `json:"gaugeValue"`
	Time string `json:"timestamp"`
}

// number is a float64 as protobuf's JSON has it.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	switch f := float64(n); {
	case math.IsNaN(f):
		return []byte(`"NaN"`), nil
	case math.IsInf(f, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(f, -1):
		return []byte(`"-Infinity"`), nil
	default:
		return json.Marshal(f)
	}
}

// ask is what the three families have in common.
type ask struct {
	services    []string
	byOperation bool
	client      bool     // calls that the services made
	server      bool     // calls that they answered
	kinds       []string // of spans, as OTLP names them
	end         time.Time
	lookback    time.Duration
	step, rate  time.Duration
}

func readAsk(r *http.Request, now time.Time) (ask, error) {
	q := r.URL.Query()
	a := ask{services: q["service"], server: true, kinds: []string{"SPAN_KIND_SERVER"}, end: now, lookback: metricsLookback, step: metricsStep, rate: metricsRate}
	if len(a.services) == 0 {
		return a, errors.New("unable to parse param 'service': please provide at least one service name")
	}
	if s := q.Get("groupByOperation"); s != "" {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return a, fmt.Errorf("unable to parse param 'groupByOperation': %w", err)
		}
		a.byOperation = b
	}
	if kinds, ok := q["spanKind"]; ok {
		a.server, a.kinds = false, nil
		for _, k := range kinds {
			a.kinds = append(a.kinds, "SPAN_KIND_"+strings.ToUpper(k))
			switch k {
			case "server":
				a.server = true
			case "client":
				a.client = true
			case "unspecified", "internal", "producer", "consumer": // counted by operation only
			default:
				return a, fmt.Errorf("unable to parse param 'spanKind': unsupported span kind: '%s'", k)
			}
		}
	}
	if s := q.Get("endTs"); s != "" {
		t, err := unixUnit(s, time.Millisecond)
		if err != nil {
			return a, fmt.Errorf("unable to parse param 'endTs': %w", err)
		}
		a.end = t
	}
	for _, p := range []struct {
		name string
		to   *time.Duration
	}{{"lookback", &a.lookback}, {"step", &a.step}, {"ratePer", &a.rate}} {
		s := q.Get(p.name)
		if s == "" {
			continue
		}
		t, err := unixUnit(s, time.Millisecond)
		if err != nil || t.UnixNano() <= 0 {
			return a, fmt.Errorf("unable to parse param '%s': %q is not a positive number of milliseconds", p.name, s)
		}
		*p.to = time.Duration(t.UnixNano())
	}
	if a.lookback/a.step > maxPoints {
		return a, fmt.Errorf("unable to parse param 'step': a lookback of %s has more than %d steps of %s; ask for longer steps", a.lookback, maxPoints, a.step)
	}
	return a, nil
}

// sum is PromQL for the rate of one of the series of edges, by service.
func (a ask) sum(name, also string) string {
	var sides []string
	for _, s := range []struct {
		on                bool
		side, serviceOfIt string
	}{{a.server, "server", "destination"}, {a.client, "client", "source"}} {
		if s.on {
			sides = append(sides, fmt.Sprintf(`label_replace(rate(%s{side=%q,%s=~%q%s}[%s]), "service_name", "$1", %q, "(.+)")`, name, s.side, s.serviceOfIt, a.match(), also, promDuration(a.rate), s.serviceOfIt))
		}
	}
	return `sum by (service_name) (` + strings.Join(sides, " or ") + `)`
}

// operations is the same of all spans, by their names; also restricts them.
func (a ask) operations(also string) string {
	return fmt.Sprintf(`sum by (service_name, operation) (label_replace(label_replace(rate(%s{service=~%q,span_kind=~%q%s}[%s]), "service_name", "$1", "service", "(.+)"), "operation", "$1", "span_name", "(.*)"))`,
		spanmetric.Latency, a.match(), strings.Join(a.kinds, "|"), also, promDuration(a.rate))
}

// match is a regular expression for exactly the services.
func (a ask) match() string {
	out := make([]string, len(a.services))
	for i, s := range a.services {
		out[i] = regexp.QuoteMeta(s)
	}
	return strings.Join(out, "|")
}

func promDuration(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// nothing reports whether no series can answer.
func (a ask) nothing() bool { return !a.byOperation && !a.server && !a.client }

func (a *api) latencies(w http.ResponseWriter, r *http.Request) {
	quantile, err := strconv.ParseFloat(r.URL.Query().Get("quantile"), 64)
	if err != nil || math.IsNaN(quantile) || math.IsInf(quantile, 0) {
		if err == nil {
			err = errors.New("it is no number from 0 to 1")
		}
		fail(w, r, http.StatusBadRequest, "unable to parse param 'quantile': "+err.Error())
		return
	}
	a.family(w, r, "latencies", fmt.Sprintf("%.2fth quantile latency, grouped by service", quantile), func(q ask) string {
		of := q.sum(graph.SeriesDuration, "")
		if q.byOperation {
			of = q.operations("")
		}
		return fmt.Sprintf(`1000 * histogram_quantile(%v, %s)`, quantile, of) // Jaeger's unit is the millisecond
	})
}

func (a *api) calls(w http.ResponseWriter, r *http.Request) {
	a.family(w, r, "call_rate", "calls/sec, grouped by service", func(q ask) string {
		if q.byOperation {
			return `histogram_count(` + q.operations("") + `)`
		}
		return q.sum(graph.SeriesRequests, `,probe=""`)
	})
}

func (a *api) errorRates(w http.ResponseWriter, r *http.Request) {
	a.family(w, r, "error_rate", "error rate, computed as a fraction of errors/sec over calls/sec, grouped by service", func(q ask) string {
		if q.byOperation {
			all, failed := `histogram_count(`+q.operations("")+`)`, `histogram_count(`+q.operations(`,status_code="STATUS_CODE_ERROR"`)+`)`
			return "(" + failed + " or 0 * " + all + ") / " + all
		}
		return q.sum(graph.SeriesFailures, "") + " / " + q.sum(graph.SeriesRequests, `,probe=""`)
	})
}

// noMetrics answers in the place of series where none are kept, in the words by which Jaeger's UI knows it.
func (a *api) noMetrics(w http.ResponseWriter, r *http.Request) bool {
	if a.Metrics.Engine != nil && a.Metrics.Queryable != nil {
		return false
	}
	fail(w, r, http.StatusNotImplemented, "metrics querying is currently disabled: this observer keeps no series")
	return true
}

func (a *api) minStep(w http.ResponseWriter, r *http.Request) {
	if a.noMetrics(w, r) {
		return
	}
	writeJSON(w, r, http.StatusOK, envelope{Data: metricsMinStep})
}

// family answers with the series of what query makes of the parameters.
func (a *api) family(w http.ResponseWriter, r *http.Request, name, help string, query func(ask) string) {
	q, err := readAsk(r, a.Clock())
	if err != nil {
		fail(w, r, http.StatusBadRequest, err.Error())
		return
	}
	if a.noMetrics(w, r) {
		return
	}
	out := family{Name: "service_" + name, Type: "GAUGE", Help: help}
	if q.byOperation {
		out.Name, out.Help = "service_operation_"+name, help+" & operation"
	}
	if text := query(q); !q.nothing() {
		if out.Metrics, err = a.rangeOf(r.Context(), text, q); err != nil {
			fail(w, r, statusOf(err), "read the series: "+err.Error())
			return
		}
	}
	writeJSON(w, r, http.StatusOK, out)
}

func (a *api) rangeOf(ctx context.Context, text string, q ask) ([]series, error) {
	query, err := a.Metrics.Engine.NewRangeQuery(ctx, a.Metrics.Queryable, nil, text, q.end.Add(-q.lookback), q.end, q.step)
	if err != nil {
		return nil, err
	}
	defer query.Close()
	res := query.Exec(ctx)
	var slow promql.ErrQueryTimeout
	switch {
	case errors.As(res.Err, &slow):
		return nil, fmt.Errorf("%w: %w", context.DeadlineExceeded, res.Err)
	case res.Err != nil:
		return nil, res.Err
	}
	m, err := res.Matrix()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrBadQuery, err)
	}
	out := make([]series, 0, len(m))
	for _, s := range m {
		one := series{Labels: []label{}}
		for _, name := range []string{"operation", "service_name"} {
			if s.Metric.Has(name) {
				one.Labels = append(one.Labels, label{name, s.Metric.Get(name)})
			}
		}
		for _, f := range s.Floats {
			p := point{Time: protoTime(time.UnixMilli(f.T).UTC())}
			p.Value.Double = number(f.F)
			one.Points = append(one.Points, p)
		}
		if len(one.Points) > 0 {
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b series) int {
		return slices.CompareFunc(a.Labels, b.Labels, func(a, b label) int { return strings.Compare(a.Value, b.Value) })
	})
	return out, nil
}

// protoTime is a time as protobuf's JSON has it: a fraction has three digits or is left out.
func protoTime(t time.Time) string {
	if t.Nanosecond() == 0 {
		return t.Format("2006-01-02T15:04:05Z")
	}
	return t.Format("2006-01-02T15:04:05.000Z")
}
