package otlpin_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/flow/otlpin"
)

// compare looks into netip's unexported fields, too.
var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
}

// random fills every field of a Record with something valid, zero now and then, so that a field the codec forgets is found without anybody
// listing it here: strings and numbers are set by reflection.
func random(r *rand.Rand) flow.Record {
	var rec flow.Record
	fill(r, reflect.ValueOf(&rec).Elem())
	rec.Kind = flow.Kind(1 + r.IntN(3))
	rec.Phase = flow.Phase(r.IntN(2))
	rec.Side = flow.Side(1 + r.IntN(2))
	rec.Protocol = flow.Protocol(r.IntN(7))
	if rec.GRPC = flow.GRPCStatus(r.IntN(18)); rec.Protocol != flow.ProtocolGRPC || rec.Kind == flow.KindConnection {
		rec.GRPC, rec.MessagesIn, rec.MessagesOut = 0, 0, 0
	}
	rec.Reason = append(flow.Reasons(), flow.ReasonNone)[r.IntN(len(flow.Reasons())+1)]
	rec.Start = time.Unix(r.Int64N(4e9), r.Int64N(1e9)).UTC()
	rec.Duration = time.Duration(r.Int64N(1e15))
	rec.Delivered = rec.Delivered && rec.Kind == flow.KindAttempt
	rec.Folded = false // never encoded
	if rec.Ended %= flow.EndedError + 1; rec.Kind != flow.KindConnection {
		rec.TLS, rec.NearTLS = nil, nil
	}
	rec.Answered = rec.Answered && rec.Kind == flow.KindExchange
	for _, leg := range []*time.Duration{
		&rec.Legs.HeadParsed, &rec.Legs.Queued, &rec.Legs.Connected, &rec.Legs.Secured, &rec.Legs.Sent,
		&rec.Legs.FirstByte, &rec.Legs.LastByte,
	} {
		*leg = max(*leg, flow.Unset)
	}
	if rec.Endpoint.IsValid() { // an application is at a port or at a socket
		rec.Application.Socket = ""
	}
	if !rec.Application.Known {
		rec.Application = flow.Application{Socket: rec.Application.Socket}
	}
	if !rec.Far.Known() {
		rec.Far = flow.Far{}
	}
	if rec.Headers != "" {
		b := flow.AppendHeader(nil, false, "accept-language", []byte("de, en; q=0.5"))
		b = flow.AppendHeader(b, false, "x-tenant", []byte(rec.Headers))
		rec.Headers = flow.Headers(flow.AppendHeader(b, true, "x-cache", nil))
	}
	return rec
}

func fill(r *rand.Rand, v reflect.Value) {
	if r.IntN(8) == 0 {
		return
	}
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		return
	case *netip.AddrPort:
		if r.IntN(2) == 0 {
			*x = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(r.Uint32()), 0, 1}), uint16(r.Uint32()))
		} else {
			*x = netip.AddrPortFrom(netip.MustParseAddr("fd00::1"), uint16(r.Uint32()))
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(byte(r.Uint32())))
		}
	case reflect.String:
		v.SetString([]string{"catalog", "/a/b", "ä€😀", "x \"quoted\"", strings.Repeat("n", 200)}[r.IntN(5)])
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(r.Int64N(1 << 40))
	case reflect.Int32:
		v.SetInt(int64(r.Int32()))
	case reflect.Uint32:
		v.SetUint(uint64(r.Uint32()))
	case reflect.Uint64:
		v.SetUint(r.Uint64N(1 << 62))
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(256)))
	}
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		res := flow.Resource{
			Service: "cart", Namespace: "shop", Version: "v2", Instance: "cart-1", BootID: "0123456789abcdef", Predecessor: "fedcba9876543210",
			Sequence: r.Uint64N(1 << 62), Clock: time.Unix(0, r.Int64()).UTC(), Goodbye: r.IntN(2) == 0,
		}
		recs := make([]flow.Record, r.IntN(6))
		for i := range recs {
			recs[i] = random(r)
		}
		b := flow.AppendSpans([]byte("before"), res, recs)
		b, ok := bytes.CutPrefix(b, []byte("before"))
		if !ok {
			t.Fatal("AppendSpans did not append")
		}
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(b); err != nil {
			t.Fatalf("pdata cannot read it: %v", err)
		}
		var got []flow.Record
		otlpin.Records(req.Traces(), func(gotRes flow.Resource, rec flow.Record) bool {
			if diff := cmp.Diff(res, gotRes, compare); diff != "" {
				t.Fatalf("resource (-sent +read):\n%s", diff)
			}
			got = append(got, rec)
			return true
		})
		if len(got) != len(recs) {
			t.Fatalf("%d Records sent, %d read", len(recs), len(got))
		}
		for i := range recs {
			if diff := cmp.Diff(recs[i], got[i], compare); diff != "" {
				t.Fatalf("Record (-sent +read):\n%s", diff)
			}
		}
		// The official generated code is stricter than pdata: it checks UTF-8 and leaves unknown fields visible.
		var official collectortrace.ExportTraceServiceRequest
		if err := proto.Unmarshal(b, &official); err != nil {
			t.Fatalf("official OTLP code cannot read it: %v", err)
		}
		canonical, err := proto.MarshalOptions{Deterministic: true}.Marshal(&official)
		if err != nil {
			t.Fatal(err)
		}
		if len(canonical) != len(b) {
			t.Fatalf("%d bytes, the official encoder needs %d", len(b), len(canonical))
		}
	}
}

