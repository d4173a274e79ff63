// Package traceql is the practical part of TraceQL, the language in which Grafana asks Tempo for traces:
//
//	{ resource.service.name = "web" && span.http.response.status_code >= 500 } >> { kind = server } | count() > 2
//
// Parse reads a query once; Query.Eval judges one whole trace, Search finds traces in a store with both, and Range makes series. Parse and Eval are pure; all is safe
// for concurrent use. What is and what is not understood is said in docs/reference/tempo.md.
package traceql

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/store"
)

// Limits of a query. They bound what one who may only ask can make the observer do.
const (
	MaxLength = 8192 // bytes
	maxDepth  = 64   // parentheses and signs inside each other
	maxNodes  = 512
)

// Error says what is wrong with a query, and where.
type Error struct {
	Column int    // of the first character that cannot be meant, from 1, in characters
	Text   string // what is wrong, and what to write
}

func (e *Error) Error() string { return fmt.Sprintf("TraceQL, column %d: %s", e.Column, e.Text) }

// Unwrap makes it a store.ErrBadQuery.
func (*Error) Unwrap() error { return store.ErrBadQuery }

// Query is a query that was understood.
type Query struct {
	stages []stage
	metric *metric // the last stage of a query for series; nil: it is for traces
	fields []*field
}

// Metrics reports whether the query is for series, which Range makes, rather than for traces.
func (q *Query) Metrics() bool { return q.metric != nil }

// stage narrows, groups or widens what the stage before it found in one trace.
type stage interface{ apply(in []Spanset) []Spanset }

// Spanset is a set of spans of one trace.
type Spanset struct {
	Spans []*Span     // in order of start
	By    []Attribute // what by() made it of
	all   *Trace
}

// Attribute is a field of a query, and the value that it has somewhere.
type Attribute struct {
	Name  string
	Value Value
}

// filter is {…}; a nil expression holds for every span.
type filter struct{ expr expr }

func (f *filter) of(in Spanset) (out []*Span) {
	for _, s := range in.Spans {
		if f.expr == nil || f.expr.eval(s).truth() {
			out = append(out, s)
		}
	}
	return out
}

// selector is what finds a set of spans: a filter, or two selectors and how what they find must lie.
type selector interface {
	of(in Spanset) []*Span
}

// find is a stage that selects.
type find struct{ selector }

func (f find) apply(in []Spanset) (out []Spanset) {
	for _, set := range in {
		if spans := f.of(set); len(spans) > 0 {
			out = append(out, Spanset{spans, set.By, set.all})
		}
	}
	return out
}

// relation joins two selectors.
type relation struct {
	name        string
	left, right selector
	*relationRow
}

// relationRow is what a relation means. holds says whether r lies to some span of left as the relation wants.
type relationRow struct {
	holds func(left *mark, r *Span) bool
	back  func(right *mark, l *Span) bool // the same seen from the left, for those that give both sides
	not   bool
}

// relations is the table of structural operators: by what they are written as. The result is of the right side.
var relations = map[string]*relationRow{
	">":   {holds: child},
	">>":  {holds: descendant},
	"<":   {holds: parentOf},
	"<<":  {holds: ancestorOf},
	"~":   {holds: sibling},
	"!>":  {holds: child, not: true},
	"!>>": {holds: descendant, not: true},
	"!<":  {holds: parentOf, not: true},
	"!<<": {holds: ancestorOf, not: true},
	"!~":  {holds: sibling, not: true},
	"&>":  {holds: child, back: parentOf},
	"&>>": {holds: descendant, back: ancestorOf},
	"&<":  {holds: parentOf, back: child},
	"&<<": {holds: ancestorOf, back: descendant},
	"&~":  {holds: sibling, back: sibling},
}

// mark is a set of spans, and of those that lie above, below and beside them.
type mark struct {
	in       map[*Span]bool
	parents  map[*Span]bool // have a child in it
	above    map[*Span]bool // have a descendant in it
	children map[*Span]int  // how many children a span has in it
	below    map[*Span]bool // what descendant has found out
}

func marked(spans []*Span) *mark {
	m := &mark{map[*Span]bool{}, map[*Span]bool{}, map[*Span]bool{}, map[*Span]int{}, map[*Span]bool{}}
	for _, s := range spans {
		m.in[s] = true
	}
	for _, s := range spans {
		if s.parent == nil {
			continue
		}
		m.parents[s.parent] = true
		m.children[s.parent]++
		for p := s.parent; p != nil && !m.above[p]; p = p.parent {
			m.above[p] = true
		}
	}
	return m
}

func child(m *mark, s *Span) bool { return s.parent != nil && m.in[s.parent] }

// descendant walks up no span twice.
func descendant(m *mark, s *Span) bool {
	is, p := false, s
	for ; p != nil; p = p.parent {
		known, ok := m.below[p]
		if is = ok && known || p.parent != nil && m.in[p.parent]; ok || is {
			break
		}
	}
	for ; s != nil; s = s.parent {
		m.below[s] = is
		if s == p {
			break
		}
	}
	return is
}

