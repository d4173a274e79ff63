package graph

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/metric"
)

// Names of the series that the graph writes. Counters count since the observer started, so rate() and increase() see its restarts as
// resets. Labels: source, destination (service names; "unmeshed" for callers without identity, "passthrough" for destinations that are no service), side (client, server), protocol, code_class (2xx … ,
// none), grpc_response_status (name of the gRPC status, which decides code_class; absent without one), reason (absent on success). Series of marked half-open probes carry probe="true" and are apart from all others.
//
// Families are never crossed: edge × code class; destination × route; endpoint; version. Histograms are native, at scale 3.
const (
	SeriesRequests        = "tulle_requests_total"              // source, destination, side, protocol, code_class, grpc_response_status, reason, probe
	SeriesDuration        = "tulle_request_duration_seconds"    // source, destination, side, protocol, code_class: native histogram
	SeriesFailures        = "tulle_request_failures_total"      // source, destination, side, protocol: of the requests without probe, code_class 5xx or a failing reason
	SeriesUnanswered      = "tulle_unanswered_total"            // source, destination, side, protocol, reason: exchanges without a complete response
	SeriesEdgeAttempts    = "tulle_edge_attempts_total"         // source, destination, protocol, delivered, reason (of those not delivered)
	SeriesAttempts        = "tulle_attempts_total"              // destination, endpoint, code_class, grpc_response_status, reason, delivered, probe
	SeriesAttemptFailures = "tulle_attempt_failures_total"      // destination, endpoint: of the attempts without probe
	SeriesAttemptDuration = "tulle_attempt_duration_seconds"    // destination, endpoint: native histogram
	SeriesRouteDuration   = "tulle_route_duration_seconds"      // destination, route: native histogram
	SeriesVersions        = "tulle_version_requests_total"      // destination, version, side, code_class
	SeriesBytes           = "tulle_bytes_total"                 // source, destination, side, protocol, direction (in, out)
	SeriesMessages        = "tulle_messages_total"              // source, destination, side, protocol, direction (in, out): of gRPC
	SeriesConnections     = "tulle_connections_total"           // source, destination, side, protocol, reason
	SeriesActive          = "tulle_active"                      // source, destination, side, protocol, kind: gauge
	SeriesTraces          = "tulle_trace_context_total"         // service, propagated (true, false): outgoing requests made while handling a traced one
	SeriesRecordsDropped  = "tulle_records_dropped_total"       // service, reason: what sidecars could not keep or send
	SeriesSidecarFolded   = "tulle_sidecar_series_folded_total" // service, family: new series that sidecars counted under other
	SeriesInFlight        = "tulle_destination_in_flight"       // source, destination, side: gauge
	SeriesLimit           = "tulle_destination_limit"           // source, destination, side: gauge, the sum of what its sidecars allow
	SeriesPool            = "tulle_destination_connections"     // source, destination, side, state (busy, idle): gauge
	SeriesShed            = "tulle_destination_shed_total"      // source, destination, side, limit (max_requests, max_connections, max_pending, adaptive)
	SeriesPoolWait        = "tulle_destination_wait_seconds"    // source, destination: native histogram
	SeriesDetections      = "tulle_detections_total"            // service (who looked), destination, side, port (that was called), protocol (absent: nobody spoke), outcome
	SeriesDetectionTime   = "tulle_detection_duration_seconds"  // service, destination, side, port: native histogram
	SeriesReporterUp      = "tulle_reporter_up"                 // service, instance: 1, or 0 while missing
	SeriesClockOffset     = "tulle_reporter_clock_offset"       // service, instance: seconds to add to its clock to get the observer's
	SeriesEdgeMissing     = "tulle_edge_reporter_missing"       // source, destination, protocol: 1 while a reporter of the edge is missing, else absent
	SeriesEndpointEjected = "tulle_endpoint_ejected"            // service, endpoint, instance: 1 or 0
	SeriesEndpointWeight  = "tulle_endpoint_weight_ratio"       // service, endpoint, instance: share of its configured weight, 0 to 1
	SeriesEndpoints       = "tulle_service_endpoints"           // service: registered endpoints
	SeriesEndpointsUsable = "tulle_service_endpoints_available" // service: of these, not ejected

	// Grafana's service graph reads these.
	SeriesServiceGraph       = "traces_service_graph_request_total"          // client, server
	SeriesServiceGraphFailed = "traces_service_graph_request_failed_total"   // client, server
	SeriesServiceGraphServer = "traces_service_graph_request_server_seconds" // client, server: native histogram, as the server saw it
	SeriesServiceGraphClient = "traces_service_graph_request_client_seconds" // client, server: native histogram, as the client saw it
)

