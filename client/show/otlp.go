package show

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/flow/otlpin"
)

// Spans flattens a trace into rows of a waterfall.
func Spans(td ptrace.Traces) []Span {
	var out []Span
	for _, rs := range td.ResourceSpans().All() {
		service := text(rs.Resource().Attributes(), flow.AttrServiceName)
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				sp := Span{
					ID: s.SpanID().String(), Service: service, Name: s.Name(), Kind: s.Kind().String(),
					Start: s.StartTimestamp().AsTime(), Duration: s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime()),
					Error: s.Status().Code() == ptrace.StatusCodeError,
				}
				if !s.ParentSpanID().IsEmpty() {
					sp.Parent = s.ParentSpanID().String()
				}
				sp.Note = text(s.Attributes(), flow.AttrReason)
				if status := cmp.Or(text(s.Attributes(), flow.AttrGRPC), text(s.Attributes(), flow.AttrStatus)); status != "" {
					sp.Note = join(status, sp.Note)
				}
				if rec, err := otlpin.Record(s); err == nil {
					sp.Split = splitWords(&rec)
				}
				out = append(out, sp)
			}
		}
	}
	return out
}

// splitWords says where the time of a client exchange went, the longest first; "" when the far side did not tell.
func splitWords(r *flow.Record) string {
	s, ok := r.Split()
	if !ok {
		return ""
	}
	parts := s.Parts()
	slices.SortStableFunc(parts[:], func(a, b flow.Part) int { return cmp.Compare(b.Took, a.Took) })
	var words []string
	for _, p := range parts {
		if p.Took > 0 {
			words = append(words, p.Name+" "+Duration(p.Took))
		}
	}
	return strings.Join(words, ", ")
}

func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	if v.Type() == pcommon.ValueTypeInt {
		return strconv.FormatInt(v.Int(), 10)
	}
	return v.AsString()
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + " " + b
}
