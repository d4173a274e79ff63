package envoyals

import (
	"maps"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var at = time.Date(2026, 11, 20, 12, 0, 0, 5, time.UTC)

func entry(f func(e *data.HTTPAccessLogEntry)) *data.HTTPAccessLogEntry {
	e := &data.HTTPAccessLogEntry{
		CommonProperties: &data.AccessLogCommon{
			StartTime: timestamppb.New(at), Duration: durationpb.New(3 * time.Millisecond), UpstreamCluster: "shop", RouteName: "front", StreamId: "s-1",
			TimeToFirstUpstreamTxByte: durationpb.New(time.Millisecond), AccessLogType: data.AccessLogType_DownstreamEnd,
		},
		ProtocolVersion: data.HTTPAccessLogEntry_HTTP11,
		Request: &data.HTTPRequestProperties{
			RequestMethod: core.RequestMethod_GET, Path: "/cart/7?card=4111", Authority: "shop.example", UserAgent: "curl/8", RequestId: "01020304-0506-4708-890a-0b0c0d0e0f10", RequestBodyBytes: 3,
		},
		Response: &data.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(200), ResponseBodyBytes: 7, ResponseCodeDetails: "via_upstream"},
	}
	if f != nil {
		f(e)
	}
	return e
}

func envoy(logName string) *sender {
	return newSender(&accesslog.StreamAccessLogsMessage_Identifier{LogName: logName, Node: &core.Node{Id: "edge-1", Cluster: "edge"}})
}

func one(t *testing.T, f *sender, e *data.HTTPAccessLogEntry) ptrace.Span {
	t.Helper()
	td, skipped := f.spans(&accesslog.StreamAccessLogsMessage{LogEntries: &accesslog.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslog.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*data.HTTPAccessLogEntry{e}},
	}})
	if td.SpanCount() != 1 || len(skipped) > 0 {
		t.Fatalf("%d spans, skipped %v", td.SpanCount(), skipped)
	}
	return td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
}

func TestExchange(t *testing.T) {
	s := one(t, envoy("edge"), entry(nil))
	if s.Name() != "GET front" || s.Kind() != ptrace.SpanKindServer || s.StartTimestamp().AsTime() != at || s.EndTimestamp().AsTime().Sub(at) != 3*time.Millisecond || s.Status().Code() != ptrace.StatusCodeUnset {
		t.Errorf("%s, %s, %s to %s, %s", s.Name(), s.Kind(), s.StartTimestamp(), s.EndTimestamp(), s.Status().Code())
	}
	want := map[string]any{
		"http.request.method": "GET", "url.path": "/cart/7", "http.response.status_code": int64(200), "network.protocol.name": "http/1.1", "user_agent.original": "curl/8",
		"http.request.header.x-request-id": "01020304-0506-4708-890a-0b0c0d0e0f10", "http.route": "front", "http.request.body.size": int64(3), "http.response.body.size": int64(7),
		"http.request.header.host": []any{"shop.example"}, "envoy.log_name": "edge", "envoy.upstream_cluster": "shop", "envoy.response_code_details": "via_upstream",
		"envoy.stream_id": "s-1", "envoy.time_to_first_upstream_tx_byte": int64(time.Millisecond),
	}
	got := s.Attributes().AsRaw()
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if l, ok := want[k].([]any); ok {
			if g, ok := got[k].([]any); !ok || !slices.Equal(g, l) {
				t.Errorf("%s is %v, want %v", k, got[k], l)
			}
		} else if got[k] != want[k] {
			t.Errorf("%s is %v, want %v", k, got[k], want[k])
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("and %v", got)
	}
}

