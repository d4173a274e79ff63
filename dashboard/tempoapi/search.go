package tempoapi

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/traceql"
)

// rootMissing is what Tempo calls a trace whose root has not come.
const rootMissing = "<root span not yet received>"

// The shapes of tempopb's SearchResponse in JSON.
type (
	searchAnswer struct {
		Traces  []traceAnswer `json:"traces"`
		Metrics searchMetrics `json:"metrics"`
	}
	traceAnswer struct {
		TraceID           string                  `json:"traceID"`
		RootServiceName   string                  `json:"rootServiceName,omitempty"`
		RootTraceName     string                  `json:"rootTraceName,omitempty"`
		StartTimeUnixNano string                  `json:"startTimeUnixNano"`
		DurationMs        uint64                  `json:"durationMs,omitempty"`
		SpanSet           *setAnswer              `json:"spanSet,omitempty"`
		SpanSets          []setAnswer             `json:"spanSets,omitempty"`
		ServiceStats      map[string]serviceCount `json:"serviceStats,omitempty"`
	}
	setAnswer struct {
		Spans      []spanAnswer `json:"spans"`
		Matched    int          `json:"matched"`
		Attributes []keyValue   `json:"attributes,omitempty"`
	}
	spanAnswer struct {
		SpanID            string     `json:"spanID"`
		Name              string     `json:"name,omitempty"`
		StartTimeUnixNano string     `json:"startTimeUnixNano"`
		DurationNanos     string     `json:"durationNanos"`
		Attributes        []keyValue `json:"attributes,omitempty"`
	}
	serviceCount struct {
		SpanCount  int `json:"spanCount"`
		ErrorCount int `json:"errorCount,omitempty"`
	}
	keyValue struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
	// searchMetrics say how far the search came: with fewer jobs completed than there were it ended at its budget or its time.
	searchMetrics struct {
		InspectedTraces int `json:"inspectedTraces,omitempty"`
		CompletedJobs   int `json:"completedJobs"`
		TotalJobs       int `json:"totalJobs"`
	}
)

func metricsOf(r traceql.Result) searchMetrics {
	m := searchMetrics{InspectedTraces: r.Looked, CompletedJobs: 1, TotalJobs: 1}
	if r.Partial {
		m.TotalJobs = 2
	}
	return m
}

// otlpValue is a value as OTLP's JSON has it.
func otlpValue(v traceql.Value) any {
	switch v.Kind {
	case traceql.Bool:
		return map[string]bool{"boolValue": v.Int == 1}
	case traceql.Int:
		return map[string]string{"intValue": strconv.FormatInt(v.Int, 10)}
	case traceql.Float:
		return map[string]float64{"doubleValue": v.Float}
	case traceql.Nil, traceql.Duration, traceql.String, traceql.Status, traceql.SpanKind:
	}
	return map[string]string{"stringValue": v.String()}
}

func keyValues(as []traceql.Attribute) (out []keyValue) {
	for _, a := range as {
		out = append(out, keyValue{a.Name, otlpValue(a.Value)})
	}
	return out
}

// byTags are the names that Tempo's search by tags has for fields.
var byTags = map[string]string{
	"service.name": "resource.service.name", "root.service.name": "rootServiceName", "root.name": "rootName", "name": "name", "status": "status", "kind": "kind",
}

