package flow

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// OTLP's numbers (opentelemetry-proto, trace/v1/trace.proto).
const (
	spanKindServer  = 2
	spanKindClient  = 3
	spanStatusError = 2
)

// SpanName is the name rule of docs/format/record.md.
func (r *Record) SpanName() string { return string(r.appendName(nil)) }

func (r *Record) appendName(dst []byte) []byte {
	switch {
	case r.Kind == KindAttempt:
		return strconv.AppendInt(append(dst, "attempt "...), int64(r.Attempt), 10)
	case r.Kind == KindConnection:
		return appendWord(append(dst, "tcp"...), r.Destination.Service)
	case r.Side == SideClient:
		return appendWord(append(dst, spanMethod(r.Method)...), r.Destination.Service)
	case r.Route != "":
		return appendWord(append(dst, spanMethod(r.Method)...), r.Route)
	}
	return appendWord(append(dst, spanMethod(r.Method)...), firstSegment(r.Path))
}

func appendWord(dst []byte, word string) []byte {
	if word == "" {
		return dst
	}
	return append(append(dst, ' '), clean(word, maxName)...)
}

func spanMethod(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return m
	}
	return "HTTP"
}

// firstSegment of "/orders/17?x=1" is "/orders"; "" when there is no absolute path.
func firstSegment(path string) string {
	path = withoutQuery(path)
	if !strings.HasPrefix(path, "/") {
		return ""
	}
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		path = path[:i+1]
	}
	return path
}

// Failed is the status rule: a failing reason, or a 5xx. It also decides which attempts become exemplars.
func (r *Record) Failed() bool { return r.Reason.Failure() || r.Status >= 500 }

func (r *Record) appendSpan(dst []byte) []byte {
	return message(dst, 2, func(dst []byte) []byte {
		if !r.Trace.TraceID.IsZero() {
			dst = bytesField(dst, 1, r.Trace.TraceID[:])
		}
		if !r.Trace.SpanID.IsZero() {
			dst = bytesField(dst, 2, r.Trace.SpanID[:])
		}
		if !r.Trace.ParentID.IsZero() {
			dst = bytesField(dst, 4, r.Trace.ParentID[:])
		}
		var name [64]byte
		dst = bytesField(dst, 5, r.appendName(name[:0]))
		kind := uint64(spanKindClient)
		if r.Side == SideServer {
			kind = spanKindServer
		}
		dst = varintField(dst, 6, kind)
		start := unixNano(r.Start)
		dst = fixed64Field(dst, 7, start)
		dst = fixed64Field(dst, 8, start+uint64(max(r.Duration, 0)))
		a := attributes{dst: dst, num: 9}
		r.visit(&a)
		dst = a.dst
		if r.Failed() {
			dst = message(dst, 15, func(dst []byte) []byte {
				dst = stringField(dst, 2, r.Reason.String())
				return varintField(dst, 3, spanStatusError)
			})
		}
		if r.Trace.Flags != 0 {
			dst = fixed32Field(dst, 16, uint32(r.Trace.Flags))
		}
		return dst
	})
}

// AppendSpanBody appends the part of a trace export request that does not change when it is sent again: one ScopeSpans with a span per
// Record.
func AppendSpanBody(dst []byte, recs []Record) []byte {
	return message(dst, 2, func(dst []byte) []byte {
		dst = appendScope(dst)
		for i := range recs {
			dst = recs[i].appendSpan(dst)
		}
		return dst
	})
}

// AppendSpans appends one ExportTraceServiceRequest (opentelemetry-proto, collector/trace/v1) with a span per Record, in order.
func AppendSpans(dst []byte, res Resource, recs []Record) []byte {
	body := AppendSpanBody(make([]byte, 0, 1024+512*len(recs)), recs)
	return append(AppendHead(dst, res, len(body)), body...)
}

// ParseResponse reads an ExportTraceServiceResponse or ExportMetricsServiceResponse, which have the same shape: how many spans (points)
// the receiver did not keep, and why. A response it cannot read counts as full success, as OTLP asks of unknown fields.
func ParseResponse(b []byte) (rejected int64, message string) {
	partial := field(b, 1)
	for len(partial) > 0 {
		num, typ, n := protowire.ConsumeTag(partial)
		if n < 0 {
			return rejected, message
		}
		partial = partial[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(partial)
			if n < 0 {
				return rejected, message
			}
			rejected, partial = int64(v), partial[n:]
		case num == 2 && typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(partial)
			if n < 0 {
				return rejected, message
			}
			message, partial = string(v), partial[n:]
		default:
			n := protowire.ConsumeFieldValue(num, typ, partial)
			if n < 0 {
				return rejected, message
			}
			partial = partial[n:]
		}
	}
	return rejected, message
}

// field is the content of the first length-delimited field num of a message, nil when there is none.
func field(b []byte, num protowire.Number) []byte {
	for len(b) > 0 {
		got, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		b = b[n:]
		if got == num && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return nil
			}
			return v
		}
		if n = protowire.ConsumeFieldValue(got, typ, b); n < 0 {
			return nil
		}
		b = b[n:]
	}
	return nil
}
