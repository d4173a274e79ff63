package page

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/graph/drawing"
)

// exports are the forms in which the graph is taken away, with what is asked for in the page's URL. A PNG is made of the SVG, by the browser.
var exports = []struct {
	ext, title, media string
	write             func(w io.Writer, v *TopologyView, s *graph.Snapshot, query url.Values) error
}{
	{"svg", "SVG", "image/svg+xml", func(w io.Writer, v *TopologyView, _ *graph.Snapshot, q url.Values) error {
		return writeSVG(w, &v.Graph, q.Get("theme") == "dark")
	}},
	{"mmd", "Mermaid", "text/vnd.mermaid; charset=utf-8", func(w io.Writer, _ *TopologyView, s *graph.Snapshot, _ url.Values) error {
		return drawing.Mermaid(w, s, exportWords)
	}},
	{"dot", "DOT", "text/vnd.graphviz; charset=utf-8", func(w io.Writer, _ *TopologyView, s *graph.Snapshot, _ url.Values) error {
		return drawing.DOT(w, s, exportWords)
	}},
	{"json", "JSON", "application/json", func(w io.Writer, _ *TopologyView, s *graph.Snapshot, _ url.Values) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}},
}

// exportWords label an edge.
func exportWords(e *graph.Edge) string {
	v := e.Main()
	switch {
	case v == nil:
		return part.Dash
	case isTCP(e.Protocol):
		return openText(v.Active)
	}
	text := part.Rate(v.Rate) + " p99 " + part.Seconds(v.P99)
	if v.ErrorRatio > 0 {
		text += " " + part.Percent(v.ErrorRatio) + " errors"
	}
	return text
}

// TopologyExport answers with the graph that the same query draws on the page, in another form: /topology/export.svg?find=…
func TopologyExport(ext string) func(d *Deps) http.HandlerFunc {
	return func(d *Deps) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for _, e := range exports {
				if e.ext != ext {
					continue
				}
				ctx, cancel := context.WithTimeout(r.Context(), queryTime)
				defer cancel()
				v, s, status := d.topology(ctx, r.URL.Query())
				if v.Error != "" {
					http.Error(w, v.Error, status)
					return
				}
				v.Graph.routed(v.drawing)
				var b bytes.Buffer
				if err := e.write(&b, &v, s, r.URL.Query()); err != nil {
					http.Error(w, "The graph cannot be written: "+err.Error(), http.StatusInternalServerError)
					return
				}
				h := w.Header()
				h.Set("Content-Type", e.media)
				h.Set("Cache-Control", "no-store")
				h.Set("Content-Disposition", `inline; filename="topology.`+e.ext+`"`)
				_, _ = w.Write(b.Bytes())
			}
		}
	}
}

// routed gives edges lines that the browser would draw by itself.
func (v *GraphView) routed(draw *layout.Drawing) {
	for i := range v.Edges {
		if e := &v.Edges[i]; e.Route.Path == "" && draw != nil {
			e.Route = draw.CurveRoute(e.Source, e.Destination, layout.Options{})
			e.Route.Fits = rank(e.Fig.Level) >= rank(part.Warn) && len(v.Nodes) <= manyLabels
		}
	}
}

// ExportLink is one form to take the graph away in.
type ExportLink struct{ Title, Href, Name string }

// Exports are the links to them, with what the page shows.
func (v *TopologyView) Exports() []ExportLink {
	query := ""
	if u, err := url.Parse(v.Times.url(v.At, v.From)); err == nil && u.RawQuery != "" {
		query = "?" + u.RawQuery
	}
	var out []ExportLink
	for _, e := range exports {
		out = append(out, ExportLink{e.title, "/topology/export." + e.ext + query, "topology." + e.ext})
	}
	return out
}
