package traceql

import (
	"cmp"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Trace is a whole trace as queries see it. It refers to the spans that it was made of, which must not change.
type Trace struct {
	ID         pcommon.TraceID
	Spans      []*Span // by start, then id
	Start, End uint64  // ns since the epoch
	root       *Span   // nil when it has not come (yet)
}

// Span is one span in its trace.
type Span struct {
	ptrace.Span
	Resource pcommon.Map
	Scope    pcommon.InstrumentationScope

	trace    *Trace
	parent   *Span // nil for a root, or where the parent is not here
	children int
	left     int64 // numbers of a walk through the tree, from 1: everything below a span lies between its two
	right    int64
}

// NewTrace orders the spans of one trace, and finds who called whom. What is a circle of parents is cut.
func NewTrace(td ptrace.Traces) *Trace {
	t := &Trace{}
	byID := map[pcommon.SpanID]*Span{}
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				s := &Span{Span: sp, Resource: rs.Resource().Attributes(), Scope: ss.Scope(), trace: t}
				if len(t.Spans) == 0 || uint64(sp.StartTimestamp()) < t.Start {
					t.Start = uint64(sp.StartTimestamp())
				}
				t.End = max(t.End, uint64(sp.EndTimestamp()), uint64(sp.StartTimestamp()))
				t.ID = sp.TraceID()
				t.Spans = append(t.Spans, s)
				if _, ok := byID[sp.SpanID()]; !ok {
					byID[sp.SpanID()] = s
				}
			}
		}
	}
	slices.SortStableFunc(t.Spans, func(a, b *Span) int {
		x, y := a.SpanID(), b.SpanID()
		return cmp.Or(cmp.Compare(a.StartTimestamp(), b.StartTimestamp()), slices.Compare(x[:], y[:]))
	})
	for _, s := range t.Spans {
		if !s.ParentSpanID().IsEmpty() {
			if p := byID[s.ParentSpanID()]; p != s {
				s.parent = p
			}
		} else if t.root == nil {
			t.root = s
		}
	}
	t.cutCircles()
	below := map[*Span][]*Span{}
	for _, s := range t.Spans {
		if s.parent != nil {
			s.parent.children++
			below[s.parent] = append(below[s.parent], s)
		}
	}
	n := int64(0)
	for _, s := range t.Spans {
		if s.parent == nil {
			n = number(s, below, n)
		}
	}
	return t
}

// cutCircles takes away parents where spans are above themselves.
func (t *Trace) cutCircles() {
	const onPath, done = 1, 2
	state := make(map[*Span]int, len(t.Spans))
	for _, s := range t.Spans {
		for p := s; p != nil && state[p] != done; p = p.parent {
			state[p] = onPath
			if p.parent != nil && state[p.parent] == onPath {
				p.parent = nil
			}
		}
		for p := s; p != nil && state[p] != done; p = p.parent {
			state[p] = done
		}
	}
}

// number numbers a tree, without recursion: a trace may be as deep as somebody wishes.
func number(root *Span, below map[*Span][]*Span, n int64) int64 {
	type step struct {
		s    *Span
		next int
	}
	n++
	root.left = n
	stack := []step{{root, 0}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if list := below[top.s]; top.next < len(list) {
			s := list[top.next]
			top.next++
			n++
			s.left = n
			stack = append(stack, step{s, 0})
			continue
		}
		n++
		top.s.right = n
		stack = stack[:len(stack)-1]
	}
	return n
}

// Service is the service of the span, "" for none.
func (s *Span) Service() string {
	if v, ok := s.Resource.Get(flow.AttrServiceName); ok {
		return v.AsString()
	}
	return ""
}

// Root gives service and name of the root span; ok is false when it is not here.
func (t *Trace) Root() (service, name string, ok bool) {
	if t.root == nil {
		return "", "", false
	}
	return t.root.Service(), t.root.Name(), true
}

