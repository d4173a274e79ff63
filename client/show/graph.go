package show

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
)

// Order says by what services and edges are sorted.
type Order string

// The orders. The zero value sorts services by name and edges by rate.
const (
	ByName   Order = "name"
	ByRate   Order = "rate"
	ByErrors Order = "errors"
	ByP99    Order = "p99"
)

// Orders lists what Top can sort by.
func Orders() []string {
	return []string{string(ByName), string(ByRate), string(ByErrors), string(ByP99)}
}

// compare puts a before b by their views, or by their names where those are alike.
func (o Order) compare(a, b graph.View, nameA, nameB string) int {
	by := 0
	switch o {
	case ByRate:
		by = cmp.Compare(b.Rate, a.Rate)
	case ByErrors:
		by = cmp.Or(cmp.Compare(b.ErrorRatio, a.ErrorRatio), cmp.Compare(b.Rate, a.Rate))
	case ByP99:
		by = cmp.Compare(b.P99, a.P99)
	}
	return cmp.Or(by, strings.Compare(nameA, nameB))
}

// sorted is g in another order; g is only read.
func (o Order) sorted(g *graph.Snapshot) *graph.Snapshot {
	c := *g
	c.Nodes = slices.Clone(g.Nodes)
	slices.SortStableFunc(c.Nodes, func(a, b graph.Node) int { return cmp.Or(o, ByName).compare(a.Inbound, b.Inbound, a.ID, b.ID) })
	c.Edges = slices.Clone(g.Edges)
	slices.SortStableFunc(c.Edges, func(a, b graph.Edge) int { return cmp.Or(o, ByRate).compare(view(a), view(b), a.ID, b.ID) })
	return &c
}

// Of says what Top writes.
type Of uint8

// What Top writes.
const (
	All Of = iota
	Services
	OnlyEdges
)

// Top writes the services and edges of a snapshot.
func (s Style) Top(w io.Writer, g *graph.Snapshot, order Order, of Of) error {
	if len(g.Nodes) == 0 {
		_, err := fmt.Fprintln(w, "no traffic yet")
		return err
	}
	if _, err := fmt.Fprintf(w, "%s  over the last %s, %s\n\n", s.paint(bold, fmt.Sprintf("%d services, %d edges", len(g.Nodes), len(g.Edges))),
		g.Window.Round(time.Second), g.At.Local().Format(time.TimeOnly)); err != nil {
		return err
	}
	g = order.sorted(g)
	if of != OnlyEdges {
		if err := s.services(w, g); err != nil || of == Services {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return s.edges(w, g)
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

// edges writes the edges of a snapshot in their order.
func (s Style) edges(w io.Writer, g *graph.Snapshot) error {
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
	var rows [][]cell
	for _, e := range g.Edges {
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
	if s.Wide {
		cols = append(cols, column{"ATTEMPTS", true}, column{"ACTIVE", true}, column{"IN", true}, column{"OUT", true}, column{"LOST", true}, column{"REASONS", false})
		for i, e := range g.Edges {
			v := view(e)
			lost := "-"
			if e.Gap != nil {
				lost = fmt.Sprint(e.Gap.Lost)
			}
			rows[i] = append(rows[i], cell{text: fmt.Sprint(v.Attempts)}, cell{text: fmt.Sprint(v.Active)}, cell{text: size(v.BytesIn)}, cell{text: size(v.BytesOut)}, cell{text: lost}, cell{text: reasonWords(v.Reasons)})
		}
	}
	return s.table(w, cols, rows)
}

// reasonWords are reasons with their counts, the most frequent first.
func reasonWords(m map[string]uint64) string {
	var names []string
	for r, n := range m {
		if r != "" && n > 0 {
			names = append(names, r)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), strings.Compare(a, b)) })
	for i, r := range names {
		names[i] = fmt.Sprintf("%s %d", r, m[r])
	}
	return strings.Join(names, ", ")
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
