package graph

import (
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// count is what a series is written as; 0 where there is none.
func (g *Graph) count(s series) float64 {
	g.dueCounts, g.dueHists = settleAll(g.dueCounts), settleAll(g.dueHists)
	if c := g.counters[s]; c != nil {
		return c.value
	}
	return 0
}

// What a sidecar says about how full it is becomes series, and what it folds is told with the reporter; of another service it may not speak.
func TestSaturationBecomesSeries(t *testing.T) {
	s := newRogueSim(t)
	edge := func(side, destination string, more ...flow.Attr) []flow.Attr {
		return append([]flow.Attr{flow.Text(flow.AttrSide, side), flow.Text(flow.AttrDestService, destination)}, more...)
	}
	var waited flow.Histogram
	waited.Observe(3 * time.Millisecond)
	send := func(sequence uint64, factor int64) {
		t.Helper()
		body := flow.AppendMetrics(nil, flow.Resource{Service: "web", Instance: "web-1", BootID: "a", Sequence: sequence, Clock: s.now}, s.now.Add(-time.Second), s.now, []flow.Family{
			{Name: flow.MetricInFlight, Type: flow.MetricGauge, Points: []flow.Point{{Attrs: edge("client", "cart"), Value: 3 * factor}, {Attrs: edge("server", "cart"), Value: 99}}},
			{Name: flow.MetricLimit, Type: flow.MetricGauge, Points: []flow.Point{{Attrs: edge("client", "cart"), Value: 100}}},
			{Name: flow.MetricPool, Type: flow.MetricGauge, Points: []flow.Point{{Attrs: edge("client", "cart", flow.Text(flow.AttrState, "idle")), Value: 4}}},
			{Name: flow.MetricShed, Points: []flow.Point{{Attrs: edge("client", "cart", flow.Text(flow.AttrLimit, "max_requests")), Value: 5 * factor}}},
			{Name: flow.MetricPoolWait, Type: flow.MetricHistogram, Points: []flow.Point{{Attrs: []flow.Attr{flow.Text(flow.AttrDestService, "cart")}, Histogram: &waited}}},
			{Name: flow.MetricSeriesFolded, Points: []flow.Point{{Attrs: []flow.Attr{flow.Text(flow.AttrFamily, flow.MetricExchanges)}, Value: 7 * factor}}},
			{Name: flow.MetricMemory, Type: flow.MetricGauge, Points: []flow.Point{{Value: factor << 20}}},
			{Name: flow.MetricCertificate, Type: flow.MetricGauge, Points: []flow.Point{{Value: 1_700_000_000 + factor}}},
		})
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			t.Fatal(err)
		}
		md := req.Metrics()
		md.ResourceMetrics().At(0).Resource().Attributes().PutStr(flow.AttrReporterIdentity, rogue)
		if err := s.g.Ingest(t.Context(), md); err != nil {
			t.Fatal(err)
		}
	}
	send(1, 1)
	send(2, 2)
	r := s.g.sortedReportersLocked()[0]
	for want, n := range map[series]int64{
		{SeriesInFlight, [8]string{"web", "cart", "client"}}:       6,
		{SeriesLimit, [8]string{"web", "cart", "client"}}:          100,
		{SeriesPool, [8]string{"web", "cart", "client", "idle"}}:   4,
		{SeriesInFlight, [8]string{"", "cart", "server"}}:          0, // cart is not web's to speak of
		{SeriesLimit, [8]string{"somebody", "cart", "client"}}:     0,
		{SeriesPool, [8]string{"web", "cart", "client", "busy"}}:   0,
		{SeriesInFlight, [8]string{"web", "cart", "client", "no"}}: 0,
	} {
		if got := r.boot.gauges[want]; got != n {
			t.Errorf("%v is %d, want %d", want, got, n)
		}
	}
	if n := s.g.count(series{SeriesShed, [8]string{"web", "cart", "client", "max_requests"}}); n != 10 {
		t.Errorf("shed is %v", n)
	}
	if n := s.g.count(series{SeriesSidecarFolded, [8]string{"web", flow.MetricExchanges}}); n != 14 || r.boot.folded != 14 {
		t.Errorf("folded is %v, of the reporter %d", n, r.boot.folded)
	}
	if r.boot.memory != 2<<20 || r.boot.certificate.Unix() != 1_700_000_002 {
		t.Errorf("the reporter has %d bytes resident, and a certificate until %s", r.boot.memory, r.boot.certificate)
	}
	if h := s.g.hists[series{SeriesPoolWait, [8]string{"web", "cart"}}]; h == nil || h.hist.count != 1 {
		t.Errorf("wait is %+v", h)
	}
	if len(s.g.edges) != 0 {
		t.Errorf("saturation made edges: %v", s.g.edges)
	}
}

// What sidecars detect becomes series, by who looked.
func TestDetectionBecomesSeries(t *testing.T) {
	s := newRogueSim(t)
	attrs := func(side, destination string, more ...flow.Attr) []flow.Attr {
		return append([]flow.Attr{flow.Text(flow.AttrSide, side), flow.Text(flow.AttrDestService, destination), flow.Text(flow.AttrPort, "25")}, more...)
	}
	outcome := func(protocol, outcome string) []flow.Attr {
		return []flow.Attr{flow.Text(flow.AttrProtocol, protocol), flow.Text(flow.AttrOutcome, outcome)}
	}
	var waited flow.Histogram
	waited.Observe(time.Second)
	for sequence := range uint64(2) {
		n := int64(sequence + 1)
		body := flow.AppendMetrics(nil, flow.Resource{Service: "web", Instance: "web-1", BootID: "a", Sequence: sequence + 1, Clock: s.now}, s.now.Add(-time.Second), s.now, []flow.Family{
			{Name: flow.MetricDetections, Points: []flow.Point{
				{Attrs: attrs("client", "cart", outcome("tcp", "timeout")...), Value: 3 * n},
				{Attrs: attrs("client", "", outcome("tcp", "timeout")...), Value: n},
				{Attrs: attrs("server", "web", outcome("", "left")...), Value: n},
				{Attrs: attrs("server", "cart", outcome("tcp", "timeout")...), Value: 99 * n}, // cart is not web's to speak of
			}},
			{Name: flow.MetricDetectionDuration, Type: flow.MetricHistogram, Points: []flow.Point{{Attrs: attrs("server", "web"), Histogram: &waited}}},
		})
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			t.Fatal(err)
		}
		md := req.Metrics()
		md.ResourceMetrics().At(0).Resource().Attributes().PutStr(flow.AttrReporterIdentity, rogue)
		if err := s.g.Ingest(t.Context(), md); err != nil {
			t.Fatal(err)
		}
	}
	for want, n := range map[series]float64{
		{SeriesDetections, [8]string{"web", "cart", "client", "25", "tcp", "timeout"}}:        6,
		{SeriesDetections, [8]string{"web", "passthrough", "client", "25", "tcp", "timeout"}}: 2,
		{SeriesDetections, [8]string{"web", "web", "server", "25", "", "left"}}:               2,
		{SeriesDetections, [8]string{"cart", "cart", "server", "25", "tcp", "timeout"}}:       0,
	} {
		if got := s.g.count(want); got != n {
			t.Errorf("%v is %v, want %v", want, got, n)
		}
	}
	if h := s.g.hists[series{SeriesDetectionTime, [8]string{"web", "web", "server", "25"}}]; h == nil || h.hist.count != 1 {
		t.Errorf("duration is %+v", h)
	}
	if len(s.g.edges) != 0 {
		t.Errorf("detection made edges: %v", s.g.edges)
	}
}
