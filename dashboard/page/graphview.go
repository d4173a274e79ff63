package page

import (
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/graph"
)

// NodeView is a card in the drawing and a row in the table.
type NodeView struct {
	Key, ID, Name, Short, Href string
	Namespace                  string
	Kind                       graph.NodeKind
	X, Y                       float64
	Fig                        Figures
	Title                      string
	Dots                       []Dot
	More                       int // endpoints beyond the dots
	Ejected, Weighted, Lost    int
	Breaks                     string       // share of outbound requests that lost their trace, "" when none
	Outbound                   bool         // figures are of what it sends, nobody calls it
	Change                     graph.Change // in a comparison, "" when it is as it was
	Found                      bool
}

// Figures are the texts that change live; they are the same in the drawing, the table and the live feed.
type Figures struct {
	Rate, Err, P50, P95, P99 string
	Detail                   string // second line of an edge's label
	Level                    part.Level
	Note                     string // what is special: reporter missing, unmeshed …
}

// Dot is one endpoint in a card.
type Dot struct {
	X            float64
	State, Title string
}

// EdgeView is a line in the drawing and a row in the table.
type EdgeView struct {
	Key, ID, Source, Destination, Protocol, Href string
	Route                                        layout.Route
	Fig                                          Figures
	Title                                        string
	State                                        graph.EdgeState
	MTLS                                         bool
	Weight                                       int // 1 to 4 by rate
	Gap                                          string
	Tries                                        string       // share of attempts beyond requests
	Other                                        string       // what the called side saw, where both report
	Change                                       graph.Change // in a comparison, "" when it is as it was
	Found                                        bool
	From, To, FromHref, ToHref                   string // as the table has them
}

// GraphView is the drawing.
type GraphView struct {
	Width, Height float64
	Nodes         []NodeView
	Edges         []EdgeView
	Structure     string // changes when the client must fetch the drawing anew
	Vertical      bool   // callers stand above callees
	Canvas        bool   // drawn by the browser, see mesh.go
	Measure       string // what labels of edges say first, as figureTexts names it
	Finding       bool   // some are Found, and the others step back
	Says          string // how many
}

const (
	maxDots = 6
	// manyNodes is from how many nodes on lines are bundled by where they lead, and not routed around cards; beyond manyLabels none has its words beside
	// it until it is pointed at.
	manyNodes, manyEdges, manyLabels = 100, 200, 300
)

// many reports whether a graph is too large for cards of markup and lines with words.
func many(nodes, edges int) bool { return nodes > manyNodes || edges > manyEdges }

// drawingOptions are how a graph is drawn.
func drawingOptions(g layout.Graph) layout.Options {
	return layout.Options{Bundled: many(len(g.Nodes), len(g.Edges))}
}

