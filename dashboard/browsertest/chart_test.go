package browsertest

import (
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

const edgePage = "/edge?source=web&destination=catalog&protocol=http%2F1.1"

// openCharts opens a page whose charts are drawn, and stops its live feed, which would draw them anew.
func openCharts(t testing.TB, path string, l look) *tab {
	t.Helper()
	p := open(t, path, l)
	p.until("charts are drawn", `document.querySelectorAll("figure[data-drawn] canvas").length >= 3`)
	p.press(" ")
	p.until("it is paused", `document.querySelector('[data-action="live"]').dataset.state === "paused"`)
	return p
}

// TestChartCursor: one cursor goes through all charts of the page, by keys too, and legends say the figures below it.
func TestChartCursor(t *testing.T) {
	p := openCharts(t, edgePage, look{width: 1280, height: 900})
	legend := `[...document.querySelectorAll("figure[data-drawn] .legend b")].map(b => b.textContent).join("|")`
	was := eval[string](p, legend)
	slider := `document.querySelector('[data-id="rate"] [role="slider"]')`
	eval[any](p, slider+`.focus(); null`)
	p.press(kb.Home)
	p.until("all charts say the first instant", `new Set([...document.querySelectorAll('figure[data-drawn] [data-role="at"]')].map(e => e.textContent)).size === 1 && `+slider+`.getAttribute("aria-valuenow") === "0"`)
	p.press(kb.ArrowRight + kb.ArrowRight)
	p.until("two points further, in words", slider+`.getAttribute("aria-valuenow") === "2" && /UTC: requests .*\/s/.test(`+slider+`.getAttribute("aria-valuetext"))`)
	if eval[string](p, legend) == was {
		t.Errorf("the legends still say the end: %s", was)
	}
}

// TestChartZoom: what is dragged over, or selected by keys, is the time of the page.
func TestChartZoom(t *testing.T) {
	p := openCharts(t, edgePage, look{width: 1280, height: 900})
	box := eval[[]float64](p, `(() => { const r = document.querySelector('[data-id="rate"] .u-over').getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()`)
	mouse := func(kind input.MouseType, x float64) chromedp.Action {
		return input.DispatchMouseEvent(kind, box[0]+x*box[2], box[1]+box[3]/2).WithButton(input.Left).WithButtons(1).WithClickCount(1)
	}
	p.do(mouse(input.MouseMoved, .4), mouse(input.MousePressed, .4), mouse(input.MouseMoved, .5), mouse(input.MouseMoved, .6), mouse(input.MouseReleased, .6))
	p.until("the address has the time", `/start=20.*&end=20/.test(location.search) && document.querySelector(".period b").textContent.includes("UTC")`)
	if long := eval[float64](p, `(new Date(new URLSearchParams(location.search).get("end")) - new Date(new URLSearchParams(location.search).get("start"))) / 1000`); long < 150 || long > 210 {
		t.Errorf("a fifth of 15 min is %v s", long)
	}
	p.until("it is drawn", `document.querySelectorAll("figure[data-drawn] canvas").length >= 3`)
	eval[any](p, `document.querySelector('[data-id="rate"] [role="slider"]').focus(); null`)
	first := eval[string](p, `location.search`)
	p.press(kb.Home + kb.ArrowRight)
	shifted := func(key string) chromedp.Action {
		return chromedp.KeyEvent(key, chromedp.KeyModifiers(input.ModifierShift))
	}
	for range 8 {
		p.do(shifted(kb.ArrowRight))
	}
	p.press(kb.Enter)
	p.until("keys select too", `location.search !== `+quote(first)+` && document.querySelector(".period b").textContent.includes("UTC")`)
	p.click(`.period .choices a`)
	p.until("and a link leads back", `new URLSearchParams(location.search).get("last") === "15m" && !location.search.includes("start")`)
}

// TestExemplars: a dot is a link to its trace, without script too.
func TestExemplars(t *testing.T) {
	p := openCharts(t, edgePage, look{width: 1280, height: 900})
	if n := eval[int](p, `document.querySelectorAll(".plot-dot").length`); n < 5 || n != eval[int](p, `document.querySelectorAll("svg a.dot").length`) {
		t.Fatalf("%d dots", n)
	}
	p.click(`.plot-dot`)
	p.until("its trace is open", `location.pathname.startsWith("/trace/") && document.querySelector("h1") && !document.querySelector(".empty")`)
}

// TestFiguresOfScripts: the browser writes figures as the server does, in all units that charts have.
func TestFiguresOfScripts(t *testing.T) {
	for _, path := range []string{edgePage, "/service/catalog", "/service/pricing", "/service/storefront"} {
		p := openCharts(t, path, look{width: 1280, height: 900})
		for _, id := range eval[[]string](p, `[...document.querySelectorAll("figure[data-drawn]")].map(f => f.dataset.id)`) {
			figure := `document.querySelector('figure[data-id="` + id + `"]')`
			legend := figure + `.querySelector(".legend").textContent`
			server := eval[string](p, legend)
			known := eval[bool](p, `JSON.parse(`+figure+`.dataset.chart).series.every(s => s.values.at(-1) !== null)`)
			eval[any](p, figure+`.querySelector('[role="slider"]').focus(); null`)
			p.press(kb.End)
			p.until("the cursor is at the end", figure+`.querySelector('[data-role="at"]').textContent !== ""`)
			if script := eval[string](p, legend); known && script != server {
				t.Errorf("%s, %s: the browser writes %q, the server %q", path, id, script, server)
			}
		}
	}
}

// twenty puts twenty charts of 1,000 points in the place of a page's, as one swap of a region does, and waits until they are seen.
const twenty = `(() => {
	window.pattern ??= document.querySelector('figure[data-id="latency"]');
	const one = (k) => { const f = window.pattern.cloneNode(true); f.querySelector(".plot")?.remove(); delete f.dataset.drawn; f.dataset.id = "bench" + Math.random() + k;
		const start = 1.7e9, values = (s) => Array.from({length: 1000}, (_, i) => Math.round(1e5 * (1 + Math.sin(i / (20 + s)) * .5 + Math.random() * .2)) / 1e6);
		f.dataset.chart = JSON.stringify({unit: "seconds", start, step: 10, marks: [], series: [{name: "p99", tone: "a", values: values(k)}]}); return f; };
	const all = Array.from({length: 20}, (_, k) => one(k));
	const region = document.querySelector('[data-swap="charts"]');
	region.replaceChildren();
	return new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => {
		window.began = performance.timeOrigin + performance.now();
		const t = performance.now();
		region.replaceChildren(...all);
		document.dispatchEvent(new Event("tulle:swapped"));
		window.made = performance.timeOrigin + performance.now();
		setTimeout(() => r(performance.now() - t), 300);
	})));
})()`

// BenchmarkTwentyCharts measures how long 20 charts of 1,000 points take from their figures to the first frame that shows them.
func BenchmarkTwentyCharts(b *testing.B) {
	p := openCharts(b, edgePage, look{width: 1440, height: 900})
	var took, script []float64
	for b.Loop() {
		f := p.watch(twenty)
		began, made := eval[float64](p, `window.began`), eval[float64](p, `window.made`)
		i := slices.IndexFunc(f.at, func(at float64) bool { return at >= made })
		if i < 0 {
			b.Fatalf("no frame shows the charts, which were made %v ms after the begin: %v", made-began, f.at[max(0, len(f.at)-3):])
		}
		took, script = append(took, f.at[i]-began), append(script, made-began)
		if n := eval[int](p, `[...document.querySelectorAll('[data-swap="charts"] figure[data-drawn] canvas')].length`); n != 20 {
			b.Fatalf("%d charts", n)
		}
	}
	b.ReportMetric(mean(took), "ms-to-frame")
	b.ReportMetric(mean(script), "ms-of-script")
	b.ReportMetric(0, "ns/op")
}

// TestChartsAreSmall: charts have their script on pages that show them only, and the home page stays below its bar.
func TestChartsAreSmall(t *testing.T) {
	bytes := func(path string) (n int, names string) {
		p := open(t, path, look{width: 1280, height: 900})
		p.until("it is loaded", `document.readyState === "complete"`)
		n = eval[int](p, `performance.getEntriesByType("resource").filter(r => r.name.includes("/assets/")).reduce((s, r) => s + r.encodedBodySize, performance.getEntriesByType("navigation")[0].encodedBodySize)`)
		return n, eval[string](p, `performance.getEntriesByType("resource").map(r => r.name).join(" ")`)
	}
	home, names := bytes("/")
	if home > 120_000 || strings.Contains(names, "charts-") {
		t.Errorf("the home page takes %d bytes: %s", home, names)
	}
	if service, names := bytes("/service/catalog"); !strings.Contains(names, "charts-") {
		t.Errorf("no script of charts on a service's page (%d bytes): %s", service, names)
	}
}
