package collector_test

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc/credentials"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/internal/flow"
)

// An application's span between the spans of two sidecars: the mesh's server span above it, the mesh's client span below it. Whatever protocol it comes by, the trace
// is one chain, the mesh's spans are evidence with their reporters, and the application's is none.
func TestApplicationsSpanStandsBetweenSidecars(t *testing.T) {
	ca := newAuthority(t)
	trace, err := hex.DecodeString("01020300000000000000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	mesh := func(service string, span, parent byte, side string) ptrace.Traces {
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr(flow.AttrServiceName, service)
		sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		sp.SetTraceID(pcommon.TraceID(trace))
		sp.SetSpanID(pcommon.SpanID{span})
		sp.SetParentSpanID(pcommon.SpanID{parent})
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Unix(1700000000, int64(span))))
		sp.Attributes().PutStr(flow.AttrSide, side)
		return td
	}
	for _, x := range foreign {
		t.Run(x.name, func(t *testing.T) {
			db := openSpans(t, t.TempDir())
			c, _ := start(t, with(func(c *collector.Config) {
				c.Spans, c.Identity, c.Registry = db, ca.holder(t, observerID), registry{cartID: {"cart", "shop"}, payID: {"pay", "shop"}}
			}))
			cart, pay := dial(t, c, credentials.NewTLS(ca.holder(t, cartID).ClientTLS())), dial(t, c, credentials.NewTLS(ca.holder(t, payID).ClientTLS()))
			if err := send(t.Context(), cart, mesh("cart", 8, 0, "server")); err != nil {
				t.Fatal(err)
			}
			if a := x.send(t, c); a.code != x.good { // span 9 below 8
				t.Fatalf("%+v", a)
			}
			if err := send(t.Context(), cart, mesh("cart", 10, 9, "client")); err != nil {
				t.Fatal(err)
			}
			if err := send(t.Context(), pay, mesh("pay", 11, 10, "server")); err != nil {
				t.Fatal(err)
			}
			td, err := db.Trace(t.Context(), traceID)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, rs := range td.ResourceSpans().All() {
				a := rs.Resource().Attributes()
				service, _ := a.Get(flow.AttrServiceName)
				reporter := "nobody"
				if v, ok := a.Get(flow.AttrReporterIdentity); ok {
					reporter = v.Str()
				}
				for _, ss := range rs.ScopeSpans().All() {
					for _, sp := range ss.Spans().All() {
						got[sp.SpanID().String()[:2]] = fmt.Sprintf("%s below %s by %s", service.Str(), (sp.ParentSpanID().String() + "none")[:2], reporter)
					}
				}
			}
			want := map[string]string{
				"08": "cart below no by " + cartID, "09": "bank below 08 by nobody", "0a": "cart below 09 by " + cartID, "0b": "pay below 0a by " + payID,
			}
			if len(got) != len(want) {
				t.Fatalf("%v", got)
			}
			for k, w := range want {
				if got[k] != w {
					t.Errorf("span %s: %s, want %s", k, got[k], w)
				}
			}
		})
	}
}

// otlpBody is the same span as zipkinJSON.
func otlpBody(t *testing.T) []byte {
	t.Helper()
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, "bank")
	sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	sp.SetTraceID(pcommon.TraceID(traceID))
	sp.SetSpanID(pcommon.SpanID{9})
	sp.SetParentSpanID(pcommon.SpanID{8})
	sp.SetName("get")
	sp.SetKind(ptrace.SpanKindServer)
	sp.SetStartTimestamp(1700000000000000000)
	sp.SetEndTimestamp(1700000000001500000)
	sp.Attributes().PutStr("kept", "yes")
	sp.Attributes().PutStr(flow.AttrReporterIdentity, payID)
	sp.Attributes().PutStr("http.request.header.cookie", "c=1")
	b, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
