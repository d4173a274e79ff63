// Package page holds the pages: NAME.go turns a request into a view by asking the sources, NAME.templ turns the view into HTML and does
// nothing else. Adding a page is those two files and a line in dashboard/pages.go.
//
// Every page works without JavaScript. Elements that change live carry data-key (and data-f for each text), regions that are swapped whole
// carry data-swap; the client knows nothing else about them.
package page

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/a-h/templ"

	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// Deps is what pages are made from.
type Deps struct {
	*source.Sources
	Assets part.Assets
	Places *layout.Memory
	// GroupPlaces are those of graphs in which services are drawn together; nil: they are laid out anew each time.
	GroupPlaces map[graph.Grouping]*layout.Memory
}

// queryTime bounds how long one page may ask its sources.
const queryTime = 15 * time.Second

func (d *Deps) shell(ctx context.Context, title, active, live string) part.Shell {
	return part.Shell{
		Title: title, Active: active, Live: live, Notices: d.Notices(), Now: d.Clock(), Assets: d.Assets, Alerts: d.firing(ctx),
	}
}

// firing counts alerts of warning or worse that fire now; 0 when there are none or nobody knows. What is only information is on the alerts
// page.
func (d *Deps) firing(ctx context.Context) int {
	if d.Alerts == nil {
		return 0
	}
	list, err := d.Alerts.Alerts(ctx)
	if err != nil {
		return 0
	}
	n := 0
	for _, a := range list {
		if a.State == "firing" && !a.Silenced && a.Severity != "info" {
			n++
		}
	}
	return n
}

// live is the newest snapshot, never nil.
func (d *Deps) live() *graph.Snapshot {
	if s := d.Graph.Live(); s != nil {
		return s
	}
	return &graph.Snapshot{}
}

// routineScan is how many events are looked through for those that are not routine.
const routineScan = 500

// events returns the newest n events about service ("" for all) before until (zero: now) that are not routine, and why not when the log
// cannot be read.
func (d *Deps) events(ctx context.Context, service string, until time.Time, n int) ([]event.Event, error) {
	if d.Events == nil {
		return nil, nil
	}
	list, _, err := d.Events.Query(ctx, event.Query{Service: service, End: until, Limit: routineScan})
	list = slices.DeleteFunc(list, func(e event.Event) bool { return e.Kind.Routine() })
	return list[:min(n, len(list))], err
}

// render writes a page.
func render(w http.ResponseWriter, r *http.Request, status int, c templ.Component) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = c.Render(r.Context(), w) // a write error means that the reader has gone
}

// statusOf maps a store's error to an HTTP status.
func statusOf(err error) int {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, store.ErrBadQuery):
		return http.StatusBadRequest
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// ServiceURL is the page of a service.
func ServiceURL(name string) string { return "/service/" + url.PathEscape(name) }

// EdgeURL is the page of an edge.
func EdgeURL(source, destination, protocol string) string {
	return "/edge?" + url.Values{"source": {source}, "destination": {destination}, "protocol": {protocol}}.Encode()
}

// TraceURL is the page of a trace.
func TraceURL(id string) string { return "/trace/" + url.PathEscape(id) }

// TracesURL is a search; pairs are name, value.
func TracesURL(pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return "/traces?" + q.Encode()
}

func queryEscape(s string) string { return url.QueryEscape(s) }

// shortID is enough of an ID to tell it from its neighbours.
func shortID(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}