// series names one cumulative series of the graph: a metric and its label pairs, in the fixed order of the metric.
type series struct {
	metric string
	values [8]string
}

var seriesLabels = map[string][]string{
	SeriesRequests:           {"source", "destination", "side", "protocol", "code_class", "grpc_response_status", "reason", "probe"},
	SeriesDuration:           {"source", "destination", "side", "protocol", "code_class"},
	SeriesFailures:           {"source", "destination", "side", "protocol"},
	SeriesAttemptFailures:    {"destination", "endpoint"},
	SeriesUnanswered:         {"source", "destination", "side", "protocol", "reason"},
	SeriesEdgeAttempts:       {"source", "destination", "protocol", "delivered", "reason"},
	SeriesAttempts:           {"destination", "endpoint", "code_class", "grpc_response_status", "reason", "delivered", "probe"},
	SeriesAttemptDuration:    {"destination", "endpoint"},
	SeriesRouteDuration:      {"destination", "route"},
	SeriesVersions:           {"destination", "version", "side", "code_class"},
	SeriesBytes:              {"source", "destination", "side", "protocol", "direction"},
	SeriesMessages:           {"source", "destination", "side", "protocol", "direction"},
	SeriesConnections:        {"source", "destination", "side", "protocol", "reason"},
	SeriesTraces:             {"service", "propagated"},
	SeriesRecordsDropped:     {"service", "reason"},
	SeriesSidecarFolded:      {"service", "family"},
	SeriesInFlight:           {"source", "destination", "side"},
	SeriesLimit:              {"source", "destination", "side"},
	SeriesPool:               {"source", "destination", "side", "state"},
	SeriesShed:               {"source", "destination", "side", "limit"},
	SeriesPoolWait:           {"source", "destination"},
	SeriesDetections:         {"service", "destination", "side", "port", "protocol", "outcome"},
	SeriesDetectionTime:      {"service", "destination", "side", "port"},
	SeriesServiceGraph:       {"client", "server"},
	SeriesServiceGraphFailed: {"client", "server"},
	SeriesServiceGraphServer: {"client", "server"},
	SeriesServiceGraphClient: {"client", "server"},
}

func (s *series) pairs(buf []string) []string {
	buf = buf[:0]
	for i, name := range seriesLabels[s.metric] {
		buf = append(buf, name, s.values[i])
	}
	return buf
}

// saturationSeries is that of a gauge or sum of saturation. The source of what a server's sidecar carries to its own application is left out:
// it is all callers together.
func saturationSeries(p *point) series {
	s := series{values: [8]string{p.source, p.destination, p.side.String()}}
	switch p.metric {
	case famInFlight:
		s.metric = SeriesInFlight
	case famLimit:
		s.metric = SeriesLimit
	case famPool:
		s.metric, s.values[3] = SeriesPool, p.detail
	case famShed:
		s.metric, s.values[3] = SeriesShed, p.detail
	}
	return s
}

// detectionSeries is that of the duration of detection; who looked is the caller's service on the client side, and the destination itself on the server side.
func detectionSeries(p *point) series {
	service := p.source
	if p.side == flow.SideServer {
		service = p.destination
	}
	return series{SeriesDetectionTime, [8]string{service, p.destination, p.side.String(), p.port}}
}

