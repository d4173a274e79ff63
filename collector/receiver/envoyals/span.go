package envoyals

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"hash/fnv"
	"net"
	"strconv"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Attributes that only Envoy's spans have. Times are ints, ns since the span's start; the others are what the field of that name says.
const (
	attrLogName  = "envoy.log_name"
	attrCluster  = "envoy.upstream_cluster"
	attrDetails  = "envoy.response_code_details"
	attrAttempts = "envoy.upstream_request_attempt_count"
	attrStream   = "envoy.stream_id"
	attrTag      = "envoy.tag." // custom tags; their name follows
)

// sender is who sends on a stream, as its first message says.
type sender struct {
	logName  string
	resource map[string]string
}

// newSender reads the identity of an Envoy. Its service is what Istio's metadata say (canonical name, app, workload), else the node's cluster (--service-cluster), else its
// id (--service-node).
func newSender(id *accesslog.StreamAccessLogsMessage_Identifier) *sender {
	n := id.GetNode()
	meta := n.GetMetadata().GetFields()
	text := func(k string) string { return meta[k].GetStringValue() }
	label := func(k string) string { return meta["LABELS"].GetStructValue().GetFields()[k].GetStringValue() }
	return &sender{logName: id.GetLogName(), resource: map[string]string{
		flow.AttrServiceName: cmp.Or(label("service.istio.io/canonical-name"), label("app.kubernetes.io/name"), label("app"), text("WORKLOAD_NAME"), n.GetCluster(), n.GetId(), "envoy"),

		flow.AttrServiceNamespace: text("NAMESPACE"),
		flow.AttrServiceVersion:   cmp.Or(label("service.istio.io/canonical-revision"), label("app.kubernetes.io/version"), label("version")),
		flow.AttrServiceInstance:  n.GetId(),
	}}
}

// spans are those of a message's entries; skipped are the others by reason.
func (f *sender) spans(m *accesslog.StreamAccessLogsMessage) (td ptrace.Traces, skipped map[string]int) {
	td, skipped = ptrace.NewTraces(), map[string]int{}
	rs := td.ResourceSpans().AppendEmpty()
	for k, v := range f.resource {
		if v != "" {
			rs.Resource().Attributes().PutStr(k, v)
		}
	}
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName("envoy")
	add := func(c *data.AccessLogCommon, fill func(s ptrace.Span, r *flow.Record)) {
		switch {
		case !c.GetStartTime().IsValid():
			skipped[ReasonMalformed]++
		case c.GetIntermediateLogEntry() || !last(c.GetAccessLogType()): //nolint:staticcheck // Envoys that are older than the type say it so
			skipped[ReasonProgress]++
		default:
			s := ss.Spans().AppendEmpty()
			r := f.common(s, c)
			fill(s, r)
			s.SetName(r.SpanName())
			if failed, why := outcome(r, c); failed {
				s.Status().SetCode(ptrace.StatusCodeError)
				s.Status().SetMessage(why)
			}
		}
	}
	for _, e := range m.GetHttpLogs().GetLogEntry() {
		add(e.GetCommonProperties(), func(s ptrace.Span, r *flow.Record) { exchange(s, r, e) })
	}
	for _, e := range m.GetTcpLogs().GetLogEntry() {
		add(e.GetCommonProperties(), func(s ptrace.Span, r *flow.Record) {
			r.Kind, r.Protocol = flow.KindConnection, flow.ProtocolTCP
			a := s.Attributes()
			a.PutStr(flow.AttrProtocol, "tcp")
			a.PutInt(flow.AttrBytesIn, int64(e.GetConnectionProperties().GetReceivedBytes())) //nolint:gosec // bytes of one connection
			a.PutInt(flow.AttrBytesOut, int64(e.GetConnectionProperties().GetSentBytes()))    //nolint:gosec // bytes of one connection
			text(a, flow.AttrDetail, cmp.Or(e.GetCommonProperties().GetUpstreamTransportFailureReason(), e.GetCommonProperties().GetConnectionTerminationDetails()))
			identify(s, e.GetCommonProperties(), nil, "")
		})
	}
	return td, skipped
}

