// Package tulleapi is Tulle's own JSON API, which the CLI and scripts use: the same data as the pages. docs/reference/http-api.md describes it.
package tulleapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/page"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/match"
	"github.com/tulle-mesh/tulle/store/tap"
)

const queryTime = 30 * time.Second

type api struct {
	*source.Sources
	extra func() map[string]any
}

// routes is the table of endpoints.
var routes = []struct {
	pattern string
	handler func(*api, *http.Request) (any, error)
}{
	{"GET /api/tulle/v1/graph", (*api).graph},
	{"GET /api/tulle/v1/graph/diff", (*api).diff},
	{"GET /api/tulle/v1/graph/retries", (*api).retries},
	{"GET /api/tulle/v1/traces", (*api).traces},
	{"GET /api/tulle/v1/events", (*api).events},
	{"GET /api/tulle/v1/alerts", (*api).alerts},
	{"GET /api/tulle/v1/alerts/deliveries", (*api).deliveries},
	{"GET /api/tulle/v1/rules", (*api).rules},
	{"GET /api/tulle/v1/proxies", (*api).proxies},
	{"GET /api/tulle/v1/services", (*api).services},
	{"GET /api/tulle/v1/services/{name}", (*api).service},
	{"GET /api/tulle/v1/stats", (*api).stats},
	{"GET /api/tulle/v1/requests", (*api).requests},
	{"GET /api/tulle/v1/requests/count", (*api).countRequests},
	{"GET /api/tulle/v1/why/{id}", (*api).why},
}

// Register mounts the API. extra adds figures to /stats; it may be nil.
func Register(mux *http.ServeMux, s *source.Sources, extra func() map[string]any) {
	a := &api{s, extra}
	for _, r := range routes {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) {
			ctx, cancel := context.WithTimeout(req.Context(), queryTime)
			defer cancel()
			v, err := r.handler(a, req.WithContext(ctx))
			if err != nil {
				fail(w, err)
				return
			}
			write(w, http.StatusOK, v)
		})
	}
	mux.HandleFunc("GET /api/tulle/v1/graph/stream", a.stream)
	mux.HandleFunc("GET /api/tulle/v1/tap", a.tap)
	mux.HandleFunc("GET /api/tulle/v1/traces/{id}", a.trace)
	mux.HandleFunc("GET /api/tulle/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, fmt.Errorf("%s: %w: docs/reference/http-api.md lists the endpoints", r.URL.Path, store.ErrNotFound))
	})
}

// Problem is the body of every answer that is not 2xx.
type Problem struct {
	Error struct {
		Status  int    `json:"status"`
		Message string `json:"message"`
		Retry   bool   `json:"retry"` // trying again later may help
	} `json:"error"`
}

func write(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"status":500,"message":"the answer cannot be encoded","retry":false}}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

func fail(w http.ResponseWriter, err error) {
	var p Problem
	p.Error.Message = err.Error()
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, graph.ErrNoHistory):
		p.Error.Status = http.StatusNotFound
	case errors.Is(err, store.ErrBadQuery):
		p.Error.Status = http.StatusBadRequest
	case errors.Is(err, store.ErrBusy), errors.Is(err, tap.ErrTooMany), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		p.Error.Status, p.Error.Retry = http.StatusServiceUnavailable, true
	default:
		p.Error.Status = http.StatusInternalServerError
	}
	write(w, p.Error.Status, p)
}

func bad(name, value, want string) error {
	return fmt.Errorf("%s %q: %w: write %s", name, value, store.ErrBadQuery, want)
}

// graph is the live snapshot, or ?at= of another instant.
func (a *api) graph(r *http.Request) (any, error) {
	if at := r.URL.Query().Get("at"); at != "" {
		return a.graphAt(r.Context(), "at", at)
	}
	return a.live(), nil
}

// diff is what changed from the graph at ?from= to that at ?to=, or to the live one.
func (a *api) diff(r *http.Request) (any, error) {
	q := r.URL.Query()
	from, err := a.graphAt(r.Context(), "from", q.Get("from"))
	if err != nil {
		return nil, err
	}
	to := a.live()
	if q.Has("to") {
		if to, err = a.graphAt(r.Context(), "to", q.Get("to")); err != nil {
			return nil, err
		}
	}
	return graph.Diff(from, to), nil
}

// retries are the ways from a service to another with what retries make of them, live or ?at= another instant.
func (a *api) retries(r *http.Request) (any, error) {
	q := r.URL.Query()
	s, limit := a.live(), 20
	var err error
	if at := q.Get("at"); at != "" {
		if s, err = a.graphAt(r.Context(), "at", at); err != nil {
			return nil, err
		}
	}
	if n := q.Get("limit"); n != "" {
		if limit, err = strconv.Atoi(n); err != nil || limit < 1 || limit > 1000 {
			return nil, bad("limit", n, "a number from 1 to 1000")
		}
	}
	paths, more := graph.RetryPaths(s, q.Get("from"), q.Get("to"), limit)
	if paths == nil {
		paths = []graph.RetryPath{}
	}
	return map[string]any{"at": s.At, "windowNs": s.Window, "paths": paths, "more": more}, nil
}

