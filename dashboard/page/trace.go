package page

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/flow/otlpin"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/graph"
)

// TraceView is one trace as a waterfall.
type TraceView struct {
	Shell    part.Shell
	ID       string
	Title    string
	Start    time.Time
	Duration time.Duration
	Rows     []SpanRow
	Total    int
	Errors   int
	Services []string
	Notes    []TraceNote
	Why      *WhyView   // nil when no sidecar has a Record of it
	Path     []Fact     // what the whole waited for longest, and how long
	Flame    *FlameView // instead of the waterfall; nil: the waterfall
	Ticks    []string
	Details  bool   // details are in the page; otherwise a row is a link that opens its own
	Drawn    bool   // the browser may draw all of it on a canvas
	All      bool   // every row is shown
	AllURL   string // shows every row
	Now      time.Time
}

// TraceNote explains something about the whole trace.
type TraceNote struct {
	Level        part.Level
	Text, Advice string
}

// SpanRow is one line of the waterfall.
type SpanRow struct {
	ID, Parent, Service, Name, Kind string // Kind: client, attempt, server, connection, app
	Depth                           int
	Start                           time.Duration // since the trace's start
	Duration                        time.Duration
	X, W                            float64 // of 1000
	NetX1, NetW1, NetX2, NetW2      float64 // network before and after the server's part of an attempt
	Network                         time.Duration
	Waited                          time.Duration // by the whole for this: its part of the critical path
	Split                           []SplitPart   // of a client exchange whose far side said how long it took
	Error                           bool
	Reason, Status, Message         string
	Protocol, GRPC                  string   // GRPC: name of the gRPC status
	Messages                        string   // of gRPC, in words
	Says                            []string // in plain words
	Attributes, Resource            []Fact
	Events                          []SpanEvent
	Open                            bool
	Link                            string

	depth         int // without a bound
	orphan, clock bool
}

// SplitPart is one part of where a span's time went, as a bar of 1000 and in words.
type SplitPart struct {
	Name string
	Took time.Duration
	X, W float64
}

// splitOf lays out the parts of a span one after the other.
func splitOf(sp ptrace.Span) []SplitPart {
	rec, err := otlpin.Record(sp)
	if err != nil {
		return nil
	}
	s, ok := rec.Split()
	if !ok {
		return nil
	}
	var out []SplitPart
	x, scale := 0.0, 1000/float64(max(rec.Duration, 1))
	for _, p := range s.Parts() {
		w := float64(p.Took) * scale
		out = append(out, SplitPart{p.Name, p.Took, x, w})
		x += w
	}
	return out
}

// SpanEvent is a log line of a span.
type SpanEvent struct {
	At         time.Duration
	Name       string
	Attributes []Fact
}

const (
	// inlineDetails is how many rows carry their details in the page; longer traces open one at a time.
	inlineDetails = 300
	// firstRows is how many rows are shown before "show all".
	firstRows = 300
	// maxIndent bounds how far deep rows are indented.
	maxIndent = 14
)

func parseTraceID(s string) (id flow.TraceID, err error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) == 0 || len(s) > 32 || len(s) < 16 {
		return id, errors.New("a trace ID has 32 hex digits")
	}
	b, err := hex.DecodeString(strings.Repeat("0", 32-len(s)) + s)
	if err != nil {
		return id, errors.New("a trace ID has 32 hex digits")
	}
	copy(id[:], b)
	if id.IsZero() {
		return id, errors.New("a trace ID is not all zero")
	}
	return id, nil
}

// Trace shows one trace.
func Trace(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		id, err := parseTraceID(r.PathValue("id"))
		if err != nil {
			message(d, w, r, http.StatusBadRequest, "That is not a trace ID", "A trace ID has 32 hex digits, as in 4bf92f3577b34da6a3ce929d0e0e4736.")
			return
		}
		td, err := d.Spans.Trace(ctx, id)
		if err != nil {
			if errors.Is(err, store.ErrNotFound) {
				message(d, w, r, http.StatusNotFound, "No such trace", "Nothing is stored of "+id.String()+". It may be older than the retention, or its spans have not arrived yet: try again in a second.")
				return
			}
			message(d, w, r, statusOf(err), "The trace cannot be read", err.Error())
			return
		}
		v := NewTraceView(td, d.live())
		v.ID = id.String()
		q := r.URL.Query()
		v.Shell, v.Now = d.shell(ctx, v.Title, "/traces", ""), d.Clock()
		if q.Get("view") == "flame" {
			v.Flame = newFlame(v.Rows, func(span string) string { return TraceURL(v.ID) + "?span=" + span + "#s-" + span })
		}
		open := q.Get("span")
		v.All = q.Get("all") != "" || len(v.Rows) <= firstRows
		v.AllURL = TraceURL(v.ID) + "?all=1"
		if !v.All {
			rest := v.Rows[firstRows:]
			v.Rows = v.Rows[:firstRows:firstRows]
			if i := slices.IndexFunc(rest, func(r SpanRow) bool { return r.ID == open }); i >= 0 {
				v.Rows = append(v.Rows, rest[i])
			}
		}
		v.Details = v.Total <= inlineDetails
		v.Drawn = !v.Details && q.Get("all") == ""
		v.Why = d.why(ctx, td, open)
		for i := range v.Rows {
			row := &v.Rows[i]
			row.Open = row.ID == open
			link := TraceURL(v.ID) + "?span=" + row.ID
			if q.Get("all") != "" {
				link += "&all=1"
			}
			row.Link = link + "#s-" + row.ID
		}
		render(w, r, http.StatusOK, TracePage(v))
	}
}