func parentOf(m *mark, s *Span) bool   { return m.parents[s] }
func ancestorOf(m *mark, s *Span) bool { return m.above[s] }

func sibling(m *mark, s *Span) bool {
	if s.parent == nil {
		return false
	}
	n := m.children[s.parent]
	if m.in[s] {
		n-- // itself
	}
	return n > 0
}

func (r *relation) of(in Spanset) []*Span {
	left, right := r.left.of(in), r.right.of(in)
	switch r.name {
	case "||":
		return union(in.all, left, right)
	case "&&":
		if len(left) == 0 || len(right) == 0 {
			return nil
		}
		return union(in.all, left, right)
	}
	var out []*Span
	m := marked(left)
	for _, s := range right {
		if r.holds(m, s) != r.not {
			out = append(out, s)
		}
	}
	if r.back == nil || len(out) == 0 {
		return out
	}
	var other []*Span
	m = marked(right)
	for _, s := range left {
		if r.back(m, s) {
			other = append(other, s)
		}
	}
	return union(in.all, other, out)
}

// union keeps the order of the trace.
func union(all *Trace, a, b []*Span) []*Span {
	have := make(map[*Span]bool, len(a)+len(b))
	for _, s := range a {
		have[s] = true
	}
	for _, s := range b {
		have[s] = true
	}
	out := make([]*Span, 0, len(have))
	for _, s := range all.Spans {
		if have[s] {
			out = append(out, s)
		}
	}
	return out
}

// group is by(…).
type group struct{ by expr }

func (g group) apply(in []Spanset) (out []Spanset) {
	for _, set := range in {
		at := map[Value]int{}
		for _, s := range set.Spans {
			v := g.by.eval(s)
			i, ok := at[v]
			if !ok {
				i = len(out)
				at[v] = i
				out = append(out, Spanset{nil, append(set.By[:len(set.By):len(set.By)], Attribute{"by(" + g.by.String() + ")", v}), set.all})
			}
			out[i].Spans = append(out[i].Spans, s)
		}
	}
	return out
}

// coalesce undoes by.
type coalesce struct{}

func (coalesce) apply(in []Spanset) []Spanset {
	if len(in) == 0 {
		return nil
	}
	var all []*Span
	for _, set := range in {
		all = union(set.all, all, set.Spans)
	}
	return []Spanset{{all, nil, in[0].all}}
}

// choose is select(…): its fields are shown, nothing is narrowed.
type choose struct{}

func (choose) apply(in []Spanset) []Spanset { return in }

// threshold keeps the sets for which a comparison of aggregates holds.
type threshold struct {
	op          string
	left, right scalar
}

func (t threshold) apply(in []Spanset) (out []Spanset) {
	for _, set := range in {
		if compare(t.op, t.left.of(set), t.right.of(set), nil) {
			out = append(out, set)
		}
	}
	return out
}

// scalar is a number made of a set.
type scalar interface{ of(set Spanset) Value }

type (
	constant   struct{ v Value }
	arithmetic struct {
		op          string
		left, right scalar
	}
	aggregate struct {
		name string
		of1  expr // nil for count
	}
)

func (n constant) of(Spanset) Value       { return n.v }
func (a arithmetic) of(set Spanset) Value { return calculate(a.op, a.left.of(set), a.right.of(set)) }

func (a aggregate) of(set Spanset) Value {
	if a.name == "count" {
		return intValue(int64(len(set.Spans)))
	}
	var sum, lo, hi Value
	n := 0
	for _, s := range set.Spans {
		v := a.of1.eval(s)
		if !v.numeric() {
			continue
		}
		if n++; n == 1 {
			sum, lo, hi = v, v, v
			continue
		}
		sum = calculate("+", sum, v)
		if v.float() < lo.float() {
			lo = v
		}
		if v.float() > hi.float() {
			hi = v
		}
	}
	switch {
	case n == 0:
		return Value{}
	case a.name == "min":
		return lo
	case a.name == "max":
		return hi
	case a.name == "avg" && sum.Kind == Duration:
		return durationValue(sum.Int / int64(n))
	case a.name == "avg":
		return floatValue(sum.float() / float64(n))
	}
	return sum
}

// Eval runs the query on one trace; no set means that the trace is not meant. The last stage of a query for series is left out.
func (q *Query) Eval(t *Trace) []Spanset {
	sets := []Spanset{{t.Spans, nil, t}}
	for _, s := range q.stages {
		if sets = s.apply(sets); len(sets) == 0 {
			return nil
		}
	}
	return sets
}

// Show gives what the query says of a span: the fields of its filters and of select, as far as the span has them and they are not on every span anyway.
func (q *Query) Show(s *Span) (out []Attribute) {
	seen := map[string]bool{}
	for _, f := range q.fields {
		if f.intrinsic == "duration" || seen[f.String()] {
			continue
		}
		seen[f.String()] = true
		if v := f.eval(s); v.Kind != Nil {
			out = append(out, Attribute{f.label(), v})
		}
	}
	return out
}

// label is the field's name without its scope, as clients show it.
func (f *field) label() string {
	if f.intrinsic != "" {
		return f.intrinsic
	}
	return f.name
}

func quote(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
