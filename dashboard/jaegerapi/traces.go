package jaegerapi

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	conv "github.com/jaegertracing/jaeger/model/converter/json"
	ui "github.com/jaegertracing/jaeger/model/json"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
)

const (
	defaultLimit = 100
	maxLimit     = 1500
)

// searchSpans is how many spans an answer over HTTP, which is made in memory, has before no further trace is added. A variable for tests.
var searchSpans = 200_000

// unixUnit reads an integer number of unit since the epoch.
func unixUnit(s string, unit time.Duration) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a number", s)
	}
	if n > int64(1<<62)/int64(unit) || n < 0 {
		return time.Time{}, fmt.Errorf("%q is out of range", s)
	}
	return time.Unix(0, n*int64(unit)).UTC(), nil
}

func parseID(s string) (id flow.TraceID, err error) {
	if len(s) == 0 || len(s) > 32 {
		return id, fmt.Errorf("malformed trace ID %q: it has at most 32 hex digits", s)
	}
	b, err := hex.DecodeString(strings.Repeat("0", 32-len(s)) + s)
	if err != nil {
		return id, fmt.Errorf("malformed trace ID %q: %w", s, err)
	}
	copy(id[:], b)
	return id, nil
}

// uiTrace is Jaeger's JSON of one trace.
func uiTrace(td ptrace.Traces) *ui.Trace { return conv.FromDomain(jaegermodel.ToModel(td)) }

func (a *api) trace(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.PathValue("id"))
	if err != nil {
		fail(w, r, http.StatusBadRequest, err.Error())
		return
	}
	out := uiTraces{budget: store.BudgetOf(r.Context())}
	err = out.add(r.Context(), a.Spans, id)
	if errors.Is(err, store.ErrNotFound) {
		writeJSON(w, r, http.StatusNotFound, envelope{Errors: []fault{{Code: http.StatusNotFound, Msg: "trace not found"}}})
		return
	}
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	out.write(w, r, nil)
}

// What a span holds on its way to an answer beside what the store counts for it, in bytes of heap: measured on spans of the mesh (TestAnswersHold).
const (
	uiHeld    = 9 << 10 // as Jaeger's JSON, as a value and while it becomes text
	otlpHeld  = 6 << 10 // as OTLP's JSON while it becomes text, which is copied once more
	modelHeld = 5 << 10 // as Jaeger's model
)

// uiTraces are traces as the text of an array, one after the other as they are found: as values they would take some times as much.
type uiTraces struct {
	budget *store.Budget
	text   bytes.Buffer
	traces int
	spans  int
	cut    string // why no further trace is taken; "" while there is room
}

// add reads one trace more. Where there is no room for it but for others before it, cut says so.
func (u *uiTraces) add(ctx context.Context, spans store.Spans, id flow.TraceID) (err error) {
	if u.spans >= searchSpans {
		u.cut = fmt.Sprintf("not all: the first %d traces have %d spans, and an answer takes no further trace from %d on; narrow the search or lower limit", u.traces, u.spans, searchSpans)
		return nil
	}
	drop, before := u.budget.Mark(), u.text.Len()
	defer func() {
		drop(2 * int64(u.text.Len()-before)) // a buffer that grows is up to twice as long
		if u.traces > 0 && (errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrBusy)) {
			u.cut = fmt.Sprintf("not all: after the first %d traces with %d spans: %s", u.traces, u.spans, err)
			err = nil
		}
	}()
	td, err := spans.Trace(ctx, id)
	if err != nil {
		return err
	}
	n := td.SpanCount()
	if err := u.budget.Hold(int64(n) * uiHeld); err != nil {
		return err
	}
	b, err := json.Marshal(uiTrace(td))
	if err != nil {
		return err
	}
	u.text.WriteByte("[,"[min(u.traces, 1)])
	u.text.Write(b)
	u.traces, u.spans = u.traces+1, u.spans+n
	return nil
}

