// Package jaegermodel translates spans between OpenTelemetry's form, which Tulle keeps, and Jaeger v1.62's model, which Jaeger's APIs and its storage plugins speak.
package jaegermodel

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/jaegertracing/jaeger/model"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Tags that stand for what OpenTelemetry has fields for.
const (
	TagKind         = "span.kind"
	TagError        = "error"
	TagStatus       = "otel.status_code"
	TagDescription  = "otel.status_description"
	TagTraceState   = "w3c.tracestate"
	TagScope        = "otel.scope.name"
	TagScopeVersion = "otel.scope.version"
	TagEvent        = "event"                // a log's field: the name of an event
	attrRefType     = "opentracing.ref_type" // a link's attribute: child_of or follows_from
)

// ToModel maps OpenTelemetry's form to Jaeger's by OpenTelemetry's compatibility rules
// (https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/): kind, status and scope become tags.
func ToModel(td ptrace.Traces) *model.Trace {
	t := &model.Trace{}
	for _, rs := range td.ResourceSpans().All() {
		p := process(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				t.Spans = append(t.Spans, span(sp, ss.Scope(), p))
			}
		}
	}
	slices.SortStableFunc(t.Spans, func(a, b *model.Span) int {
		return cmp.Or(a.StartTime.Compare(b.StartTime), cmp.Compare(a.SpanID, b.SpanID))
	})
	return t
}

func process(r pcommon.Resource) *model.Process {
	name := "unknown_service"
	var tags []model.KeyValue
	for k, v := range r.Attributes().All() {
		if k == "service.name" {
			name = v.AsString()
			continue
		}
		tags = append(tags, tag(k, v))
	}
	sortTags(tags)
	return model.NewProcess(name, tags)
}

// TraceID is the same id in Jaeger's form.
func TraceID(id pcommon.TraceID) model.TraceID {
	return model.NewTraceID(binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:]))
}

// SpanID is the same id in Jaeger's form.
func SpanID(id pcommon.SpanID) model.SpanID { return model.NewSpanID(binary.BigEndian.Uint64(id[:])) }

func span(sp ptrace.Span, scope pcommon.InstrumentationScope, p *model.Process) *model.Span {
	start := sp.StartTimestamp().AsTime()
	out := &model.Span{
		TraceID: TraceID(sp.TraceID()), SpanID: SpanID(sp.SpanID()), OperationName: sp.Name(), StartTime: start,
		Duration: max(sp.EndTimestamp().AsTime().Sub(start), 0), Flags: model.Flags(sp.Flags()), Process: p,
	}
	out.References = references(sp, out.TraceID)
	stated := false // by a tag, as Jaeger's own clients do
	for k, v := range sp.Attributes().All() {
		out.Tags = append(out.Tags, tag(k, v))
		stated = stated || k == TagStatus || k == TagError && v.Type() == pcommon.ValueTypeBool && v.Bool()
	}
	if k := sp.Kind(); k != ptrace.SpanKindUnspecified {
		out.Tags = append(out.Tags, model.String(TagKind, strings.ToLower(k.String())))
	}
	switch code := sp.Status().Code(); {
	case stated:
	case code == ptrace.StatusCodeError:
		out.Tags = append(out.Tags, model.Bool(TagError, true), model.String(TagStatus, "ERROR"))
	case code == ptrace.StatusCodeOk:
		out.Tags = append(out.Tags, model.String(TagStatus, "OK"))
	}
	if m := sp.Status().Message(); m != "" {
		out.Tags = append(out.Tags, model.String(TagDescription, m))
	}
	if s := sp.TraceState().AsRaw(); s != "" {
		out.Tags = append(out.Tags, model.String(TagTraceState, s))
	}
	if scope.Name() != "" {
		out.Tags = append(out.Tags, model.String(TagScope, scope.Name()))
	}
	if scope.Version() != "" {
		out.Tags = append(out.Tags, model.String(TagScopeVersion, scope.Version()))
	}
	sortTags(out.Tags)
	for _, e := range sp.Events().All() {
		log := model.Log{Timestamp: e.Timestamp().AsTime()}
		if e.Name() != "" {
			log.Fields = append(log.Fields, model.String(TagEvent, e.Name()))
		}
		for k, v := range e.Attributes().All() {
			log.Fields = append(log.Fields, tag(k, v))
		}
		out.Logs = append(out.Logs, log)
	}
	return out
}

// references are the parent, first, and the links. A link to the parent says what kind of parent it is.
func references(sp ptrace.Span, trace model.TraceID) (out []model.SpanRef) {
	parent := SpanID(sp.ParentSpanID())
	if parent != 0 {
		out = append(out, model.NewChildOfRef(trace, parent))
	}
	for _, l := range sp.Links().All() {
		ref := model.NewFollowsFromRef(TraceID(l.TraceID()), SpanID(l.SpanID()))
		if v, ok := l.Attributes().Get(attrRefType); ok && v.AsString() == "child_of" {
			ref.RefType = model.ChildOf
		}
		if parent != 0 && ref.TraceID == trace && ref.SpanID == parent {
			out[0].RefType = ref.RefType
			continue
		}
		out = append(out, ref)
	}
	return out
}

func sortTags(tags []model.KeyValue) {
	slices.SortStableFunc(tags, func(a, b model.KeyValue) int { return cmp.Compare(a.Key, b.Key) })
}

func tag(k string, v pcommon.Value) model.KeyValue {
	switch v.Type() {
	case pcommon.ValueTypeBool:
		return model.Bool(k, v.Bool())
	case pcommon.ValueTypeInt:
		return model.Int64(k, v.Int())
	case pcommon.ValueTypeDouble:
		return model.Float64(k, v.Double())
	case pcommon.ValueTypeBytes:
		return model.Binary(k, v.Bytes().AsRaw())
	}
	return model.String(k, v.AsString())
}
