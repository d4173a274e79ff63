// Package otlpin reads Records back out of OpenTelemetry's pdata: the mapping in, beside flow's mapping out.
//
// Records walks a whole batch; Resource and Record read one part each. What is not a Tulle span is left to whoever else reads the batch.
// Nothing here trusts its input: a field that is missing, unknown or of another type reads as its zero value, the kind excepted.
package otlpin

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// ErrNotRecord says that a span was not written by a sidecar: it has no tulle.kind of the closed set.
var ErrNotRecord = errors.New("otlpin: span is not a Record (no known " + flow.AttrKind + ")")

// Records calls yield for every Record of td, in order, with the resource it came under, until yield returns false. Other spans are passed
// over. The Record and the resource are copies that share nothing with td.
func Records(td ptrace.Traces, yield func(res flow.Resource, r flow.Record) bool) {
	for _, rs := range td.ResourceSpans().All() {
		res := Resource(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				r, err := Record(span)
				if err == nil && !yield(res, r) {
					return
				}
			}
		}
	}
}

// Resource reads who reported.
func Resource(in pcommon.Resource) flow.Resource {
	a := attrs{in.Attributes()}
	res := flow.Resource{
		Service:     a.text(flow.AttrServiceName),
		Namespace:   a.text(flow.AttrServiceNamespace),
		Version:     a.text(flow.AttrServiceVersion),
		Instance:    a.text(flow.AttrServiceInstance),
		BootID:      a.text(flow.AttrBootID),
		Predecessor: a.text(flow.AttrPredecessor),
		Sequence:    uint64(max(a.number(flow.AttrSequence), 0)),
		Goodbye:     a.flag(flow.AttrGoodbye),
		Identity:    a.text(flow.AttrReporterIdentity),
	}
	if ns := a.number(flow.AttrClock); ns != 0 {
		res.Clock = time.Unix(0, ns).UTC()
	}
	return res
}

// Record reads one span; ErrNotRecord when it is none. Start is in UTC.
func Record(span ptrace.Span) (flow.Record, error) {
	a := attrs{span.Attributes()}
	kind, ok := flow.ParseKind(a.text(flow.AttrKind))
	if !ok {
		return flow.Record{}, ErrNotRecord
	}
	r := flow.Record{
		Kind: kind,
		Trace: flow.Trace{
			TraceID:  flow.TraceID(span.TraceID()),
			SpanID:   flow.SpanID(span.SpanID()),
			ParentID: flow.SpanID(span.ParentSpanID()),
			Flags:    byte(span.Flags()),
			Started:  a.flag(flow.AttrTraceBegun),
		},
		Legs: flow.Legs{
			HeadParsed: a.leg(flow.AttrLegHeadParsed),
			Queued:     a.leg(flow.AttrLegQueued),
			Connected:  a.leg(flow.AttrLegConnected),
			Secured:    a.leg(flow.AttrLegSecured),
			Sent:       a.leg(flow.AttrLegSent),
			FirstByte:  a.leg(flow.AttrLegFirstByte),
			LastByte:   a.leg(flow.AttrLegLastByte),
		},
		Far:     a.far(),
		Headers: a.headers(),
		Source: flow.Peer{
			Service:   a.text(flow.AttrSourceService),
			Namespace: a.text(flow.AttrSourceNamespace),
			Version:   a.text(flow.AttrSourceVersion),
			Instance:  a.text(flow.AttrSourceInstance),
			Identity:  a.text(flow.AttrSourceIdentity),
			Addr:      a.addr(flow.AttrSourceAddress),
		},
		Destination: flow.Peer{
			Service:   a.text(flow.AttrDestService),
			Namespace: a.text(flow.AttrDestNamespace),
			Version:   a.text(flow.AttrDestVersion),
			Instance:  a.text(flow.AttrDestInstance),
			Identity:  a.text(flow.AttrDestIdentity),
			Addr:      a.addr(flow.AttrDestAddress),
		},
		Application: a.application(),

		Endpoint:   a.addr(flow.AttrEndpoint),
		Method:     a.text(flow.AttrMethod),
		Path:       a.text(flow.AttrPath),
		Authority:  a.text(flow.AttrAuthority),
		UserAgent:  a.text(flow.AttrUserAgent),
		RequestID:  a.text(flow.AttrRequestID),
		Route:      a.text(flow.AttrRoute),
		ServerName: a.text(flow.AttrServerName),
		Status:     int(a.number(flow.AttrStatus)),
		Delivered:  a.flag(flow.AttrDelivered),
		Answered:   a.flag(flow.AttrAnswered),
		BytesIn:    uint64(max(a.number(flow.AttrBytesIn), 0)),
		BytesOut:   uint64(max(a.number(flow.AttrBytesOut), 0)),
		Attempt:    int(a.number(flow.AttrAttempt)),
		Attempts:   int(a.number(flow.AttrAttempts)),
		Probe:      a.flag(flow.AttrProbe),
		Mirror:     a.flag(flow.AttrMirror),
		Revision:   a.text(flow.AttrRevision),
		Override:   a.text(flow.AttrOverride),
		Detail:     a.text(flow.AttrDetail),
		Via:        a.addr(flow.AttrVia),
	}
	if kind == flow.KindConnection {
		r.TLS, r.NearTLS = a.tls(""), a.tls(flow.AttrNear)
	}
	r.Ended, _ = flow.ParseEnded(a.text(flow.AttrEnded))
	if r.Protocol, _ = flow.ParseProtocol(a.text(flow.AttrProtocol)); r.Protocol == flow.ProtocolGRPC && kind != flow.KindConnection {
		r.GRPC, _ = flow.ParseGRPCStatus(a.text(flow.AttrGRPC))
		r.MessagesIn = uint64(max(a.number(flow.AttrMessagesIn), 0))
		r.MessagesOut = uint64(max(a.number(flow.AttrMessagesOut), 0))
	}
	r.Phase, _ = flow.ParsePhase(a.text(flow.AttrPhase))
	r.Side, _ = flow.ParseSide(a.text(flow.AttrSide))
	r.Reason, _ = flow.ParseReason(a.text(flow.AttrReason))
	start, end := span.StartTimestamp(), span.EndTimestamp()
	if start != 0 {
		r.Start = start.AsTime()
	}
	if end > start {
		r.Duration = time.Duration(end - start)
	}
	return r, nil
}