// NewGraphView makes the drawing of a snapshot; draw may be nil when only texts are needed.
func NewGraphView(s *graph.Snapshot, draw *layout.Drawing) GraphView {
	v := GraphView{Canvas: drawnOnCanvas(s)}
	if draw != nil {
		v.Width, v.Height, v.Vertical = draw.Width, draw.Height, draw.Vertical
	}
	outRate := map[string]float64{}
	outView := map[string]*graph.View{}
	for i := range s.Edges {
		e := &s.Edges[i]
		if view := e.Main(); view != nil {
			outRate[e.Source] += view.Rate
			outView[e.Source] = view
		}
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		nv := NodeView{
			Key: "n:" + n.ID, ID: n.ID, Name: n.Name, Namespace: n.Namespace, Short: part.Ellipsis(n.Name, 16), Kind: n.Kind, Href: ServiceURL(n.ID), Fig: nodeFigures(n),
		}
		if nv.Name == "" {
			nv.Name, nv.Short = n.ID, part.Ellipsis(n.ID, 16)
		}
		if n.Inbound.Requests == 0 && n.Inbound.Rate == 0 && outRate[n.ID] > 0 && n.Inbound.Connections == 0 && n.Inbound.Active == 0 {
			nv.Outbound = true
			nv.Fig.Rate = part.Rate(outRate[n.ID])
			nv.Fig.Err, nv.Fig.P50, nv.Fig.P95, nv.Fig.P99 = "", "", "", ""
			if nv.Fig.Level == part.Quiet {
				nv.Fig.Level = part.OK
			}
		}
		for _, r := range n.Reporters {
			if r.Missing {
				nv.Lost++
			}
		}
		for k, e := range n.Endpoints {
			switch e.State {
			case "ejected":
				nv.Ejected++
			case "weighted":
				nv.Weighted++
			}
			if k < maxDots {
				nv.Dots = append(nv.Dots, Dot{X: float64(k) * 9, State: e.State, Title: endpointTitle(e)})
			}
		}
		nv.More = max(0, len(n.Endpoints)-maxDots)
		if n.TraceBreaks != nil && *n.TraceBreaks > 0.001 {
			nv.Breaks = part.Percent(*n.TraceBreaks)
		}
		nv.Fig.Note = nodeNote(n, &nv)
		if !v.Canvas {
			nv.Title = nodeTitle(n, &nv)
		}
		if draw != nil {
			p := draw.Nodes[n.ID]
			nv.X, nv.Y = p.X, p.Y
		}
		v.Nodes = append(v.Nodes, nv)
	}
	for i := range s.Edges {
		e := &s.Edges[i]
		ev := EdgeView{
			Key: "e:" + e.ID, ID: e.ID, Source: e.Source, Destination: e.Destination, Protocol: e.Protocol,
			From: e.Source, To: e.Destination, FromHref: ServiceURL(e.Source), ToHref: ServiceURL(e.Destination),
			Href: EdgeURL(e.Source, e.Destination, e.Protocol), State: e.State, MTLS: e.MTLS, Fig: edgeFigures(s, e),
		}
		if m := e.Main(); m != nil {
			ev.Weight = min(4, 1+int(math.Log10(1+m.Rate)))
		} else {
			ev.Weight = 1
		}
		if e.Gap != nil {
			ev.Gap = gapText(e.Gap)
		}
		if c := e.Client; c != nil && c.Requests > 0 && c.Attempts >= c.Requests {
			ev.Tries = part.Percent(float64(c.Attempts-c.Requests) / float64(c.Requests))
		}
		if c := e.Server; c != nil && e.Client != nil {
			ev.Other = part.Rate(c.Rate) + ", " + part.Percent(c.ErrorRatio) + " errors, p99 " + part.Seconds(c.P99)
		}
		if !v.Canvas {
			ev.Title = edgeTitle(e, &ev)
		}
		if draw != nil {
			var routed bool
			if ev.Route, routed = draw.Edges[e.ID]; !routed && !v.Canvas {
				ev.Route = draw.CurveRoute(e.Source, e.Destination, layout.Options{})
				ev.Route.Fits = rank(ev.Fig.Level) >= rank(part.Warn) && len(s.Nodes) <= manyLabels // of many lines only those keep their words that need a person
			}
		}
		v.Edges = append(v.Edges, ev)
	}
	v.Structure = structure(&v)
	return v
}

// Mark is a protocol as the label of its edge has it, "" for those that need no word.
func (e *EdgeView) Mark() string {
	switch e.Protocol {
	case flow.ProtocolGRPC.String():
		return "gRPC"
	case flow.ProtocolHTTP2.String():
		return "h2"
	}
	return ""
}

// measure is the figure that labels say.
func (f *Figures) measure(name string) string { return figureTexts(*f)[name] }

// single reports whether it stands for itself.
func (e *EdgeView) single() bool { return e.From == e.Source && e.To == e.Destination }

// verb is what following it does.
func (e *EdgeView) verb() string {
	if e.single() {
		return "Edge"
	}
	return "Open"
}

// RateX is where the rate of a label is centred: between the lock and the mark.
func (e *EdgeView) RateX() string {
	if e.Mark() != "" {
		return "-5"
	}
	return "0"
}

