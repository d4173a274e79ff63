package page

import (
	"context"
	"net/http"
	"net/url"
	"sort"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/event"
)

// EventsView is the log of decisions.
type EventsView struct {
	Shell     part.Shell
	Kind      string
	Service   string
	Events    []event.Event
	Next      string
	Error     string
	Services  []string
	Now       time.Time
	FirstPage bool
}

// EventKinds are the kinds in the order of the filter.
var EventKinds = []event.Kind{
	event.KindEjected, event.KindReadmitted, event.KindReflex, event.KindWeight, event.KindSaturated, event.KindConfig, event.KindConfigBad, event.KindAlertFiring, event.KindAlertOK,
	event.KindReporterLost, event.KindReporterBack, event.KindTraceBreak, event.KindClock, event.KindConnected, event.KindDisconnected, event.KindNack, event.KindCertificate,
	event.KindStore, event.KindDisk, event.KindOverflow, event.KindDeploy,
}

const eventsPerPage = 50

// Events shows what the mesh decided and why, newest first.
func Events(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		q := r.URL.Query()
		v := EventsView{Kind: q.Get("kind"), Service: q.Get("service"), Now: d.Clock(), FirstPage: q.Get("before") == ""}
		topics := ""
		if v.FirstPage {
			topics = "events reload"
		}
		v.Shell = d.shell(ctx, "Events", "/events", topics)
		for _, n := range d.live().Nodes {
			v.Services = append(v.Services, n.ID)
		}
		status := http.StatusOK
		if d.Events != nil {
			list, next, err := d.Events.Query(ctx, event.Query{Kind: event.Kind(v.Kind), Service: v.Service, Before: q.Get("before"), Limit: eventsPerPage})
			if err != nil {
				v.Error, status = "The event log cannot be read: "+err.Error(), statusOf(err)
			}
			v.Events = list
			if next != "" {
				v.Next = "/events?" + url.Values{"kind": {v.Kind}, "service": {v.Service}, "before": {next}}.Encode()
			}
		}
		render(w, r, status, EventsPage(v))
	}
}

// evidence is an event's figures in a fixed order.
func evidence(e event.Event) []Fact {
	var out []Fact
	for k, v := range e.Evidence {
		out = append(out, Fact{k, v})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func expiry(now time.Time, t time.Time) string {
	if t.After(now) {
		return "expires in " + part.Span(t.Sub(now).Round(time.Second))
	}
	return "expired " + part.Ago(now, t)
}
