package page

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// TraceRow is one trace in a list.
type TraceRow struct {
	ID, Short, Service, Operation string
	Start                         time.Time
	Duration                      time.Duration
	Share                         float64 // of the longest in the list, 0 to 1
	Spans, Errors                 int
	Services                      []store.ServiceCount
	Partial                       bool
	Arriving                      bool // partial because it is seconds old
}

func traceRows(list []store.TraceSummary, now time.Time) []TraceRow {
	longest := time.Duration(1)
	for _, t := range list {
		longest = max(longest, t.Duration)
	}
	rows := make([]TraceRow, 0, len(list))
	for _, t := range list {
		id := t.ID
		if id == "" {
			id = t.TraceID.String()
		}
		rows = append(rows, TraceRow{
			ID: id, Short: shortID(id), Service: t.RootService, Operation: t.RootOperation, Start: t.Start, Duration: t.Duration,
			Share: float64(t.Duration) / float64(longest), Spans: t.Spans, Errors: t.Errors, Services: t.Services, Partial: t.Partial, Arriving: t.Arriving(now),
		})
	}
	return rows
}

// TraceForm is the search as the reader typed it.
type TraceForm struct {
	Service, Operation, Source, Destination, Tags, Status, Reason, Protocol, GRPC, Min, Max, Lookback, Start, End, Limit string
}

// TracesView is the search page.
type TracesView struct {
	Shell      part.Shell
	Form       TraceForm
	Services   []string
	Operations []string
	Reasons    []string
	Protocols  []string
	GRPC       []string // names of gRPC statuses
	Rows       []TraceRow
	Next       string // address of the next page
	Error      string
	Searched   string // what was searched, in words
	Now        time.Time
	Took       time.Duration
	When       *WhenView // nil: nothing to draw
	Between    string    // the time that start and end leave, in words; "" without them
	Anytime    string    // address of the same search without them
}

// Lookbacks are the choices of the search form.
var Lookbacks = []struct{ Value, Label string }{
	{"", "All time"}, {"5m", "Last 5 minutes"}, {"15m", "Last 15 minutes"}, {"1h", "Last hour"}, {"6h", "Last 6 hours"}, {"24h", "Last 24 hours"}, {"168h", "Last 7 days"},
}

// Traces searches traces, newest first.
func Traces(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		q := r.URL.Query()
		v := TracesView{Shell: d.shell(ctx, "Traces", "/traces", ""), Now: d.Clock()}
		v.Form = TraceForm{
			Service: q.Get("service"), Operation: q.Get("operation"), Source: q.Get("source"), Destination: q.Get("destination"), Tags: q.Get("tags"),
			Status: q.Get("status"), Reason: q.Get("reason"), Protocol: q.Get("protocol"), GRPC: q.Get("grpc"), Min: q.Get("min"), Max: q.Get("max"), Lookback: q.Get("lookback"), Start: q.Get("start"), End: q.Get("end"), Limit: q.Get("limit"),
		}
		v.Services, _ = d.Spans.Services(ctx)
		if v.Form.Service != "" {
			if ops, err := d.Spans.Operations(ctx, v.Form.Service); err == nil {
				for _, o := range ops {
					if len(v.Operations) == 0 || v.Operations[len(v.Operations)-1] != o.Name {
						v.Operations = append(v.Operations, o.Name)
					}
				}
			}
		}
		for _, reason := range flow.Reasons() {
			v.Reasons = append(v.Reasons, reason.String())
		}
		for p := flow.ProtocolTCP; p <= flow.ProtocolHTTP; p++ {
			v.Protocols = append(v.Protocols, p.String())
		}
		for code := range uint64(flow.GRPCCodes) {
			v.GRPC = append(v.GRPC, flow.NewGRPCStatus(code).String())
		}
		status := http.StatusOK
		query, err := ParseTraceQuery(q, v.Now)
		var page store.TracePage
		if err == nil {
			counted := make(chan *WhenView, 1)
			go func() {
				if query.Cursor != "" { // an older page: the bars were on the first
					counted <- nil
					return
				}
				counted <- when(ctx, d, q, query, v.Now)
			}()
			start := time.Now()
			page, err = d.Spans.Summaries(ctx, query)
			v.Took = time.Since(start)
			v.When = <-counted
		}
		if err != nil {
			v.Error = explainSearch(err)
			status = statusOf(err)
		}
		v.Rows = traceRows(page.Traces, v.Now)
		if v.Form.Start+v.Form.End != "" && err == nil {
			v.Between, v.Anytime = between(v.Now, query), searchURL(q, nil, "start", "end", "cursor")
		}
		if page.Next != "" {
			v.Next = searchURL(q, url.Values{"cursor": {page.Next}})
		}
		render(w, r, status, TracesPage(v))
	}
}