// structure is what the client compares to know that texts are not enough.
func structure(v *GraphView) string {
	var b strings.Builder
	for i := range v.Nodes {
		n := &v.Nodes[i]
		if v.Canvas {
			fmt.Fprintf(&b, "%s/%s/%t", n.ID, n.Kind, n.Outbound)
			continue
		}
		fmt.Fprintf(&b, "%s/%s/%d/%t/%s", n.ID, n.Kind, n.Lost, n.Outbound, n.Fig.Note)
		for _, d := range n.Dots {
			b.WriteString(d.State)
		}
	}
	for i := range v.Edges {
		e := &v.Edges[i]
		fmt.Fprintf(&b, "%s/%s/%t", e.ID, e.State, e.MTLS)
	}
	h := uint64(14695981039346656037)
	for _, c := range []byte(b.String()) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return fmt.Sprintf("%016x", h)
}

func isTCP(protocol string) bool { return protocol == "tcp" || protocol == "tls" }

func nodeFigures(n *graph.Node) Figures {
	v := &n.Inbound
	f := Figures{
		Rate: part.Rate(v.Rate), Err: part.Percent(v.ErrorRatio), P50: part.Seconds(v.P50), P95: part.Seconds(v.P95), P99: part.Seconds(v.P99),
		Level: part.LevelOf(v),
	}
	if n.Kind == graph.KindTCP {
		f.Rate = openText(v.Active)
	}
	return f
}

func openText(active int64) string { return part.Count(active) + " open" }

func edgeFigures(s *graph.Snapshot, e *graph.Edge) Figures {
	v := e.Main()
	if v == nil {
		return Figures{Rate: part.Dash, Err: part.Dash, P50: part.Dash, P95: part.Dash, P99: part.Dash, Level: part.Quiet, Note: edgeNote(e)}
	}
	f := Figures{
		Rate: part.Rate(v.Rate), Err: part.Percent(v.ErrorRatio), P50: part.Seconds(v.P50), P95: part.Seconds(v.P95), P99: part.Seconds(v.P99),
		Level: part.LevelOf(v), Note: edgeNote(e),
	}
	switch {
	case isTCP(e.Protocol):
		f.Rate = openText(v.Active)
		if w := s.Window.Seconds(); w > 0 {
			f.Detail = part.Bytes(uint64(float64(v.BytesIn+v.BytesOut)/w)) + "/s"
		}
	case v.ErrorRatio > 0 && v.P99 > 0:
		f.Detail = f.Err + " · " + f.P99
	case v.ErrorRatio > 0:
		f.Detail = f.Err
	default:
		f.Detail = f.P99
	}
	if other := e.Server; e.Client != nil && other != nil && rank(part.LevelOf(other)) > rank(f.Level) {
		f.Level = part.LevelOf(other)
	}
	if e.State == graph.ReporterMissing && rank(f.Level) < rank(part.Warn) {
		f.Level = part.Lost
	}
	return f
}

func rank(l part.Level) int {
	switch l {
	case part.Bad:
		return 3
	case part.Warn:
		return 2
	case part.Lost:
		return 1
	}
	return 0
}

func edgeNote(e *graph.Edge) string {
	switch e.State {
	case graph.ReporterMissing:
		return "reporter missing"
	case graph.ClientOnly:
		return "caller's view only"
	case graph.ServerOnly:
		return "unmeshed caller"
	}
	return ""
}

func nodeNote(n *graph.Node, v *NodeView) string {
	var notes []string
	if v.Ejected > 0 {
		notes = append(notes, ejectedNote(n, v.Ejected))
	}
	if v.Weighted > 0 {
		notes = append(notes, part.Plural(v.Weighted, "weight shifted", "weights shifted"))
	}
	if v.Lost > 0 {
		notes = append(notes, "reporter missing")
	}
	if v.Breaks != "" && *n.TraceBreaks > 0.05 {
		notes = append(notes, "drops traceparent")
	}
	switch {
	case n.Kind == graph.KindGroup:
		notes = append([]string{groupNote(n)}, notes...)
	case len(notes) > 0:
	case n.Kind == graph.KindExternal:
		notes = append(notes, "outside the mesh")
	case n.Kind == graph.KindGateway:
		notes = append(notes, "gateway")
	case n.Kind == graph.KindPassthrough:
		notes = append(notes, "no service of the mesh")
	case n.Kind == graph.KindUnmeshed:
		notes = append(notes, "no sidecar")
	case len(n.Versions) > 1:
		notes = append(notes, versionSplit(n.Versions))
	}
	return strings.Join(notes, " · ")
}