func TestSpanShape(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, c := range []struct {
		name   string
		rec    flow.Record
		span   string
		kind   otlptrace.Span_SpanKind
		status otlptrace.Status_StatusCode
		reason string
	}{
		{
			"client exchange",
			flow.Record{Kind: flow.KindExchange, Side: flow.SideClient, Method: "GET", Path: "/a/b", Destination: flow.Peer{Service: "cart"}, Status: 404},
			"GET cart", otlptrace.Span_SPAN_KIND_CLIENT, otlptrace.Status_STATUS_CODE_UNSET, "",
		},
		{
			"client exchange to nowhere",
			flow.Record{Kind: flow.KindExchange, Side: flow.SideClient, Method: "BREW", Reason: flow.ReasonUnknownDest},
			"HTTP", otlptrace.Span_SPAN_KIND_CLIENT, otlptrace.Status_STATUS_CODE_ERROR, "unknown_destination",
		},
		{
			"server exchange",
			flow.Record{Kind: flow.KindExchange, Side: flow.SideServer, Method: "POST", Path: "/orders/17?card=1", Status: 503},
			"POST /orders", otlptrace.Span_SPAN_KIND_SERVER, otlptrace.Status_STATUS_CODE_ERROR, "",
		},
		{
			"server exchange on a route",
			flow.Record{Kind: flow.KindExchange, Side: flow.SideServer, Method: "POST", Path: "/orders/17", Route: "orders"},
			"POST orders", otlptrace.Span_SPAN_KIND_SERVER, otlptrace.Status_STATUS_CODE_UNSET, "",
		},
		{
			"gRPC server exchange",
			flow.Record{
				Kind: flow.KindExchange, Side: flow.SideServer, Protocol: flow.ProtocolGRPC, Method: "POST", Path: "/shop.v1.Cart/Add", Route: "orders", Status: 200,
				GRPC: flow.NewGRPCStatus(5),
			},
			"shop.v1.Cart/Add", otlptrace.Span_SPAN_KIND_SERVER, otlptrace.Status_STATUS_CODE_UNSET, "",
		},
		{
			"gRPC client exchange that failed",
			flow.Record{
				Kind: flow.KindExchange, Side: flow.SideClient, Protocol: flow.ProtocolGRPC, Method: "POST", Path: "/shop.v1.Cart/Add", Status: 200,
				Destination: flow.Peer{Service: "cart"}, GRPC: flow.NewGRPCStatus(14), Reason: flow.ReasonUpstreamStatus,
			},
			"shop.v1.Cart/Add", otlptrace.Span_SPAN_KIND_CLIENT, otlptrace.Status_STATUS_CODE_ERROR, "upstream_5xx",
		},
		{
			"gRPC without a method",
			flow.Record{Kind: flow.KindExchange, Side: flow.SideServer, Protocol: flow.ProtocolGRPC, Method: "POST", Path: "/Add"},
			"grpc", otlptrace.Span_SPAN_KIND_SERVER, otlptrace.Status_STATUS_CODE_UNSET, "",
		},
		{
			"attempt",
			flow.Record{Kind: flow.KindAttempt, Side: flow.SideClient, Attempt: 2, Reason: flow.ReasonConnectRefused},
			"attempt 2", otlptrace.Span_SPAN_KIND_CLIENT, otlptrace.Status_STATUS_CODE_ERROR, "connect_refused",
		},
		{
			"connection",
			flow.Record{Kind: flow.KindConnection, Side: flow.SideServer, Destination: flow.Peer{Service: "db"}, Reason: flow.ReasonDownstreamReset},
			"tcp db", otlptrace.Span_SPAN_KIND_SERVER, otlptrace.Status_STATUS_CODE_UNSET, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.rec.Start, c.rec.Duration, c.rec.Trace.Flags = start, time.Second, 3
			var req collectortrace.ExportTraceServiceRequest
			if err := proto.Unmarshal(flow.AppendSpans(nil, flow.Resource{}, []flow.Record{c.rec}), &req); err != nil {
				t.Fatal(err)
			}
			s := req.ResourceSpans[0].ScopeSpans[0].Spans[0]
			if s.Name != c.span || s.Kind != c.kind || s.GetStatus().GetCode() != c.status || s.GetStatus().GetMessage() != c.reason {
				t.Errorf("got %q %v %v, want %q %v %v %q", s.Name, s.Kind, s.Status, c.span, c.kind, c.status, c.reason)
			}
			if s.StartTimeUnixNano != uint64(start.UnixNano()) || s.EndTimeUnixNano-s.StartTimeUnixNano != 1e9 || s.Flags != 3 {
				t.Errorf("times or flags differ: %v", s)
			}
		})
	}
}

