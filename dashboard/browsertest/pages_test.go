package browsertest

import (
	"fmt"
	"strings"
	"testing"
)

// pages are all that a person can come to. {trace} is a trace that has failed.
var pages = []struct{ name, path string }{
	{"topology", "/"},
	{"past", "/?at=-3m&span=15m"},
	{"compared", "/?at=-1m&from=-8m&span=15m"},
	{"wrong-time", "/?at=noon"},
	{"service", "/service/catalog"},
	{"tcp-service", "/service/stock-db"},
	{"service-past", "/service/catalog?last=24h"},
	{"service-wrong-time", "/service/catalog?start=noon"},
	{"no-service", "/service/nobody"},
	{"edge", "/edge?source=web&destination=catalog&protocol=http%2F1.1"},
	{"traces", "/traces"},
	{"traces-failed", "/traces?status=error"},
	{"traces-none", "/traces?service=nobody"},
	{"trace", "/trace/{trace}"},
	{"flame", "/trace/{trace}?view=flame"},
	{"compare", "/compare?a={trace}&b={trace}"},
	{"compare-with", "/compare?a={trace}"},
	{"requests", "/requests"},
	{"requests-counted", "/requests?by=dst,reason,status&match=duration%3E1ms"},
	{"requests-live", "/requests?tail=1"},
	{"requests-wrong", "/requests?match=stat%3E5"},
	{"events", "/events"},
	{"alerts", "/alerts"},
	{"proxies", "/proxies"},
	{"tulle", "/tulle"},
	{"topology-found", "/?find=err+%3E+1%25+and+ns+%3D+shop&hide=kind+%3D+external"},
	{"topology-wrong", "/?find=err+%3E+much"},
	{"topology-side", "/?measure=p95&side=server&group=zone"},
	{"nothing", "/no/such/page"},
}

func address(t *testing.T, path string) string {
	t.Helper()
	if !strings.Contains(path, "{trace}") {
		return path
	}
	p := open(t, "/events", look{width: 800, height: 600})
	id := eval[string](p, `fetch("/api/tulle/v1/traces?status=error&limit=1").then(r => r.json()).then(r => r.traces[0].traceId)`)
	return strings.ReplaceAll(path, "{trace}", id)
}

type violation struct {
	ID     string `json:"id"`
	Impact string `json:"impact"`
	Help   string `json:"help"`
	Nodes  []struct {
		HTML    string `json:"html"`
		Failure string `json:"failureSummary"`
	} `json:"nodes"`
}

// looks are the windows and themes in which every page is looked at.
var looks = []look{{width: 375, height: 812}, {width: 768, height: 1024, dark: true}, {width: 1440, height: 900, still: true}, {width: 2560, height: 1440, dark: true, still: true}}

// TestEveryPage looks at every page, from a phone to a large screen, in both themes:
//   - axe-core finds nothing serious or critical;
//   - it is no wider than its window, but for what scrolls by itself;
//   - the Content-Security-Policy allows scripts and styles of this origin only, and nothing needs more (a tab fails when the browser refuses
//     something); what a script places in a chart has a style by the script's hand, which the policy allows;
//   - everything that a mouse reaches is reached by Tab.
func TestEveryPage(t *testing.T) {
	for _, pg := range pages {
		path := address(t, pg.path)
		for _, l := range looks {
			t.Run(fmt.Sprintf("%s/%d", pg.name, l.width), func(t *testing.T) {
				p := open(t, path, l)
				accessible(p)
				fits(p, l.width)
				obeys(p)
				reached(p)
			})
		}
	}
}

func accessible(p *tab) {
	p.t.Helper()
	eval[any](p, browser.axe+"; null")
	for _, v := range eval[[]violation](p, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations)`) {
		if v.Impact != "serious" && v.Impact != "critical" {
			continue
		}
		for _, n := range v.Nodes[:min(3, len(v.Nodes))] {
			p.t.Errorf("%s (%s): %s\n  %.300s\n  %.300s", v.ID, v.Impact, v.Help, n.HTML, n.Failure)
		}
	}
}

func fits(p *tab, width int64) {
	p.t.Helper()
	if wide := eval[int64](p, `document.documentElement.scrollWidth`); wide > width {
		p.t.Errorf("it is %d px wide: %s", wide, eval[string](p, `[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 &&
			!e.closest(".scroll, .canvas, nav, svg")).slice(0, 3).map(e => e.outerHTML.slice(0, 160)).join("\n")`))
	}
}

func obeys(p *tab) {
	p.t.Helper()
	policy := eval[string](p, `fetch(location.href).then(r => r.headers.get("Content-Security-Policy"))`)
	if !strings.Contains(policy, "script-src 'self'") || strings.Contains(policy, "unsafe") {
		p.t.Errorf("its policy is %q", policy)
	}
	if n := eval[int](p, `document.querySelectorAll("[style]:not(.plot *), [onclick], script:not([src]), style").length`); n > 0 {
		p.t.Errorf("%d inline scripts or styles", n)
	}
}

func reached(p *tab) {
	p.t.Helper()
	lost := eval[[]string](p, `[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary")].filter(e => e.checkVisibility() && e.tabIndex < 0 &&
		e.getAttribute("aria-hidden") !== "true").map(e => e.outerHTML.slice(0, 120))`)
	if len(lost) > 0 {
		p.t.Errorf("not reached by Tab: %v", lost)
	}
}