type spanNode struct {
	row      SpanRow
	start    time.Time
	end      time.Time
	attr     map[string]string
	children []*spanNode
	orphan   bool
	clock    time.Duration // the child is outside its parent by this
}

// NewTraceView arranges a trace; live tells which services are known to drop trace context.
func NewTraceView(td ptrace.Traces, live *graph.Snapshot) TraceView {
	var v TraceView
	byID := map[pcommon.SpanID]*spanNode{}
	var all []*spanNode
	parents := map[*spanNode]pcommon.SpanID{}
	services := map[string]bool{}
	for _, rs := range td.ResourceSpans().All() {
		res := facts2(rs.Resource().Attributes())
		service := "unknown"
		if s, ok := rs.Resource().Attributes().Get(flow.AttrServiceName); ok && s.AsString() != "" {
			service = s.AsString()
		}
		services[service] = true
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				if byID[sp.SpanID()] != nil && !sp.SpanID().IsEmpty() {
					continue // the same span twice: the store keeps progress and close of long exchanges
				}
				n := newSpanNode(sp, service, res)
				all = append(all, n)
				byID[sp.SpanID()] = n
				parents[n] = sp.ParentSpanID()
			}
		}
	}
	if len(all) == 0 {
		return v
	}
	v.Start, v.Total = all[0].start, len(all)
	end := all[0].end
	for _, n := range all {
		if n.start.Before(v.Start) {
			v.Start = n.start
		}
		if n.end.After(end) {
			end = n.end
		}
		if n.row.Error {
			v.Errors++
		}
	}
	v.Duration = max(end.Sub(v.Start), 1)
	var roots []*spanNode
	for _, n := range all {
		p := byID[parents[n]]
		switch {
		case parents[n].IsEmpty():
			roots = append(roots, n)
		case p == nil || p == n:
			n.orphan = true
			roots = append(roots, n)
		default:
			p.children = append(p.children, n)
		}
	}
	byStart := func(a, b *spanNode) int {
		return cmp.Or(a.start.Compare(b.start), cmp.Compare(a.row.ID, b.row.ID))
	}
	slices.SortFunc(roots, byStart)
	seen := map[*spanNode]bool{}
	var walk func(n *spanNode, depth int)
	walk = func(n *spanNode, depth int) {
		if seen[n] {
			return
		}
		seen[n] = true
		slices.SortFunc(n.children, byStart)
		n.finish(&v, depth)
		v.Rows = append(v.Rows, n.row)
		for _, c := range n.children {
			walk(c, min(depth+1, 100000))
		}
	}
	for _, n := range roots {
		walk(n, 0)
	}
	for _, n := range all { // what only a loop of parents connects
		if !seen[n] {
			n.orphan = true
			walk(n, 0)
			roots = append(roots, n)
		}
	}
	v.waits()
	v.Title = roots[0].row.Service + " " + roots[0].row.Name
	for s := range services {
		v.Services = append(v.Services, s)
	}
	slices.Sort(v.Services)
	for i := range 5 {
		v.Ticks = append(v.Ticks, part.Span(v.Duration*time.Duration(i)/4))
	}
	v.Notes = traceNotes(roots, all, live)
	return v
}

// waits marks the critical path.
func (v *TraceView) waits() {
	timed := make([]store.Timed, len(v.Rows))
	for i := range v.Rows {
		r := &v.Rows[i]
		timed[i] = store.Timed{ID: r.ID, Parent: r.Parent, Start: v.Start.Add(r.Start), Duration: r.Duration}
	}
	path := store.CriticalPath(timed)
	total := time.Duration(0)
	for _, d := range path {
		total += d
	}
	var on []*SpanRow
	for i := range v.Rows {
		r := &v.Rows[i]
		if r.Waited = path[r.ID]; r.Waited == 0 {
			continue
		}
		on = append(on, r)
		if share := float64(r.Waited) / float64(total); share >= .01 {
			r.Says = append(r.Says, "The whole waited "+part.Span(r.Waited)+" ("+part.Percent(share)+") for what this did itself.")
		}
	}
	slices.SortStableFunc(on, func(a, b *SpanRow) int { return cmp.Compare(b.Waited, a.Waited) })
	for _, r := range on[:min(len(on), 3)] {
		v.Path = append(v.Path, Fact{r.Service + " " + r.Name, part.Span(r.Waited) + " (" + part.Percent(float64(r.Waited)/float64(total)) + ")"})
	}
}

