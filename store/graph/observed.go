package graph

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// observeLocked hands the slot that is being sealed to those who asked. A nil slot is a second in which nobody reported anything.
func (g *Graph) observeLocked(now time.Time, s *slot) {
	if len(g.observers) == 0 {
		return
	}
	from := g.sealed * int64(time.Second)
	to := from + int64(time.Second)
	o := &tullev1.Observed{WindowStartUnixNano: from, WindowEndUnixNano: to}
	for _, r := range g.sortedReportersLocked() {
		if r.missing {
			o.MissingReporters = append(o.MissingReporters, r.key.instance)
		}
	}
	if s != nil {
		for _, k := range slices.SortedFunc(maps.Keys(s.endpoints), compareEndpoints) {
			c := s.endpoints[k]
			e := &tullev1.EndpointObservation{
				Service: k.service, Endpoint: k.endpoint, Reporter: k.reporter.key.instance, ReporterIdentity: k.reporter.key.identity,
				ServerSide: k.side == flow.SideServer, Requests: c.requests, Failures: c.failures, Probes: c.probes, ProbeFailures: c.probeFailures,
				Reasons: maps.Clone(c.reasons), LatencyP50Seconds: c.latency.quantile(0.5), LatencyP99Seconds: c.latency.quantile(0.99),
				Traces: traceIDs(c.exemplars, 3),
			}
			if !e.ServerSide {
				e.Source = k.reporter.service
			}
			whole, known := k.reporter.whole(from, to)
			e.Contiguous = whole && known
			o.Endpoints = append(o.Endpoints, e)
		}
	}
	for ch := range g.observers {
		if offerLatest(ch, o) {
			g.tel.dropped.Inc()
		}
	}
}

func compareEndpoints(a, b *endpointKey) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.endpoint, b.endpoint), cmp.Compare(a.side, b.side),
		cmp.Compare(a.reporter.key.instance, b.reporter.key.instance), cmp.Compare(a.reporter.key.identity, b.reporter.key.identity))
}
