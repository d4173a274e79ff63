package dashboardtest

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// LongID is the trace that Long stores.
var LongID = TraceID(1 << 20)

// Long stores one trace of n spans: batches of calls, each of a client, the server that it asked and what that did; every 97th call fails, and one span in a thousand has a parent
// that is not stored.
func Long(s *Spans, n int, now time.Time) {
	td := ptrace.NewTraces()
	services := []string{"importer", "catalog", "prices", "stock-db", "search"}
	var into []ptrace.SpanSlice
	for _, name := range services {
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr(flow.AttrServiceName, name)
		into = append(into, rs.ScopeSpans().AppendEmpty().Spans())
	}
	start := now.Add(-10 * time.Minute)
	id := func(i int) pcommon.SpanID { return pcommon.SpanID(ID8(LongID, fmt.Sprint("long", i))) }
	const step = 200 * time.Microsecond
	for i := range n {
		service, parent, name, from, took := 0, -1, "import the catalogue", time.Duration(0), time.Duration(n)*step
		kind, side := "", ""
		if i > 0 {
			call := (i - 1) / 3
			from = time.Duration(i-1) / 3 * 3 * step
			switch (i - 1) % 3 {
			case 0:
				parent, name, took, kind, side = 0, fmt.Sprintf("GET /products/%d", call%40), 5*step/2, "exchange", "client"
			case 1:
				service, parent, name, from, took, kind, side = 1+call%4, i-1, "GET /products/{id}", from+step/4, 2*step, "exchange", "server"
			default:
				service, parent, name, from, took = 1+call%4, i-1, "select products", from+step/2, step
			}
			if i%1000 == 999 {
				parent = n + i
			}
		}
		sp := into[service].AppendEmpty()
		sp.SetTraceID(pcommon.TraceID(LongID))
		sp.SetSpanID(id(i))
		if parent >= 0 {
			sp.SetParentSpanID(id(parent))
		}
		sp.SetName(name)
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(start.Add(from)))
		sp.SetEndTimestamp(pcommon.NewTimestampFromTime(start.Add(from + took)))
		if kind != "" {
			sp.Attributes().PutStr(flow.AttrKind, kind)
			sp.Attributes().PutStr(flow.AttrSide, side)
		}
		if kind != "" && (i-1)/3%97 == 0 {
			sp.Status().SetCode(ptrace.StatusCodeError)
			sp.Attributes().PutInt(flow.AttrStatus, 503)
			sp.Attributes().PutStr(flow.AttrReason, "upstream_5xx")
		}
	}
	_ = s.Write(context.Background(), td)
}