func (a *api) graphAt(ctx context.Context, name, at string) (*graph.Snapshot, error) {
	t, err := page.ParseTime(at)
	if err != nil {
		return nil, bad(name, at, "a time such as 2026-11-20T14:30:00Z or unix seconds")
	}
	return a.Graph.At(ctx, t)
}

func (a *api) live() *graph.Snapshot {
	if s := a.Graph.Live(); s != nil {
		return s
	}
	return &graph.Snapshot{Nodes: []graph.Node{}, Edges: []graph.Edge{}}
}

// stream is one snapshot per line and tick, until the client leaves.
func (a *api) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for s := range a.Graph.Subscribe(r.Context()) {
		_ = rc.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if enc.Encode(s) != nil || rc.Flush() != nil {
			return
		}
	}
}

// traceCandidates bounds how many traces are read for one page of those that an expression means.
const traceCandidates = 1000

// traces is one page of summaries. What of ?match= the store cannot say by itself is asked of the spans of each trace.
func (a *api) traces(r *http.Request) (any, error) {
	q, err := page.ParseTraceQuery(r.URL.Query(), a.Clock())
	if err != nil {
		return nil, err
	}
	expr, err := match.Parse(r.URL.Query().Get("match"))
	if err != nil {
		return nil, err
	}
	q, exact := expr.Query(q)
	meets, err := match.Meeting(q)
	if err != nil {
		return nil, err
	}
	out := struct {
		store.TracePage
		Partial bool `json:"partial,omitempty"` // next goes on: too many traces had to be read to fill the page
	}{TracePage: store.TracePage{Traces: []store.TraceSummary{}}}
	want := q.Limit
	for read := 0; ; {
		p, err := a.Spans.Summaries(r.Context(), q)
		if err != nil {
			return nil, err
		}
		for _, t := range p.Traces {
			if t.ID == "" {
				t.ID = t.TraceID.String()
			}
			if !exact {
				read++
				switch meant, err := a.meant(r.Context(), t, func(s *store.Span) bool { return meets(s) && expr.Match(s) }); {
				case err != nil:
					return nil, err
				case !meant:
					continue
				}
			}
			out.Traces = append(out.Traces, t)
		}
		out.Next, out.LeftOut = p.Next, max(out.LeftOut, p.LeftOut)
		if p.Next == "" || len(out.Traces) >= want {
			return out, nil
		}
		if read >= traceCandidates {
			out.Partial = true
			store.BudgetOf(r.Context()).Cut(strconv.Itoa(read) + " traces were read, and next goes on")
			return out, nil
		}
		q.Cursor, q.Limit = p.Next, want-len(out.Traces)
	}
}

