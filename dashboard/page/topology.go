package page

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// TopologyView is the home page.
type TopologyView struct {
	Shell part.Shell
	Stats []part.Stat
	Graph GraphView
	Rows  []EdgeView // worst first, a page of them
	// Before and After are how many edges the table leaves out on either side.
	Before, After int
	Events        []event.Event
	At            time.Time // of a past instant, zero when live
	From          time.Time // what it is compared with, zero: with nothing
	// Changes are what differs from From, gravest first.
	Changes []ChangeView
	Time    *Timeline // nil when it is not asked for
	Error   string
	Pointer string // the expression with a caret where it cannot be understood
	Now     time.Time
	Lens    lens
	Names   []string // of services, to choose from; at most maxNames
	Times   instants
	By      graph.Grouping // what services are drawn together by, "" for each by itself

	drawing *layout.Drawing
}

// maxNames bounds the names that are offered to choose from.
const maxNames = 300

// maxRows is how many edges a page of the table has: more would make the page heavy.
const maxRows = 100

// rowsAt is the same page with the table from another edge on.
func (v *TopologyView) rowsAt(from int) string {
	i := v.Times
	i.lens.rows = max(0, from)
	return i.url(i.at, i.from)
}

// moment is what "ago" counts from: now, or the instant that is drawn.
func (v *TopologyView) moment() time.Time {
	if v.At.IsZero() {
		return v.Now
	}
	return v.At
}

// Topology shows who calls whom now, or at ?at=; with ?from= also what changed since then; with ?span= the strip on which one goes back in time.
func Topology(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		v, _, status := d.topology(ctx, r.URL.Query())
		render(w, r, status, TopologyPage(v))
	}
}

// topology makes the view of what a query asks for, and the snapshot that is drawn in it.
func (d *Deps) topology(ctx context.Context, query url.Values) (v TopologyView, drawn *graph.Snapshot, status int) {
	v = TopologyView{Shell: d.shell(ctx, "Topology", "/", "graph events"), Now: d.Clock()}
	status = http.StatusOK
	i, err := parseInstants(query, v.Now)
	if err != nil {
		v.Error, i, status = err.Error(), instants{span: -1}, http.StatusBadRequest
	}
	if v.Lens, err = parseLens(query); err != nil {
		v.Error, status = err.Error(), http.StatusBadRequest
	}
	if v.Pointer, err = v.Lens.parseWords(); err != nil {
		v.Error, status = err.Error(), http.StatusBadRequest
	}
	i.lens = v.Lens
	v.Times = i
	s, before := d.live(), (*graph.Snapshot)(nil)
	if !i.at.IsZero() {
		if past, err := d.Graph.At(ctx, i.at); err != nil {
			v.Error, status = "Cannot draw the graph at "+part.ISO(i.at)+": "+err.Error(), pastStatus(err)
		} else {
			s, v.At, v.Shell.Live = past, i.at, ""
		}
	}
	if !i.from.IsZero() && v.Error == "" {
		if before, err = d.Graph.At(ctx, i.from); err != nil {
			v.Error, status = "Cannot compare with "+part.ISO(i.from)+": "+err.Error(), pastStatus(err)
		} else {
			v.From, v.Shell.Live = i.from, "" // a comparison stands still
		}
	}
	v.Stats = Headline(ctx, d, s)
	drawn = s
	if before != nil {
		drawn = union(before, s)
	}
	for k := range min(maxNames, len(drawn.Nodes)) {
		v.Names = append(v.Names, drawn.Nodes[k].ID)
	}
	drawn = v.Lens.sided(drawn)
	whole := drawn
	if drawn, err = v.Lens.apply(drawn); err != nil {
		v.Error, status, v.Lens = err.Error(), http.StatusNotFound, v.Lens.rest()
		i.lens, v.Times.lens = v.Lens, v.Lens
	}
	drawn = hide(drawn, v.Lens.hides)
	all := drawn
	together, by := v.Lens.grouped(drawn, before != nil)
	if together != nil {
		drawn = together.Snapshot
	}
	in := graphInput(drawn)
	var drawing *layout.Drawing
	switch {
	case drawn == whole:
		drawing = d.Places.Draw(in, d.Clock(), drawingOptions(in))
	case together != nil && all == whole && len(v.Lens.open) == 0 && d.GroupPlaces[by] != nil:
		drawing = d.GroupPlaces[by].Draw(in, d.Clock(), drawingOptions(in))
		if v.Shell.Live != "" {
			v.Shell.Live = GroupTopic(by) + " events"
		}
	default: // a part has no places to keep but its own, and its drawing is the same for the same part
		made := layout.Compute(in, nil, drawingOptions(in))
		drawing = &made
		if v.Shell.Live != "" {
			v.Shell.Live = "events reload" // the feed speaks of the whole
		}
	}
	if v.Lens.side != "" && v.Shell.Live != "" {
		v.Shell.Live = "events reload" // and of what the caller saw
	}
	v.Graph, v.drawing = NewGraphView(drawn, drawing), drawing
	v.Graph.Measure = cmp.Or(v.Lens.measure, "rate")
	if together != nil {
		v.group(by)
		v.By = by
	}
	if v.Graph.find(all, together, v.Lens.finds); v.Graph.Finding && v.Shell.Live != "" && !strings.HasSuffix(v.Shell.Live, "reload") {
		v.Shell.Live += " reload" // what is found changes with the figures
	}
	if before != nil {
		diff := graph.Diff(before, s)
		v.Graph.mark(diff)
		v.Changes = changeViews(diff)
	}
	if i.span >= 0 {
		v.Time = d.timeline(ctx, i)
	}
	v.Rows = worstFirst(v.Graph.Edges)
	v.Before = min(v.Lens.rows, max(0, len(v.Rows)-1))
	if v.Before > 0 && v.Graph.Canvas && strings.HasPrefix(v.Shell.Live, "graph ") {
		v.Shell.Live += " edges" // the feed of the graph has the figures of its worst edges only
	}
	v.After = max(0, len(v.Rows)-v.Before-maxRows)
	v.Rows = v.Rows[v.Before : len(v.Rows)-v.After]
	v.Events, _ = d.events(ctx, "", i.at, 12)
	return v, drawn, status
}

