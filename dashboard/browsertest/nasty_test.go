package browsertest

import (
	"fmt"
	"net/url"
	"sync"
	"testing"
)

// nastyMesh is the address of a preview in which everything has a hostile, long, right-to-left or otherwise odd name.
var nastyMesh = sync.OnceValues(func() (string, error) { return preview("-nasty") })

// planted are elements and attributes that no page's own markup has.
const planted = `[...document.querySelectorAll("img, iframe, object, embed, script:not([src]), [onerror], [onload], [onmouseover], [href^='javascript:' i], main style")].map(e => e.outerHTML.slice(0, 120))`

// TestNastyNames: no name becomes markup or a script in a real browser, none widens a page, and every page still obeys its policy.
func TestNastyNames(t *testing.T) {
	home, err := nastyMesh()
	if err != nil {
		t.Fatal(err)
	}
	// The mesh says what its services are called.
	p := open(t, home+"/events", look{width: 1280, height: 900})
	names := eval[[]string](p, `fetch("/api/tulle/v1/graph").then(r => r.json()).then(g => (g.nodes ?? g.snapshot.nodes).map(n => n.id))`)
	traces := eval[[]string](p, `fetch("/api/tulle/v1/traces?limit=100").then(r => r.json()).then(b => b.traces.map(t => t.traceId))`)
	if len(names) < 10 || len(traces) < 10 {
		t.Fatalf("%d services, %d traces", len(names), len(traces))
	}
	paths := []string{"/", "/traces", "/requests", "/requests?by=src,path,reason", "/events", "/alerts", "/proxies", "/tulle", "/compare?a=" + traces[0] + "&b=" + traces[1]}
	for i, n := range names {
		q := url.QueryEscape(n)
		paths = append(paths, "/service/"+url.PathEscape(n), "/edge?"+url.Values{"source": {n}, "destination": {names[0]}, "protocol": {"http/1.1"}}.Encode(), "/traces?service="+q,
			"/requests?match="+q, "/?at="+q)
		if i < len(traces) {
			paths = append(paths, "/trace/"+traces[i], "/trace/"+traces[i]+"?view=flame")
		}
	}
	for k, path := range paths {
		l := looks[k%len(looks)]
		t.Run(fmt.Sprintf("%.60q/%d", path, l.width), func(t *testing.T) {
			p := open(t, home+path, l)
			fits(p, l.width)
			obeys(p)
			if got := eval[[]string](p, planted); len(got) > 0 {
				t.Errorf("names became markup: %q", got)
			}
		})
	}
	// The palette lists them too, made by a script.
	p = open(t, home+"/events", look{width: 1280, height: 900})
	eval[any](p, `document.querySelector('[data-action="palette"]').click(); null`)
	p.press("script")
	p.until("the palette lists a hostile service", `[...document.querySelectorAll(".palette li")].some(e => e.textContent.includes("<script>alert"))`)
	if got := eval[[]string](p, planted); len(got) > 0 {
		t.Errorf("names became markup in the palette: %q", got)
	}
}

// TestCrowd: of 10,000 endpoints the page shows the worst 500, which sort at once; all of them are there when they are asked for.
func TestCrowd(t *testing.T) {
	home, err := nastyMesh()
	if err != nil {
		t.Fatal(err)
	}
	const rows = `document.querySelector("#endpoints table").tBodies[0].rows`
	p := open(t, home+"/service/crowd", look{width: 1440, height: 900})
	fits(p, 1440)
	accessible(p)
	if n := eval[int](p, rows+`.length`); n != 500 {
		t.Errorf("%d endpoints are shown, want 500", n)
	}
	took := eval[float64](p, `(() => { const t = performance.now(); document.querySelector("#endpoints th .sort").click(); document.body.getBoundingClientRect(); return performance.now() - t; })()`)
	t.Logf("sorting 500 rows took %.0f ms", took)
	p.click(`#endpoints .pager a`)
	p.until("all are there", rows+`.length === 10000`)
	fits(p, 1440)
}
