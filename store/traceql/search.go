package traceql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// wish is what some span of every trace that is meant must meet: what a store can search by. Several wishes are alternatives.
type wish struct {
	store.TraceQuery
	id *flow.TraceID // the trace is named
}

// maxWishes bounds how many searches a query is taken apart into; one with more searches everything.
const maxWishes = 8

var anything = []wish{{}}

// weight is about how much a wish narrows.
func (w wish) weight() int {
	n := 0
	if w.id != nil {
		n += 100
	}
	if w.Service != "" {
		n += 5
	}
	if w.Operation != "" {
		n += 8
	}
	if w.Errors {
		n += 5
	}
	if w.Kind != "" {
		n++
	}
	if w.MinDuration > 0 || w.MaxDuration > 0 {
		n += 2
	}
	for _, a := range w.Attributes {
		switch a.Op {
		case "=":
			n += 10
		case "~":
			n += 4
		default:
			n += 2
		}
	}
	return n
}

func weight(ws []wish) int {
	n := ws[0].weight()
	for _, w := range ws {
		n = min(n, w.weight())
	}
	return n
}

// wishes of a query: of the first stage, for the others only narrow it.
func (q *Query) wishes() []wish {
	if f, ok := q.stages[0].(find); ok {
		return ofSet(f.selector)
	}
	return anything
}

func ofSet(s selector) []wish {
	switch s := s.(type) {
	case *filter:
		if s.expr == nil {
			return anything
		}
		return ofExpr(s.expr)
	case *relation:
		left, right := ofSet(s.left), ofSet(s.right)
		switch {
		case s.name == "||":
			return either(left, right)
		case s.relationRow.not: // the left side need not be there
			return right
		case weight(left) > weight(right): // both must be there: search by the rarer
			return left
		}
		return right
	}
	return anything
}

func either(a, b []wish) []wish {
	if out := slices.Concat(a, b); len(out) <= maxWishes && weight(out) > 0 {
		return out
	}
	return anything
}

func ofExpr(e expr) []wish {
	b, ok := e.(*binary)
	if !ok {
		if f, ok := e.(*field); ok { // it is true
			return []wish{f.wish("=", boolValue(true))}
		}
		return anything
	}
	switch b.op {
	case "||":
		return either(ofExpr(b.left), ofExpr(b.right))
	case "&&":
		left, right := ofExpr(b.left), ofExpr(b.right)
		if len(left)*len(right) > maxWishes {
			if weight(left) > weight(right) {
				return left
			}
			return right
		}
		var out []wish
		for _, l := range left {
			for _, r := range right {
				out = append(out, l.and(r))
			}
		}
		return out
	}
	f, okLeft := b.left.(*field)
	l, okRight := b.right.(literal)
	op := b.op
	if !okLeft || !okRight {
		f, okLeft = b.right.(*field)
		l, okRight = b.left.(literal)
		op = turned[op]
	}
	if !okLeft || !okRight || op == "" {
		return anything
	}
	return []wish{f.wish(op, l.v)}
}