func TestPlaceInTheTrace(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for name, x := range map[string]struct {
		headers       map[string]string
		requestID     string
		trace, parent string
	}{
		"traceparent":             {map[string]string{"traceparent": "00-" + trace + "-" + span + "-01"}, "01020304-0506-4708-890a-0b0c0d0e0f10", trace, span},
		"b3":                      {map[string]string{"b3": trace + "-" + span + "-1"}, "", trace, span},
		"b3 of 64 bits":           {map[string]string{"b3": trace[16:] + "-" + span}, "", "0000000000000000" + trace[16:], span},
		"b3 in several":           {map[string]string{"x-b3-traceid": trace, "x-b3-spanid": span}, "", trace, span},
		"b3 without span":         {map[string]string{"x-b3-traceid": trace}, "", trace, ""},
		"malformed traceparent":   {map[string]string{"traceparent": "00-" + trace + "-zz"}, "01020304-0506-4708-890a-0b0c0d0e0f10", "0102030405064708890a0b0c0d0e0f10", ""},
		"malformed b3":            {map[string]string{"b3": "no-" + span, "x-b3-traceid": "\xff"}, "01020304-0506-4708-890a-0b0c0d0e0f10", "0102030405064708890a0b0c0d0e0f10", ""},
		"request id":              {nil, "01020304-0506-4708-890a-0b0c0d0e0f10", "0102030405064708890a0b0c0d0e0f10", ""},
		"request id of one's own": {nil, "order-17", "", ""},
		"nothing":                 {nil, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := entry(func(e *data.HTTPAccessLogEntry) {
				e.Request.RequestHeaders, e.Request.RequestId = x.headers, x.requestID
			})
			s := one(t, envoy(""), e)
			if x.trace != "" && s.TraceID().String() != x.trace || s.TraceID().IsEmpty() || s.ParentSpanID().String() != x.parent || s.SpanID().IsEmpty() {
				t.Errorf("trace %s, span %s, parent %s", s.TraceID(), s.SpanID(), s.ParentSpanID())
			}
			if again := one(t, envoy(""), e); again.SpanID() != s.SpanID() {
				t.Error("the same entry is another span")
			}
			if x.trace == "" && one(t, envoy(""), e).TraceID() == s.TraceID() {
				t.Error("what is of no trace shares one")
			}
			for k := range s.Attributes().All() {
				if k == "http.request.header.traceparent" || k == "http.request.header.b3" {
					t.Errorf("%s is an attribute", k)
				}
			}
		})
	}
}

func TestDirectionAndName(t *testing.T) {
	for name, x := range map[string]struct {
		log, cluster string
		kind         data.AccessLogType
		want         string
		span         ptrace.SpanKind
	}{
		"an edge":                {"edge", "shop", data.AccessLogType_NotSet, "GET front", ptrace.SpanKindServer},
		"Istio, in":              {"otel", "inbound|8080||", data.AccessLogType_DownstreamEnd, "GET front", ptrace.SpanKindServer},
		"Istio, out":             {"otel", "outbound|80|v1|reviews.shop.svc.cluster.local", data.AccessLogType_DownstreamEnd, "GET reviews.shop", ptrace.SpanKindClient},
		"by the log's name":      {"sidecar-egress", "reviews", data.AccessLogType_DownstreamEnd, "GET reviews", ptrace.SpanKindClient},
		"a word in another word": {"clients", "reviews", data.AccessLogType_DownstreamEnd, "GET front", ptrace.SpanKindServer},
		"a try":                  {"edge", "shop", data.AccessLogType_UpstreamEnd, "attempt 1", ptrace.SpanKindClient},
	} {
		s := one(t, envoy(x.log), entry(func(e *data.HTTPAccessLogEntry) {
			e.CommonProperties.UpstreamCluster, e.CommonProperties.AccessLogType = x.cluster, x.kind
		}))
		if s.Name() != x.want || s.Kind() != x.span {
			t.Errorf("%s: %q, %s; want %q, %s", name, s.Name(), s.Kind(), x.want, x.span)
		}
	}
}