func trueOr(b bool, no string) string {
	if b {
		return "true"
	}
	return no
}

func requestSeries(p *point) series {
	k := p.edge()
	return series{SeriesRequests, [8]string{k.source, k.destination, p.side.String(), p.protocol, p.class, p.grpc, p.reason, trueOr(p.probe, "")}}
}

func attemptSeries(p *point) series {
	return series{SeriesAttempts, [8]string{p.destination, p.endpoint, p.class, p.grpc, p.reason, trueOr(p.delivered, "false"), trueOr(p.probe, "")}}
}

// counter is a cumulative series that is written.
type counter struct {
	series series
	value  float64
	ref    metric.Ref
}

// summed is counter for histograms. One that has parts is their sum, made when it is written.
type summed struct {
	series series
	hist   hist
	parts  []*summed
	ref    metric.Ref
}

// counterLocked finds or makes the series: once there, it is written, so that what begins at zero is 0 and not nothing.
func (g *Graph) counterLocked(s series) *counter {
	c := g.counters[s]
	if c == nil {
		c = &counter{series: s}
		g.counters[s] = c
		g.counted = append(g.counted, c)
	}
	return c
}

func (g *Graph) summedLocked(s series) *summed {
	h := g.hists[s]
	if h == nil {
		h = &summed{series: s}
		g.hists[s] = h
		g.summed = append(g.summed, h)
	}
	return h
}

// settle adds to the series that are written what has been counted since the last time. It needs d for room.
func (l *last) settle(d *hist) {
	for _, c := range l.counters {
		c.value += float64(l.due)
	}
	l.due = 0
	if l.sum != nil && l.hist.count != l.settled.count && d.difference(&l.hist, &l.settled) {
		l.sum.hist.add(d)
		l.settled.set(&l.hist)
	}
}

// settleAll settles a queue, and returns its room.
func settleAll(queue []*last) []*last {
	var room hist
	for _, l := range queue {
		l.settle(&room)
		l.queued = false
	}
	clear(queue)
	return queue[:0]
}

// countersLocked are the counters that a difference of p adds to.
func (g *Graph) countersLocked(r *reporter, p *point) (out []*counter) {
	grow := func(s series) { out = append(out, g.counterLocked(s)) }
	k := p.edge()
	switch p.metric {
	case famExchanges:
		grow(requestSeries(p))
		failures := series{SeriesFailures, [8]string{k.source, k.destination, p.side.String(), p.protocol}}
		if p.failed() && !p.probe {
			grow(failures)
		} else {
			g.counterLocked(failures) // it exists from the first request on, so that a ratio is 0 and not nothing
		}
		if !p.answered {
			grow(series{SeriesUnanswered, [8]string{k.source, k.destination, p.side.String(), p.protocol, reasonOrNone(p.reason)}})
		}
		// One side per edge: the client's, and the server's where the caller has no sidecar.
		if p.side == flow.SideClient || k.source == unmeshed {
			sg := series{SeriesServiceGraph, [8]string{k.source, k.destination}}
			grow(sg)
			sg.metric = SeriesServiceGraphFailed
			if p.failed() {
				grow(sg)
			} else {
				g.counterLocked(sg)
			}
		}
	case famAttempts:
		reason := ""
		if !p.delivered {
			reason = reasonOrNone(p.reason)
		}
		grow(series{SeriesEdgeAttempts, [8]string{k.source, k.destination, p.protocol, trueOr(p.delivered, "false"), reason}})
		if p.endpoint != "" {
			failures := series{SeriesAttemptFailures, [8]string{k.destination, p.endpoint}}
			if p.failed() && !p.probe {
				grow(failures)
			} else {
				g.counterLocked(failures)
			}
			grow(attemptSeries(p))
		}
	case famVersions:
		if p.version != "" {
			grow(series{SeriesVersions, [8]string{k.destination, p.version, p.side.String(), p.class}})
		}
	case famBytes:
		grow(series{SeriesBytes, [8]string{k.source, k.destination, p.side.String(), p.protocol, p.direction}})
	case famMessages:
		grow(series{SeriesMessages, [8]string{k.source, k.destination, p.side.String(), p.protocol, p.direction}})
	case famConnections:
		grow(series{SeriesConnections, [8]string{k.source, k.destination, p.side.String(), p.protocol, p.reason}})
	case famTraceBreaks:
		grow(series{SeriesTraces, [8]string{p.source, "false"}})
	case famTraceKept:
		grow(series{SeriesTraces, [8]string{p.source, "true"}})
	case famDropped:
		grow(series{SeriesRecordsDropped, [8]string{r.service, p.reason}})
	case famShed:
		grow(saturationSeries(p))
	case famDetections:
		s := detectionSeries(p)
		s.metric, s.values[4], s.values[5] = SeriesDetections, p.protocol, p.detail
		grow(s)
	case famFolded:
		grow(series{SeriesSidecarFolded, [8]string{r.service, p.detail}})
	}
	return out
}