func newSpanNode(sp ptrace.Span, service string, res []Fact) *spanNode {
	n := &spanNode{start: sp.StartTimestamp().AsTime(), end: sp.EndTimestamp().AsTime(), attr: map[string]string{}}
	if n.end.Before(n.start) {
		n.end = n.start
	}
	sp.Attributes().Range(func(k string, x pcommon.Value) bool { n.attr[k] = x.AsString(); return true })
	r := &n.row
	r.ID, r.Service, r.Name, r.Resource = sp.SpanID().String(), service, sp.Name(), res
	if !sp.ParentSpanID().IsEmpty() {
		r.Parent = sp.ParentSpanID().String()
	}
	r.Attributes, r.Split = facts2(sp.Attributes()), splitOf(sp)
	r.Error = sp.Status().Code() == ptrace.StatusCodeError
	r.Reason, r.Status, r.Message = n.attr[flow.AttrReason], n.attr[flow.AttrStatus], sp.Status().Message()
	r.Protocol, r.GRPC = n.attr[flow.AttrProtocol], n.attr[flow.AttrGRPC]
	if in, out := n.attr[flow.AttrMessagesIn], n.attr[flow.AttrMessagesOut]; in != "" || out != "" {
		r.Messages = cmp.Or(in, "0") + " in, " + cmp.Or(out, "0") + " out"
	}
	switch n.attr[flow.AttrKind] {
	case "exchange":
		r.Kind = n.attr[flow.AttrSide]
		if r.Kind == "" {
			r.Kind = strings.ToLower(sp.Kind().String())
		}
	case "attempt":
		r.Kind = "attempt"
	case "connection":
		r.Kind = "connection"
	default:
		r.Kind = "app"
	}
	for _, e := range sp.Events().All() {
		r.Events = append(r.Events, SpanEvent{At: e.Timestamp().AsTime().Sub(n.start), Name: e.Name(), Attributes: facts2(e.Attributes())})
	}
	return n
}

