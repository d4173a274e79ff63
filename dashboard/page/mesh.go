package page

import (
	"encoding/json"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/graph"
)

// A graph of more than manyNodes is drawn by the browser on a canvas (dashboard/web/src/mesh.ts), from lists in place of markup: a figure has its place in a list
// instead of a name. It is no API: page and script come from the same binary.

// meshNode are the texts of a node that change: level, rate, errors, p50, p95, p99, note.
type meshNode [7]string

// meshEdge are those of an edge: level, weight, rate, errors, p50, p95, p99, gap, tries, and what the called side saw, which the page leaves out. Live, healthy edges have the first two only, which seldom change: nobody reads the
// figures of thousands. Who points at one subscribes to the topic "edges", which has all of all.
type meshEdge [10]string

// meshData is the drawing as the canvas takes it.
type meshData struct {
	W        float64 `json:"w"`
	H        float64 `json:"h"`
	Vertical bool    `json:"v,omitempty"`
	Finding  bool    `json:"f,omitempty"`
	Nodes    []any   `json:"nodes"` // [id, name, namespace, kind, x, y, sends only, change, meshNode, found, where it leads when that is no service]
	Edges    []any   `json:"edges"` // [index of source, index of destination, protocol, state, mTLS, change, meshEdge, found, where it leads when that is no edge]
}

func (n *NodeView) mesh() meshNode {
	f := &n.Fig
	return meshNode{levelOrNone(f.Level), f.Rate, f.Err, f.P50, f.P95, f.P99, f.Note}
}

func (e *EdgeView) mesh() meshEdge {
	f := &e.Fig
	return meshEdge{levelOrNone(f.Level), string(rune('0' + e.Weight)), f.Rate, f.Err, f.P50, f.P95, f.P99, orDash(e.Gap), orDash(e.Tries), e.Other}
}

// levelOrNone leaves the level out that most have.
func levelOrNone(l part.Level) string {
	if l == part.OK {
		return ""
	}
	return string(l)
}

// leads leaves out an address that the browser can make by itself.
func leads(href, usual string) string {
	if href == usual {
		return ""
	}
	return href
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Data is the drawing in JSON. It has no <, > and &, which encoding/json writes as escapes: it may stand in markup as it is, whatever names it has.
func (v *GraphView) Data() (string, error) {
	d := meshData{W: v.Width, H: v.Height, Vertical: v.Vertical, Finding: v.Finding, Nodes: make([]any, 0, len(v.Nodes)), Edges: make([]any, 0, len(v.Edges))}
	index := make(map[string]int, len(v.Nodes))
	for i := range v.Nodes {
		n := &v.Nodes[i]
		index[n.ID] = i
		name := n.Name
		if name == n.ID {
			name = ""
		}
		d.Nodes = append(d.Nodes, []any{n.ID, name, n.Namespace, n.Kind, n.X, n.Y, flag(n.Outbound), n.Change, n.mesh(), flag(n.Found), leads(n.Href, ServiceURL(n.ID))})
	}
	for i := range v.Edges {
		e := &v.Edges[i]
		from, ok := index[e.Source]
		to, okToo := index[e.Destination]
		if ok && okToo {
			list := e.mesh()
			d.Edges = append(d.Edges, []any{from, to, e.Protocol, e.State, flag(e.MTLS), e.Change, list[:len(list)-1], flag(e.Found), leads(e.Href, EdgeURL(e.Source, e.Destination, e.Protocol))})
		}
	}
	b, err := json.Marshal(d)
	return string(b), err
}

// edgeItems are all texts of all edges of a graph on a canvas.
func edgeItems(v *GraphView) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(v.Edges))
	for i := range v.Edges {
		if b, err := json.Marshal(v.Edges[i].mesh()); err == nil {
			out[v.Edges[i].Key] = b
		}
	}
	return out
}

// drawnOnCanvas reports whether a graph is too large for cards of markup.
func drawnOnCanvas(s *graph.Snapshot) bool { return many(len(s.Nodes), len(s.Edges)) }
