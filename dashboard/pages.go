package dashboard

import (
	"net/http"

	"github.com/tulle-mesh/tulle/dashboard/page"
)

// pages is the one table of pages: pattern, title, handler. A new page is a line here and dashboard/page/NAME.go + NAME.templ.
var pages = []struct {
	pattern string
	title   string
	handler func(*page.Deps) http.HandlerFunc
}{
	{"GET /{$}", "Topology", page.Topology},
	{"GET /topology/export.svg", "The topology as SVG", page.TopologyExport("svg")},
	{"GET /topology/export.mmd", "The topology as Mermaid", page.TopologyExport("mmd")},
	{"GET /topology/export.dot", "The topology as DOT", page.TopologyExport("dot")},
	{"GET /topology/export.json", "The topology as JSON", page.TopologyExport("json")},
	{"GET /topology/words", "How an expression may go on", page.TopologyWords},
	{"GET /service/{name}", "Service", page.Service},
	{"GET /edge", "Edge", page.Edge},
	{"GET /traces", "Traces", page.Traces},
	{"GET /traces/find", "Find a trace or a service", page.Find},
	{"GET /trace/{id}", "Trace", page.Trace},
	{"GET /trace/{id}/columns", "A trace as columns", page.TraceColumns},
	{"GET /trace/{id}/span/{span}", "Details of a span", page.TraceSpan},
	{"GET /compare", "Compare two traces", page.Compare},
	{"GET /requests", "Requests", page.Requests},
	{"GET /events", "Events", page.Events},
	{"GET /alerts", "Alerts", page.Alerts},
	{"GET /proxies", "Proxies", page.Proxies},
	{"GET /tulle", "Tulle itself", page.Tulle},
	{"POST /tidy", "Lay the topology out afresh", page.Tidy},
}
