package graph

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
)

const (
	// reflexQuiet is how long nothing more is said of an endpoint after an event: sidecars that eject it together, and one that ejects it again and again, are one story.
	reflexQuiet = 30 * time.Second
	// maxReflexes bounds the endpoints of which that is remembered, and with it what reporters that make endpoints up can cost.
	maxReflexes = 1_000
)

// reflexKey is an endpoint of a service, as sidecars name it.
type reflexKey struct{ service, endpoint string }

// reflex is what was told last of an endpoint.
type reflex struct{ at, until time.Time }

// ejection makes an event of an endpoint that a sidecar says to have out by itself until a time, in unix milliseconds of its clock.
func (in *ingestion) ejection(p *point, until int64) {
	g, ends := in.g, time.UnixMilli(until).Add(time.Duration(in.b.offset)).UTC()
	if _, err := netip.ParseAddrPort(p.endpoint); err != nil || p.side != flow.SideClient || p.detail == "" || ends.Sub(in.now) > time.Minute {
		g.reject(rejectMalformed, 1)
		return
	}
	k := reflexKey{p.destination, p.endpoint}
	told, known := g.reflexes[k]
	switch {
	case !ends.After(in.now) && (known || in.baseline), known && (in.now.Sub(told.at) < reflexQuiet || ends.Sub(told.until).Abs() < time.Second):
		return // over, or the same story
	case !known && len(g.reflexes) >= maxReflexes:
		for o, at := range g.reflexes {
			if in.now.Sub(at.at) >= reflexQuiet {
				delete(g.reflexes, o)
			}
		}
		if len(g.reflexes) >= maxReflexes {
			g.reject(rejectTooMany, 1)
			return
		}
	}
	g.reflexes[k] = reflex{in.now, ends}
	g.eventLocked(event.Event{
		Time: in.now, Kind: event.KindReflex, Severity: "warning", Service: p.destination, Endpoint: p.endpoint, Instance: in.r.key.instance, Reason: p.detail, Expires: &ends,
		Message: fmt.Sprintf("The sidecar of %s sends nothing to %s of %s until %s, by its own decision (%s); then one real request finds out whether it is well again.",
			in.r.key.instance, p.endpoint, p.destination, ends.Format("15:04:05.0"), p.detail),
		Evidence: map[string]string{"decided by": in.r.key.instance + " of " + in.r.service, "why": p.detail},
	})
}
