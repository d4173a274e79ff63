package browsertest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestTheTopologyIsLive: figures change by themselves, stand still while paused, and go on afterwards.
func TestTheTopologyIsLive(t *testing.T) {
	p := open(t, "/", look{width: 1280, height: 900})
	const rate = `document.querySelector('.node[data-key="n:web"] [data-f="rate"]').textContent`
	p.until("the feed is open", `document.querySelector('[data-action="live"]').dataset.state === "live"`)
	was := eval[string](p, rate)
	p.until("a figure changes", rate+` !== `+quote(was))
	p.press(" ")
	p.until("it is paused", `document.querySelector('[data-action="live"]').dataset.state === "paused"`)
	// Figures that came before the pause are drawn with the next frame.
	was = eval[string](p, `new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(`+rate+`))))`)
	// The server goes on meanwhile: two seconds of it are seen in another tab.
	other := open(t, "/", look{width: 1280, height: 900})
	for range 2 {
		seen := eval[string](other, rate)
		other.until("another tab changes", rate+` !== `+quote(seen))
	}
	if now := eval[string](p, rate); now != was {
		t.Errorf("paused, it went from %s to %s", was, now)
	}
	p.press(" ")
	p.until("it goes on", rate+` !== `+quote(was))
}

// TestWhoIsSlowIsTold: a snapshot that comes in place of pictures that were left out says how many, until the next picture comes in its turn.
func TestWhoIsSlowIsTold(t *testing.T) {
	p := open(t, "/", look{width: 1280, height: 900})
	const button = `document.querySelector('[data-action="live"]')`
	p.until("the feed is open", button+`.dataset.state === "live"`)
	p.press(" ")
	p.until("it is paused", button+`.dataset.state === "paused"`)
	eval[any](p, `window.WebSocket = class { constructor() { setTimeout(() => { this.onopen(); window.feed = this; }); } send() {} close() {} }; null`)
	p.press(" ")
	p.until("it goes on", `window.feed && `+button+`.dataset.state === "live"`)
	say := func(frame string) { eval[any](p, `window.feed.onmessage({data: `+quote(frame)+`}); null`) }
	say(`{"type":"snapshot","topic":"graph","seq":9,"missed":3,"items":{}}`)
	p.until("what was left out is said", button+`.textContent.includes("3 left out")`)
	say(`{"type":"delta","topic":"graph","seq":10,"items":{}}`)
	p.until("it is live as before", `!`+button+`.textContent.includes("left out")`)
}

// TestRequestsAreWatchedLive: rows come by themselves, newest first, with the columns that were asked for; they stand still while the reader has one in focus,
// and go on afterwards; what is left out is said, and so is an expression that cannot be understood.
func TestRequestsAreWatchedLive(t *testing.T) {
	p := open(t, "/requests?tail=1&columns=dst,duration", look{width: 1280, height: 900})
	const rows, told = `document.querySelectorAll("[data-watch] tbody tr").length`, `document.querySelector('[data-role="told"]').textContent`
	p.until("requests come", rows+` > 3`)
	if n := eval[int](p, `document.querySelector("[data-watch] tbody tr").cells.length`); n != 5 {
		t.Errorf("%d cells in a row: level, time, two columns and why", n)
	}
	eval[any](p, `document.querySelector("[data-watch] tbody a").focus(); null`)
	p.until("others wait", told+`.includes("wait while you read")`)
	n := eval[int](p, rows)
	p.until("more wait", `+/(\d+) wait/.exec(`+told+`)[1] > 5`)
	if now := eval[int](p, rows); now != n {
		t.Errorf("%d rows while one is read, then %d", n, now)
	}
	eval[any](p, `document.activeElement.blur(); null`)
	p.until("they go on", rows+` > `+strconv.Itoa(n+5))
	p = open(t, "/requests?tail=1&match=dst%3Dnobody", look{width: 1280, height: 900})
	p.until("it is live", `document.querySelector('[data-action="live"]').dataset.state === "live"`)
	if n := eval[int](p, rows); n != 0 {
		t.Errorf("%d rows that nobody asked for", n)
	}
	p = open(t, "/requests?tail=1&match=dst%3D%3D(", look{width: 1280, height: 900})
	if s := eval[string](p, `document.querySelector("[role=alert]").textContent`); !strings.Contains(s, "column") {
		t.Errorf("it says %q", s)
	}
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }

