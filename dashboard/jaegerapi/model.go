package jaegerapi

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/jaegertracing/jaeger/model"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// toModel maps OpenTelemetry's form to Jaeger's by OpenTelemetry's compatibility rules
// (https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/): kind, status and scope become tags.
func toModel(td ptrace.Traces) *model.Trace {
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

func traceID(id pcommon.TraceID) model.TraceID {
	return model.NewTraceID(binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:]))
}

func spanID(id pcommon.SpanID) model.SpanID { return model.NewSpanID(binary.BigEndian.Uint64(id[:])) }

func span(sp ptrace.Span, scope pcommon.InstrumentationScope, p *model.Process) *model.Span {
	start := sp.StartTimestamp().AsTime()
	out := &model.Span{
		TraceID: traceID(sp.TraceID()), SpanID: spanID(sp.SpanID()), OperationName: sp.Name(), StartTime: start,
		Duration: max(sp.EndTimestamp().AsTime().Sub(start), 0), Flags: model.Flags(sp.Flags() & 0xff), Process: p,
	}
	if !sp.ParentSpanID().IsEmpty() {
		out.References = append(out.References, model.NewChildOfRef(out.TraceID, spanID(sp.ParentSpanID())))
	}
	for _, l := range sp.Links().All() {
		out.References = append(out.References, model.NewFollowsFromRef(traceID(l.TraceID()), spanID(l.SpanID())))
	}
	for k, v := range sp.Attributes().All() {
		out.Tags = append(out.Tags, tag(k, v))
	}
	if k := sp.Kind(); k != ptrace.SpanKindUnspecified {
		out.Tags = append(out.Tags, model.String("span.kind", strings.ToLower(k.String())))
	}
	switch sp.Status().Code() {
	case ptrace.StatusCodeError:
		out.Tags = append(out.Tags, model.Bool("error", true), model.String("otel.status_code", "ERROR"))
	case ptrace.StatusCodeOk:
		out.Tags = append(out.Tags, model.String("otel.status_code", "OK"))
	}
	if m := sp.Status().Message(); m != "" {
		out.Tags = append(out.Tags, model.String("otel.status_description", m))
	}
	if s := sp.TraceState().AsRaw(); s != "" {
		out.Tags = append(out.Tags, model.String("w3c.tracestate", s))
	}
	if scope.Name() != "" {
		out.Tags = append(out.Tags, model.String("otel.scope.name", scope.Name()))
	}
	if scope.Version() != "" {
		out.Tags = append(out.Tags, model.String("otel.scope.version", scope.Version()))
	}
	sortTags(out.Tags)
	for _, e := range sp.Events().All() {
		log := model.Log{Timestamp: e.Timestamp().AsTime()}
		if e.Name() != "" {
			log.Fields = append(log.Fields, model.String("event", e.Name()))
		}
		for k, v := range e.Attributes().All() {
			log.Fields = append(log.Fields, tag(k, v))
		}
		out.Logs = append(out.Logs, log)
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
