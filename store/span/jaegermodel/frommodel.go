package jaegermodel

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/jaegertracing/jaeger/model"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// FromModel is the inverse of ToModel: what a Jaeger wrote comes back to it as it was, but for tags of one span that share a key (the last
// counts) and for the order of tags. Spans of one process in a row become one resource.
//
// It is not OpenTelemetry's own translator because that one loses the flags and renames tags of processes, so that a Jaeger which keeps its spans
// here would not find them again.
func FromModel(spans []*model.Span) ptrace.Traces {
	td := ptrace.NewTraces()
	var (
		last  *model.Process
		rs    ptrace.ResourceSpans
		ss    ptrace.ScopeSpans
		scope [2]string
	)
	for _, s := range spans {
		p := s.Process
		if p == nil {
			p = &model.Process{}
		}
		fresh := last == nil || p != last && !(p.ServiceName == last.ServiceName && slices.EqualFunc(p.Tags, last.Tags, func(a, b model.KeyValue) bool { return a.Equal(b) }))
		if fresh {
			last = p
			rs = td.ResourceSpans().AppendEmpty()
			if p.ServiceName != "" {
				rs.Resource().Attributes().PutStr("service.name", p.ServiceName)
			}
			for i := range p.Tags {
				put(rs.Resource().Attributes(), &p.Tags[i])
			}
		}
		own := [2]string{stringTag(s.Tags, TagScope), stringTag(s.Tags, TagScopeVersion)}
		if fresh || own != scope {
			scope = own
			ss = rs.ScopeSpans().AppendEmpty()
			ss.Scope().SetName(own[0])
			ss.Scope().SetVersion(own[1])
		}
		otlpSpan(s, ss.Spans().AppendEmpty())
	}
	return td
}

func stringTag(tags []model.KeyValue, key string) string {
	for i := range tags {
		if tags[i].Key == key && tags[i].VType == model.StringType {
			return tags[i].VStr
		}
	}
	return ""
}

func put(m pcommon.Map, kv *model.KeyValue) {
	switch kv.VType {
	case model.BoolType:
		m.PutBool(kv.Key, kv.VBool)
	case model.Int64Type:
		m.PutInt(kv.Key, kv.VInt64)
	case model.Float64Type:
		m.PutDouble(kv.Key, kv.VFloat64)
	case model.BinaryType:
		m.PutEmptyBytes(kv.Key).FromRaw(kv.VBinary)
	default:
		m.PutStr(kv.Key, kv.VStr)
	}
}

// FromTraceID is the same id in OpenTelemetry's form.
func FromTraceID(id model.TraceID) (out pcommon.TraceID) {
	binary.BigEndian.PutUint64(out[:8], id.High)
	binary.BigEndian.PutUint64(out[8:], id.Low)
	return out
}

func fromSpanID(id model.SpanID) (out pcommon.SpanID) {
	binary.BigEndian.PutUint64(out[:], uint64(id))
	return out
}

// kinds are the values of span.kind.
var kinds = map[string]ptrace.SpanKind{
	"internal": ptrace.SpanKindInternal, "server": ptrace.SpanKindServer, "client": ptrace.SpanKindClient,
	"producer": ptrace.SpanKindProducer, "consumer": ptrace.SpanKindConsumer,
}

func otlpSpan(s *model.Span, sp ptrace.Span) {
	sp.SetTraceID(FromTraceID(s.TraceID))
	sp.SetSpanID(fromSpanID(s.SpanID))
	sp.SetName(s.OperationName)
	sp.SetStartTimestamp(pcommon.NewTimestampFromTime(s.StartTime))
	sp.SetEndTimestamp(pcommon.NewTimestampFromTime(s.StartTime.Add(s.Duration)))
	sp.SetFlags(uint32(s.Flags))
	parent := s.ParentSpanID()
	sp.SetParentSpanID(fromSpanID(parent))
	for _, r := range s.References {
		if r.RefType == model.ChildOf && r.TraceID == s.TraceID && r.SpanID == parent {
			continue
		}
		l := sp.Links().AppendEmpty()
		l.SetTraceID(FromTraceID(r.TraceID))
		l.SetSpanID(fromSpanID(r.SpanID))
		l.Attributes().PutStr(attrRefType, strings.ToLower(r.RefType.String()))
	}
	failed, code := false, stringTag(s.Tags, TagStatus)
	for i := range s.Tags {
		failed = failed || s.Tags[i].Key == TagError && s.Tags[i].VType == model.BoolType && s.Tags[i].VBool
	}
	switch {
	case failed || code == "ERROR":
		sp.Status().SetCode(ptrace.StatusCodeError)
	case code == "OK":
		sp.Status().SetCode(ptrace.StatusCodeOk)
	}
	// A status that both tags state is the status; one alone is kept as an attribute too, so that it comes back alone.
	whole := failed && code == "ERROR" || !failed && code == "OK"
	for i := range s.Tags {
		kv := &s.Tags[i]
		if kv.VType == model.StringType {
			switch kv.Key {
			case TagScope, TagScopeVersion:
				continue
			case TagTraceState:
				sp.TraceState().FromRaw(kv.VStr)
				continue
			case TagDescription:
				sp.Status().SetMessage(kv.VStr)
				continue
			case TagKind:
				if k, ok := kinds[kv.VStr]; ok {
					sp.SetKind(k)
					continue
				}
			}
		}
		if whole && (kv.Key == TagStatus || kv.Key == TagError && kv.VType == model.BoolType) {
			continue
		}
		put(sp.Attributes(), kv)
	}
	for _, l := range s.Logs {
		e := sp.Events().AppendEmpty()
		e.SetTimestamp(pcommon.NewTimestampFromTime(l.Timestamp))
		for i := range l.Fields {
			if kv := &l.Fields[i]; kv.Key == TagEvent && kv.VType == model.StringType && kv.VStr != "" {
				e.SetName(kv.VStr)
			} else {
				put(e.Attributes(), kv)
			}
		}
	}
}