// A caller's bytes never break a batch and never carry a query string, a password or an endless string out of the sidecar.
func TestHostileStrings(t *testing.T) {
	rec := flow.Record{
		Kind: flow.KindExchange, Side: flow.SideServer, Method: "GET\xff", Path: "/pay?card=SECRET#SECRET\xff",
		Authority: "user:SECRET@shop", UserAgent: strings.Repeat("ü", 5000), RequestID: "\xf0\x28",
		Detail: `parse "/pay?card=SECRET" (why?) then /x?SECRET`,
	}
	b := flow.AppendSpans(nil, flow.Resource{}, []flow.Record{rec})
	if strings.Contains(string(b), "SECRET") {
		t.Errorf("a secret left the sidecar: %q", b)
	}
	if len(b) > 2000 {
		t.Errorf("%d bytes for one span", len(b))
	}
	var req collectortrace.ExportTraceServiceRequest
	if err := proto.Unmarshal(b, &req); err != nil {
		t.Error(err)
	}
	for _, line := range [][]byte{rec.AppendJSON(nil), rec.AppendText(nil)} {
		if strings.Contains(string(line), "SECRET") {
			t.Errorf("a secret reached the log: %s", line)
		}
	}
	got, err := otlpin.Record(first(t, b))
	if err != nil || got.Detail != `parse "/pay" (why?) then /x` || got.Path != "/pay" || got.Authority != "shop" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func first(t *testing.T, b []byte) ptrace.Span {
	t.Helper()
	req := ptraceotlp.NewExportRequest()
	if err := req.UnmarshalProto(b); err != nil {
		t.Fatal(err)
	}
	return req.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
}

func TestForeignSpan(t *testing.T) {
	s := ptrace.NewSpan()
	s.SetName("SELECT")
	if _, err := otlpin.Record(s); !errors.Is(err, otlpin.ErrNotRecord) {
		t.Errorf("got %v", err)
	}
	s.Attributes().PutStr(flow.AttrKind, "attempt")
	s.Attributes().PutStr(flow.AttrBytesIn, "many")
	s.Attributes().PutInt(flow.AttrReason, 7)
	s.Attributes().PutInt(flow.AttrBytesOut, -7)
	s.SetEndTimestamp(pcommon.Timestamp(5))
	if r, err := otlpin.Record(s); err != nil || r.BytesIn != 0 || r.BytesOut != 0 || r.Reason != flow.ReasonNone {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestMetrics(t *testing.T) {
	boot, now := time.Unix(100, 0), time.Unix(160, 5)
	var h flow.Histogram
	for _, d := range []time.Duration{0, 5 * time.Millisecond, time.Second, time.Second + 1, time.Hour} {
		h.Observe(d)
	}
	trace, span := flow.TraceID{1, 15: 9}, flow.SpanID{7: 3}
	families := []flow.Family{
		{Name: "empty"},
		{Name: flow.MetricExchanges, Unit: "{exchange}", Points: []flow.Point{{
			Attrs:     []flow.Attr{flow.Text(flow.AttrSide, "client"), flow.Text(flow.AttrReason, ""), flow.Flag(flow.AttrAnswered, true)},
			Value:     42,
			Exemplars: []flow.Exemplar{{Time: now, Value: 1500 * time.Millisecond, Trace: trace, Span: span}},
		}}},
		{Name: flow.MetricActive, Type: flow.MetricGauge, Points: []flow.Point{{Value: -3}}},
		{Name: flow.MetricExchangeDuration, Unit: "s", Type: flow.MetricHistogram, Points: []flow.Point{{Histogram: &h}}},
	}
	b := flow.AppendMetrics(nil, flow.Resource{Service: "cart", Sequence: 7, Goodbye: true}, boot, now, families)

	var official collectormetrics.ExportMetricsServiceRequest
	if err := proto.Unmarshal(b, &official); err != nil {
		t.Fatal(err)
	}
	if canonical, err := proto.Marshal(&official); err != nil || len(canonical) != len(b) {
		t.Fatalf("%d bytes, the official encoder needs %d (%v)", len(b), len(canonical), err)
	}

	req := pmetricotlp.NewExportRequest()
	if err := req.UnmarshalProto(b); err != nil {
		t.Fatal(err)
	}
	rm := req.Metrics().ResourceMetrics().At(0)
	if res := otlpin.Resource(rm.Resource()); res.Sequence != 7 || !res.Goodbye || res.Service != "cart" {
		t.Errorf("resource: %+v", res)
	}
	ms := rm.ScopeMetrics().At(0).Metrics()
	if ms.Len() != 3 {
		t.Fatalf("%d metrics, want 3: an empty family is not sent", ms.Len())
	}
	sum := ms.At(0).Sum()
	p := sum.DataPoints().At(0)
	if !sum.IsMonotonic() || sum.AggregationTemporality().String() != "Cumulative" || p.IntValue() != 42 ||
		p.StartTimestamp().AsTime() != boot.UTC() || p.Timestamp().AsTime() != now.UTC() {
		t.Errorf("sum: %+v", p)
	}
	if reason, ok := p.Attributes().Get(flow.AttrReason); !ok || reason.Str() != "" {
		t.Error("an empty attribute must be present")
	}
	if answered, _ := p.Attributes().Get(flow.AttrAnswered); !answered.Bool() {
		t.Error("answered is not true")
	}
	if e := p.Exemplars().At(0); flow.TraceID(e.TraceID()) != trace || flow.SpanID(e.SpanID()) != span || e.DoubleValue() != 1.5 {
		t.Errorf("exemplar: %v", e)
	}
	if g := ms.At(1).Gauge().DataPoints().At(0); g.IntValue() != -3 {
		t.Errorf("gauge: %v", g.IntValue())
	}
	hist := ms.At(2).ExponentialHistogram()
	d := hist.DataPoints().At(0)
	var n uint64
	for _, c := range d.Positive().BucketCounts().All() {
		n += c
	}
	if d.Scale() != 3 || d.Count() != 5 || d.ZeroCount() != 1 || n != 4 || d.Positive().Offset() != h.Offset ||
		d.Sum() != h.Sum.Seconds() || hist.AggregationTemporality().String() != "Cumulative" {
		t.Errorf("histogram: %+v", d)
	}
}
