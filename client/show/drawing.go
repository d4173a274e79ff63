package show

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
)

// edgeWords is what a drawing says beside an edge.
func edgeWords(e graph.Edge) string {
	v := view(e)
	text := rate(v.Rate) + " p99 " + seconds(v.P99)
	if v.ErrorRatio > 0 {
		text += fmt.Sprintf(" %.1f%% errors", 100*v.ErrorRatio)
	}
	return text
}

// DOT writes the graph for Graphviz.
func DOT(w io.Writer, g *graph.Snapshot) error {
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
	for _, e := range g.Edges {
		attrs := ""
		switch ratio := view(e).ErrorRatio; {
		case ratio >= 0.05:
			attrs = ", color=red"
		case ratio >= 0.01:
			attrs = ", color=orange"
		}
		if !e.MTLS {
			attrs += ", style=dashed"
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s%s];\n", quoteDOT(name(e.Source)), quoteDOT(name(e.Destination)), quoteDOT(edgeWords(e)), attrs)
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
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(Printable(text)) + `"`
}

// Mermaid writes the graph as a flowchart (https://mermaid.js.org/syntax/flowchart.html).
func Mermaid(w io.Writer, g *graph.Snapshot) error {
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
	for i, e := range g.Edges {
		arrow := "-->"
		if !e.MTLS {
			arrow = "-.->"
		}
		fmt.Fprintf(&b, "  %s %s|%s| %s\n", id[name(e.Source)], arrow, quoteMermaid(edgeWords(e)), id[name(e.Destination)])
		if view(e).ErrorRatio >= 0.05 {
			fmt.Fprintf(&b, "  linkStyle %d stroke:red\n", i)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// quoteMermaid writes a text of a flowchart, in which entities stand for what it cannot have.
func quoteMermaid(text string) string {
	return `"` + strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;").Replace(Printable(text)) + `"`
}

// Difference writes what changed between two instants, gravest first.
func (s Style) Difference(w io.Writer, d graph.Difference) error {
	if _, err := io.WriteString(w, s.paint(bold, fmt.Sprintf("from %s to %s", d.From.Local().Format(time.DateTime), d.To.Local().Format(time.DateTime)))+"\n\n"); err != nil {
		return err
	}
	if len(d.Nodes)+len(d.Edges) == 0 {
		_, err := fmt.Fprintln(w, "nothing changed that chance alone would not")
		return err
	}
	codes := map[graph.Change]string{
		graph.ChangeMoreErrors: red, graph.ChangeGone: red, graph.ChangeUnprotected: red, graph.ChangeSlower: yellow, graph.ChangeLessTraffic: yellow, graph.ChangeMoreTraffic: yellow,
		graph.ChangeNew: cyan, graph.ChangeFewerErrors: green, graph.ChangeFaster: green, graph.ChangeProtected: green,
	}
	var rows [][]cell
	for _, n := range d.Nodes {
		rows = append(rows, []cell{{n.Name, bold}, {words(n.Change), codes[n.Change]}, {}, {}, {}})
	}
	for _, e := range d.Edges {
		edge := cell{name(e.Source) + " → " + name(e.Destination), bold}
		for i, c := range e.Changes {
			row := []cell{edge, {words(c), codes[c]}, {}, {}, {}}
			if i == 0 {
				pair := func(f func(v *graph.View) string) cell {
					text := "-"
					if e.Before != nil {
						text = f(e.Before)
					}
					if e.After == nil {
						return cell{text: text + " → -"}
					}
					return cell{text: text + " → " + f(e.After)}
				}
				row[2] = pair(func(v *graph.View) string { return rate(v.Rate) })
				row[3] = pair(func(v *graph.View) string { return ratio(v.ErrorRatio).text })
				row[4] = pair(func(v *graph.View) string { return seconds(v.P99) })
			}
			rows, edge = append(rows, row), cell{}
		}
	}
	return s.table(w, []column{{"WHAT", false}, {"CHANGE", false}, {"RATE", true}, {"ERRORS", true}, {"P99", true}}, rows)
}

func words(c graph.Change) string { return strings.ReplaceAll(string(c), "_", " ") }