// TestTimeTravel: a key opens the strip, the slider and the steps redraw the page in place, play goes forward by itself, and the address says what
// is shown.
func TestTimeTravel(t *testing.T) {
	p := open(t, "/", look{width: 1440, height: 1000})
	p.press("h")
	p.until("the strip is open", `document.querySelector('[data-role="timeline"]') && location.search.includes("span=1h")`)
	p.click(`.choices a:first-child`)
	p.until("the strip covers a quarter of an hour", `location.search.includes("span=15m")`)
	p.click(`[data-action="step-back"]`)
	p.until("a past instant is drawn", `document.querySelector('[data-swap="title"]').textContent.includes("Topology at")`)

	// From here on nothing is loaded anew: a mark on the window survives.
	eval[any](p, `window.same = true; null`)
	slide := func(back int) {
		eval[any](p, `(() => { const s = document.querySelector('[data-role="timeline"] input[type="range"]'); s.value = String(Number(s.max) - `+itoa(back)+`); s.dispatchEvent(new Event("input", {bubbles: true})); })()`)
	}
	title := `document.querySelector('[data-swap="title"]').textContent`
	was := eval[string](p, title)
	slide(600)
	p.until("the title says another instant", title+` !== `+quote(was))
	p.until("the drawing is of before the trouble", `document.querySelector('.node[data-key="n:catalog"]').dataset.level === "ok"`)
	slide(60)
	p.until("the drawing is of the trouble", `document.querySelector('.node[data-key="n:catalog"]').dataset.level === "bad"`)
	if !eval[bool](p, `location.search.includes("at=20") && location.search.includes("span=15m")`) {
		t.Errorf("the address is %s", eval[string](p, `location.search`))
	}
	// Dragging sends many wishes; the last one is what is shown in the end.
	for back := 590; back >= 300; back -= 10 {
		slide(back)
	}
	p.until("the last wish is drawn", `document.querySelector('[data-role="timeline"] input[type="range"]').valueAsNumber === Number(document.querySelector('[data-role="timeline"] input[type="range"]').max) - 300`)
	p.click(`[data-action="play"]`)
	at := eval[float64](p, `document.querySelector('[data-role="timeline"] input[type="range"]').valueAsNumber`)
	p.until("it plays", `document.querySelector('[data-role="timeline"] input[type="range"]').valueAsNumber > `+ftoa(at)+` + 15`)
	p.click(`[data-action="play"]`)
	p.until("it has stopped", `document.querySelector('[data-action="play"]').textContent === "Play"`)

	p.click(`[aria-label="Compare with an earlier instant"] a`)
	p.until("what changed is listed", `document.querySelector('[data-swap="changes"] h2')`)
	if !eval[bool](p, `window.same === true`) {
		t.Error("the page was loaded anew")
	}
	p.click(`[data-action="live-again"]`)
	p.until("it is live", `document.body.dataset.live !== "" && location.search === ""`)
}

// TestShortcuts: one key each, and none while somebody types.
func TestShortcuts(t *testing.T) {
	p := open(t, "/events", look{width: 1280, height: 900})
	p.press("/")
	p.until("the search has the focus", `document.activeElement.matches(".jump input")`)
	p.press("gh")
	if v := eval[string](p, `document.activeElement.value + " " + location.pathname`); !strings.HasSuffix(v, "gh /events") {
		t.Errorf("typed gh, have %q", v)
	}
	p.do(chromedp.KeyEvent(kb.Escape), chromedp.Evaluate(`document.activeElement.blur()`, nil))
	theme := eval[string](p, `document.documentElement.dataset.theme ?? ""`)
	p.press("t")
	p.until("the theme is another", `(document.documentElement.dataset.theme ?? "") !== `+quote(theme))
	p.press("g")
	p.press("t")
	p.until("g t opens the traces", `location.pathname === "/traces"`)
}

// TestPalette: what is typed is found, and Enter goes there.
func TestPalette(t *testing.T) {
	p := open(t, "/events", look{width: 1280, height: 900})
	p.do(chromedp.KeyEvent("k", chromedp.KeyModifiers(input.ModifierCtrl)))
	p.until("it is open, with the pages", `document.querySelector("dialog.palette[open]") && document.activeElement.closest("dialog") && [...document.querySelectorAll(".palette li")].some((e) => e.textContent.startsWith("Topology"))`)
	p.press("ctlg") // nothing is called so, but it may be a service that is not known (yet)
	p.until("what is typed can be searched by", `document.querySelectorAll(".palette li").length === 1 && document.querySelector(".palette li").textContent.includes("Traces of service ctlg")`)
	p.do(chromedp.KeyEvent(kb.Escape))
	p.until("Escape closes it", `!document.querySelector("dialog.palette[open]")`)
	p.press("?")
	p.until("? shows the keys too", `!!document.querySelector("dialog.palette[open] dl:not([hidden]) kbd")`)
	accessible(p)
	p.press(kb.Backspace) // the driver types what the page has taken
	p.press("cata")
	p.until("the service is found", `document.querySelector('.palette li[aria-selected="true"]').textContent.startsWith("catalog")`)
	p.do(chromedp.KeyEvent(kb.Enter))
	p.until("Enter opens it", `location.pathname === "/service/catalog"`)
}

// TestCopyAsCurl: what the palette offers to copy is what the API answers.
func TestCopyAsCurl(t *testing.T) {
	for _, path := range []string{
		"/", "/service/catalog", "/traces?status=error", "/trace/{trace}", "/requests?match=dst%3Dcatalog", "/requests?by=dst,status&last=5m", "/events", "/alerts", "/proxies", "/tulle",
	} {
		p := open(t, address(t, path), look{width: 1280, height: 900})
		p.click(`[data-action="palette"]`)
		p.press("curl")
		p.until("curl is offered on "+path, `document.querySelector(".palette li")?.textContent.startsWith("Copy as curl: curl -sS 'http")`)
		if status := eval[int](p, `fetch(document.querySelector(".palette li bdi").textContent.split("'")[1]).then(r => r.status)`); status != 200 {
			t.Errorf("%s: the API answers %d to %s", path, status, eval[string](p, `document.querySelector(".palette li").textContent`))
		}
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func ftoa(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
