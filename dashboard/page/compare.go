package page

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store"
)

// CompareView is what two traces have in common, and what not.
type CompareView struct {
	Shell part.Shell
	A, B  CompareSide
	Rows  []CompareRow
	More  int // rows that are not shown
	Now   time.Time
	Error string     // why there is nothing to compare (yet)
	Like  []TraceRow // traces that begin as A does, to choose from when B is not named
}

// CompareSide is one of the two.
type CompareSide struct {
	ID, Title string
	Start     time.Time
	Duration  time.Duration
	Spans     int
	Errors    int
}

// CompareRow is one call that both traces made, or one of them.
type CompareRow struct {
	Service, Name, Kind string
	Depth               int
	A, B                CompareFigure
	Verdict             string // new, gone, slower, faster, more errors, fewer errors, more calls, fewer calls; "" for alike
	Bad                 bool   // the verdict is for the worse
}

// CompareFigure is what one trace says of a call; zero when it made none.
type CompareFigure struct {
	Count, Errors int
	Total         time.Duration
	Link          string
}

// compareRows bounds the page.
const compareRows = 1000

// CompareURL leads from one trace to the comparison with another; b may be "".
func CompareURL(a, b string) string {
	v := url.Values{"a": {a}}
	if b != "" {
		v.Set("b", b)
	}
	return "/compare?" + v.Encode()
}

// Compare shows two traces side by side, by how their calls were made.
func Compare(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		q := r.URL.Query()
		v := CompareView{Shell: d.shell(ctx, "Compare two traces", "/traces", ""), Now: d.Clock()}
		v.A.ID, v.B.ID = strings.TrimSpace(q.Get("a")), strings.TrimSpace(q.Get("b"))
		status := http.StatusOK
		var rows [2][]SpanRow
		for i, s := range []*CompareSide{&v.A, &v.B} {
			if s.ID == "" {
				missing := "Name two traces by their IDs."
				if v.A.ID != "" {
					missing = "Choose the trace to compare it with."
				}
				v.Error = cmp.Or(v.Error, missing)
				continue
			}
			id, err := parseTraceID(s.ID)
			if err != nil {
				status, v.Error = http.StatusBadRequest, s.ID+" is not a trace ID: it has 32 hex digits."
				continue
			}
			td, err := d.Spans.Trace(ctx, id)
			if err != nil {
				status, v.Error = statusOf(err), err.Error()
				if errors.Is(err, store.ErrNotFound) {
					v.Error = "Nothing is stored of " + id.String() + ". It may be older than the retention."
				}
				continue
			}
			t := NewTraceView(td, d.live())
			rows[i] = t.Rows
			*s = CompareSide{id.String(), t.Title, t.Start, t.Duration, t.Total, t.Errors}
		}
		if status == http.StatusOK && v.A.Title != "" && v.B.ID == "" {
			v.Like = d.like(ctx, v.A.ID, rows[0][0])
		}
		if v.Error == "" {
			v.Rows = compareCalls(callTree(rows[0]), callTree(rows[1]), v.A.ID, v.B.ID)
			if len(v.Rows) > compareRows {
				v.More, v.Rows = len(v.Rows)-compareRows, v.Rows[:compareRows]
			}
		}
		render(w, r, status, ComparePage(v))
	}
}

// likeRows is how many traces are offered.
const likeRows = 10

// like are the newest traces with a span as the first one of another trace.
func (d *Deps) like(ctx context.Context, id string, first SpanRow) []TraceRow {
	page, err := d.Spans.Summaries(ctx, store.TraceQuery{Service: first.Service, Operation: first.Name, Limit: likeRows + 1})
	if err != nil {
		return nil // it is a help, no more
	}
	list := slices.DeleteFunc(page.Traces, func(t store.TraceSummary) bool { return t.ID == id })
	return traceRows(list[:min(len(list), likeRows)], d.Clock())
}

// compareCalls walks two trees at once, callers first.
func compareCalls(a, b *call, idA, idB string) (out []CompareRow) {
	type pair struct{ a, b *call }
	under := func(p pair) (out []pair) {
		if p.a != nil {
			for _, c := range p.a.Calls {
				out = append(out, pair{a: c})
			}
		}
		if p.b != nil {
			for _, c := range p.b.Calls {
				i := slices.IndexFunc(out, func(x pair) bool {
					return x.a != nil && x.b == nil && x.a.Service == c.Service && x.a.Name == c.Name && x.a.Kind == c.Kind
				})
				if i >= 0 {
					out[i].b = c
				} else {
					out = append(out, pair{b: c})
				}
			}
		}
		return out
	}
	figure := func(c *call, id string) CompareFigure {
		if c == nil {
			return CompareFigure{}
		}
		return CompareFigure{c.Count, c.Errors, c.Total, TraceURL(id) + "?span=" + c.Longest + "#s-" + c.Longest}
	}
	stack := under(pair{a, b})
	slices.Reverse(stack)
	for len(stack) > 0 {
		p := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		c := p.a
		if c == nil {
			c = p.b
		}
		row := CompareRow{Service: c.Service, Name: c.Name, Kind: c.Kind, Depth: min(c.Depth, maxIndent), A: figure(p.a, idA), B: figure(p.b, idB)}
		row.Verdict, row.Bad = verdictOf(row.A, row.B)
		out = append(out, row)
		for _, x := range slices.Backward(under(p)) {
			stack = append(stack, x)
		}
	}
	return out
}

// notable is from which difference on a call is slower or faster: a quarter of it, and a millisecond.
const notable = time.Millisecond

func verdictOf(a, b CompareFigure) (verdict string, bad bool) {
	d := b.Total - a.Total
	switch {
	case a.Count == 0:
		return "new", b.Errors > 0
	case b.Count == 0:
		return "gone", false
	case b.Errors > a.Errors:
		return "more errors", true
	case b.Errors < a.Errors:
		return "fewer errors", false
	case b.Count > a.Count:
		return "more calls", true
	case b.Count < a.Count:
		return "fewer calls", false
	case d > notable && d > a.Total/4:
		return "slower", true
	case -d > notable && -d > b.Total/4:
		return "faster", false
	}
	return "", false
}

// Indent is the width of the row's indentation.
func (r *CompareRow) Indent() string { return (&SpanRow{Depth: r.Depth}).Indent() }

// Elbow draws the connection to the caller.
func (r *CompareRow) Elbow() string { return (&SpanRow{Depth: r.Depth}).Elbow() }

// Delta is the difference of what the calls took, with its sign.
func (r *CompareRow) Delta() string {
	switch d := r.B.Total - r.A.Total; {
	case r.A.Count == 0 || r.B.Count == 0:
		return ""
	case d < 0:
		return "−" + part.Span(-d)
	default:
		return "+" + part.Span(d)
	}
}
