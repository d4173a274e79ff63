package page

import (
	"context"
	"net/http"
	"sort"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// TopologyView is the home page.
type TopologyView struct {
	Shell  part.Shell
	Stats  []part.Stat
	Graph  GraphView
	Rows   []EdgeView // worst first
	Events []event.Event
	At     time.Time // of a past instant, zero when live
	Error  string
	Now    time.Time
}

// Topology shows who calls whom now, or at ?at= (RFC 3339).
func Topology(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		v := TopologyView{Shell: d.shell(ctx, "Topology", "/", "graph events"), Now: d.Clock()}
		s := d.live()
		places := d.Places
		if at := r.URL.Query().Get("at"); at != "" {
			t, err := time.Parse(time.RFC3339, at)
			if err == nil {
				var past *graph.Snapshot
				if past, err = d.Graph.At(ctx, t); err == nil && past != nil {
					s = past
				}
			}
			if err != nil {
				v.Error = "Cannot draw the graph at " + at + ": " + err.Error()
			} else {
				v.At, v.Shell.Live = t, ""
			}
		}
		v.Stats = Headline(ctx, d, s)
		v.Graph = NewGraphView(s, places.Draw(graphInput(s), d.Clock(), layout.Options{}))
		v.Rows = worstFirst(v.Graph.Edges)
		v.Events, _ = d.events(ctx, "", 12)
		render(w, r, http.StatusOK, TopologyPage(v))
	}
}

// Tidy makes the next drawing start over and goes back to it.
func Tidy(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d.Places.Forget()
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
	var rate, requests, errors float64
	for i := range s.Edges {
		if v := s.Edges[i].Main(); v != nil {
			rate += v.Rate
			requests += float64(v.Requests)
			errors += float64(v.Errors)
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
		ratio = errors / requests
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