// write answers with them.
func (u *uiTraces) write(w http.ResponseWriter, r *http.Request, faults []fault) {
	if u.cut != "" {
		u.budget.Cut(u.cut)
		faults = append(faults, fault{Msg: u.cut})
	}
	if u.traces == 0 {
		u.text.WriteByte('[')
	}
	u.text.WriteByte(']')
	if pretty(r) {
		if err := u.budget.Hold(6 * int64(u.text.Len())); err != nil { // it is copied, and becomes twice as long
			fail(w, r, statusOf(err), err.Error())
			return
		}
		writeJSON(w, r, http.StatusOK, envelope{Data: json.RawMessage(u.text.Bytes()), Errors: faults})
		return
	}
	around, err := json.Marshal(envelope{Data: json.RawMessage("0"), Errors: faults})
	before, after, ok := bytes.Cut(around, []byte("0"))
	if err != nil || !ok {
		fail(w, r, http.StatusInternalServerError, "the answer cannot be encoded")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	for _, part := range [][]byte{before, u.text.Bytes(), after} {
		_, _ = w.Write(part)
	}
}

func (a *api) search(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var (
		out    = uiTraces{budget: store.BudgetOf(r.Context())}
		ids    []flow.TraceID
		faults []fault
	)
	if given := q["traceID"]; len(given) > 0 {
		for _, s := range given {
			id, err := parseID(s)
			if err != nil {
				fail(w, r, http.StatusBadRequest, err.Error())
				return
			}
			ids = append(ids, id)
		}
	} else {
		query, err := legacyQuery(q)
		if err != nil {
			fail(w, r, http.StatusBadRequest, err.Error())
			return
		}
		page, err := a.Spans.Summaries(r.Context(), query)
		if err != nil {
			fail(w, r, statusOf(err), err.Error())
			return
		}
		for _, t := range page.Traces {
			ids = append(ids, summaryID(t))
		}
	}
	for _, id := range ids {
		switch err := out.add(r.Context(), a.Spans, id); {
		case errors.Is(err, store.ErrNotFound):
			faults = append(faults, fault{Msg: "trace not found", TraceID: jaegermodel.TraceID(pcommon.TraceID(id)).String()})
		case err != nil:
			fail(w, r, statusOf(err), err.Error())
			return
		}
		if out.cut != "" {
			break
		}
	}
	out.write(w, r, faults)
}

func summaryID(t store.TraceSummary) flow.TraceID {
	if t.TraceID.IsZero() {
		id, _ := parseID(t.ID)
		return id
	}
	return t.TraceID
}

// legacyQuery reads the parameters of /api/traces. Without a service all are searched, which Jaeger's own storages do not do.
func legacyQuery(q url.Values) (store.TraceQuery, error) {
	out := store.TraceQuery{Service: q.Get("service"), Operation: q.Get("operation"), Limit: defaultLimit}
	for name, to := range map[string]*time.Time{"start": &out.Start, "end": &out.End} {
		if s := q.Get(name); s != "" {
			t, err := unixUnit(s, time.Microsecond)
			if err != nil {
				return out, fmt.Errorf("unable to parse param '%s': %w", name, err)
			}
			*to = t
		}
	}
	for name, to := range map[string]*time.Duration{"minDuration": &out.MinDuration, "maxDuration": &out.MaxDuration} {
		if s := q.Get(name); s != "" {
			d, err := time.ParseDuration(s)
			if err != nil {
				return out, fmt.Errorf("unable to parse param '%s': %w", name, err)
			}
			*to = d
		}
	}
	if out.MaxDuration > 0 && out.MinDuration > out.MaxDuration {
		return out, errors.New("'maxDuration' should be greater than 'minDuration'")
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return out, fmt.Errorf("unable to parse param 'limit': %w", err)
		}
		out.Limit = min(max(n, 1), maxLimit)
	}
	tags := map[string]string{}
	for _, t := range q["tag"] {
		k, v, ok := strings.Cut(t, ":")
		if !ok {
			return out, fmt.Errorf("malformed 'tag' parameter, expecting key:value, received: %s", t)
		}
		tags[k] = v
	}
	for _, t := range q["tags"] {
		if err := json.Unmarshal([]byte(t), &tags); err != nil {
			return out, fmt.Errorf("malformed 'tags' parameter, cannot unmarshal JSON: %w", err)
		}
	}
	setTags(&out, tags)
	return out, nil
}

// setTags turns Jaeger's tags into restrictions: error=true means a failed span.
func setTags(out *store.TraceQuery, tags map[string]string) {
	keys := make([]string, 0, len(tags))
	for k := range tags {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		switch {
		case k == "error" && tags[k] == "true":
			out.Errors = true
		case k == "span.kind":
			out.Kind = tags[k]
		default:
			out.Attributes = append(out.Attributes, store.AttributeMatch{Key: k, Op: "=", Value: tags[k]})
		}
	}
}

// otlp is {"result": OTLP JSON}.
func otlp(w http.ResponseWriter, r *http.Request, td ptrace.Traces) {
	if err := store.BudgetOf(r.Context()).Hold(int64(td.SpanCount()) * otlpHeld); err != nil {
		failV3(w, r, statusOf(err), err.Error())
		return
	}
	b, err := (&ptrace.JSONMarshaler{}).MarshalTraces(td)
	if err != nil {
		failV3(w, r, http.StatusInternalServerError, "the trace cannot be encoded: "+err.Error())
		return
	}
	writeJSON(w, r, http.StatusOK, map[string]json.RawMessage{"result": b})
}

func (a *api) traceV3(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.PathValue("id"))
	if err != nil {
		failV3(w, r, http.StatusBadRequest, "malformed parameter trace_id: "+err.Error())
		return
	}
	td, err := a.Spans.Trace(r.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		failV3(w, r, http.StatusNotFound, "No traces found")
		return
	}
	if err != nil {
		failV3(w, r, statusOf(err), err.Error())
		return
	}
	otlp(w, r, td)
}

