package dashboardtest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// Nasty are names that an attacker or an accident may give to anything.
var Nasty = []string{
	`"><script>alert(1)</script>`, `<img src=x onerror=alert(1)>`, `'onmouseover='alert(1)`, `javascript:alert(1)`, "a\x00b", "шоп\u202ekcab", strings.Repeat("Ω", 300),
	`</title><svg onload=alert(1)>`, `{{7*7}}`, "👩‍👩‍👧‍👦 family", "a/b c?d#e%2F", `x" y="`, "متجر السلع", "</textarea><script>alert(2)</script>",
}

// Crowd is a service of NastySources with CrowdSize endpoints.
const (
	Crowd     = "crowd"
	CrowdSize = 10_000
)

// NastySources is a mesh in which everything is called by a name of Nasty: services, operations, attributes and their values, reasons, events; and of Crowd.
func NastySources(now time.Time) source.Sources {
	spans := NewSpans()
	snap := &graph.Snapshot{Sequence: 1, At: now, Window: 10 * time.Second}
	ev := &Events{}
	for i, n := range Nasty {
		v := &graph.View{Requests: 10, Rate: 1, Errors: 5, ErrorRatio: .5, P50: 1, Reasons: map[string]uint64{n: 3}}
		snap.Nodes = append(snap.Nodes, graph.Node{
			ID: n, Name: n, Namespace: n, Kind: graph.KindService, Versions: []graph.Version{{Version: n, Rate: 1}, {Version: n + "2", Rate: 1}},
			Endpoints: []graph.Endpoint{{Address: n, Instance: n, State: "ejected", Reason: n, Override: n}}, Reporters: []graph.Reporter{{Instance: n, Identity: n}}, Inbound: *v,
		})
		snap.Edges = append(snap.Edges, graph.Edge{ID: n + "→" + Nasty[0], Source: n, Destination: Nasty[0], Protocol: "http/1.1", State: graph.BothSides, Client: v, Server: v, Gap: &graph.Gap{}})
		ev.List = append(ev.List, event.Event{ID: n, Time: now, Kind: event.KindEjected, Severity: "error", Service: n, Instance: n, Endpoint: n, Message: n, Reason: n, Evidence: map[string]string{n: n}, Traces: []string{n}})
		spans.Put(TraceID(i), now, SpanSpec{
			ID: "a", Service: n, Name: n, End: time.Millisecond, Error: n, Attr: map[string]any{n: n, flow.AttrReason: n, flow.AttrStatus: n, flow.AttrSourceService: n, flow.AttrKind: "exchange", flow.AttrSide: n},
		})
	}
	crowd := graph.Node{ID: Crowd, Name: Crowd, Kind: graph.KindService, Inbound: graph.View{Requests: 1e6, Rate: 1e5, P50: .01}}
	for i := range CrowdSize {
		crowd.Endpoints = append(crowd.Endpoints, graph.Endpoint{Address: fmt.Sprintf("10.%d.%d.%d:8080", i>>16, i>>8&255, i&255), Instance: fmt.Sprintf("crowd-%05d", i), State: "healthy"})
	}
	snap.Nodes = append(snap.Nodes, crowd)
	return source.Sources{
		Spans: spans, Graph: still{snap}, Events: ev, Now: func() time.Time { return now }, Version: "v0.9.0",
		Banner: func() []source.Notice {
			return []source.Notice{{Severity: "error", Message: Nasty[0], Action: Nasty[1]}}
		},
	}
}

// still is a graph that never changes.
type still struct{ s *graph.Snapshot }

func (g still) Live() *graph.Snapshot { return g.s }

func (g still) Subscribe(ctx context.Context) <-chan *graph.Snapshot {
	ch := make(chan *graph.Snapshot, 1)
	ch <- g.s
	go func() { <-ctx.Done(); close(ch) }()
	return ch
}

func (g still) At(context.Context, time.Time) (*graph.Snapshot, error) { return g.s, nil }
