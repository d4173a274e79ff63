package telemetry

import (
	"bufio"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Ports of one workload are one series on /metrics: what they counted is added up, with one exemplar at most for each bucket.
func TestPortsAreOneSeries(t *testing.T) {
	c := newCounters(100)
	for i, port := range []uint16{80, 80, 9090} {
		c.count(&flow.Record{
			Kind: flow.KindExchange, Side: flow.SideServer, Protocol: flow.ProtocolHTTP1, Status: 200, Answered: true, Duration: time.Duration(i+1) * time.Millisecond,
			Source: flow.Peer{Service: "web"}, Destination: flow.Peer{Service: "cart", Addr: netip.AddrPortFrom(netip.IPv6Loopback(), port)},
			Trace: flow.Trace{TraceID: flow.TraceID{byte(i + 1)}, SpanID: flow.SpanID{1}},
		})
	}
	var out strings.Builder
	w := bufio.NewWriter(&out)
	for _, f := range c.collect("cart", forOpenMetrics) {
		for i := range views {
			if views[i].metric == f.Name && (f.Name == flow.MetricExchangeDuration || f.Name == flow.MetricExchanges) {
				views[i].write(w, &f, true)
			}
		}
	}
	_ = w.Flush()
	const labels = `side="server",source="web",destination="cart",protocol="http/1.1",code_class="2xx"`
	for _, want := range []string{
		`tulle_requests_total{` + labels + `,grpc_response_status="",reason=""} 3`,
		`tulle_request_duration_seconds_count{` + labels + `} 3`,
		`tulle_request_duration_seconds_sum{` + labels + `} 0.006`,
		`tulle_request_duration_seconds_bucket{` + labels + `,le="+Inf"} 3`,
	} {
		if n := strings.Count(out.String(), want+"\n"); n != 1 {
			t.Errorf("%d lines %s in\n%s", n, want, out.String())
		}
	}
	for line := range strings.Lines(out.String()) {
		if strings.Count(line, "trace_id") > 1 {
			t.Errorf("two exemplars: %s", line)
		}
	}
}