// queryV3 reads query.* of API v3.
func queryV3(r *http.Request) (store.TraceQuery, error) {
	out := store.TraceQuery{
		Service: pick(r, "query.serviceName", "query.service_name"), Operation: pick(r, "query.operationName", "query.operation_name"), Limit: defaultLimit,
	}
	if pick(r, "query.filter") != "" {
		return out, errors.New("malformed parameter query.filter: filter expressions are not supported; use query.attributes")
	}
	for _, p := range []struct {
		names []string
		to    *time.Time
	}{
		{[]string{"query.startTimeMin", "query.start_time_min"}, &out.Start}, {[]string{"query.startTimeMax", "query.start_time_max"}, &out.End},
	} {
		s := pick(r, p.names...)
		if s == "" {
			return out, fmt.Errorf("%s is required", p.names[0])
		}
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return out, fmt.Errorf("malformed parameter %s: %w", p.names[0], err)
		}
		*p.to = t
	}
	for _, p := range []struct {
		names []string
		to    *time.Duration
	}{
		{[]string{"query.durationMin", "query.duration_min"}, &out.MinDuration}, {[]string{"query.durationMax", "query.duration_max"}, &out.MaxDuration},
	} {
		if s := pick(r, p.names...); s != "" {
			d, err := time.ParseDuration(s)
			if err != nil {
				return out, fmt.Errorf("malformed parameter %s: %w", p.names[0], err)
			}
			*p.to = d
		}
	}
	if s := pick(r, "query.searchDepth", "query.search_depth", "query.num_traces"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return out, fmt.Errorf("malformed parameter query.searchDepth: %q is not a positive number", s)
		}
		out.Limit = min(n, maxLimit)
	}
	if s := pick(r, "query.attributes"); s != "" {
		tags := map[string]string{}
		if err := json.Unmarshal([]byte(s), &tags); err != nil {
			return out, fmt.Errorf("malformed parameter query.attributes: %w", err)
		}
		setTags(&out, tags)
	}
	return out, nil
}

func (a *api) searchV3(w http.ResponseWriter, r *http.Request) {
	q, err := queryV3(r)
	if err != nil {
		failV3(w, r, http.StatusBadRequest, err.Error())
		return
	}
	td, err := a.collect(r.Context(), q)
	switch {
	case err != nil:
		failV3(w, r, statusOf(err), err.Error())
	case td.ResourceSpans().Len() == 0:
		failV3(w, r, http.StatusNotFound, "No traces found")
	default:
		otlp(w, r, td)
	}
}

// collect joins the traces that match.
func (a *api) collect(ctx context.Context, q store.TraceQuery) (ptrace.Traces, error) {
	out := ptrace.NewTraces()
	page, err := a.Spans.Summaries(ctx, q)
	if err != nil {
		return out, err
	}
	spans := 0
	for i, t := range page.Traces {
		if spans >= searchSpans { // API v3 has no mark for what is not all
			return out, fmt.Errorf("%w: %d traces match, and the first %d have %d spans already, more than the %d of an answer; narrow the search or lower query.searchDepth", store.ErrBadQuery, len(page.Traces), i, spans, searchSpans)
		}
		td, err := a.Spans.Trace(ctx, summaryID(t))
		if errors.Is(err, store.ErrNotFound) {
			continue // expired in between
		}
		if err != nil {
			return out, err
		}
		spans += td.SpanCount()
		td.ResourceSpans().MoveAndAppendTo(out.ResourceSpans())
	}
	return out, nil
}

type summaryV3 struct {
	TraceID              string             `json:"traceId"`
	RootServiceName      string             `json:"rootServiceName"`
	RootOperationName    string             `json:"rootOperationName"`
	MinStartTimeUnixNano string             `json:"minStartTimeUnixNano"`
	MaxEndTimeUnixNano   string             `json:"maxEndTimeUnixNano"`
	SpanCount            int                `json:"spanCount"`
	ErrorSpanCount       int                `json:"errorSpanCount"`
	Services             []serviceSummaryV3 `json:"services"`
}

type serviceSummaryV3 struct {
	Name           string `json:"name"`
	SpanCount      int    `json:"spanCount"`
	ErrorSpanCount int    `json:"errorSpanCount"`
}

func (a *api) summariesV3(w http.ResponseWriter, r *http.Request) {
	q, err := queryV3(r)
	if err != nil {
		failV3(w, r, http.StatusBadRequest, err.Error())
		return
	}
	page, err := a.Spans.Summaries(r.Context(), q)
	if err != nil {
		failV3(w, r, statusOf(err), err.Error())
		return
	}
	out := make([]summaryV3, 0, len(page.Traces))
	for _, t := range page.Traces {
		s := summaryV3{
			TraceID: summaryID(t).String(), RootServiceName: t.RootService, RootOperationName: t.RootOperation,
			MinStartTimeUnixNano: strconv.FormatInt(t.Start.UnixNano(), 10), MaxEndTimeUnixNano: strconv.FormatInt(t.Start.Add(t.Duration).UnixNano(), 10),
			SpanCount: t.Spans, ErrorSpanCount: t.Errors, Services: []serviceSummaryV3{},
		}
		for _, c := range t.Services {
			s.Services = append(s.Services, serviceSummaryV3{c.Service, c.Spans, c.Errors})
		}
		out = append(out, s)
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"summaries": out})
}