// between says in words what a search's own times leave.
func between(now time.Time, q store.TraceQuery) string {
	switch {
	case q.End.IsZero():
		return "since " + part.Clock(now, q.Start)
	case q.Start.IsZero():
		return "until " + part.Clock(now, q.End)
	}
	return part.Clock(now, q.Start) + " to " + part.Clock(now, q.End)
}

// searchURL is the address of a search, with some parameters set and others dropped.
func searchURL(q, set url.Values, drop ...string) string {
	rest := url.Values{}
	for k := range q {
		if q.Get(k) != "" && !slices.Contains(drop, k) {
			rest[k] = q[k]
		}
	}
	maps.Copy(rest, set)
	if len(rest) == 0 {
		return "/traces"
	}
	return "/traces?" + rest.Encode()
}

func explainSearch(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "The search took longer than " + part.Span(queryTime) + " and was stopped. Narrow the time range or name a service."
	case errors.Is(err, store.ErrBusy):
		return "The store is busy with other searches. Try again in a moment."
	}
	return err.Error()
}

// maxPage bounds how many traces one page may ask for.
const maxPage = 500

// ParseTraceQuery reads a search from URL parameters: service, operation, kind, source, destination, tags ("k=v k2!=v2 k3 k4=~pattern", values may be
// quoted), status=error, reason, protocol and grpc (as Records have them: "h2", "UNAVAILABLE"), min and max (Go durations), lookback or start and end (RFC 3339 or unix seconds), limit, cursor.
// Errors wrap store.ErrBadQuery.
func ParseTraceQuery(q url.Values, now time.Time) (store.TraceQuery, error) {
	out := store.TraceQuery{
		Service: q.Get("service"), Operation: q.Get("operation"), Kind: q.Get("kind"), Source: q.Get("source"), Destination: q.Get("destination"),
		Reason: q.Get("reason"), Cursor: q.Get("cursor"), Limit: 25,
	}
	bad := func(name, value, want string) error {
		return fmt.Errorf("%s %q: %w: write %s", name, value, store.ErrBadQuery, want)
	}
	switch s := q.Get("status"); s {
	case "", "any":
	case "error":
		out.Errors = true
	default:
		return out, bad("status", s, "error, or leave it out")
	}
	for _, f := range []struct {
		name, key, want string
		known           func(string) bool
	}{
		{"protocol", flow.AttrProtocol, "one of http/1.1, h2, grpc, http, tcp, tls", func(s string) bool { _, ok := flow.ParseProtocol(s); return ok }},
		{"grpc", flow.AttrGRPC, "the name of a gRPC status such as UNAVAILABLE", func(s string) bool { _, ok := flow.ParseGRPCStatus(s); return ok }},
	} {
		if s := q.Get(f.name); s != "" {
			if !f.known(s) {
				return out, bad(f.name, s, f.want)
			}
			out.Attributes = append(out.Attributes, store.AttributeMatch{Key: f.key, Value: s, Op: "="})
		}
	}
	for name, to := range map[string]*time.Duration{"min": &out.MinDuration, "max": &out.MaxDuration} {
		if s := strings.ReplaceAll(q.Get(name), " ", ""); s != "" {
			v, err := time.ParseDuration(s)
			if err != nil || v < 0 {
				return out, bad(name, s, "a duration such as 250ms or 1.5s")
			}
			*to = v
		}
	}
	if out.MaxDuration > 0 && out.MinDuration > out.MaxDuration {
		return out, bad("min", q.Get("min"), "a minimum below the maximum")
	}
	if s := q.Get("lookback"); s != "" {
		v, err := time.ParseDuration(s)
		if err != nil || v <= 0 {
			return out, bad("lookback", s, "a duration such as 15m or 6h")
		}
		out.Start = now.Add(-v)
	}
	for name, to := range map[string]*time.Time{"start": &out.Start, "end": &out.End} {
		if s := q.Get(name); s != "" {
			t, err := ParseTime(s)
			if err != nil {
				return out, bad(name, s, "a time such as 2026-11-20T14:30:00Z or unix seconds")
			}
			*to = t
		}
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			return out, bad("limit", s, "a number from 1 to "+strconv.Itoa(maxPage))
		}
		out.Limit = n
	}
	for _, tags := range q["tags"] {
		m, err := ParseTags(tags)
		if err != nil {
			return out, err
		}
		out.Attributes = append(out.Attributes, m...)
	}
	return out, nil
}

