package graph

import (
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

const rogue = "spiffe://tulle.local/ns/shop/sa/web"

func newRogueSim(t *testing.T) *sim {
	s := newSim(t)
	s.registry = &tullev1.Registry{Workloads: []*tullev1.RegistryWorkload{{Service: "web", Instance: "web-1", Identity: rogue}}}
	return s
}

// rogueExport is one export of an authenticated reporter, with data as old as at says.
func (s *sim) rogueExport(instance, boot string, at time.Time, destinations ...string) {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr(flow.AttrServiceName, "web")
	a.PutStr(flow.AttrServiceInstance, instance)
	a.PutStr(flow.AttrReporterIdentity, rogue)
	a.PutStr(flow.AttrBootID, boot)
	a.PutInt(flow.AttrSequence, 1)
	a.PutInt(flow.AttrClock, s.now.UnixNano())
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName(flow.MetricExchanges)
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	for _, d := range destinations {
		dp := sum.DataPoints().AppendEmpty()
		dp.SetStartTimestamp(pcommon.NewTimestampFromTime(s.now.Add(-time.Second)))
		dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
		dp.SetIntValue(1)
		p := point{metric: famExchanges, side: flow.SideClient, source: "web", destination: d, protocol: "http/1.1", answered: true}
		p.put(dp.Attributes())
	}
	if err := s.g.Ingest(s.t.Context(), md); err != nil {
		s.t.Fatal(err)
	}
}

// A reporter whose data claims to be of the future must not make the graph lay out the time up to then.
func TestDataOfTheFutureIsRejected(t *testing.T) {
	s := newRogueSim(t)
	s.rogueExport("web-1", "a", s.now.Add(100*time.Hour), "catalog")
	if n := len(s.g.slots); n > keepSlots {
		t.Errorf("%d slots were made", n)
	}
	if len(s.g.Totals()) != 0 {
		t.Errorf("it was counted: %+v", s.g.Totals())
	}
	s.rogueExport("web-1", "a", s.now, "catalog")
	if len(s.g.Totals()) != 1 {
		t.Errorf("an honest export afterwards was not counted")
	}
}

// What one authenticated reporter can make the graph remember has an end, however often it starts anew and whatever it calls itself.
func TestOneReporterCannotFillTheGraph(t *testing.T) {
	s := newRogueSim(t)
	for boot := range 6 {
		var destinations []string
		for i := range maxEdges / 4 {
			destinations = append(destinations, fmt.Sprintf("d%d-%d", boot, i))
		}
		s.rogueExport("web-1", fmt.Sprint(boot), s.now, destinations...)
	}
	if n := len(s.g.edges); n != maxEdges {
		t.Errorf("%d edges are kept, want %d", n, maxEdges)
	}
	for i := range 2 * maxStrangers {
		s.rogueExport(fmt.Sprintf("ghost-%d", i), "a", s.now, "d0-0")
	}
	if n := len(s.g.reporters); n != maxStrangers+1 {
		t.Errorf("%d reporters are kept, want %d", n, maxStrangers+1)
	}
	before := s.g.Totals()[0].ClientExchanges
	s.rogueExport("web-1", "last", s.now, "d0-0")
	if after := s.g.Totals()[0].ClientExchanges; after != before+1 {
		t.Errorf("a known edge counts %d, want %d", after, before+1)
	}
}
