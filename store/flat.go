package store

import (
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Flat is td as backends give it back, in its order; it shares nothing with td but strings. Spans of one resource share its map.
func Flat(td ptrace.Traces) []Span {
	out := make([]Span, 0, td.SpanCount())
	for _, rs := range td.ResourceSpans().All() {
		res := texts(rs.Resource().Attributes())
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				a := texts(s.Attributes())
				out = append(out, Span{
					TraceID: flow.TraceID(s.TraceID()), SpanID: flow.SpanID(s.SpanID()), ParentID: flow.SpanID(s.ParentSpanID()), Name: s.Name(), Kind: strings.ToLower(s.Kind().String()),
					Service: res[flow.AttrServiceName], Start: s.StartTimestamp().AsTime(), Duration: max(s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime()), 0),
					Error: s.Status().Code() == ptrace.StatusCodeError || a[flow.AttrReason] != "", Status: s.Status().Message(), Attributes: a, Resource: res,
				})
			}
		}
	}
	return out
}

func texts(m pcommon.Map) map[string]string {
	out := make(map[string]string, m.Len())
	for k, v := range m.All() {
		out[k] = v.AsString()
	}
	return out
}