// summedOfLocked is the histogram that a difference of p adds to.
func (g *Graph) summedOfLocked(p *point) *summed {
	k := p.edge()
	switch p.metric {
	case famExchangeDuration:
		graph := series{SeriesServiceGraphServer, [8]string{k.source, k.destination}}
		if p.side == flow.SideClient {
			graph.metric = SeriesServiceGraphClient
		}
		part, sum := g.summedLocked(series{SeriesDuration, [8]string{k.source, k.destination, p.side.String(), p.protocol, p.class}}), g.summedLocked(graph)
		if !slices.Contains(sum.parts, part) {
			sum.parts = append(sum.parts, part)
		}
		return part
	case famAttemptDuration:
		return g.summedLocked(series{SeriesAttemptDuration, [8]string{k.destination, p.endpoint}})
	case famRouteDuration:
		return g.summedLocked(series{SeriesRouteDuration, [8]string{k.destination, p.route}})
	case famPoolWait:
		return g.summedLocked(series{SeriesPoolWait, [8]string{k.source, k.destination}})
	case famDetectionDuration:
		return g.summedLocked(detectionSeries(p))
	}
	return nil
}

// noted is an exemplar that waits for the next write.
type noted struct {
	series series
	trace  string
	value  float64
	at     int64
}

const maxNoted = 512

func (g *Graph) noteExemplar(p *point, e example, at int64) {
	if g.writer == nil {
		return
	}
	list := &g.noted
	if p.metric == famExchangeDuration {
		list = &g.notedDurations
	}
	if len(*list) >= maxNoted {
		return
	}
	n := noted{trace: e.trace, value: e.value, at: at}
	switch p.metric {
	case famExchanges:
		n.series = requestSeries(p)
	case famExchangeDuration:
		k := p.edge()
		n.series = series{SeriesDuration, [8]string{k.source, k.destination, p.side.String(), p.protocol, p.class}}
	case famAttempts:
		if p.endpoint == "" {
			return
		}
		n.series = attemptSeries(p)
	default:
		return
	}
	*list = append(*list, n)
}

// write puts the state of now into the DB; histograms, which cost most, only when they were passed over the last time, or last says that no other write
// comes. Counters are as of now, not as of the sealed window: a rule should not wait for the seal.
func (g *Graph) write(ctx context.Context, now time.Time, last bool) error {
	if g.writer == nil {
		return nil
	}
	started := time.Now()
	err := g.writer.Write(ctx, now, func(b *metric.Batch) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.written = now
		g.fillLocked(now, b)
	})
	if g.passed = !g.passed; !g.passed || last {
		failed := g.durations.Write(ctx, now, func(b *metric.Batch) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.fillHistogramsLocked(b)
		})
		g.passed = failed != nil // then the next time
		err = errors.Join(err, failed)
	}
	g.tel.writeSeconds.Observe(time.Since(started).Seconds())
	return err
}