func ejectedNote(n *graph.Node, ejected int) string {
	if n.Kind == graph.KindGroup { // which has only those of its endpoints that somebody should know of
		return fmt.Sprintf("%d ejected", ejected)
	}
	return fmt.Sprintf("%d of %d ejected", ejected, len(n.Endpoints))
}

// versionSplit says how traffic is spread over versions, for as many as fit.
func versionSplit(vs []graph.Version) string {
	total := 0.0
	for _, v := range vs {
		total += v.Rate
	}
	if total == 0 {
		return part.Plural(len(vs), "version", "versions")
	}
	var out []string
	for _, v := range vs[:min(2, len(vs))] {
		out = append(out, v.Version+" "+part.Percent(v.Rate/total))
	}
	return strings.Join(out, " · ")
}

func endpointTitle(e graph.Endpoint) string {
	t := e.Address
	if e.Instance != "" {
		t = e.Instance + " " + e.Address
	}
	t += ": " + e.State + ", " + part.Rate(e.Rate) + ", " + part.Percent(e.Errors) + " errors, p99 " + part.Seconds(e.P99)
	if e.Reason != "" {
		t += " (" + e.Reason + ")"
	}
	return t
}

func nodeTitle(n *graph.Node, v *NodeView) string {
	t := v.Name
	if n.Namespace != "" {
		t += " in " + n.Namespace
	}
	switch {
	case v.Outbound:
		t += ": sends " + v.Fig.Rate
	default:
		t += ": " + v.Fig.Rate + ", " + v.Fig.Err + " errors, p50 " + v.Fig.P50 + ", p95 " + v.Fig.P95 + ", p99 " + v.Fig.P99
	}
	if v.Fig.Note != "" {
		t += "; " + v.Fig.Note
	}
	if v.Breaks != "" {
		t += "; loses the trace of " + v.Breaks + " of what it sends"
	}
	return t
}

func edgeTitle(e *graph.Edge, v *EdgeView) string {
	t := e.Source + " → " + e.Destination + " (" + e.Protocol + "): " + v.Fig.Rate + ", " + v.Fig.Err + " errors, p50 " + v.Fig.P50 + ", p95 " +
		v.Fig.P95 + ", p99 " + v.Fig.P99
	if e.MTLS {
		t += "; mutual TLS"
	} else {
		t += "; plaintext"
	}
	if v.Fig.Note != "" {
		t += "; " + v.Fig.Note
	}
	if v.Gap != "" {
		t += "; between the two sidecars: " + v.Gap
	}
	if v.Other != "" {
		t += "; the called side saw " + v.Other
	}
	if v.Tries != "" && e.Client.Attempts > e.Client.Requests {
		t += "; " + v.Tries + " tried again"
	}
	if r := reasons(e.Main()); r != "" {
		t += "; " + r
	}
	return t
}

func gapText(g *graph.Gap) string {
	t := part.Seconds(math.Abs(g.Latency)) + " network and queue"
	if g.Latency <= 0 {
		t = "no measurable network time"
	}
	if g.Lost != 0 {
		t += ", " + part.Count(g.Lost) + " lost"
	}
	return t
}

// reasons prints what failed, most frequent first.
func reasons(v *graph.View) string {
	if v == nil || len(v.Reasons) == 0 {
		return ""
	}
	var out []string
	for _, r := range sortedReasons(v.Reasons) {
		out = append(out, part.Count(r.N)+" "+r.Name)
	}
	return strings.Join(out, ", ")
}

