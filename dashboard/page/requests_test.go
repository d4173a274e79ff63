package page

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
)

func TestRequestsPage(t *testing.T) {
	d := deps(t)
	for _, c := range []struct {
		query  string
		status int
		has    []string
		not    []string
	}{
		{"", 200, []string{"200 requests", "/shop.v1.Pricing/Quote", `<th scope="col" class="num">duration</th>`, `data-live="reload"`, `data-swap="requests"`}, []string{"error-line"}},
		{"match=dst%3Dcatalog+and+failed&side=both", 200, []string{"upstream_5xx", "503", `data-level="bad"`, "tulle requests &#39;dst=catalog and failed&#39; --side both"}, []string{"/shop.v1.Pricing"}},
		{"match=dst%3Dnobody", 200, []string{"No request is meant"}, []string{"<table"}},
		{"columns=trace,http.request.header.x-team", 200, []string{`>trace</th>`, "http.request.header.x-team"}, nil},
		{"by=dst,status", 200, []string{"groups", "Example trace", "match=%28dst%3Dcatalog%29+and+status%3D200", `<th scope="col">status</th>`}, []string{"200 requests"}},
		{"by=dst&sort=p99", 200, []string{"groups"}, nil},
		{"match=stat%3E5", 400, []string{"perhaps status is meant", "<pre>stat&gt;5\n^</pre>"}, []string{"newest first", "<table"}},
		{"by=nothing", 400, []string{"there is no such field"}, nil},
		{"columns=nothing", 400, []string{"column &#34;nothing&#34;"}, nil},
		{"sort=size&by=dst", 400, []string{"count, errors"}, nil},
		{"side=left", 400, []string{"client, server or both"}, nil},
		{"last=soon", 400, []string{"a duration such as 15m"}, nil},
		{"match=" + url.QueryEscape(`path="<script>alert(1)</script>"`), 200, nil, []string{"<script>alert"}},
	} {
		w := httptest.NewRecorder()
		Requests(d)(w, httptest.NewRequest("GET", "/requests?"+c.query, nil))
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d", c.query, w.Code, c.status)
		}
		for _, s := range c.has {
			if !strings.Contains(w.Body.String(), s) {
				t.Errorf("%s: has no %s", c.query, s)
			}
		}
		for _, s := range c.not {
			if strings.Contains(w.Body.String(), s) {
				t.Errorf("%s: has %s", c.query, s)
			}
		}
	}
}

// TestNarrowed: what a group's link asks for is understood, and means the group's requests, whatever the value is.
func TestNarrowed(t *testing.T) {
	for _, value := range []string{"", "catalog", `say "hi"`, `back\slash`, "a b", "ü", "and", "(", "line\nbreak"} {
		for _, before := range []string{"", "failed or dst=web"} {
			expr := narrow(before, "path", value)
			e, err := match.Parse(expr)
			if err != nil {
				t.Errorf("%q: %v", expr, err)
				continue
			}
			s := store.Span{Attributes: map[string]string{"url.path": value, "tulle.destination.service": "web"}}
			if value == "" {
				delete(s.Attributes, "url.path")
			}
			if !e.Match(&s) {
				t.Errorf("%q does not mean %q", expr, value)
			}
			s.Attributes["url.path"] = value + "x"
			if e.Match(&s) {
				t.Errorf("%q means more than %q", expr, value)
			}
		}
	}
}