func facts2(m pcommon.Map) []Fact {
	var out []Fact
	m.Range(func(k string, x pcommon.Value) bool { out = append(out, Fact{k, x.AsString()}); return true })
	slices.SortFunc(out, func(a, b Fact) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// clockSlack is how far a child may stick out of its parent before clocks are blamed.
const clockSlack = time.Millisecond

// finish fills what needs the tree: places, the network's share, sentences.
func (n *spanNode) finish(v *TraceView, depth int) {
	r := &n.row
	r.Depth, r.depth, r.orphan, r.clock = min(depth, maxIndent), depth, n.orphan, n.clock > 0
	r.Start, r.Duration = n.start.Sub(v.Start), n.end.Sub(n.start)
	scale := 1000 / float64(v.Duration)
	r.X, r.W = float64(r.Start)*scale, min(1000, max(float64(r.Duration)*scale, 1.5))
	r.X = min(r.X, 1000-r.W)
	if n.orphan {
		r.Says = append(r.Says, "Its parent span "+shortID(r.Parent)+" is not stored: either it has not arrived, or it was made by an application that reports elsewhere.")
	}
	if r.Kind == "attempt" || r.Kind == "client" { // of a client whose only try is folded
		n.network(scale)
	}
	for _, c := range n.children {
		early, late := n.start.Sub(c.start), c.start.Sub(n.end)
		if d := max(early, late); d > clockSlack && c.row.Service != r.Service {
			c.clock = d
		}
	}
	if n.clock > 0 {
		r.Says = append(r.Says, "It lies "+part.Span(n.clock)+" outside its parent: the clocks of the two hosts differ by at least that much.")
	}
	if r.Reason != "" {
		r.Says = append(r.Says, r.Reason+": "+orDash(ReasonText(r.Reason)))
	}
	switch r.Kind {
	case "client":
		if a := n.attr[flow.AttrAttempts]; a != "" && a != "1" {
			r.Says = append(r.Says, "It took "+a+" attempts.")
		}
		if n.attr[flow.AttrTraceBegun] == "true" {
			r.Says = append(r.Says, "No valid traceparent arrived from the application, so the sidecar began a trace here.")
		}
	case "attempt":
		if n.attr[flow.AttrDelivered] == "false" {
			r.Says = append(r.Says, "It was never delivered: the peer cannot have begun to work on it.")
		}
	case "server":
		if n.attr[flow.AttrAnswered] == "false" {
			r.Says = append(r.Says, "It was not answered completely.")
		}
	}
	if n.attr[flow.AttrProbe] == "true" {
		r.Says = append(r.Says, "It was a probe: a small share of traffic that asks whether an ejected endpoint has healed.")
	}
	if o := n.attr[flow.AttrOverride]; o != "" {
		r.Says = append(r.Says, "Override "+o+" of the controller influenced which endpoint was chosen.")
	}
}

// network marks what of a try lies outside the server's part.
func (n *spanNode) network(scale float64) {
	for _, c := range n.children {
		if c.row.Kind != "server" || c.row.Service == n.row.Service {
			continue
		}
		before, after := c.start.Sub(n.start), n.end.Sub(c.end)
		total := n.end.Sub(n.start) - c.end.Sub(c.start)
		n.row.Network = max(total, 0)
		if before < 0 || after < 0 {
			return // clocks differ: the sum is right, its halves are not
		}
		n.row.NetX1, n.row.NetW1 = n.row.X, float64(before)*scale
		n.row.NetX2, n.row.NetW2 = float64(c.end.Sub(n.start))*scale+n.row.X, float64(after)*scale
		if share := float64(total) / float64(max(1, n.end.Sub(n.start))); total > time.Millisecond && share > 0.3 {
			n.row.Says = append(n.row.Says, part.Span(total)+" ("+part.Percent(share)+") of it passed outside the server's sidecar: network, queue or connecting.")
		}
		return
	}
}

// traceNotes explains what is odd about the whole trace.
func traceNotes(roots, all []*spanNode, live *graph.Snapshot) []TraceNote {
	var notes []TraceNote
	orphans := 0
	for _, n := range roots {
		if n.orphan {
			orphans++
		}
	}
	for _, n := range roots {
		if n.attr[flow.AttrTraceBegun] != "true" || n.row.Kind != "client" {
			continue
		}
		for i := range live.Nodes {
			node := &live.Nodes[i]
			if node.ID == n.row.Service && node.TraceBreaks != nil && *node.TraceBreaks > 0.01 {
				notes = append(notes, TraceNote{
					Level: part.Warn,
					Text:  "This trace begins in the middle: " + n.row.Service + " did not forward traceparent.",
					Advice: part.Percent(*node.TraceBreaks) + " of what " + n.row.Service + " sends loses its trace. Copy the traceparent header of the incoming request " +
						"onto the outgoing ones, or use OpenTelemetry's HTTP instrumentation there.",
				})
			}
		}
	}
	if orphans > 0 {
		notes = append(notes, TraceNote{
			Level: part.Lost,
			Text:  part.Plural(orphans, "span has", "spans have") + " a parent that is not stored.",
			Advice: "They are drawn at the left edge. The missing spans may still be on their way, belong to an application that reports to another collector, " +
				"or come from a sidecar that was lost.",
		})
	}
	skewed, most := 0, time.Duration(0)
	for _, n := range all {
		if n.clock > 0 {
			skewed++
			most = max(most, n.clock)
		}
	}
	if skewed > 0 {
		notes = append(notes, TraceNote{
			Level: part.Lost, Text: "Clocks differ: " + part.Plural(skewed, "span lies", "spans lie") + " up to " + part.Span(most) + " outside the parent.",
			Advice: "Durations are right, they are measured on one host each; positions of these spans are not. The Proxies page shows the measured offsets.",
		})
	}
	return notes
}

// Ended is what a glance at a span should tell of how it ended: the reason, but for an answer of gRPC its status, which says more; else a status that is not well.
// "" when all is well.
func (r *SpanRow) Ended() string {
	switch {
	case r.Reason != "" && (r.Reason != flow.ReasonUpstreamStatus.String() || r.GRPC == ""):
		return r.Reason
	case r.GRPC != "" && r.GRPC != "OK":
		return r.GRPC
	case r.GRPC == "" && r.Status != "" && r.Status[0] >= '4':
		return r.Status
	}
	return ""
}

// Indent is the width of the row's indentation.
func (r *SpanRow) Indent() string { return strconv.Itoa(r.Depth*14 + 1) }

// Elbow draws the connection to the parent.
func (r *SpanRow) Elbow() string {
	if r.Depth == 0 {
		return ""
	}
	x := r.Depth*14 - 7
	return fmt.Sprintf("M%d 0v14h8", x)
}

func kindWords(kind string) string {
	switch kind {
	case "client":
		return "client exchange"
	case "server":
		return "server exchange"
	case "app":
		return "application span"
	}
	return kind
}

// current is aria-current of a link to what is shown.
func current(is bool) string {
	if is {
		return "true"
	}
	return "false"
}

func firstServices(s []store.ServiceCount) []store.ServiceCount { return s[:min(6, len(s))] }