// ReasonCount is one reason with how often it happened in the window.
type ReasonCount struct {
	Name string
	N    uint64
}

func sortedReasons(m map[string]uint64) []ReasonCount {
	out := make([]ReasonCount, 0, len(m))
	for name, n := range m {
		if name != "" && n > 0 {
			out = append(out, ReasonCount{name, n})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].N != out[j].N {
			return out[i].N > out[j].N
		}
		return out[i].Name < out[j].Name
	})
	return out
}

// graphInput is what the layout needs of a snapshot.
func graphInput(s *graph.Snapshot) layout.Graph {
	var g layout.Graph
	for _, n := range s.Nodes {
		g.Nodes = append(g.Nodes, layout.Node{ID: n.ID})
	}
	for _, e := range s.Edges {
		g.Edges = append(g.Edges, layout.Edge{ID: e.ID, From: e.Source, To: e.Destination})
	}
	return g
}

// item is one live element: texts by data-f name, level and tooltip.
type item struct {
	F     map[string]string `json:"f,omitempty"`
	Level part.Level        `json:"l,omitempty"`
	Title string            `json:"t,omitempty"`
	W     int               `json:"w,omitempty"` // weight of a line
}

// LiveItems are the texts of everything that changes every second, keyed as the markup is, plus "structure". edges, when they are wanted, are those of all edges of
// a graph on a canvas; nil of others, whose items have them.
func LiveItems(s *graph.Snapshot, stats []part.Stat, wanted bool) (items, edges map[string]json.RawMessage) {
	v := NewGraphView(s, nil)
	out := make(map[string]json.RawMessage, len(v.Nodes)+len(v.Edges)+len(stats)+1)
	put := func(key string, it any) {
		if b, err := json.Marshal(it); err == nil {
			out[key] = b
		}
	}
	for i := range v.Nodes {
		n := &v.Nodes[i]
		if v.Canvas {
			put(n.Key, n.mesh())
			continue
		}
		put(n.Key, item{Level: n.Fig.Level, Title: n.Title, F: figureTexts(n.Fig)})
	}
	inTable := map[string]bool{}
	if v.Canvas {
		rows := worstFirst(v.Edges)
		for i := range rows[:min(maxRows, len(rows))] {
			inTable[rows[i].Key] = true
		}
		if wanted {
			edges = edgeItems(&v)
		}
	}
	for i := range v.Edges {
		e := &v.Edges[i]
		if v.Canvas {
			list := e.mesh()
			if rank(e.Fig.Level) < rank(part.Warn) && !inTable[e.Key] {
				put(e.Key, list[:2])
			} else {
				put(e.Key, list)
			}
			continue
		}
		f := figureTexts(e.Fig)
		f["gap"], f["tries"] = orDash(e.Gap), orDash(e.Tries)
		put(e.Key, item{Level: e.Fig.Level, Title: e.Title, F: f, W: e.Weight})
	}
	for _, st := range stats {
		put(st.Key, item{Level: st.Level, F: map[string]string{"value": st.Value}})
	}
	put("structure", v.Structure)
	return out, edges
}

func figureTexts(f Figures) map[string]string {
	return map[string]string{"rate": f.Rate, "err": f.Err, "p50": f.P50, "p95": f.P95, "p99": f.P99, "detail": f.Detail}
}

func orDash(s string) string {
	if s == "" {
		return part.Dash
	}
	return s
}

func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func kindIcon(k graph.NodeKind) string {
	switch k {
	case graph.KindTCP, graph.KindExternal, graph.KindUnmeshed:
		return string(k)
	case graph.KindPassthrough:
		return string(graph.KindExternal)
	case graph.KindGroup:
		return "group"
	}
	return string(graph.KindService)
}

// noteRoom is how many columns of a card's last line are free beside the dots.
func noteRoom(n NodeView) int { return 27 - len(n.Dots)*2 }

func moreRoom(n NodeView) float64 {
	if n.More > 0 {
		return 20
	}
	return 0
}
