// Package requests is the wide-event search: what spans say of requests, flat, and counted by whatever one likes. List and Group are what the HTTP API answers from
// `tulle requests`; One is also what `tulle tap` shows of live ones.
package requests

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
)

// Request is what one side has written of one request, or connection.
type Request struct {
	Time     time.Time         `json:"time"` // of its begin
	TraceID  string            `json:"traceId"`
	SpanID   string            `json:"spanId"`
	Kind     string            `json:"kind"`
	Side     string            `json:"side"`
	Source   string            `json:"src"`
	Dest     string            `json:"dst"`
	Endpoint string            `json:"endpoint,omitempty"`
	Instance string            `json:"instance,omitempty"` // that reports
	Protocol string            `json:"protocol,omitempty"`
	Method   string            `json:"method,omitempty"`
	Path     string            `json:"path,omitempty"`
	Host     string            `json:"host,omitempty"`
	Route    string            `json:"route,omitempty"`
	Status   int               `json:"status,omitempty"`
	GRPC     string            `json:"grpc,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	Detail   string            `json:"detail,omitempty"`
	Failed   bool              `json:"failed"`
	Duration time.Duration     `json:"durationNs"`
	Attempts int               `json:"attempts,omitempty"`
	Revision string            `json:"revision,omitempty"`
	Override string            `json:"override,omitempty"`
	Fields   map[string]string `json:"fields,omitempty"` // header fields kept by allow-list, and what an application's span says
}

// known are attributes that Request has a field for, or that are of no use in a list.
var known = func() map[string]bool {
	m := map[string]bool{}
	for _, f := range match.Fields() {
		m[f.Means] = true
	}
	for _, k := range []string{flow.AttrFlags, flow.AttrPhase, flow.AttrTraceBegun, flow.AttrRPCSystem, flow.AttrRPCMethod} {
		m[k] = true
	}
	return m
}()

// One is what s says.
func One(s *store.Span) Request {
	a := s.Attributes
	r := Request{
		Time: s.Start, TraceID: s.TraceID.String(), SpanID: s.SpanID.String(), Kind: a[flow.AttrKind], Side: a[flow.AttrSide], Source: a[flow.AttrSourceService], Dest: a[flow.AttrDestService],
		Endpoint: a[flow.AttrEndpoint], Instance: s.Resource[flow.AttrServiceInstance], Protocol: a[flow.AttrProtocol], Method: a[flow.AttrMethod], Path: a[flow.AttrPath], Host: a[flow.AttrAuthority],
		Route: a[flow.AttrRoute], GRPC: a[flow.AttrGRPC], Reason: a[flow.AttrReason], Detail: a[flow.AttrDetail], Failed: failed(s), Duration: s.Duration, Revision: a[flow.AttrRevision],
		Override: a[flow.AttrOverride],
	}
	r.Status, _ = strconv.Atoi(a[flow.AttrStatus])
	r.Attempts, _ = strconv.Atoi(a[flow.AttrAttempts])
	for k, v := range a {
		if !known[k] && !strings.HasPrefix(k, "tulle.") {
			if r.Fields == nil {
				r.Fields = map[string]string{}
			}
			r.Fields[k] = v
		}
	}
	return r
}

var isFailed, _ = match.Lookup("failed")

func failed(s *store.Span) bool { return isFailed(s) == "true" }

// Side is from which side requests are looked at, so that each is seen once.
type Side string

// The sides.
const (
	Client Side = "client" // as callers saw it; the default
	Server Side = "server" // as the called ones saw it; also those of callers outside the mesh
	Both   Side = "both"   // everything that was written: tries, too
)

// Restrict adds to e what keeps a request from being seen twice: exchanges and connections that are over, from one side. What e says itself of kind, side or phase
// counts before it.
func Restrict(e match.Expr, side Side) (match.Expr, error) {
	from := clients
	switch side {
	case Both:
		return e, nil
	case Server:
		from = servers
	case Client, "":
	default:
		return e, fmt.Errorf("side %q: %w: write client, server or both", side, store.ErrBadQuery)
	}
	list := []match.Expr{e}
	if !e.Mentions("side") && !e.Mentions("kind") {
		list = append(list, from)
	}
	if !e.Mentions("kind") {
		list = append(list, noTries)
	}
	if !e.Mentions("phase") {
		list = append(list, over)
	}
	return match.And(list...), nil
}

var (
	clients, servers = match.MustParse("side=client"), match.MustParse("side=server")
	noTries, over    = match.MustParse("kind!=attempt"), match.MustParse("phase=close")
)

// Query is a question for requests.
type Query struct {
	Match      match.Expr
	Side       Side
	Start, End time.Time // of the begin; zero End: now
	Limit      int       // of List: at most so many, the newest; of Group: groups
	By         []string  // of Group: fields, at most four
	Sort       string    // of Group: count, errors, ratio, p50, p99, total; default count
	Budget     int       // spans to look at
}

// Page is an answer of List.
type Page struct {
	Requests []Request `json:"requests"` // newest first
	Looked   int       `json:"looked"`   // spans that were looked at
	Partial  bool      `json:"partial"`  // that was as many as may be: there may be more
}

// List returns the newest requests that are meant.
func List(ctx context.Context, spans store.Spans, q Query) (Page, error) {
	p := Page{Requests: []Request{}}
	e, err := Restrict(q.Match, q.Side)
	if err != nil {
		return p, err
	}
	res, err := match.Search(ctx, spans, store.TraceQuery{Start: q.Start, End: q.End}, e, q.Budget, func(s *store.Span) bool {
		p.Requests = append(p.Requests, One(s))
		return len(p.Requests) < q.Limit
	})
	p.Looked, p.Partial = res.Looked, res.Partial
	return p, err
}

// Group is what requests with the same values have in common.
type Group struct {
	Values []string      `json:"values"` // of Table.By, in its order; "" where nothing is said
	Count  int           `json:"count"`
	Errors int           `json:"errors"`
	Ratio  float64       `json:"errorRatio"` // 0 to 1
	P50    time.Duration `json:"p50Ns"`
	P99    time.Duration `json:"p99Ns"`
	Max    time.Duration `json:"maxNs"`
	Total  time.Duration `json:"totalNs"` // of all their durations
	Trace  string        `json:"trace"`   // of a failed one, or else of the slowest

	worst float64
	took  []time.Duration
}

// Table is an answer of Count.
type Table struct {
	By      []string `json:"by"`
	Groups  []Group  `json:"groups"`
	Others  int      `json:"others"` // groups that are not in Groups
	Folded  int      `json:"folded"` // requests that are in no group, because there were too many
	Count   int      `json:"count"`  // requests in all
	Looked  int      `json:"looked"`
	Partial bool     `json:"partial"` // as of Page: it is of the newest requests only
}

const (
	maxBy     = 4
	maxGroups = 20_000
)

// orders are what groups can be sorted by, most first.
var orders = map[string]func(a, b *Group) int{
	"count":  func(a, b *Group) int { return cmp.Compare(b.Count, a.Count) },
	"errors": func(a, b *Group) int { return cmp.Compare(b.Errors, a.Errors) },
	"ratio":  func(a, b *Group) int { return cmp.Compare(b.Ratio, a.Ratio) },
	"p50":    func(a, b *Group) int { return cmp.Compare(b.P50, a.P50) },
	"p99":    func(a, b *Group) int { return cmp.Compare(b.P99, a.P99) },
	"total":  func(a, b *Group) int { return cmp.Compare(b.Total, a.Total) },
}

// Orders lists what Query.Sort can be.
func Orders() []string { return []string{"count", "errors", "ratio", "p50", "p99", "total"} }

// Count groups the requests that are meant by the values of q.By. Quantiles are exact (nearest rank).
func Count(ctx context.Context, spans store.Spans, q Query) (Table, error) {
	t := Table{By: q.By, Groups: []Group{}}
	order, ok := orders[cmp.Or(q.Sort, "count")]
	if !ok {
		return t, fmt.Errorf("sort %q: %w: write one of %s", q.Sort, store.ErrBadQuery, strings.Join(Orders(), ", "))
	}
	if len(q.By) == 0 || len(q.By) > maxBy {
		return t, fmt.Errorf("group by %d fields: %w: name 1 to %d", len(q.By), store.ErrBadQuery, maxBy)
	}
	var by []func(*store.Span) string
	only := slices.Clone(match.Reads("failed"))
	for _, name := range q.By {
		value, ok := match.Lookup(name)
		if !ok {
			return t, fmt.Errorf("group by %q: %w: there is no such field; docs/reference/match.md lists them", name, store.ErrBadQuery)
		}
		by, only = append(by, value), append(only, match.Reads(name)...)
	}
	e, err := Restrict(q.Match, q.Side)
	if err != nil {
		return t, err
	}
	groups := map[string]*Group{}
	var key strings.Builder
	res, err := match.Search(ctx, spans, store.TraceQuery{Start: q.Start, End: q.End, Limit: q.Budget, Only: only}, e, q.Budget, func(s *store.Span) bool {
		t.Count++
		key.Reset()
		values := make([]string, len(by))
		for i, value := range by {
			values[i] = value(s)
			key.WriteString(strconv.Itoa(len(values[i])))
			key.WriteByte(':')
			key.WriteString(values[i])
		}
		g := groups[key.String()]
		if g == nil {
			if len(groups) == maxGroups {
				t.Folded++
				return true
			}
			g = &Group{Values: values, worst: -1}
			groups[key.String()] = g
		}
		g.add(s)
		return true
	})
	t.Looked, t.Partial = res.Looked, res.Partial
	if err != nil {
		return t, err
	}
	list := make([]*Group, 0, len(groups))
	for _, g := range groups {
		g.finish()
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *Group) int {
		return cmp.Or(order(a, b), cmp.Compare(b.Count, a.Count), slices.Compare(a.Values, b.Values))
	})
	for i, g := range list {
		if i == q.Limit {
			t.Others = len(list) - i
			break
		}
		t.Groups = append(t.Groups, *g)
	}
	return t, nil
}

func (g *Group) add(s *store.Span) {
	g.Count++
	g.took = append(g.took, s.Duration)
	g.Total += s.Duration
	g.Max = max(g.Max, s.Duration)
	worth := float64(s.Duration)
	if failed(s) {
		g.Errors++
		worth += math.MaxInt64
	}
	if worth > g.worst {
		g.worst, g.Trace = worth, s.TraceID.String()
	}
}

func (g *Group) finish() {
	slices.Sort(g.took)
	g.P50, g.P99 = rank(g.took, 0.5), rank(g.took, 0.99)
	g.Ratio = float64(g.Errors) / float64(g.Count)
	g.took = nil
}

// rank is the smallest value that at least share of all are not above.
func rank(sorted []time.Duration, share float64) time.Duration {
	return sorted[max(int(math.Ceil(share*float64(len(sorted))))-1, 0)]
}