// turned are operators seen from the other side.
var turned = map[string]string{"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

// and is what meets both; where they contradict each other one of them, for the query itself is asked again of what is found.
func (w wish) and(o wish) wish {
	if w.id == nil {
		w.id = o.id
	}
	for _, x := range []struct{ to, from *string }{{&w.Service, &o.Service}, {&w.Operation, &o.Operation}, {&w.Kind, &o.Kind}} {
		if *x.to == "" {
			*x.to = *x.from
		}
	}
	w.Errors = w.Errors || o.Errors
	w.MinDuration = max(w.MinDuration, o.MinDuration)
	if o.MaxDuration > 0 && (w.MaxDuration == 0 || o.MaxDuration < w.MaxDuration) {
		w.MaxDuration = o.MaxDuration
	}
	w.Attributes = slices.Concat(w.Attributes, o.Attributes)
	return w
}

// wish is what a store can find of "f op v"; the zero wish where that is nothing. Every span for which the comparison holds meets it.
func (f *field) wish(op string, v Value) (w wish) {
	if f.up > 0 {
		return w // it is of another span
	}
	one := op == "=" && v.Kind == String && v.Text != ""
	switch f.intrinsic {
	case "name":
		if one {
			w.Operation = v.Text
		}
		return w
	case "kind":
		if op == "=" && v.Kind == SpanKind && v.Text != "unspecified" {
			w.Kind = v.Text
		}
		return w
	case "status":
		w.Errors = op == "=" && v == words["error"]
		return w
	case "duration":
		if v.numeric() {
			w.durations(op, v.float())
		}
		return w
	case "trace:id":
		if one {
			if id, ok := traceID(v.Text); ok {
				w.id = &id
			}
		}
		return w
	case "event:name":
		switch {
		case one:
			w.Attributes = []store.AttributeMatch{{Key: "event", Op: "=", Value: v.Text}}
		case op == "=~" && v.Kind == String:
			w.Attributes = []store.AttributeMatch{{Key: "event", Op: "~", Value: "(?-s:" + v.Text + ")"}}
		}
		return w
	case "":
	default:
		return w
	}
	if f.scope == "link" || f.scope == "instrumentation" || v.Kind == Nil && op != "!=" {
		return w
	}
	switch {
	case f.scope == "resource" && f.name == flow.AttrServiceName && one:
		w.Service = v.Text
	case op == "=" && (v.Kind == String || v.Kind == Int || v.Kind == Bool):
		w.Attributes = []store.AttributeMatch{{Key: f.name, Op: "=", Value: v.String()}}
	case op == "=~" && v.Kind == String: // here "." is no line end, which it is in a store
		w.Attributes = []store.AttributeMatch{{Key: f.name, Op: "~", Value: "(?-s:" + v.Text + ")"}}
	default: // whatever the comparison says, the attribute must be there
		w.Attributes = []store.AttributeMatch{{Key: f.name, Op: "exists"}}
	}
	return w
}

func (w *wish) durations(op string, ns float64) {
	const most = float64(1 << 62)
	if ns < 0 || ns > most {
		return
	}
	d := time.Duration(ns)
	switch op {
	case ">", ">=":
		w.MinDuration = d
	case "<", "<=":
		w.MaxDuration = d + 1 // 0 would not restrict
	case "=":
		w.MinDuration, w.MaxDuration = d, d+1
	}
}

func traceID(s string) (id flow.TraceID, ok bool) {
	if len(s) == 0 || len(s) > 32 {
		return id, false
	}
	s = strings.Repeat("0", 32-len(s)) + s
	for i := range id {
		hi, lo := strings.IndexByte(digits, s[2*i]|0x20), strings.IndexByte(digits, s[2*i+1]|0x20)
		if s[2*i] < 'A' {
			hi = strings.IndexByte(digits, s[2*i])
		}
		if s[2*i+1] < 'A' {
			lo = strings.IndexByte(digits, s[2*i+1])
		}
		if hi < 0 || lo < 0 {
			return id, false
		}
		id[i] = byte(hi<<4 | lo) //nolint:gosec // two digits
	}
	return id, true
}

const digits = "0123456789abcdef"

// Found is a trace that a query means.
type Found struct {
	Trace *Trace
	Sets  []Spanset
}

// Options of Search and Range.
type Options struct {
	Start, End time.Time // of spans, [Start, End); zero End: now
	Budget     int       // traces that are looked at, at most; 1 and up
	// Also is a further condition on the trace as a whole; nil: none.
	Also func(*Trace) bool
}

// Result says how far a search came.
type Result struct {
	Looked  int  // traces that were read
	Partial bool // it ended at its budget or its time: older traces, if there are any, were not looked at
}

// page is how many summaries are asked for at once.
const page = 100

// stream gives the traces for one wish, newest first.
type stream struct {
	q     store.TraceQuery
	ahead []store.TraceSummary
	ended bool
}

func (s *stream) head(ctx context.Context, spans store.Spans) (*store.TraceSummary, error) {
	for len(s.ahead) == 0 && !s.ended {
		p, err := spans.Summaries(ctx, s.q)
		if err != nil {
			return nil, err
		}
		s.ahead, s.q.Cursor = p.Traces, p.Next
		s.ended = p.Next == ""
	}
	if len(s.ahead) == 0 {
		return nil, nil //nolint:nilnil // none is left
	}
	return &s.ahead[0], nil
}

// Search calls yield for the traces that q means, newest first, until yield returns false, all were looked at, or o.Budget is used up. When ctx's time is over, what was
// found until then counts, and the result says that it is not all.
func Search(ctx context.Context, spans store.Spans, q *Query, o Options, yield func(Found) bool) (res Result, err error) {
	var streams []*stream
	seen := map[flow.TraceID]bool{}
	budget := store.BudgetOf(ctx)
	defer func() {
		if res.Partial {
			budget.Cut(fmt.Sprintf("%d traces were looked at, and older ones were not", res.Looked))
		}
	}()
	look := func(id flow.TraceID) (goOn bool, err error) {
		seen[id] = true
		defer budget.Mark()(0) // yield keeps nothing of it
		td, err := spans.Trace(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		res.Looked++
		t := NewTrace(td)
		if o.Also != nil && !o.Also(t) {
			return true, nil
		}
		if sets := q.Eval(t); len(sets) > 0 {
			return yield(Found{t, sets}), nil
		}
		return true, nil
	}
	timed := func(err error) error {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
			res.Partial = true
			return nil //nolint:nilerr // its time is over: what was found counts
		}
		return err
	}
	for _, w := range q.wishes() {
		if w.id != nil {
			if !seen[*w.id] {
				if goOn, err := look(*w.id); err != nil || !goOn {
					return res, timed(err)
				}
			}
			continue
		}
		w.Start, w.End, w.Limit = o.Start, o.End, page
		streams = append(streams, &stream{q: w.TraceQuery})
	}
	for {
		var next *stream
		var first *store.TraceSummary
		for _, s := range streams {
			h, err := s.head(ctx, spans)
			if err != nil {
				return res, timed(err)
			}
			if h != nil && (first == nil || h.Start.After(first.Start) || h.Start.Equal(first.Start) && strings.Compare(h.ID, first.ID) > 0) {
				next, first = s, h
			}
		}
		if next == nil {
			return res, nil
		}
		id, ok := traceID(first.ID)
		next.ahead = next.ahead[1:]
		if !ok || seen[id] {
			continue
		}
		if res.Looked >= max(1, o.Budget) {
			res.Partial = true
			return res, nil
		}
		if goOn, err := look(id); err != nil || !goOn {
			return res, timed(err)
		}
	}
}

// Of is the trace's id as a store knows it.
func (t *Trace) Of() flow.TraceID { return flow.TraceID(t.ID) }
