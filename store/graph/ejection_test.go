package graph

import (
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
)

// What sidecars eject by themselves is told once, with who, what, why and until when; again when it goes on for long; and not what only looks like it.
func TestReflexesAreEvents(t *testing.T) {
	s := newRogueSim(t)
	sequence := uint64(0)
	send := func(side, endpoint, why string, until time.Duration) {
		t.Helper()
		sequence++
		body := flow.AppendMetrics(nil, flow.Resource{Service: "web", Instance: "web-1", BootID: "a", Sequence: sequence, Clock: s.now}, s.now.Add(-time.Second), s.now, []flow.Family{
			{Name: flow.MetricEjection, Unit: "ms", Type: flow.MetricGauge, Points: []flow.Point{{
				Attrs: []flow.Attr{flow.Text(flow.AttrSide, side), flow.Text(flow.AttrDestService, "cart"), flow.Text(flow.AttrEndpoint, endpoint), flow.Text(flow.AttrWhy, why)},
				Value: s.now.Add(until).UnixMilli(),
			}}},
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
	told := func() (out []event.Event) {
		s.g.mu.Lock()
		defer s.g.mu.Unlock()
		for _, e := range append(s.g.events, s.events...) {
			if e.Kind == event.KindReflex {
				out = append(out, e)
			}
		}
		return out
	}
	send("client", "10.0.0.1:8080", "errors", time.Second)
	list := told()
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	if e := list[0]; e.Service != "cart" || e.Endpoint != "10.0.0.1:8080" || e.Instance != "web-1" || e.Reason != "errors" || e.Expires == nil || e.Expires.Sub(s.now).Abs() > 2*time.Second ||
		!strings.Contains(e.Message, "web-1 sends nothing to 10.0.0.1:8080 of cart until") {
		t.Errorf("%+v", e)
	}
	send("client", "10.0.0.1:8080", "errors", 2*time.Second) // the next term
	send("server", "10.0.0.2:8080", "errors", time.Second)   // cart is not web's to speak of
	send("client", "nowhere", "errors", time.Second)
	send("client", "10.0.0.3:8080", "errors", time.Hour)
	if list := told(); len(list) != 1 {
		t.Errorf("%d events: %+v", len(list), list)
	}
	send("client", "10.0.0.4:8080", "slow", 5*time.Second)
	s.now = s.now.Add(reflexQuiet)
	send("client", "10.0.0.4:8080", "slow", -25*time.Second) // over, and still told
	send("client", "10.0.0.1:8080", "errors", 16*time.Second)
	if list := told(); len(list) != 3 || list[1].Reason != "slow" && list[2].Reason != "slow" {
		t.Errorf("%d events: %+v", len(list), list)
	}
}
