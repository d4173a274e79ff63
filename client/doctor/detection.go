package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/store/graph"
)

// detection: no port makes its callers wait for a server that speaks first, hour after hour. Such a port should be opaque.
func detection(ctx context.Context, e *examination) (wrong []Finding, well string, err error) {
	const window = `[1h]`
	waited, err := e.Query(ctx, `sum by (destination, side, port) (increase(tulle_detections_total{outcome="timeout", protocol="tcp"}`+window+`)) > 0.5`)
	if err != nil {
		return nil, "", err
	}
	http, err := e.Query(ctx, `sum by (destination, side, port) (increase(tulle_detections_total{protocol=~"http/1.1|h2"}`+window+`)) > 0.5`)
	if err != nil {
		return nil, "", err
	}
	g, err := e.Graph(ctx)
	if err != nil {
		return nil, "", err
	}
	type port struct{ destination, side, number string }
	at := func(labels map[string]string) port {
		return port{labels["destination"], labels["side"], labels["port"]}
	}
	speaks := map[port]bool{}
	for _, s := range http {
		speaks[at(s.Labels)] = true
	}
	for _, s := range waited {
		p := at(s.Labels)
		f := Finding{Level: Warn, Subject: p.destination + ":" + p.number, What: fmt.Sprintf("%.0f connections in the last hour waited for a caller that never spoke first; the server does.", s.Value)}
		switch external := kind(g, p.destination) == graph.KindExternal; {
		case speaks[p]:
			f.What = fmt.Sprintf("%.0f connections in the last hour waited, and were bytes in the end; others were HTTP.", s.Value)
			f.Do = "Give what is not HTTP a port of its own, and declare both."
		case p.destination == "passthrough":
			f.Do = "Add the port to spec.intercept.outbound.opaquePorts of its callers, or an ExternalService for it."
			f.YAML = "intercept: {outbound: {opaquePorts: [" + p.number + "]}}"
		case external:
			f.Do = "In the ExternalService " + p.destination + ", add to spec:"
			f.YAML = "opaque: true"
		case p.side == "server":
			f.Do = "In every Workload of service " + p.destination + ", add to the entry of spec.ports that listens on port " + p.number + ":"
			f.YAML = "opaque: true"
		default:
			f.Do = "In every Workload of service " + p.destination + ", add to the first entry of spec.ports:"
			f.YAML = "opaque: true"
		}
		if p.number == "other" { // too many ports to count each
			f.Do, f.YAML = "Declare what its ports speak.", ""
		}
		wrong = append(wrong, f)
	}
	slices.SortFunc(wrong, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Do, b.Do)) })
	return wrong, "No port waited for its callers in the last hour.", nil
}

func kind(g *graph.Snapshot, service string) graph.NodeKind {
	for i := range g.Nodes {
		if g.Nodes[i].ID == service {
			return g.Nodes[i].Kind
		}
	}
	return ""
}
