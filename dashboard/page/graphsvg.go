package page

import (
	"fmt"
	"html"
	"io"
	"strings"
	"unicode"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/graph"
)

// palette is the colours of a drawing that stands alone; app.css has the same.
type palette struct {
	surface, raised, sunken, ink, muted, line, edge, accent string
	warn, warnLine, warnSoft, bad, badLine, badSoft         string
}

var (
	lightColours = palette{"#ffffff", "#ffffff", "#eef0f3", "#171a21", "#586173", "#c5ccd6", "#a3adbb", "#3d4fc4", "#855300", "#c98a12", "#fdf3dc", "#b3261e", "#d5443a", "#fceae8"}
	darkColours  = palette{"#151920", "#1b2029", "#10141a", "#e7eaf0", "#9ba5b6", "#3a4352", "#4e596b", "#9aaaff", "#efc267", "#d09a36", "#2b2311", "#ff8f85", "#ee5f53", "#321a1a"}
)

// level are the colours of one: of its line, its text and its ground.
func (c *palette) level(l part.Level, line, text, ground string) (string, string, string) {
	switch l {
	case part.Warn:
		return c.warnLine, c.warn, c.warnSoft
	case part.Bad:
		return c.badLine, c.bad, c.badSoft
	}
	return line, text, ground
}

// inXML is a text in an XML document, which can have no control characters, not even written as entities.
func inXML(s string) string {
	return html.EscapeString(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == 0xfffe || r == 0xffff {
			return '·'
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
}

// writeSVG writes the drawing as a document that needs nothing else: colours are attributes, because a style would need a Content-Security-Policy that allows it. Its
// links lead back to the dashboard that wrote it.
func writeSVG(w io.Writer, g *GraphView, dark bool) error {
	c := &lightColours
	if dark {
		c = &darkColours
	}
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	width, height := max(g.Width, 40), max(g.Height, 40)
	put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%[1]s" height="%[2]s" font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif" font-size="12">`+"\n", px(width), px(height))
	put(`<rect width="100%%" height="100%%" fill="%s"/>`+"\n<defs>", c.surface)
	for _, m := range []struct{ id, fill string }{{"edge", c.edge}, {"warn", c.warnLine}, {"bad", c.badLine}, {"found", c.accent}} {
		put(`<marker id="%s" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 .8 7.4 4 0 7.2z" fill="%s"/></marker>`, m.id, m.fill)
	}
	put("</defs>\n")
	faint := func(found bool) string {
		if g.Finding && !found {
			return ` opacity=".25"`
		}
		return ""
	}
	many := len(g.Nodes) > manyNodes
	put(`<g fill="none">` + "\n")
	for i := range g.Edges {
		e := &g.Edges[i]
		plain, head, wide := c.edge, "edge", 1+.3*float64(e.Weight)
		if g.Finding && e.Found {
			plain, head = c.accent, "found"
		}
		stroke, _, _ := c.level(e.Fig.Level, plain, "", "")
		switch e.Fig.Level {
		case part.Warn, part.Bad:
			head = string(e.Fig.Level)
		default:
			if many {
				wide = .7
			}
		}
		dash := map[graph.EdgeState]string{graph.ClientOnly: "6 4", graph.ServerOnly: "6 4", graph.ReporterMissing: "1.5 4"}[e.State]
		if dash != "" {
			dash = ` stroke-dasharray="` + dash + `"`
		}
		put(`<a href="%s"><title>%s</title><path d="%s" stroke="%s" stroke-width="%s" marker-end="url(#%s)"%s%s/></a>`+"\n", inXML(e.Href), inXML(e.words()), e.Route.Path, stroke, px(wide), head, dash, faint(e.Found))
	}
	put("</g>\n")
	for i := range g.Nodes {
		c.card(put, g, &g.Nodes[i], faint(g.Nodes[i].Found))
	}
	for i := range g.Edges {
		e := &g.Edges[i]
		if !e.Route.Fits {
			continue
		}
		stroke, detail, ground := c.level(e.Fig.Level, "none", c.muted, c.surface)
		half := min(40, 6+3.3*float64(max(len([]rune(e.Fig.Rate)), len([]rune(e.Fig.Detail)))))
		put(`<g transform="translate(%s %s)" text-anchor="middle"%s><rect x="%s" y="-14" width="%s" height="28" rx="6" fill="%s" stroke="%s"/><text y="-2.5" font-size="11" font-weight="600" fill="%s">%s</text><text y="9.5" font-size="10.5" fill="%s">%s</text></g>`+"\n",
			px(e.Route.Label.X), px(e.Route.Label.Y), faint(e.Found), px(-half), px(2*half), ground, stroke, c.ink, inXML(e.Fig.Rate), detail, inXML(e.Fig.Detail))
	}
	put("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (e *EdgeView) words() string {
	if e.Title != "" {
		return e.Title
	}
	return e.Source + " → " + e.Destination + " (" + e.Protocol + "): " + e.Fig.Rate + ", " + e.Fig.Err + " errors, p99 " + e.Fig.P99
}

func (c *palette) card(put func(string, ...any), g *GraphView, n *NodeView, faint string) {
	line, ground, dash := c.line, c.raised, ""
	if n.Kind == graph.KindExternal || n.Kind == graph.KindUnmeshed || n.Kind == graph.KindPassthrough {
		ground, dash = c.sunken, ` stroke-dasharray="5 4"`
	}
	if g.Finding && n.Found {
		line = c.accent
	}
	stroke, err, _ := c.level(n.Fig.Level, line, c.ink, "")
	title := n.Title
	if title == "" {
		title = n.Name + ": " + n.Fig.Rate
	}
	put(`<a href="%s"><title>%s</title><g transform="translate(%s %s)"%s fill="%s"><rect width="168" height="64" rx="10" fill="%s" stroke="%s"%s/><text x="12" y="22" font-size="12.5" font-weight="600">%s</text><text x="12" y="43">%s</text>`,
		inXML(n.Href), inXML(title), px(n.X), px(n.Y), faint, c.ink, ground, stroke, dash, inXML(part.Ellipsis(n.Name, 19)), inXML(n.Fig.Rate))
	if !n.Outbound && n.Kind != graph.KindTCP {
		put(`<text x="84" y="43" text-anchor="middle" fill="%s">%s</text><text x="156" y="43" text-anchor="end">%s</text>`, err, inXML(n.Fig.Err), inXML(n.Fig.P99))
	}
	note := n.Fig.Note
	switch {
	case n.Outbound:
		note = "sent"
	case note == "":
		note = n.Namespace
	}
	put(`<text x="12" y="56" font-size="10.5" fill="%s">%s</text>`, c.muted, inXML(part.Ellipsis(note, 27)))
	switch n.Fig.Level {
	case part.Warn:
		put(`<path transform="translate(149 10)" d="M6 1 12 12H0z" fill="%s"/>`, c.warnLine)
	case part.Bad:
		put(`<path transform="translate(149 10)" d="M3.5 0h5L12 3.5v5L8.5 12h-5L0 8.5v-5z" fill="%s"/>`, c.badLine)
	}
	put("</g></a>\n")
}
