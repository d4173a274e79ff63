package requests_test

import (
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/requests"
	"github.com/tulle-mesh/tulle/store/span/local"
)

// BenchmarkCount groups 50,000 requests of the write-ahead memtable.
func BenchmarkCount(b *testing.B) {
	db, err := local.Open(local.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	const spans = 50_000
	for batch := range spans / 500 {
		records := make([]flow.Record, 500)
		for i := range records {
			records[i] = flow.Record{
				Kind: flow.KindExchange, Side: flow.SideClient, Protocol: flow.ProtocolHTTP1, Trace: flow.Trace{TraceID: flow.TraceID{1, byte(batch), byte(i), byte(i >> 8)}, SpanID: flow.SpanID{1, byte(i)}},
				Start: start.Add(time.Duration(500*batch+i) * time.Millisecond), Duration: 1e6, Source: flow.Peer{Service: "web"}, Destination: flow.Peer{Service: "cart"}, Method: "GET", Path: "/items", Status: 200, Answered: true, Attempts: 1,
			}
		}
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(flow.AppendSpans(nil, flow.Resource{Service: "web", BootID: "0123456789abcdef", Sequence: uint64(batch + 1)}, records)); err != nil {
			b.Fatal(err)
		}
		if err := db.Write(b.Context(), req.Traces()); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := requests.Count(b.Context(), db, requests.Query{By: []string{"src", "dst"}, Limit: 20, Budget: spans}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/spans, "ns/span")
}
