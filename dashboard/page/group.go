package page

import (
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/graph"
)

// noGroups is the word for each service by itself.
const noGroups = "none"

// grouping is what services of s are drawn together by, "" for each by itself: what is asked for, or by namespace when there are very many.
func (l *lens) grouping(s *graph.Snapshot) graph.Grouping {
	switch {
	case l.group == noGroups:
		return ""
	case l.group != "":
		return graph.Grouping(l.group)
	case len(s.Nodes) > manyLabels:
		return graph.ByNamespace
	}
	return ""
}

// grouped is s with services drawn together, nil when none are. compared is for a comparison of two instants, which has groups only when they are asked for.
func (l *lens) grouped(s *graph.Snapshot, compared bool) (*graph.Grouped, graph.Grouping) {
	by := l.grouping(s)
	if by == "" || compared && l.group == "" {
		return nil, ""
	}
	if g := graph.Group(s, by, l.open); len(g.Nodes) < len(s.Nodes) {
		return g, by
	}
	return nil, by
}

// GroupTopic is the live topic of the whole graph, drawn together by by.
func GroupTopic(by graph.Grouping) string { return "by-" + string(by) }

// group makes what stands for several services lead to them, opened.
func (v *TopologyView) group(by graph.Grouping) {
	name := func(id string) string { n, _ := strings.CutPrefix(id, string(by)+"="); return n }
	groups := map[string]bool{}
	open := func(ids ...string) string {
		i := v.Times
		i.lens.group, i.lens.open, i.lens.rows = string(by), slices.Clone(i.lens.open), 0
		for _, id := range ids {
			if groups[id] && !slices.Contains(i.lens.open, name(id)) {
				i.lens.open = append(i.lens.open, name(id))
			}
		}
		return i.url(i.at, i.from)
	}
	for i := range v.Graph.Nodes {
		if n := &v.Graph.Nodes[i]; n.Kind == graph.KindGroup {
			groups[n.ID] = true
		}
	}
	for i := range v.Graph.Nodes {
		if n := &v.Graph.Nodes[i]; groups[n.ID] {
			n.Href = open(n.ID)
		}
	}
	for i := range v.Graph.Edges {
		e := &v.Graph.Edges[i]
		if groups[e.Source] || groups[e.Destination] {
			e.Href = open(e.Source, e.Destination)
			if groups[e.Source] {
				e.From, e.FromHref = name(e.Source), open(e.Source)
			}
			if groups[e.Destination] {
				e.To, e.ToHref = name(e.Destination), open(e.Destination)
			}
		}
	}
}

// found carries what was found to what stands for it.
func foundIn(g *graph.Grouped, f graph.Found) graph.Found {
	if g == nil {
		return f
	}
	out := graph.Found{Nodes: map[string]bool{}, Edges: map[string]bool{}}
	for id := range f.Nodes {
		out.Nodes[g.Of[id]] = true
	}
	for id := range f.Edges {
		out.Edges[g.EdgeOf[id]] = true
	}
	return out
}

// OpenGroup is a group that is drawn as its services, and the page with it closed.
type OpenGroup struct{ Name, Href string }

// Opened lists them.
func (v *TopologyView) Opened() []OpenGroup {
	var out []OpenGroup
	for _, name := range v.Lens.open {
		i := v.Times
		i.lens.open = slices.DeleteFunc(slices.Clone(i.lens.open), func(s string) bool { return s == name })
		out = append(out, OpenGroup{name, i.url(i.at, i.from)})
	}
	return out
}

// groupNote is what a group says of itself.
func groupNote(n *graph.Node) string { return part.Plural(n.Members, "service", "services") }

// GroupPlaces remembers places for each way of drawing services together.
func GroupPlaces(settle time.Duration) map[graph.Grouping]*layout.Memory {
	m := map[graph.Grouping]*layout.Memory{}
	for _, by := range graph.Groupings() {
		m[by] = &layout.Memory{Settle: settle}
	}
	return m
}