func (g *Graph) fillHistogramsLocked(b *metric.Batch) {
	var buf []string
	g.dueHists = settleAll(g.dueHists)
	for _, h := range g.summed {
		if len(h.parts) > 0 {
			h.hist.reset()
			for _, part := range h.parts {
				h.hist.add(&part.hist)
			}
		}
		if n := h.hist.native(b.Room(h.ref)); !b.HistogramAgain(h.ref, n) {
			buf = h.series.pairs(buf)
			h.ref = b.Histogram(h.series.metric, n, buf...)
		}
	}
	g.notedDurations = exemplars(b, g.notedDurations)
}

// exemplars attaches what was noted, and returns its room.
func exemplars(b *metric.Batch, list []noted) []noted {
	var buf []string
	for _, n := range list {
		buf = n.series.pairs(buf)
		b.Exemplar(n.series.metric, n.trace, n.value, time.Unix(0, n.at), buf...)
	}
	return list[:0]
}

func (g *Graph) fillLocked(now time.Time, b *metric.Batch) {
	var buf []string
	g.dueCounts = settleAll(g.dueCounts)
	for _, c := range g.counted {
		if !b.CounterAgain(c.ref, c.value) {
			buf = c.series.pairs(buf)
			c.ref = b.Counter(c.series.metric, c.value, buf...)
		}
	}
	g.noted = exemplars(b, g.noted)

	for _, r := range g.sortedReportersLocked() {
		up := 1.0
		if r.missing {
			up = 0
		}
		if r.boot.goodbye {
			continue
		}
		b.Gauge(SeriesReporterUp, up, "service", r.service, "instance", r.key.instance)
		b.Gauge(SeriesClockOffset, time.Duration(r.boot.offset).Seconds(), "service", r.service, "instance", r.key.instance)
		if r.missing {
			continue
		}
		for boot := range r.reporting() { // of several the values add up
			for k, n := range boot.active {
				b.Gauge(SeriesActive, float64(n), "source", k.source, "destination", k.destination, "side", k.side.String(), "protocol", k.protocol, "kind", k.kind)
			}
			for s, n := range boot.gauges {
				if boot != r.boot && s.metric == SeriesLimit {
					continue // it opens nothing any more
				}
				buf = s.pairs(buf)
				b.Gauge(s.metric, float64(n), buf...)
			}
		}
	}
	for _, e := range g.live.Load().Edges {
		if e.State == ReporterMissing {
			b.Gauge(SeriesEdgeMissing, 1, "source", e.Source, "destination", e.Destination, "protocol", e.Protocol)
		}
	}
	for service, workloads := range g.x.workloads {
		total, usable := 0, 0
		for _, w := range workloads {
			for _, address := range addressesOf(w) {
				total++
				ejected, weight := 0.0, 1.0
				if o := g.x.override(service, address, now); o != nil {
					weight = o.GetFraction()
					if o.GetKind() == "eject" {
						ejected = 1
					}
				}
				if ejected == 0 {
					usable++
				}
				b.Gauge(SeriesEndpointEjected, ejected, "service", service, "endpoint", address, "instance", w.GetInstance())
				b.Gauge(SeriesEndpointWeight, weight, "service", service, "endpoint", address, "instance", w.GetInstance())
			}
		}
		if total > 0 { // a workload without an address only calls
			b.Gauge(SeriesEndpoints, float64(total), "service", service)
			b.Gauge(SeriesEndpointsUsable, float64(usable), "service", service)
		}
	}
	for name, s := range g.x.services {
		if len(g.x.workloads[name]) == 0 && s.GetProtocol() != "" && !s.GetExternal() {
			b.Gauge(SeriesEndpoints, 0, "service", name)
			b.Gauge(SeriesEndpointsUsable, 0, "service", name)
		}
	}
}