// last says that nothing more is told of the thing after an entry of this type.
func last(t data.AccessLogType) bool {
	switch t {
	case data.AccessLogType_NotSet, data.AccessLogType_TcpConnectionEnd, data.AccessLogType_DownstreamEnd, data.AccessLogType_UpstreamEnd, data.AccessLogType_UdpSessionEnd:
		return true
	}
	return false
}

// common fills in what HTTP and TCP have alike. The Record is for the rules of names and failures that sidecars' spans obey.
func (f *sender) common(s ptrace.Span, c *data.AccessLogCommon) *flow.Record {
	r := &flow.Record{Kind: flow.KindExchange, Side: flow.SideServer, Route: c.GetRouteName()}
	s.SetKind(ptrace.SpanKindServer)
	if f.outbound(c) {
		r.Side, r.Destination.Service = flow.SideClient, destination(c.GetUpstreamCluster())
		s.SetKind(ptrace.SpanKindClient)
	}
	if c.GetAccessLogType() == data.AccessLogType_UpstreamEnd {
		r.Kind, r.Attempt = flow.KindAttempt, int(max(1, c.GetUpstreamRequestAttemptCount()))
	}
	start := c.GetStartTime().AsTime()
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(start))
	took := c.GetDuration().AsDuration()
	for _, d := range []*durationpb.Duration{c.GetTimeToLastDownstreamTxByte(), c.GetTimeToLastUpstreamRxByte(), c.GetTimeToLastRxByte()} {
		if c.GetDuration() == nil {
			took = max(took, d.AsDuration())
		}
	}
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(start.Add(max(0, took))))
	a := s.Attributes()
	text(a, attrLogName, f.logName)
	text(a, attrCluster, c.GetUpstreamCluster())
	text(a, attrStream, c.GetStreamId())
	text(a, flow.AttrRoute, c.GetRouteName())
	text(a, flow.AttrSourceAddress, address(c.GetDownstreamRemoteAddress()))
	text(a, flow.AttrDestAddress, cmp.Or(address(c.GetUpstreamRemoteAddress()), address(c.GetDownstreamLocalAddress())))
	if via := address(c.GetDownstreamDirectRemoteAddress()); via != address(c.GetDownstreamRemoteAddress()) {
		text(a, flow.AttrVia, via)
	}
	if t := c.GetTlsProperties(); t != nil {
		text(a, flow.AttrServerName, t.GetTlsSniHostname())
		if v := t.GetTlsVersion(); v > data.TLSProperties_TLSv1 {
			text(a, flow.AttrTLSVersion, "1."+strconv.Itoa(int(v)-1)) // TLSv1 is 1, TLSv1_3 is 4
		} else if v == data.TLSProperties_TLSv1 {
			text(a, flow.AttrTLSVersion, "1.0")
		}
		for i, n := range t.GetPeerCertificateProperties().GetSubjectAltName() {
			if i == 0 {
				text(a, "tls.client.subject_alt_name", cmp.Or(n.GetUri(), n.GetDns()))
			}
		}
	}
	text(a, flow.AttrFlags, strings.Join(flags(c.GetResponseFlags()), ","))
	if n := c.GetUpstreamRequestAttemptCount(); n > 1 {
		a.PutInt(attrAttempts, int64(n))
	}
	for _, d := range []struct {
		name string
		d    *durationpb.Duration
	}{
		{"time_to_last_rx_byte", c.GetTimeToLastRxByte()},
		{"time_to_first_upstream_tx_byte", c.GetTimeToFirstUpstreamTxByte()},
		{"time_to_last_upstream_tx_byte", c.GetTimeToLastUpstreamTxByte()},
		{"time_to_first_upstream_rx_byte", c.GetTimeToFirstUpstreamRxByte()},
		{"time_to_last_upstream_rx_byte", c.GetTimeToLastUpstreamRxByte()},
		{"time_to_first_downstream_tx_byte", c.GetTimeToFirstDownstreamTxByte()},
		{"time_to_last_downstream_tx_byte", c.GetTimeToLastDownstreamTxByte()},
	} {
		if d.d != nil {
			a.PutInt("envoy."+d.name, int64(d.d.AsDuration()/time.Nanosecond))
		}
	}
	for k, v := range c.GetCustomTags() {
		text(a, attrTag+k, v)
	}
	return r
}