func TestService(t *testing.T) {
	meta := func(s string) *structpb.Struct {
		m := &structpb.Struct{}
		if err := m.UnmarshalJSON([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for want, n := range map[string]*core.Node{
		"reviews": {Id: "sidecar~10.0.0.7~reviews-1.shop~shop.svc.cluster.local", Cluster: "reviews.shop", Metadata: meta(`{"NAMESPACE":"shop","WORKLOAD_NAME":"reviews-v2","LABELS":{"app":"x","service.istio.io/canonical-name":"reviews"}}`)},
		"edge":    {Id: "edge-1", Cluster: "edge"},
		"edge-2":  {Id: "edge-2"},
		"envoy":   nil,
	} {
		f := newSender(&accesslog.StreamAccessLogsMessage_Identifier{Node: n})
		if f.resource["service.name"] != want || f.resource["service.instance.id"] != n.GetId() {
			t.Errorf("%v, want %s", f.resource, want)
		}
		if want == "reviews" && f.resource["service.namespace"] != "shop" {
			t.Errorf("%v", f.resource)
		}
	}
}

func TestOutcome(t *testing.T) {
	for name, x := range map[string]struct {
		f     func(e *data.HTTPAccessLogEntry)
		flags string
		why   string // "": no error
	}{
		"well":      {nil, "", ""},
		"not found": {func(e *data.HTTPAccessLogEntry) { e.Response.ResponseCode = wrapperspb.UInt32(404) }, "", ""},
		"a 503":     {func(e *data.HTTPAccessLogEntry) { e.Response.ResponseCode = wrapperspb.UInt32(503) }, "", "upstream_5xx"},
		"no endpoint, after tries": {func(e *data.HTTPAccessLogEntry) {
			e.Response.ResponseCode = wrapperspb.UInt32(503)
			e.CommonProperties.ResponseFlags = &data.ResponseFlags{NoHealthyUpstream: true, UpstreamRetryLimitExceeded: true}
		}, "UH,URX", "no_healthy_endpoint"},
		"the caller left": {func(e *data.HTTPAccessLogEntry) {
			e.Response.ResponseCode = nil
			e.CommonProperties.ResponseFlags = &data.ResponseFlags{DownstreamConnectionTermination: true}
		}, "DC", ""},
		"refused by a rule": {func(e *data.HTTPAccessLogEntry) {
			e.Response.ResponseCode = wrapperspb.UInt32(403)
			e.CommonProperties.ResponseFlags = &data.ResponseFlags{UnauthorizedDetails: &data.ResponseFlags_Unauthorized{}}
		}, "UAEX", ""},
		"gRPC": {func(e *data.HTTPAccessLogEntry) {
			e.Request.Path = "/shop.v1.Cart/Get"
			e.Response.ResponseTrailers = map[string]string{"grpc-status": "14"}
		}, "", "upstream_5xx"},
		"gRPC, not found": {func(e *data.HTTPAccessLogEntry) {
			e.Request.Path = "/shop.v1.Cart/Get"
			e.Response.ResponseTrailers = map[string]string{"grpc-status": "5"}
		}, "", ""},
	} {
		s := one(t, envoy("edge"), entry(x.f))
		f, _ := s.Attributes().Get("response_flags")
		if (s.Status().Code() == ptrace.StatusCodeError) != (x.why != "") || x.why != "" && s.Status().Message() != x.why || f.Str() != x.flags {
			t.Errorf("%s: %s %q, flags %q", name, s.Status().Code(), s.Status().Message(), f.Str())
		}
		if name == "gRPC" {
			m, _ := s.Attributes().Get("rpc.method")
			c, _ := s.Attributes().Get("rpc.response.status_code")
			if s.Name() != "shop.v1.Cart/Get" || m.Str() != "shop.v1.Cart/Get" || c.Str() != "UNAVAILABLE" {
				t.Errorf("%s, %s, %s", s.Name(), m.Str(), c.Str())
			}
		}
	}
	// Every flag that Envoy has is told.
	var n int
	d := (&data.ResponseFlags{}).ProtoReflect().Descriptor().Fields()
	if n = d.Len(); n != len(responseFlags) {
		t.Errorf("Envoy has %d flags, the table %d", n, len(responseFlags))
	}
}

func TestOthers(t *testing.T) {
	m := &accesslog.StreamAccessLogsMessage{LogEntries: &accesslog.StreamAccessLogsMessage_TcpLogs{TcpLogs: &accesslog.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*data.TCPAccessLogEntry{
		{CommonProperties: &data.AccessLogCommon{
			StartTime: timestamppb.New(at), Duration: durationpb.New(time.Second), UpstreamCluster: "outbound|5432||db.shop.svc.cluster.local", ResponseFlags: &data.ResponseFlags{UpstreamConnectionFailure: true},
			UpstreamRemoteAddress: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "fd00::1", PortSpecifier: &core.SocketAddress_PortValue{PortValue: 5432}}}},
		}, ConnectionProperties: &data.ConnectionProperties{ReceivedBytes: 5, SentBytes: 6}},
		{CommonProperties: &data.AccessLogCommon{StartTime: timestamppb.New(at), AccessLogType: data.AccessLogType_TcpPeriodic}},
		{CommonProperties: &data.AccessLogCommon{StartTime: timestamppb.New(at), IntermediateLogEntry: true}}, //nolint:staticcheck // as older Envoys say it
		{},
	}}}}
	td, skipped := envoy("db").spans(m)
	if td.SpanCount() != 1 || skipped[ReasonProgress] != 2 || skipped[ReasonMalformed] != 1 {
		t.Fatalf("%d spans, skipped %v", td.SpanCount(), skipped)
	}
	s := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	a := s.Attributes().AsRaw()
	if s.Name() != "tcp db.shop" || s.Status().Message() != "connect_failed" || a["server.address"] != "[fd00::1]:5432" || a["http.request.body.size"] != int64(5) || a["http.response.body.size"] != int64(6) ||
		s.TraceID() == (pcommon.TraceID{}) {
		t.Errorf("%s, %s, %v", s.Name(), s.Status().Message(), a)
	}
}
