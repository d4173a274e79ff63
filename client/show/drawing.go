package show

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/graph/drawing"
)

// edgeWords is what a drawing says beside an edge.
func edgeWords(e *graph.Edge) string {
	v := view(*e)
	text := rate(v.Rate) + " p99 " + seconds(v.P99)
	if v.ErrorRatio > 0 {
		text += fmt.Sprintf(" %.1f%% errors", 100*v.ErrorRatio)
	}
	return text
}

// DOT writes the graph for Graphviz.
func DOT(w io.Writer, g *graph.Snapshot) error { return drawing.DOT(w, g, edgeWords) }

// Mermaid writes the graph as a flowchart (https://mermaid.js.org/syntax/flowchart.html).
func Mermaid(w io.Writer, g *graph.Snapshot) error { return drawing.Mermaid(w, g, edgeWords) }

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