// outbound says that the Envoy sent a request of its own service's, or tried an upstream, rather than took one for it. Istio's clusters begin with the direction; elsewhere the
// log's name may say it ("outbound", "egress" or "client" as a word of it). An edge takes requests.
func (f *sender) outbound(c *data.AccessLogCommon) bool {
	if c.GetAccessLogType() == data.AccessLogType_UpstreamEnd {
		return true
	}
	switch direction, _, _ := strings.Cut(c.GetUpstreamCluster(), "|"); direction {
	case "outbound", "PassthroughCluster", "BlackHoleCluster":
		return true
	case "inbound", "InboundPassthroughCluster":
		return false
	}
	for _, word := range strings.FieldsFunc(f.logName, func(r rune) bool { return strings.ContainsRune("-_./ |", r) }) {
		switch word {
		case "outbound", "egress", "client":
			return true
		}
	}
	return false
}

// destination is the service that a cluster stands for: of Istio's outbound|80|v1|reviews.shop.svc.cluster.local it is reviews.shop, of others the cluster.
func destination(cluster string) string {
	if p := strings.Split(cluster, "|"); len(p) == 4 {
		host, _, _ := strings.Cut(p[3], ".svc.")
		return host
	}
	return cluster
}

func exchange(s ptrace.Span, r *flow.Record, e *data.HTTPAccessLogEntry) {
	c, q, p, a := e.GetCommonProperties(), e.GetRequest(), e.GetResponse(), s.Attributes()
	r.Protocol = flow.ProtocolHTTP1
	protocol := "http/1.1"
	switch e.GetProtocolVersion() {
	case data.HTTPAccessLogEntry_HTTP10:
		protocol = "http/1.0"
	case data.HTTPAccessLogEntry_HTTP2:
		protocol, r.Protocol = "h2", flow.ProtocolHTTP2
	case data.HTTPAccessLogEntry_HTTP3:
		protocol, r.Protocol = "h3", flow.ProtocolHTTP2
	}
	grpcStatus := cmp.Or(p.GetResponseTrailers()["grpc-status"], p.GetResponseHeaders()["grpc-status"])
	if grpcStatus != "" || strings.HasPrefix(q.GetRequestHeaders()["content-type"], "application/grpc") {
		protocol, r.Protocol = "grpc", flow.ProtocolGRPC
		r.GRPC = flow.ReadGRPCStatus(grpcStatus)
	}
	if m := q.GetRequestMethod(); m != core.RequestMethod_METHOD_UNSPECIFIED {
		r.Method = m.String()
	}
	r.Path, _, _ = strings.Cut(cmp.Or(q.GetOriginalPath(), q.GetPath()), "?")
	r.Status = int(p.GetResponseCode().GetValue())
	text(a, flow.AttrProtocol, protocol)
	text(a, flow.AttrMethod, r.Method)
	text(a, flow.AttrPath, r.Path)
	text(a, "url.scheme", q.GetScheme())
	text(a, flow.AttrUserAgent, q.GetUserAgent())
	text(a, flow.AttrRequestID, q.GetRequestId())
	if r.Status > 0 {
		a.PutInt(flow.AttrStatus, int64(r.Status))
	}
	if r.Protocol == flow.ProtocolGRPC {
		text(a, flow.AttrRPCSystem, "grpc")
		text(a, flow.AttrRPCMethod, r.RPCMethod())
		text(a, flow.AttrGRPC, r.GRPC.String())
	}
	a.PutInt(flow.AttrBytesIn, int64(q.GetRequestBodyBytes()))   //nolint:gosec // bytes of one request
	a.PutInt(flow.AttrBytesOut, int64(p.GetResponseBodyBytes())) //nolint:gosec // bytes of one response
	text(a, attrDetails, p.GetResponseCodeDetails())
	text(a, flow.AttrDetail, cmp.Or(c.GetUpstreamTransportFailureReason(), c.GetDownstreamTransportFailureReason()))
	header := func(prefix, name, value string) {
		if value != "" {
			a.PutEmptySlice(prefix + name).AppendEmpty().SetStr(value)
		}
	}
	header(flow.AttrRequestHeader, "host", q.GetAuthority())
	header(flow.AttrRequestHeader, "referer", withoutQuery(q.GetReferer()))
	header(flow.AttrRequestHeader, "x-forwarded-for", q.GetForwardedFor())
	for k, v := range q.GetRequestHeaders() {
		if !carriesTrace(k) {
			header(flow.AttrRequestHeader, strings.ToLower(k), v)
		}
	}
	for _, m := range []map[string]string{p.GetResponseHeaders(), p.GetResponseTrailers()} {
		for k, v := range m {
			header(flow.AttrResponseHeader, strings.ToLower(k), v)
		}
	}
	identify(s, c, q.GetRequestHeaders(), q.GetRequestId())
}

