package page

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// EdgeDetail is the page of one edge.
type EdgeDetail struct {
	Shell     part.Shell
	View      EdgeView
	Edge      graph.Edge
	Client    *SideView
	Server    *SideView
	GapTitle  string
	GapText   string
	Reasons   []ReasonCount
	GRPC      []GRPCCount // how gRPC calls ended; nil when there were none
	Charts    []*part.Chart
	Full      []*part.Chart // saturation
	Period    Period
	Traces    []TraceRow
	Failures  []TraceRow
	Events    []event.Event
	Exemplars []string
	Now       time.Time
	Quiet     bool
}

// SideView is what one reporter counted.
type SideView struct {
	Who    string
	Level  part.Level
	Facts  []Fact
	Absent string // why there is nothing
}

// GRPCCount is how often a gRPC call ended with one status.
type GRPCCount struct {
	Name   string
	N      uint64
	Failed bool
}

func grpcCounts(v *graph.View) []GRPCCount {
	var out []GRPCCount
	for name, n := range v.GRPC {
		s, _ := flow.ParseGRPCStatus(name)
		out = append(out, GRPCCount{name, n, s.Failure()})
	}
	slices.SortFunc(out, func(a, b GRPCCount) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name)) })
	return out
}

// Fact is a name and a figure.
type Fact struct{ Name, Value string }

// Edge shows one edge: both sides, the gap, reasons, latency and traces.
func Edge(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		q := r.URL.Query()
		from, to, protocol := q.Get("source"), q.Get("destination"), q.Get("protocol")
		if from == "" || to == "" {
			message(d, w, r, http.StatusBadRequest, "Which edge?", "The address needs source and destination, as in /edge?source=web&destination=catalog.")
			return
		}
		v := EdgeDetail{Shell: d.shell(ctx, from+" → "+to, "", "graph reload"), Now: d.Clock(), Quiet: true}
		v.Shell.Charts, v.Period = true, parsePeriod(r.URL, v.Now)
		s := d.live()
		v.Edge = graph.Edge{Source: from, Destination: to, Protocol: protocol}
		for i, e := range s.Edges {
			if e.Source == from && e.Destination == to && (protocol == "" || e.Protocol == protocol) {
				v.Edge, v.Quiet = e, false
				v.View = NewGraphView(&graph.Snapshot{Window: s.Window, Edges: s.Edges[i : i+1]}, nil).Edges[0]
				break
			}
		}
		if v.Quiet {
			v.View = EdgeView{Source: from, Destination: to, Protocol: protocol, Fig: Figures{Level: part.Quiet}}
		}
		v.Client, v.Server = sides(&v.Edge)
		v.GapTitle, v.GapText = gapWords(&v.Edge)
		if m := v.Edge.Main(); m != nil {
			v.Reasons, v.Exemplars, v.GRPC = sortedReasons(m.Reasons), m.Exemplars, grpcCounts(m)
		}
		v.Events, _ = d.events(ctx, to, time.Time{}, 8)
		side := "client"
		if v.Edge.Client == nil && v.Edge.Server != nil {
			side = "server"
		}
		c := charts{d, &v.Period, v.Events}
		pair := edgeSelector(&v.Edge)
		v.Charts = c.red(ctx, "Requests", pair+`,side="`+side+`"`)
		if side == "client" {
			v.Charts = append(v.Charts, c.chart(ctx, "gap", "Median latency, both sides", part.UnitSeconds,
				c.quantile("caller", "a", "0.5", pair+`,side="client"`), c.quantile("callee", "b", "0.5", pair+`,side="server"`)))
		}
		v.Full = c.saturation(ctx, "source="+quote(from)+",destination="+quote(to))
		search := store.TraceQuery{Source: from, Destination: to, Limit: 10}
		if p := v.Edge.Protocol; p != "" {
			search.Attributes = []store.AttributeMatch{{Key: flow.AttrProtocol, Value: p, Op: "="}}
		}
		if p, err := d.Spans.Summaries(ctx, search); err == nil {
			v.Traces = traceRows(p.Traces, d.Clock())
		}
		search.Errors = true
		if p, err := d.Spans.Summaries(ctx, search); err == nil {
			v.Failures = traceRows(p.Traces, d.Clock())
		}
		render(w, r, http.StatusOK, EdgePage(v))
	}
}

// edgeSelector selects the series of both sides of an edge.
func edgeSelector(e *graph.Edge) string {
	pair := `source=` + quote(e.Source) + `,destination=` + quote(e.Destination)
	if e.Protocol != "" { // two services may speak several to each other, each an edge
		pair += `,protocol=` + quote(e.Protocol)
	}
	return pair
}

func sides(e *graph.Edge) (client, server *SideView) {
	client = &SideView{Who: e.Source + " saw", Level: part.LevelOf(e.Client), Facts: facts(e.Client, e.Protocol, true)}
	server = &SideView{Who: e.Destination + " saw", Level: part.LevelOf(e.Server), Facts: facts(e.Server, e.Protocol, false)}
	switch {
	case e.Client != nil:
	case e.State == graph.ServerOnly:
		client.Absent = "The caller has no sidecar and no identity, so nobody reports its side."
	default:
		client.Absent = "The caller's sidecar reported nothing in this window."
	}
	switch {
	case e.Server != nil:
	case e.State == graph.ClientOnly:
		server.Absent = "The destination is outside the mesh, so nobody reports its side."
	default:
		server.Absent = "The callee's sidecar reported nothing in this window."
	}
	return client, server
}

func facts(v *graph.View, protocol string, client bool) []Fact {
	if v == nil {
		return nil
	}
	if isTCP(protocol) {
		return []Fact{
			{"Open", part.Count(v.Active)}, {"New", part.Count(v.Connections)}, {"In", part.Bytes(v.BytesIn)}, {"Out", part.Bytes(v.BytesOut)},
		}
	}
	f := []Fact{{"Rate", part.Rate(v.Rate)}, {"Requests", part.Count(v.Requests)}}
	if client && v.Attempts > 0 {
		f = append(f, Fact{"Attempts", part.Count(v.Attempts)})
	}
	if v.MessagesIn+v.MessagesOut > 0 {
		f = append(f, Fact{"Messages in", part.Count(v.MessagesIn)}, Fact{"Messages out", part.Count(v.MessagesOut)})
	}
	return append(f, Fact{"Errors", part.Percent(v.ErrorRatio)}, Fact{"p50", part.Seconds(v.P50)}, Fact{"p95", part.Seconds(v.P95)}, Fact{"p99", part.Seconds(v.P99)},
		Fact{"In", part.Bytes(v.BytesIn)}, Fact{"Out", part.Bytes(v.BytesOut)})
}

func gapWords(e *graph.Edge) (title, text string) {
	switch {
	case e.State == graph.ReporterMissing:
		missing := "A sidecar"
		if len(e.Missing) > 0 {
			missing = e.Missing[0]
		}
		return "reporter missing", missing + " has not reported, so the two sides cannot be compared. This is not loss."
	case e.Gap == nil:
		return "one side only", "There is nothing to compare."
	case e.Gap.Latency > 0:
		title = part.Seconds(e.Gap.Latency)
	default:
		title = "≈ 0"
	}
	text = "network and queue at the median"
	if e.Gap.Lost > 0 {
		text += "; " + part.Count(e.Gap.Lost) + " delivered attempts have no counterpart"
	} else {
		text += "; nothing lost"
	}
	return title, text
}
