package page

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// ServiceView is the page of one service.
type ServiceView struct {
	Shell  part.Shell
	Node   NodeView
	Source graph.Node
	// Endpoints are those of Source; of very many, unless all were asked for, the worst, and how many are left out.
	Endpoints []graph.Endpoint
	Others    int
	AllURL    string
	Stats     []part.Stat
	Charts    []*part.Chart
	Full      []*part.Chart // saturation
	Versions  []VersionRow
	Period    Period
	Callers   []EdgeView
	Callees   []EdgeView
	Events    []event.Event
	Failures  []TraceRow
	Explain   string // what is odd about this service, in a sentence
	Advice    string
	Now       time.Time
	Gone      bool // known from traces only
}

// Service shows one service: what it takes, what it calls, its endpoints, versions, events and failures.
func Service(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		name := r.PathValue("name")
		v := ServiceView{Shell: d.shell(ctx, name, "", "graph reload"), Now: d.Clock()}
		v.Shell.Charts, v.Period = true, parsePeriod(r.URL, v.Now)
		s := d.live()
		g := NewGraphView(s, nil)
		found := false
		for i := range s.Nodes {
			if s.Nodes[i].ID == name {
				v.Node, v.Source, found = g.Nodes[i], s.Nodes[i], true
			}
		}
		if !found {
			known, _ := d.Spans.Services(ctx)
			for _, k := range known {
				found = found || k == name
			}
			if !found {
				message(d, w, r, http.StatusNotFound, "No service is called "+part.Ellipsis(name, 60),
					"It takes no traffic now and the store has no span of it. Services appear when their sidecar sees a request.")
				return
			}
			v.Gone = true
			v.Node = NodeView{ID: name, Name: name, Key: "n:" + name, Kind: graph.KindService, Fig: Figures{Level: part.Quiet}}
		}
		v.AllURL = ServiceURL(name) + "?endpoints=all#endpoints"
		if v.Endpoints = v.Source.Endpoints; r.URL.Query().Get("endpoints") != "all" {
			v.Endpoints, v.Others = worstEndpoints(v.Source.Endpoints)
		}
		for _, e := range g.Edges {
			if e.Destination == name {
				v.Callers = append(v.Callers, e)
			}
			if e.Source == name {
				v.Callees = append(v.Callees, e)
			}
		}
		v.Events, _ = d.events(ctx, name, time.Time{}, 12)
		c := charts{d, &v.Period, v.Events}
		title := "Requests"
		if v.Node.Outbound {
			title = "Requests sent"
		}
		v.Charts = c.red(ctx, title, serviceSelector(name, v.Node.Outbound))
		v.Full = c.saturation(ctx, "destination="+quote(name))
		v.Versions = c.versions(ctx, name)
		page, err := d.Spans.Summaries(ctx, store.TraceQuery{Service: name, Errors: true, Limit: 8})
		if err == nil {
			v.Failures = traceRows(page.Traces, d.Clock())
		}
		if b := v.Source.TraceBreaks; b != nil && *b > 0.01 {
			v.Explain = name + " does not forward traceparent: " + part.Percent(*b) + " of what it sends starts a new trace, although the requests it serves carry one."
			v.Advice = "Copy the traceparent and tracestate headers of the incoming request onto the outgoing ones, or use the OpenTelemetry HTTP instrumentation of its language."
		}
		v.Stats = serviceStats(&v)
		render(w, r, http.StatusOK, ServicePage(v))
	}
}

func serviceSelector(name string, outbound bool) string {
	if outbound {
		return `source=` + quote(name) + `,side="client"`
	}
	return `destination=` + quote(name) + `,side="server"`
}

func serviceStats(v *ServiceView) []part.Stat {
	f := v.Node.Fig
	if v.Gone {
		return nil
	}
	stats := []part.Stat{{Key: v.Node.Key, Label: "Requests", Value: f.Rate, Level: part.OK}}
	if v.Node.Outbound {
		stats[0].Label = "Requests sent"
	} else if v.Node.Kind == graph.KindTCP {
		stats[0].Label = "Connections"
	} else {
		stats = append(stats,
			part.Stat{Label: "Errors", Value: f.Err, Level: f.Level},
			part.Stat{Label: "p50", Value: f.P50, Level: part.OK},
			part.Stat{Label: "p95", Value: f.P95, Level: part.OK},
			part.Stat{Label: "p99", Value: f.P99, Level: part.OK})
	}
	if n := len(v.Source.Endpoints); n > 0 {
		st := part.Stat{Label: "Endpoints", Value: part.Count(n), Level: part.OK}
		if v.Node.Ejected > 0 {
			st.Value, st.Level, st.Hint = part.Count(n-v.Node.Ejected)+" of "+part.Count(n), part.Warn, part.Plural(v.Node.Ejected, "endpoint is ejected", "endpoints are ejected")
		}
		stats = append(stats, st)
	}
	for i := range stats {
		stats[i].Key = "" // the strip is swapped as a whole
	}
	return stats
}

func endpointLevel(e graph.Endpoint) part.Level {
	switch {
	case e.State == "ejected":
		return part.Bad
	case e.State == "weighted":
		return part.Warn
	case e.Errors >= part.BadRatio:
		return part.Bad
	case e.Errors >= part.WarnRatio:
		return part.Warn
	}
	return part.OK
}

func ratioLevel(ratio float64) part.Level {
	switch {
	case ratio >= part.BadRatio:
		return part.Bad
	case ratio >= part.WarnRatio:
		return part.Warn
	}
	return part.OK
}

// other is the far end of an edge.
func other(e EdgeView, callers bool) string {
	if callers {
		return e.Source
	}
	return e.Destination
}

func kindText(k graph.NodeKind) string {
	switch k {
	case graph.KindTCP:
		return "TCP service"
	case graph.KindExternal:
		return "outside the mesh"
	case graph.KindGateway:
		return "gateway"
	case graph.KindPassthrough:
		return "whatever is no service of the mesh"
	case graph.KindUnmeshed:
		return "callers without identity"
	}
	return "service"
}

// endpointRows is how many endpoints are shown before "show all": a table of ten thousand rows takes a browser seconds to sort.
const endpointRows = 500

// worstEndpoints are all endpoints, as they come; or of more than endpointRows those that somebody would look for: what the mesh has acted on, then the highest error ratio, then
// the slowest. It says how many are left out, and leaves list as it is.
func worstEndpoints(list []graph.Endpoint) (shown []graph.Endpoint, others int) {
	if len(list) <= endpointRows {
		return list, 0
	}
	acted := func(e graph.Endpoint) int {
		if e.State == "healthy" || e.State == "" {
			return 1
		}
		return 0
	}
	shown = slices.Clone(list)
	slices.SortStableFunc(shown, func(a, b graph.Endpoint) int {
		return cmp.Or(cmp.Compare(acted(a), acted(b)), cmp.Compare(b.Errors, a.Errors), cmp.Compare(b.P99, a.P99))
	})
	return shown[:endpointRows], len(list) - endpointRows
}