// intrinsics is the table of what a span has without attributes: by the names that queries have for it.
var intrinsics = map[string]func(s *Span) Value{
	"name":          func(s *Span) Value { return stringValue(s.Name()) },
	"duration":      func(s *Span) Value { return durationValue(s.Duration()) },
	"status":        func(s *Span) Value { return Value{Kind: Status, Text: strings.ToLower(s.Status().Code().String())} },
	"statusMessage": func(s *Span) Value { return stringValue(s.Status().Message()) },
	"kind":          func(s *Span) Value { return Value{Kind: SpanKind, Text: strings.ToLower(s.Kind().String())} },
	"childCount":    func(s *Span) Value { return intValue(int64(s.children)) },
	"parent": func(s *Span) Value {
		if s.ParentSpanID().IsEmpty() {
			return Value{}
		}
		return stringValue(s.ParentSpanID().String())
	},
	"nestedSetLeft":  func(s *Span) Value { return intValue(s.left) },
	"nestedSetRight": func(s *Span) Value { return intValue(s.right) },
	"nestedSetParent": func(s *Span) Value {
		if s.parent == nil {
			return intValue(-1)
		}
		return intValue(s.parent.left)
	},
	"span:id": func(s *Span) Value { return stringValue(s.SpanID().String()) },
	"span:parentID": func(s *Span) Value {
		if s.ParentSpanID().IsEmpty() {
			return Value{}
		}
		return stringValue(s.ParentSpanID().String())
	},
	"trace:id":                func(s *Span) Value { return stringValue(s.TraceID().String()) },
	"traceDuration":           func(s *Span) Value { return durationValue(int64(s.trace.End - s.trace.Start)) }, //nolint:gosec // times of this era
	"rootName":                func(s *Span) Value { return s.trace.rootText(func(r *Span) string { return r.Name() }) },
	"rootServiceName":         func(s *Span) Value { return s.trace.rootText((*Span).Service) },
	"instrumentation:name":    func(s *Span) Value { return stringValue(s.Scope.Name()) },
	"instrumentation:version": func(s *Span) Value { return stringValue(s.Scope.Version()) },
}

// aliases are other names of intrinsics.
var aliases = map[string]string{
	"span:name": "name", "span:duration": "duration", "span:status": "status", "span:statusMessage": "statusMessage", "span:kind": "kind", "span:childCount": "childCount",
	"trace:duration": "traceDuration", "trace:rootName": "rootName", "trace:rootService": "rootServiceName",
}

// manyIntrinsics are those of which a span has several: a comparison holds when it holds for one.
var manyIntrinsics = map[string]func(s *Span) []Value{
	"event:name": func(s *Span) (out []Value) {
		for _, e := range s.Events().All() {
			out = append(out, stringValue(e.Name()))
		}
		return out
	},
	"event:timeSinceStart": func(s *Span) (out []Value) {
		for _, e := range s.Events().All() {
			out = append(out, durationValue(int64(e.Timestamp())-int64(s.StartTimestamp()))) //nolint:gosec // times of this era
		}
		return out
	},
	"link:traceID": func(s *Span) (out []Value) {
		for _, l := range s.Links().All() {
			out = append(out, stringValue(l.TraceID().String()))
		}
		return out
	},
	"link:spanID": func(s *Span) (out []Value) {
		for _, l := range s.Links().All() {
			out = append(out, stringValue(l.SpanID().String()))
		}
		return out
	},
}

func (t *Trace) rootText(of func(*Span) string) Value {
	if t.root == nil {
		return Value{}
	}
	return stringValue(of(t.root))
}

// Duration of the span in ns, 0 where its end is before its start.
func (s *Span) Duration() int64 {
	return max(0, int64(s.EndTimestamp())-int64(s.StartTimestamp())) //nolint:gosec // times of this era
}

// Failed reports whether the span's status is an error.
func (s *Span) Failed() bool { return s.Status().Code() == ptrace.StatusCodeError }
