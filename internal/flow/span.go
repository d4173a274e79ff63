package flow

import (
	"cmp"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// OTLP's numbers (opentelemetry-proto, trace/v1/trace.proto).
const (
	spanKindServer  = 2
	spanKindClient  = 3
	spanStatusError = 2
)

// SpanName is the name rule of docs/format/record.md.
func (r *Record) SpanName() string {
	word, rest := r.spanName()
	if word == "" || rest == "" {
		return word + rest
	}
	return word + " " + rest
}

func (r *Record) spanName() (word, rest string) {
	switch {
	case r.Kind == KindAttempt:
		return "attempt", attemptNumber(r.Attempt)
	case r.Kind == KindConnection:
		if r.Protocol == ProtocolTLS {
			return "tls", cmp.Or(r.Destination.Service, r.ServerName)
		}
		return "tcp", r.Destination.Service
	case r.Protocol == ProtocolGRPC:
		if m := r.RPCMethod(); m != "" {
			return "", m
		}
		return "grpc", ""
	case r.Side == SideClient:
		return spanMethod(r.Method), r.Destination.Service
	case r.Route != "":
		return spanMethod(r.Method), r.Route
	}
	return spanMethod(r.Method), firstSegment(r.Path)
}

// RPCMethod is the full name of the gRPC method that was called, "package.Service/Method"; "" when r is not gRPC, or its path is no such name.
func (r *Record) RPCMethod() string {
	if r.Protocol != ProtocolGRPC {
		return ""
	}
	path := withoutQuery(r.Path)
	if i := strings.LastIndexByte(path, '/'); i < 2 || i == len(path)-1 || path[0] != '/' {
		return ""
	}
	return path[1:]
}

func attemptNumber(n int) string {
	const digits = "0123456789"
	if n >= 0 && n < len(digits) {
		return digits[n : n+1]
	}
	return strconv.Itoa(n)
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

// Failed is the status rule: a failing reason, or a 5xx, or a gRPC status that stands for one. It also decides which attempts become exemplars. What
// is computed from counters instead of Records (series, edges, evidence, alerts) says the same by code_class, which is Class.
func (r *Record) Failed() bool { return r.Reason.Failure() || r.Class() == 5 }

// Class is the class as which r is counted: that of GRPC.HTTP where there is a gRPC status, because the HTTP status of such a call is nearly always 200; else
// that of the HTTP status.
func (r *Record) Class() CodeClass {
	if r.GRPC != 0 {
		return Class(r.GRPC.HTTP())
	}
	return Class(r.Status)
}

// appendSpan writes r as field 2 of ScopeSpans into a. Two bytes are kept for the length, which is right from 128 bytes to 16 KiB; every other
// length moves the span.
func (r *Record) appendSpan(a *attributes) {
	dst := append(a.dst, 2<<3|byte(protowire.BytesType), 0, 0)
	at := len(dst)
	if !r.Trace.TraceID.IsZero() {
		dst = append(append(dst, 1<<3|byte(protowire.BytesType), byte(len(r.Trace.TraceID))), r.Trace.TraceID[:]...)
	}
	if !r.Trace.SpanID.IsZero() {
		dst = append(append(dst, 2<<3|byte(protowire.BytesType), byte(len(r.Trace.SpanID))), r.Trace.SpanID[:]...)
	}
	if !r.Trace.ParentID.IsZero() {
		dst = append(append(dst, 4<<3|byte(protowire.BytesType), byte(len(r.Trace.ParentID))), r.Trace.ParentID[:]...)
	}
	dst = r.appendSpanName(dst)
	kind := byte(spanKindClient)
	if r.Side == SideServer {
		kind = spanKindServer
	}
	dst = append(dst, 6<<3|byte(protowire.VarintType), kind)
	start := unixNano(r.Start)
	dst = protowire.AppendFixed64(append(dst, 7<<3|byte(protowire.Fixed64Type)), start)
	dst = protowire.AppendFixed64(append(dst, 8<<3|byte(protowire.Fixed64Type)), start+uint64(max(r.Duration, 0)))
	a.dst, a.num = dst, 9
	r.visit(a)
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
	n := len(dst) - at
	switch size := protowire.SizeVarint(uint64(n)); size {
	case 2:
	case 1:
		copy(dst[at-1:], dst[at:])
		dst = dst[:len(dst)-1]
	default:
		dst = append(dst, make([]byte, size-2)...)
		copy(dst[at+size-2:], dst[at:at+n])
	}
	protowire.AppendVarint(dst[:at-2], uint64(n))
	a.dst = dst
}

// appendSpanName writes SpanName as field 5 without making the string.
func (r *Record) appendSpanName(dst []byte) []byte {
	word, rest := r.spanName()
	rest = clean(rest, maxName-len(word)-1)
	n, space := len(word)+len(rest), word != "" && rest != ""
	if space {
		n++
	}
	dst = protowire.AppendVarint(append(dst, 5<<3|byte(protowire.BytesType)), uint64(n))
	dst = append(dst, word...)
	if space {
		dst = append(dst, ' ')
	}
	return append(dst, rest...)
}

var spanMemos = sync.Pool{New: func() any { return new(memo) }}

// AppendSpanBody appends the part of a trace export request that does not change when it is sent again: one ScopeSpans with a span per
// Record.
func AppendSpanBody(dst []byte, recs []Record) []byte {
	m := spanMemos.Get().(*memo)
	defer spanMemos.Put(m)
	return message(dst, 2, func(dst []byte) []byte {
		a := attributes{dst: appendScope(dst), memo: m}
		for i := range recs {
			recs[i].appendSpan(&a)
		}
		return a.dst
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
