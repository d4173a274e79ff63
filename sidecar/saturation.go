package sidecar

import (
	"cmp"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/resilience"
)

// target is one destination of the Snapshot in force with its endpoints.
type target struct {
	side      flow.Side
	protocol  flow.Protocol
	d         *exchange.Destination
	endpoints []policy.Endpoint
}

// targets lists what a Snapshot's bindings lead to.
func targets(bindings []*exchange.Binding, snap *policy.Snapshot) []target {
	var out []target
	own := map[string]int{} // by name where in out: ports of one service are one destination
	for _, b := range bindings {
		if b.Own == nil || b.App == nil {
			continue
		}
		i, ok := own[b.Own.Name]
		if !ok {
			i = len(out)
			own[b.Own.Name] = i
			out = append(out, target{side: flow.SideServer, protocol: b.Listener.Protocol, d: b.Own})
		}
		if !slices.ContainsFunc(out[i].endpoints, func(e policy.Endpoint) bool { return e.Address == b.App.Address && e.Unix == b.App.Unix }) {
			out[i].endpoints = append(out[i].endpoints, *b.App)
		}
	}
	if len(bindings) > 0 {
		for name, d := range bindings[0].Destinations {
			out = append(out, target{flow.SideClient, snap.Services[name].Protocol, d, snap.Endpoints[name]})
		}
	}
	slices.SortFunc(out, func(a, b target) int { return cmp.Or(cmp.Compare(a.side, b.side), cmp.Compare(a.d.Name, b.d.Name)) })
	return out
}

// Saturation is how much of what may be used towards each destination of the Snapshot in force is in use now.
func (s *Sidecar) Saturation() []flow.Saturation {
	list := s.targets.Load()
	if list == nil {
		return nil
	}
	out := make([]flow.Saturation, 0, len(*list))
	for _, t := range *list {
		sat := flow.Saturation{Side: t.side, Destination: t.d.Name, Limit: -1}
		for i := range t.endpoints {
			open, idle := s.pools.Count(&t.endpoints[i], t.d.TLS)
			sat.Open += open
			sat.Idle += idle + s.http2.Idle(&t.endpoints[i], t.d.TLS)
		}
		if t.side == flow.SideServer { // nothing else is limited towards the own application
			sat.InFlight = s.observer.inbound.Load()
			if a, ok := t.d.Admission.(*resilience.Adaptive); ok {
				sat.ShedAdaptive, sat.Limit = a.Count()
			}
		} else {
			kind := flow.KindExchange
			if !t.protocol.MayBeHTTP() {
				kind = flow.KindConnection
			}
			limit, _ := t.d.Limit(kind, t.protocol)
			sat.InFlight, sat.Limit = t.d.InFlight.Load(), int64(limit)
			sat.ShedRequests, sat.ShedConnections, sat.ShedPending = t.d.Shed.Requests.Load(), t.d.Shed.Connections.Load(), t.d.Shed.Pending.Load()
		}
		if ejects, ok := t.d.Picker.(interface{ States() *balance.States }); ok {
			now, counts, spared := ejects.States().Count()
			sat.Ejected = now
			for why, n := range counts {
				if why > 0 {
					sat.Ejections = append(sat.Ejections, flow.Ejections{Why: balance.Why(why).String(), Count: n})
				}
			}
			sat.Ejections = append(sat.Ejections, flow.Ejections{Why: "spared", Count: spared})
			sat.Out = s.ejections.of(t.d.Name, time.Now())
		}
		out = append(out, sat)
	}
	return out
}
