// Package drawing writes the topology for programs that draw: Graphviz and Mermaid. The command line and the dashboard share it; what an edge is labelled with they say.
package drawing

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tulle-mesh/tulle/store/graph"
)

// DOT writes the graph for Graphviz.
func DOT(w io.Writer, g *graph.Snapshot, words func(*graph.Edge) string) error {
	var b strings.Builder
	b.WriteString("digraph tulle {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n")
	for _, n := range nodes(g) {
		attrs := ""
		switch n.Kind {
		case graph.KindExternal, graph.KindPassthrough, graph.KindUnmeshed:
			attrs = ", style=dashed"
		case graph.KindTCP:
			attrs = ", shape=cylinder"
		}
		fmt.Fprintf(&b, "  %s [label=%s%s];\n", quoteDOT(n.ID), quoteDOT(n.Name), attrs)
	}
	for i := range g.Edges {
		e := &g.Edges[i]
		attrs := ""
		switch ratio := errorRatio(e); {
		case ratio >= 0.05:
			attrs = ", color=red"
		case ratio >= 0.01:
			attrs = ", color=orange"
		}
		if !e.MTLS {
			attrs += ", style=dashed"
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s%s];\n", quoteDOT(name(e.Source)), quoteDOT(name(e.Destination)), quoteDOT(words(e)), attrs)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// nodes are those of g, and those that only its edges name.
func nodes(g *graph.Snapshot) []graph.Node {
	out := slices.Clone(g.Nodes)
	known := map[string]bool{}
	for i := range out {
		known[out[i].ID] = true
	}
	for _, e := range g.Edges {
		for _, id := range []string{name(e.Source), name(e.Destination)} {
			if !known[id] {
				known[id] = true
				out = append(out, graph.Node{ID: id, Name: id, Kind: graph.KindService})
			}
		}
	}
	return out
}

func quoteDOT(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(text)) + `"`
}

// Mermaid writes the graph as a flowchart (https://mermaid.js.org/syntax/flowchart.html).
func Mermaid(w io.Writer, g *graph.Snapshot, words func(*graph.Edge) string) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	id := map[string]string{}
	for i, n := range nodes(g) {
		id[n.ID] = "n" + strconv.Itoa(i) // names may have anything in them
		open, shut := "(", ")"
		switch n.Kind {
		case graph.KindExternal, graph.KindPassthrough, graph.KindUnmeshed:
			open, shut = "([", "])"
		case graph.KindTCP:
			open, shut = "[(", ")]"
		}
		fmt.Fprintf(&b, "  %s%s%s%s\n", id[n.ID], open, quoteMermaid(n.Name), shut)
	}
	for i := range g.Edges {
		e := &g.Edges[i]
		arrow := "-->"
		if !e.MTLS {
			arrow = "-.->"
		}
		fmt.Fprintf(&b, "  %s %s|%s| %s\n", id[name(e.Source)], arrow, quoteMermaid(words(e)), id[name(e.Destination)])
		if errorRatio(e) >= 0.05 {
			fmt.Fprintf(&b, "  linkStyle %d stroke:red\n", i)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// quoteMermaid writes a text of a flowchart, in which entities stand for what it cannot have.
func quoteMermaid(text string) string {
	return `"` + strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;").Replace(printable(text)) + `"`
}

// name is a service as a node; callers that nobody knows have none.
func name(service string) string {
	if service == "" {
		return string(graph.KindUnmeshed)
	}
	return service
}

func errorRatio(e *graph.Edge) float64 {
	if v := e.Main(); v != nil {
		return v.ErrorRatio
	}
	return 0
}

// printable replaces control characters, which none of the languages can quote.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '·'
		}
		return r
	}, text)
}
