package telemetry

import "github.com/tulle-mesh/tulle/internal/flow"

// Saturation tells where to ask how much of what may be used is in use. f is called once a second and at every scrape, concurrently. Call it
// once, before Run.
func (t *Telemetry) Saturation(f func() []flow.Saturation) { t.saturation.Store(&f) }

// saturated is the families of Saturation, and with them the wait for connections' own.
func (t *Telemetry) saturated() []flow.Family {
	f := t.saturation.Load()
	if f == nil {
		return nil
	}
	inFlight := flow.Family{Name: flow.MetricInFlight, Type: flow.MetricGauge}
	limit := flow.Family{Name: flow.MetricLimit, Type: flow.MetricGauge}
	pool := flow.Family{Name: flow.MetricPool, Unit: "{connection}", Type: flow.MetricGauge}
	shed := flow.Family{Name: flow.MetricShed, Unit: "{exchange}"}
	ejected := flow.Family{Name: flow.MetricEjected, Unit: "{endpoint}", Type: flow.MetricGauge}
	ejections := flow.Family{Name: flow.MetricEjections, Unit: "{endpoint}"}
	ejection := flow.Family{Name: flow.MetricEjection, Unit: "ms", Type: flow.MetricGauge}
	list := (*f)()
	if len(list) > t.cfg.Series/2 { // two points each in the largest family
		list = list[:t.cfg.Series/2]
	}
	for _, s := range list {
		attrs := func(more ...flow.Attr) []flow.Attr {
			return append([]flow.Attr{flow.Text(flow.AttrSide, s.Side.String()), flow.Text(flow.AttrDestService, s.Destination)}, more...)
		}
		inFlight.Points = append(inFlight.Points, flow.Point{Attrs: attrs(), Value: s.InFlight})
		if s.Limit >= 0 {
			limit.Points = append(limit.Points, flow.Point{Attrs: attrs(), Value: s.Limit})
		}
		pool.Points = append(pool.Points,
			flow.Point{Attrs: attrs(flow.Text(flow.AttrState, "busy")), Value: s.Open - s.Idle},
			flow.Point{Attrs: attrs(flow.Text(flow.AttrState, "idle")), Value: s.Idle})
		switch {
		case s.Side == flow.SideServer:
			shed.Points = append(shed.Points, flow.Point{Attrs: attrs(flow.Text(flow.AttrLimit, "adaptive")), Value: int64(s.ShedAdaptive)})
		case s.Limit >= 0:
			shed.Points = append(shed.Points,
				flow.Point{Attrs: attrs(flow.Text(flow.AttrLimit, "max_requests")), Value: int64(s.ShedRequests)},
				flow.Point{Attrs: attrs(flow.Text(flow.AttrLimit, "max_connections")), Value: int64(s.ShedConnections)},
				flow.Point{Attrs: attrs(flow.Text(flow.AttrLimit, "max_pending")), Value: int64(s.ShedPending)})
		}
		if len(s.Ejections) > 0 {
			ejected.Points = append(ejected.Points, flow.Point{Attrs: attrs(), Value: s.Ejected})
			for _, e := range s.Ejections {
				ejections.Points = append(ejections.Points, flow.Point{Attrs: attrs(flow.Text(flow.AttrWhy, e.Why)), Value: int64(e.Count)})
			}
			for _, o := range s.Out {
				ejection.Points = append(ejection.Points, flow.Point{Attrs: attrs(flow.Text(flow.AttrEndpoint, o.Endpoint), flow.Text(flow.AttrWhy, o.Why)), Value: o.Until.UnixMilli()})
			}
		}
	}
	return []flow.Family{inFlight, limit, pool, shed, ejected, ejections, ejection}
}
