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
	{"POST /tidy", "Lay the topology out afresh", page.Tidy},
}