func pastStatus(err error) int {
	if errors.Is(err, graph.ErrNoHistory) {
		return http.StatusNotFound
	}
	return statusOf(err)
}

// Tidy makes the next drawing start over and goes back to it.
func Tidy(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d.Places.Forget()
		for _, m := range d.GroupPlaces {
			m.Forget()
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func worstFirst(edges []EdgeView) []EdgeView {
	rows := append([]EdgeView(nil), edges...)
	sort.SliceStable(rows, func(i, j int) bool { return rank(rows[i].Fig.Level) > rank(rows[j].Fig.Level) })
	return rows
}

// Headline are the figures above the graph.
func Headline(ctx context.Context, d *Deps, s *graph.Snapshot) []part.Stat {
	var rate, requests, failed float64
	for i := range s.Edges {
		if v := s.Edges[i].Main(); v != nil {
			rate += v.Rate
			requests += float64(v.Requests)
			failed += float64(v.Errors)
		}
	}
	services, reporters, missing := 0, 0, 0
	for i := range s.Nodes {
		if k := s.Nodes[i].Kind; k == graph.KindService || k == graph.KindTCP {
			services++
		}
		for _, r := range s.Nodes[i].Reporters {
			reporters++
			if r.Missing {
				missing++
			}
		}
	}
	ratio := 0.0
	if requests > 0 {
		ratio = failed / requests
	}
	errLevel := part.OK
	switch {
	case ratio >= part.BadRatio:
		errLevel = part.Bad
	case ratio >= part.WarnRatio:
		errLevel = part.Warn
	}
	st := d.Spans.Stats()
	spanHint := "no spans yet"
	if st.BytesPerSpan > 0 {
		spanHint = part.Bytes(st.Bytes+st.WALBytes) + " on disk, " + strconv.FormatFloat(st.BytesPerSpan, 'f', 1, 64) + " bytes per span"
	}
	proxies := part.Stat{Key: "s:proxies", Label: "Proxies", Value: part.Count(reporters), Hint: "sidecars that report", Href: "/proxies", Level: part.OK}
	if missing > 0 {
		proxies.Value = part.Count(reporters-missing) + " of " + part.Count(reporters)
		proxies.Level = part.Warn
	}
	firing := d.firing(ctx)
	alerts := part.Stat{Key: "s:alerts", Label: "Alerts firing", Value: strconv.Itoa(firing), Href: "/alerts", Level: part.OK}
	if firing > 0 {
		alerts.Level = part.Bad
	}
	return []part.Stat{
		{Key: "s:rps", Label: "Requests", Value: part.Rate(rate), Hint: "requests per second over all edges, 10 s window", Level: part.OK},
		{Key: "s:errors", Label: "Errors", Value: part.Percent(ratio), Hint: "share of requests that failed", Level: errLevel, Href: "/traces?status=error"},
		{Key: "s:services", Label: "Services", Value: part.Count(services), Level: part.OK},
		proxies,
		{Key: "s:spans", Label: "Spans stored", Value: part.Count(st.Spans), Hint: spanHint, Level: part.OK, Href: "/traces"},
		alerts,
	}
}