// ParseTime reads RFC 3339 or unix seconds with fraction.
func ParseTime(s string) (time.Time, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil && f > 0 && f < 1e11 {
		return time.Unix(0, int64(f*1e9)).UTC(), nil
	}
	return time.Parse(time.RFC3339Nano, s)
}

// tagOps are what stands between a key and its value, longer ones first, and the operator of a store that it means.
var tagOps = [][2]string{{"!=", "!="}, {"!~", "!~"}, {"=~", "~"}, {"=", "="}, {"~", "~"}}

// ParseTags reads "k=v k2!=v2 k3 k4=~pattern k5!~pattern": a bare key means that it exists; values with spaces are written in double quotes, and so is one that begins with "~".
func ParseTags(s string) ([]store.AttributeMatch, error) {
	var out []store.AttributeMatch
	rest := strings.TrimSpace(s)
	for rest != "" {
		end := strings.IndexAny(rest, "=!~ \t")
		if end < 0 {
			end = len(rest)
		}
		m := store.AttributeMatch{Key: rest[:end], Op: "exists"}
		rest = rest[end:]
		for _, op := range tagOps {
			if strings.HasPrefix(rest, op[0]) {
				m.Op, rest = op[1], rest[len(op[0]):]
				break
			}
		}
		if m.Key == "" || m.Op == "exists" && strings.HasPrefix(rest, "!") {
			return nil, fmt.Errorf("tags %q: %w: write key=value, key!=value, key=~pattern, key!~pattern or key, separated by spaces", s, store.ErrBadQuery)
		}
		if m.Op != "exists" {
			if strings.HasPrefix(rest, `"`) {
				q, err := strconv.QuotedPrefix(rest)
				if err == nil {
					m.Value, err = strconv.Unquote(q)
				}
				if err != nil {
					return nil, fmt.Errorf("tags %q: %w: a quoted value is not closed", s, store.ErrBadQuery)
				}
				rest = rest[len(q):]
			} else {
				end := strings.IndexAny(rest, " \t")
				if end < 0 {
					end = len(rest)
				}
				m.Value, rest = rest[:end], rest[end:]
			}
		}
		if strings.HasSuffix(m.Op, "~") {
			if _, err := store.ParsePattern(m.Value); err != nil {
				return nil, fmt.Errorf("tag %s: %w", m.Key, err)
			}
		}
		out = append(out, m)
		rest = strings.TrimLeft(rest, " \t")
	}
	return out, nil
}

// Find opens what was typed into the header: a trace ID or a service.
func Find(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimSpace(r.URL.Query().Get("id"))
		if _, err := parseTraceID(id); err == nil {
			http.Redirect(w, r, TraceURL(strings.ToLower(id)), http.StatusSeeOther)
			return
		}
		names, _ := d.Spans.Services(r.Context())
		for _, n := range d.live().Nodes {
			names = append(names, n.ID)
		}
		sort.Strings(names)
		for _, match := range []func(string) bool{
			func(n string) bool { return n == id },
			func(n string) bool { return id != "" && strings.HasPrefix(strings.ToLower(n), strings.ToLower(id)) },
			func(n string) bool { return id != "" && strings.Contains(strings.ToLower(n), strings.ToLower(id)) },
		} {
			for _, n := range names {
				if match(n) {
					http.Redirect(w, r, ServiceURL(n), http.StatusSeeOther)
					return
				}
			}
		}
		message(d, w, r, http.StatusNotFound, "Nothing is called that", "“"+part.Ellipsis(id, 60)+"” is neither a trace ID (32 hex digits) nor part of a service's name.")
	}
}