func withoutQuery(u string) string {
	u, _, _ = strings.Cut(u, "?")
	return u
}

func carriesTrace(header string) bool {
	switch strings.ToLower(header) {
	case "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags":
		return true
	}
	return false
}

// identify gives the span its place: in the trace that the request's headers name, below the span named there, as far as Envoy was told to log them
// (additional_request_headers_to_log). Else the request id, which Envoys hand on and which is a UUID, names the trace, and else it is one of its own.
func identify(s ptrace.Span, c *data.AccessLogCommon, headers map[string]string, requestID string) {
	id := spanID(c)
	s.SetSpanID(id)
	t, parent := traceOf(headers)
	if t.IsEmpty() {
		if n, err := hex.Decode(t[:], []byte(strings.ReplaceAll(requestID, "-", ""))); err != nil || n != len(t) || len(requestID) > 36 {
			t = pcommon.TraceID{}
		}
	}
	if t.IsEmpty() {
		_, _ = rand.Read(t[:]) // never fails
	}
	s.SetTraceID(t)
	if parent != id {
		s.SetParentSpanID(parent)
	}
}

// spanID is of the stream's unique id and of the try, so that an entry that is read twice is the same span; random where there is no such id.
func spanID(c *data.AccessLogCommon) (id pcommon.SpanID) {
	if c.GetStreamId() == "" {
		_, _ = rand.Read(id[:]) // never fails
		return id
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.GetStreamId() + "/" + c.GetAccessLogType().String() + "/" + strconv.Itoa(int(c.GetUpstreamRequestAttemptCount()))))
	h.Sum(id[:0])
	return id
}

// traceOf reads W3C's trace context (https://www.w3.org/TR/trace-context/), else B3 in one header or in several (https://github.com/openzipkin/b3-propagation).
func traceOf(headers map[string]string) (t pcommon.TraceID, span pcommon.SpanID) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(headers))
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return pcommon.TraceID(sc.TraceID()), pcommon.SpanID(sc.SpanID())
	}
	id, sp := headers["x-b3-traceid"], headers["x-b3-spanid"]
	if b3 := strings.Split(headers["b3"], "-"); len(b3) > 1 {
		id, sp = b3[0], b3[1]
	}
	if len(id) == 16 {
		id = strings.Repeat("0", 16) + id
	}
	if n, err := hex.Decode(t[:], []byte(id[:min(len(id), 32)])); err != nil || n != len(t) || len(id) != 32 {
		return pcommon.TraceID{}, pcommon.SpanID{}
	}
	if len(sp) != 16 {
		return t, pcommon.SpanID{}
	}
	if _, err := hex.Decode(span[:], []byte(sp)); err != nil {
		span = pcommon.SpanID{}
	}
	return t, span
}

func text(a pcommon.Map, key, v string) {
	if v != "" {
		a.PutStr(key, v)
	}
}

// address is ip:port, or unix:PATH.
func address(a *core.Address) string {
	switch x := a.GetAddress().(type) {
	case *core.Address_SocketAddress:
		return net.JoinHostPort(x.SocketAddress.GetAddress(), strconv.FormatUint(uint64(x.SocketAddress.GetPortValue()), 10))
	case *core.Address_Pipe:
		return flow.UnixPrefix + x.Pipe.GetPath()
	}
	return ""
}