// meant reports whether one span of a trace meets all that was asked for.
func (a *api) meant(ctx context.Context, t store.TraceSummary, meets func(*store.Span) bool) (bool, error) {
	id := t.TraceID
	if id.IsZero() {
		b, err := hex.DecodeString(t.ID)
		if err != nil || len(b) != len(id) {
			return false, fmt.Errorf("trace %q of the store has no id that can be read", t.ID)
		}
		id = flow.TraceID(b)
	}
	defer store.BudgetOf(ctx).Mark()(0)
	td, err := a.Spans.Trace(ctx, id)
	if errors.Is(err, store.ErrNotFound) { // too old since
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, s := range store.Flat(td) {
		if meets(&s) {
			return true, nil
		}
	}
	return false, nil
}

// trace is OTLP JSON; ?download=1 names a file.
func (a *api) trace(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	s := r.PathValue("id")
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 {
		fail(w, bad("trace ID", s, "32 hex digits"))
		return
	}
	id := flow.TraceID(b)
	td, err := a.Spans.Trace(ctx, id)
	if err != nil {
		fail(w, err)
		return
	}
	body, err := (&ptrace.JSONMarshaler{}).MarshalTraces(td)
	if err != nil {
		fail(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if r.URL.Query().Get("download") != "" {
		h.Set("Content-Disposition", `attachment; filename="trace-`+id.String()+`.otlp.json"`)
	}
	_, _ = w.Write(append(body, '\n'))
}

// eventQuery reads kind, service, start, end, limit, before.
func eventQuery(q url.Values) (event.Query, error) {
	out := event.Query{Kind: event.Kind(q.Get("kind")), Service: q.Get("service"), Before: q.Get("before"), Limit: 100}
	for name, to := range map[string]*time.Time{"start": &out.Start, "end": &out.End} {
		if s := q.Get(name); s != "" {
			t, err := page.ParseTime(s)
			if err != nil {
				return out, bad(name, s, "a time such as 2026-11-20T14:30:00Z or unix seconds")
			}
			*to = t
		}
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 10_000 {
			return out, bad("limit", s, "a number from 1 to 10000")
		}
		out.Limit = n
	}
	return out, nil
}

func (a *api) events(r *http.Request) (any, error) {
	q, err := eventQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	out := struct {
		Events []event.Event `json:"events"`
		Next   string        `json:"next,omitempty"` // the before of the next page
	}{Events: []event.Event{}}
	if a.Events == nil {
		return out, nil
	}
	list, next, err := a.Events.Query(r.Context(), q)
	if list != nil {
		out.Events = list
	}
	out.Next = next
	return out, err
}

func (a *api) alerts(r *http.Request) (any, error) {
	out := map[string][]source.Alert{"alerts": {}}
	if a.Alerts == nil {
		return out, nil
	}
	list, err := a.Alerts.Alerts(r.Context())
	if list != nil {
		out["alerts"] = list
	}
	return out, err
}

func (a *api) deliveries(r *http.Request) (any, error) {
	out := map[string][]source.Delivery{"deliveries": {}}
	if a.Alerts == nil {
		return out, nil
	}
	list, err := a.Alerts.Deliveries(r.Context())
	if list != nil {
		out["deliveries"] = list
	}
	return out, err
}

func (a *api) rules(r *http.Request) (any, error) {
	out := map[string][]source.Rule{"rules": {}}
	if a.Alerts == nil {
		return out, nil
	}
	list, err := a.Alerts.Rules(r.Context())
	if list != nil {
		out["rules"] = list
	}
	return out, err
}

func (a *api) proxies(r *http.Request) (any, error) {
	list, partial, err := page.AllProxies(r.Context(), a.Sources, a.live())
	if list == nil {
		list = []source.Proxy{}
	}
	if partial {
		err = nil // what the sidecars report is an answer; partial says that the controller gave none
	}
	return map[string]any{"proxies": list, "partial": partial}, err
}

func (a *api) services(r *http.Request) (any, error) {
	list, err := a.Spans.Services(r.Context())
	known := map[string]bool{}
	for _, s := range list {
		known[s] = true
	}
	for _, n := range a.live().Nodes {
		if !known[n.ID] {
			list = append(list, n.ID)
		}
	}
	if list == nil {
		list = []string{}
	}
	return map[string]any{"services": list}, err
}

// service is a node with its edges, operations and newest events.
func (a *api) service(r *http.Request) (any, error) {
	name := r.PathValue("name")
	out := struct {
		Node       *graph.Node       `json:"node"` // null when it takes no traffic now
		Callers    []graph.Edge      `json:"callers"`
		Callees    []graph.Edge      `json:"callees"`
		Operations []store.Operation `json:"operations"`
		Events     []event.Event     `json:"events"`
	}{Callers: []graph.Edge{}, Callees: []graph.Edge{}, Operations: []store.Operation{}, Events: []event.Event{}}
	s := a.live()
	for i := range s.Nodes {
		if s.Nodes[i].ID == name {
			out.Node = &s.Nodes[i]
		}
	}
	for _, e := range s.Edges {
		if e.Destination == name {
			out.Callers = append(out.Callers, e)
		}
		if e.Source == name {
			out.Callees = append(out.Callees, e)
		}
	}
	ops, err := a.Spans.Operations(r.Context(), name)
	if err != nil {
		return nil, err
	}
	if ops != nil {
		out.Operations = ops
	}
	if out.Node == nil && len(out.Callers)+len(out.Callees)+len(out.Operations) == 0 {
		return nil, fmt.Errorf("service %q: %w", name, store.ErrNotFound)
	}
	if a.Events != nil {
		if list, _, err := a.Events.Query(r.Context(), event.Query{Service: name, Limit: 20}); err == nil && list != nil {
			out.Events = list
		}
	}
	return out, nil
}

func (a *api) stats(*http.Request) (any, error) {
	s := a.live()
	out := map[string]any{
		"spans": a.Spans.Stats(), "backend": a.Spans.Capabilities().Name, "nodes": len(s.Nodes), "edges": len(s.Edges), "graphSequence": s.Sequence, "graphAt": s.At,
		"notices": a.Notices(),
	}
	if a.Version != "" {
		out["version"] = a.Version
	}
	if a.Disk != nil {
		if d, err := a.Disk(); err == nil {
			out["disk"] = d
		}
	}
	if a.extra != nil {
		for k, v := range a.extra() {
			if _, taken := out[k]; !taken && !strings.ContainsAny(k, " ") {
				out[k] = v
			}
		}
	}
	return out, nil
}