// tagQuery turns tags, in logfmt, into TraceQL.
func tagQuery(tags string) (string, error) {
	var terms []string
	rest := strings.TrimSpace(tags)
	for rest != "" {
		key, after, ok := strings.Cut(rest, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.ContainsAny(key, " \t\"") {
			return "", bad("tags", tags, "key=value pairs with spaces between them; values with spaces stand in double quotes")
		}
		value := after
		rest = ""
		if strings.HasPrefix(after, `"`) {
			q, err := strconv.QuotedPrefix(after)
			if err != nil {
				return "", bad("tags", tags, "key=value pairs; a quotation mark is not closed")
			}
			rest = strings.TrimSpace(after[len(q):])
			value, _ = strconv.Unquote(q)
		} else if i := strings.IndexAny(after, " \t"); i >= 0 {
			value, rest = after[:i], strings.TrimSpace(after[i:])
		}
		field, ok := byTags[key]
		if !ok {
			field = `."` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		}
		quoted := strconv.Quote(value)
		switch {
		case key == "error" && value == "true":
			terms = append(terms, `status = error`)
		case field == "status" || field == "kind":
			terms = append(terms, field+" = "+value)
		case strings.HasPrefix(field, `."`) && (value == "true" || value == "false" || isNumber(value)):
			terms = append(terms, "("+field+" = "+quoted+" || "+field+" = "+value+")") // tags have no types
		default:
			terms = append(terms, field+" = "+quoted)
		}
	}
	return "{ " + strings.Join(terms, " && ") + " }", nil
}

func isNumber(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
}

func (a *api) search(w http.ResponseWriter, r *http.Request) error {
	v := r.URL.Query()
	limit, err := number(v, "limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	perSet, err := number(v, "spss", defaultSpans, maxSpans)
	if err != nil {
		return err
	}
	o := traceql.Options{Budget: searchBudget}
	if o.Start, err = instant(v, "start", time.Time{}); err != nil {
		return err
	}
	if o.End, err = instant(v, "end", a.Clock()); err != nil {
		return err
	}
	least, err := duration(v, "minDuration")
	if err != nil {
		return err
	}
	most, err := duration(v, "maxDuration")
	if err != nil {
		return err
	}
	if least > 0 || most > 0 {
		o.Also = func(t *traceql.Trace) bool {
			d := time.Duration(t.End - t.Start) //nolint:gosec // times of this era
			return d >= least && (most == 0 || d <= most)
		}
	}
	query := v.Get("q")
	if query == "" && v.Get("tags") != "" {
		if query, err = tagQuery(v.Get("tags")); err != nil {
			return err
		}
	}
	q, err := traceql.Parse(query)
	if err != nil {
		return err
	}
	if q.Metrics() {
		return badRequest{&traceql.Error{Column: 1, Text: "this query is for series: ask /api/metrics/query_range"}}
	}
	answer := searchAnswer{Traces: []traceAnswer{}}
	res, err := traceql.Search(r.Context(), a.Spans, q, o, func(f traceql.Found) bool {
		answer.Traces = append(answer.Traces, found(q, f, perSet, v.Get("q") != ""))
		return len(answer.Traces) < limit
	})
	if err != nil {
		return err
	}
	answer.Metrics = metricsOf(res)
	return writeJSON(w, answer)
}

func found(q *traceql.Query, f traceql.Found, perSet int, sets bool) traceAnswer {
	t := f.Trace
	out := traceAnswer{
		TraceID: t.ID.String(), RootServiceName: rootMissing, StartTimeUnixNano: strconv.FormatUint(t.Start, 10), DurationMs: (t.End - t.Start) / 1e6, ServiceStats: map[string]serviceCount{},
	}
	if service, name, ok := t.Root(); ok {
		out.RootServiceName, out.RootTraceName = service, name
	}
	for _, s := range t.Spans {
		c := out.ServiceStats[s.Service()]
		c.SpanCount++
		if s.Failed() {
			c.ErrorCount++
		}
		out.ServiceStats[s.Service()] = c
	}
	if !sets {
		return out
	}
	for _, set := range f.Sets {
		one := setAnswer{Spans: []spanAnswer{}, Matched: len(set.Spans), Attributes: keyValues(set.By)}
		for _, s := range set.Spans[:min(len(set.Spans), perSet)] {
			one.Spans = append(one.Spans, spanAnswer{
				SpanID: s.SpanID().String(), Name: s.Name(), StartTimeUnixNano: strconv.FormatUint(uint64(s.StartTimestamp()), 10),
				DurationNanos: strconv.FormatInt(s.Duration(), 10), Attributes: keyValues(q.Show(s)),
			})
		}
		out.SpanSets = append(out.SpanSets, one)
	}
	out.SpanSet = &out.SpanSets[0]
	return out
}

// label is the string form of a series' label; one that is not there is "nil", as in Tempo.
func label(a traceql.Attribute) string { return cmp.Or(a.Value.String(), `""`) }
