package browsertest

import (
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
)

// longSpans is how many spans the long trace has.
const longSpans = 50_000

// longTrace is the address of a trace of 50,000 spans, which a preview of its own serves.
var longTrace = sync.OnceValues(func() (string, error) {
	url, err := preview("-long", itoa(longSpans))
	return url + "/trace/39cf6e61409a7c15000007e11e110000", err
})

func openLong(t testing.TB, l look) *tab {
	t.Helper()
	url, err := longTrace()
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, url, l)
	p.until("the trace is drawn", `performance.getEntriesByName("tulle-trace-paint").length === 1`)
	return p
}

const spansList = `document.querySelector('.drawn [role="listbox"]')`

// TestLongTrace: a canvas draws it, and keys and a screen reader reach every span and its details.
func TestLongTrace(t *testing.T) {
	for _, l := range looks {
		p := openLong(t, l)
		accessible(p)
		fits(p, l.width)
		obeys(p)
		reached(p)
	}
	p := openLong(t, look{width: 1280, height: 900})
	say := `document.getElementById("drawn-option").textContent`
	place := `document.getElementById("drawn-option").getAttribute("aria-posinset")`
	eval[any](p, spansList+`.focus()`)
	p.press(kb.ArrowDown + kb.ArrowDown)
	p.until("two rows further", place+` === "3" && `+say+`.includes("server exchange")`)
	p.press(kb.End)
	p.until("the last row", place+` === "`+itoa(longSpans)+`" && `+spansList+`.scrollTop > 1e6`)
	p.press(kb.Home)
	p.press("n")
	p.until("the first error", say+`.includes("error") && `+say+`.includes("upstream_5xx")`)
	eval[any](p, `window.same = true; null`)
	p.press(kb.Enter)
	p.until("its details are open and have the focus", `document.activeElement.matches('[data-role="span-detail"]') && document.activeElement.textContent.includes("http.response.status_code")`)
	p.until("the address says which", `location.search.startsWith("?span=")`)
	accessible(p)
	p.press(kb.Escape)
	p.until("Escape goes back to the list", `document.activeElement === `+spansList)
	if !eval[bool](p, `window.same === true`) {
		t.Error("the page was loaded anew")
	}
	again := open(t, eval[string](p, `location.href`), look{width: 1280, height: 900})
	again.until("the address opens the same span", `document.querySelector('[data-role="span-detail"]')?.hidden === false`)
}

// BenchmarkLongTrace measures what the bar is of: the time from the arrival of 50,000 spans to the first picture, and how many frames a second are shown while
// it scrolls. Shown frames are those that the display compositor has drawn and swapped, by the browser's own trace; a browser without a screen calls none of them
// presented.
func BenchmarkLongTrace(b *testing.B) {
	var paint, frames []float64
	for b.Loop() {
		p := openLong(b, look{width: 1440, height: 900})
		paint = append(paint, eval[float64](p, `performance.getEntriesByName("tulle-trace-paint")[0].duration`))
		frames = append(frames, p.shown(3*time.Second, spansList+`.scrollTop += 240`).perSecond())
	}
	b.ReportMetric(mean(paint), "ms-to-paint")
	b.ReportMetric(mean(frames), "shown-fps")
	b.ReportMetric(0, "ns/op")
}

func mean(list []float64) float64 {
	sum := 0.0
	for _, v := range list {
		sum += v
	}
	return sum / float64(len(list))
}
