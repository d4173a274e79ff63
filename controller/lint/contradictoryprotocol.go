package lint

import (
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// contradictoryProtocol is about ports of which one field says this and another that; which counts is fixed, which was meant is not.
func contradictoryProtocol(m *mesh, say func(place, string, ...any)) {
	check := func(at place, field, protocol, appProtocol, name string, opaque bool) {
		why := "protocol"
		if opaque {
			why = "opaque"
		}
		byApp, byName := resource.SaidProtocols(appProtocol, name)
		switch {
		case byApp != "" && !agree(byApp, protocol):
			say(at, "%s.appProtocol: says %s, but the port is %s by %s", field, byApp, protocol, why)
		case byName != "" && name != protocol && !agree(byName, protocol):
			if !opaque && byApp != "" {
				why = "appProtocol"
			}
			say(at, "%s.name: %q says %s, but the port is %s by %s", field, name, byName, protocol, why)
		}
	}
	for _, w := range m.Set.Workloads {
		for i, p := range w.Spec.Ports {
			check(m.at(w.Key()), fmt.Sprintf("spec.ports[%d]", i), p.Protocol, p.AppProtocol, p.Name, p.Opaque)
		}
	}
	for _, e := range m.Set.External {
		check(m.at(e.Key()), "spec", e.Spec.Protocol, e.Spec.AppProtocol, "", e.Spec.Opaque)
	}
}

// agree reports whether a port that is said to speak one protocol may be declared to speak the other: auto finds out, and the versions of HTTP are one another's.
func agree(said, declared string) bool {
	http := []string{"http", "http1", "http2", "grpc"}
	return said == declared || declared == "auto" || slices.Contains(http, said) && slices.Contains(http, declared)
}

// opaqueHTTP is about redirected connections that would be read if they were let.
func opaqueHTTP(m *mesh, say func(place, string, ...any)) {
	for _, w := range m.Set.Workloads {
		for i, port := range w.Spec.Intercept.Outbound.OpaquePorts {
			for _, e := range m.Endpoints {
				if p, _ := policy.ParseProtocol(e.Protocol); e.Address.Port() == uint16(port) && p.HTTP() {
					say(m.at(w.Key()), "spec.intercept.outbound.opaquePorts[%d]: %d is a port of %s, which speaks %s", i, port, e.Name(), e.Protocol)
					break
				}
			}
		}
	}
}
