package show

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
)

// Top writes the services and edges of a snapshot, busiest edge first.
func (s Style) Top(w io.Writer, g *graph.Snapshot) error {
	if len(g.Nodes) == 0 {
		_, err := fmt.Fprintln(w, "no traffic yet")
		return err
	}
	if _, err := fmt.Fprintf(w, "%s  over the last %s, %s\n\n", s.paint(bold, fmt.Sprintf("%d services, %d edges", len(g.Nodes), len(g.Edges))),
		g.Window.Round(time.Second), g.At.Local().Format(time.TimeOnly)); err != nil {
		return err
	}
	if err := s.services(w, g); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return s.Edges(w, g)
}

func (s Style) services(w io.Writer, g *graph.Snapshot) error {
	cols := []column{{"SERVICE", false}, {"KIND", false}, {"RATE", true}, {"ERRORS", true}, {"P50", true}, {"P95", true}, {"P99", true}, {"STATE", false}}
	var rows [][]cell
	for _, n := range g.Nodes {
		rows = append(rows, []cell{
			{text: n.Name},
			{text: string(n.Kind)},
			{text: rate(n.Inbound.Rate)},
			ratio(n.Inbound.ErrorRatio),
			{text: seconds(n.Inbound.P50)},
			{text: seconds(n.Inbound.P95)},
			{text: seconds(n.Inbound.P99)},
			nodeState(n),
		})
	}
	return s.table(w, cols, rows)
}

// nodeState is what a person should know of the node, worst first.
func nodeState(n graph.Node) cell {
	var parts []string
	code := ""
	for _, e := range n.Endpoints {
		if e.State != "" && e.State != "healthy" {
			name := e.Instance
			if name == "" {
				name = e.Address
			}
			parts = append(parts, name+" "+e.State)
			code = yellow
		}
	}
	missing := 0
	for _, r := range n.Reporters {
		if r.Missing {
			missing++
		}
	}
	if missing > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d reporters missing", missing, len(n.Reporters)))
		code = red
	}
	if n.TraceBreaks != nil && *n.TraceBreaks > 0.01 {
		parts = append(parts, fmt.Sprintf("drops traceparent of %.0f%% of its requests", 100**n.TraceBreaks))
		if code == "" {
			code = yellow
		}
	}
	return cell{strings.Join(parts, "; "), code}
}

// Edges writes the edges of a snapshot, busiest first.
func (s Style) Edges(w io.Writer, g *graph.Snapshot) error {
	cols := []column{
		{"EDGE", false},
		{"PROTOCOL", false},
		{"SEEN BY", false},
		{"MTLS", false},
		{"RATE", true},
		{"ERRORS", true},
		{"P50", true},
		{"P95", true},
		{"P99", true},
		{"GAP", true},
	}
	edges := slices.Clone(g.Edges)
	slices.SortStableFunc(edges, func(a, b graph.Edge) int {
		switch ra, rb := view(a).Rate, view(b).Rate; {
		case ra > rb:
			return -1
		case ra < rb:
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	var rows [][]cell
	for _, e := range edges {
		v := view(e)
		gap := "-"
		if e.Gap != nil {
			gap = seconds(e.Gap.Latency)
		}
		state := cell{text: string(e.State)}
		if e.State == graph.ReporterMissing {
			state.code = red
		}
		mtls := cell{"no", dim}
		if e.MTLS {
			mtls = cell{"yes", green}
		}
		requests := rate(v.Rate)
		if e.Protocol == "tcp" || e.Protocol == "tls" {
			requests = fmt.Sprintf("%d open", v.Active)
		}
		rows = append(rows, []cell{
			{text: name(e.Source) + " → " + name(e.Destination)},
			{text: e.Protocol},
			state, mtls,
			{text: requests},
			ratio(v.ErrorRatio),
			{text: seconds(v.P50)},
			{text: seconds(v.P95)},
			{text: seconds(v.P99)},
			{text: gap},
		})
	}
	return s.table(w, cols, rows)
}

// view is the caller's view, which contains the network, or the callee's where there is no other.
func view(e graph.Edge) graph.View {
	switch {
	case e.Client != nil:
		return *e.Client
	case e.Server != nil:
		return *e.Server
	}
	return graph.View{}
}

func name(service string) string {
	if service == "" {
		return string(graph.KindUnmeshed)
	}
	return service
}

// Tree writes who calls whom as text, callers before callees: what nobody calls comes first; a service that was written already is only
// named again.
func (s Style) Tree(w io.Writer, g *graph.Snapshot) error {
	if len(g.Edges) == 0 {
		_, err := fmt.Fprintln(w, "no traffic yet")
		return err
	}
	out := map[string][]graph.Edge{}
	called := map[string]bool{}
	for _, e := range g.Edges {
		out[e.Source] = append(out[e.Source], e)
		if e.Source != e.Destination {
			called[e.Destination] = true
		}
	}
	var roots []string
	for src := range out {
		if !called[src] {
			roots = append(roots, src)
		}
	}
	slices.Sort(roots)
	if len(roots) == 0 { // a ring: begin anywhere, but always at the same place
		roots = []string{g.Edges[0].Source}
	}
	var b strings.Builder
	done := map[string]bool{}
	var walk func(src, indent string)
	walk = func(src, indent string) {
		done[src] = true
		edges := out[src]
		slices.SortFunc(edges, func(a, b graph.Edge) int { return strings.Compare(a.ID, b.ID) })
		for i, e := range edges {
			branch, next := "├─ ", indent+"│  "
			if i == len(edges)-1 {
				branch, next = "└─ ", indent+"   "
			}
			v := view(e)
			b.WriteString(s.paint(dim, indent+branch) + name(e.Destination) + "  " +
				s.paint(dim, fmt.Sprintf("%s  p99 %s", rate(v.Rate), seconds(v.P99))))
			if c := ratio(v.ErrorRatio); c.code != "" {
				b.WriteString("  " + s.paint(c.code, c.text+" errors"))
			}
			if e.State != graph.BothSides {
				b.WriteString("  " + s.paint(yellow, string(e.State)))
			}
			if done[e.Destination] && len(out[e.Destination]) > 0 {
				b.WriteString(s.paint(dim, "  (above)"))
			}
			b.WriteByte('\n')
			if !done[e.Destination] {
				walk(e.Destination, next)
			}
		}
	}
	for _, r := range roots {
		b.WriteString(s.paint(bold, name(r)) + "\n")
		walk(r, "")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