type attrs struct{ m pcommon.Map }

func (a attrs) text(key string) string {
	if v, ok := a.m.Get(key); ok && v.Type() == pcommon.ValueTypeStr {
		return v.Str()
	}
	return ""
}

func (a attrs) number(key string) int64 {
	if v, ok := a.m.Get(key); ok && v.Type() == pcommon.ValueTypeInt {
		return v.Int()
	}
	return 0
}

func (a attrs) flag(key string) bool {
	v, ok := a.m.Get(key)
	return ok && v.Type() == pcommon.ValueTypeBool && v.Bool()
}

func (a attrs) leg(key string) time.Duration {
	if v, ok := a.m.Get(key); ok && v.Type() == pcommon.ValueTypeInt && v.Int() >= 0 {
		return time.Duration(v.Int())
	}
	return flow.Unset
}

// tls is nil unless the attribute is there that always is.
func (a attrs) tls(prefix string) *flow.TLS {
	if _, ok := a.m.Get(prefix + flow.AttrTLSResumed); !ok {
		return nil
	}
	return &flow.TLS{
		Version: a.text(prefix + flow.AttrTLSVersion), Cipher: a.text(prefix + flow.AttrTLSCipher), Resumed: a.flag(prefix + flow.AttrTLSResumed),
		ALPN: a.text(prefix + flow.AttrTLSALPN),
	}
}

// far is the zero value unless the far side said when its first byte came.
func (a attrs) far() flow.Far {
	f := flow.Far{
		HeadParsed: a.leg(flow.AttrFarHeadParsed), Queued: a.leg(flow.AttrFarQueued),
		Sent: a.leg(flow.AttrFarSent), FirstByte: a.leg(flow.AttrFarFirstByte),
	}
	if !f.Known() {
		return flow.Far{}
	}
	return f
}

// headers collects the attributes of allow-listed header fields: arrays of strings, as OpenTelemetry has them. x-request-id, which is always kept,
// is a string and a field of its own.
func (a attrs) headers() flow.Headers {
	var out []byte
	for k, v := range a.m.All() {
		name, request := strings.CutPrefix(k, flow.AttrRequestHeader)
		response := false
		if !request {
			name, response = strings.CutPrefix(k, flow.AttrResponseHeader)
		}
		if !request && !response || v.Type() != pcommon.ValueTypeSlice {
			continue
		}
		for _, item := range v.Slice().All() {
			if s := item.Str(); !strings.Contains(name+s, "\n") {
				out = flow.AppendHeader(out, response, name, []byte(s))
			}
		}
	}
	return flow.Headers(out)
}

// application is the zero value unless a Unix socket joins it and its sidecar.
func (a attrs) application() (out flow.Application) {
	if path, ok := strings.CutPrefix(a.text(flow.AttrEndpoint), flow.UnixPrefix); ok {
		out.Socket = path
	}
	if v, ok := a.m.Get(flow.AttrApplicationPID); ok && v.Type() == pcommon.ValueTypeInt {
		out.Known, out.PID = true, int32(v.Int())
		out.UID, out.GID = uint32(a.number(flow.AttrApplicationUID)), uint32(a.number(flow.AttrApplicationGID))
	}
	return out
}

func (a attrs) addr(key string) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.text(key))
	return ap
}
