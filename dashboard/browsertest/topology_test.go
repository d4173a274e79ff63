package browsertest

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// previews of meshes, by their size.
var meshes struct {
	sync.Mutex
	url map[int]string
}

// openMesh opens the topology of a mesh of so many services, and waits until it is drawn.
func openMesh(t testing.TB, size int, path string, l look) *tab {
	t.Helper()
	meshes.Lock()
	defer meshes.Unlock()
	if meshes.url[size] == "" {
		url, err := preview("-size", itoa(size))
		if err != nil {
			t.Fatal(err)
		}
		if meshes.url == nil {
			meshes.url = map[int]string{}
		}
		meshes.url[size] = url
	}
	p := open(t, meshes.url[size]+path, l)
	p.until("the graph is drawn", `performance.getEntriesByName("tulle-graph-drawn").length > 0`)
	return p
}

// TestLargeMesh: a canvas draws it; keys and a screen reader reach every service, the mouse too, and it is live.
func TestLargeMesh(t *testing.T) {
	for _, l := range looks {
		p := openMesh(t, 120, "/", l)
		accessible(p)
		fits(p, l.width)
		obeys(p)
		reached(p)
	}
	p := openMesh(t, 120, "/", look{width: 1280, height: 900})
	const (
		link = `document.querySelector(".mesh-focus")`
		tip  = `document.querySelector(".mesh-tip")`
		box  = `document.querySelector(".mesh")`
	)
	eval[any](p, link+`.focus()`)
	first := eval[string](p, link+`.getAttribute("href")`)
	p.press(kb.ArrowRight)
	p.until("the focus went on", link+`.getAttribute("href") !== `+quote(first))
	p.until("it is said which", link+`.getAttribute("aria-label").includes("errors")`)
	p.press("n")
	p.until("the next that fails", `/^[^,]+, .* errors/.test(`+link+`.getAttribute("aria-label")) && `+tip+`.textContent.length > 20`)
	p.press(kb.Home)
	p.until("Home is the first", link+`.getAttribute("href") === `+quote(first))

	// What is under the pointer is said, and a click pins it with its ways on.
	at := eval[[]float64](p, `(() => { const r = `+box+`.getBoundingClientRect(), f = document.querySelector(".mesh-focus rect").getBBox(); return [r.left + f.x + f.width / 2, r.top + f.y + f.height / 2]; })()`)
	p.do(chromedp.MouseClickXY(at[0], at[1]))
	p.until("it is pinned", tip+`.querySelectorAll("a").length === 4`)
	p.click(`.mesh-links a:nth-child(2)`)
	p.until("its neighbours alone are drawn", `location.search.includes("show=near") && document.querySelector("svg.graph .node")`)

	// Live figures come into the table and into what is said.
	p = openMesh(t, 120, "/", look{width: 1280, height: 900})
	const rate = `document.querySelector('#edges tr[data-key] [data-f="rate"]').textContent`
	p.until("the feed is open", `document.querySelector('[data-action="live"]').dataset.state === "live"`)
	was := eval[string](p, rate)
	p.until("a figure changes", rate+` !== `+quote(was))
	eval[any](p, link+`.focus()`)
	p.press(kb.ArrowRight)
	said := eval[string](p, tip+`.textContent`)
	p.until("so does what is said", tip+`.textContent !== `+quote(said))
	if n := eval[int](p, `performance.getEntriesByName("tulle-graph-drawn").length`); n != 1 {
		t.Errorf("figures alone drew the graph anew: %d times", n)
	}
}

// TestGroups: a large mesh is drawn by namespace, live; a group opens and closes.
func TestGroups(t *testing.T) {
	p := openMesh(t, 320, "/", look{width: 1280, height: 900})
	accessible(p)
	const rate = `document.querySelector('#edges tr[data-key] [data-f="rate"]').textContent`
	was := eval[string](p, rate)
	p.until("its figures change", rate+` !== `+quote(was))
	before := eval[string](p, `document.querySelector("#edges tbody tr td:nth-child(2) a").textContent`)
	p.click(`#edges tbody tr td:nth-child(2) a`)
	p.until("the group is open", `location.search.includes("open=") && [...document.querySelectorAll(".lens a bdi")].some(e => e.textContent === `+quote(before)+`)`)
	accessible(p)
	p.click(`.lens a[title^="Draw its services together"]`)
	p.until("it is closed", `!location.search.includes("open=")`)
}

// TestWordsAreCompleted: the arrow keys choose how an expression goes on, and what is found is lit.
func TestWordsAreCompleted(t *testing.T) {
	p := open(t, "/", look{width: 1280, height: 900})
	const input, list = `document.querySelector('input[name="find"]')`, `document.querySelector('input[name="find"] + ul')`
	eval[any](p, input+`.focus()`)
	p.press("ns = ")
	p.until("values are offered", `!`+list+`.hidden && `+list+`.textContent.includes("shop")`)
	accessible(p)
	p.press(kb.ArrowDown)
	p.until("one is chosen", input+`.getAttribute("aria-activedescendant") && `+list+`.querySelector('[aria-selected="true"]')`)
	p.press(kb.Tab)
	p.until("it is taken, and more is offered", input+`.value === "ns = shop " && `+list+`.textContent.includes("and")`)
	p.press("and err > 1%")
	p.press(kb.Enter)
	p.until("what is found is lit", `location.search.includes("find=ns") && document.querySelectorAll(".node.found").length === 3`)
}

// pan moves the graph by pixels in a circle, and zoom in and out again, as a hand does.
const (
	hand = `const box = document.querySelector('[data-role="mesh"], [data-role="canvas"]'), r = box.getBoundingClientRect(), cx = r.left + r.width / 2, cy = r.top + 200;
		const at = (type, x, y) => box.dispatchEvent(new PointerEvent(type, {pointerId: 7, pointerType: "mouse", clientX: cx + x, clientY: cy + y, bubbles: true}));`
	grab = `(() => { ` + hand + ` document.querySelector('[data-action="zoom-fit"]').click(); for (let i = 0; i < 4; i++) document.querySelector('[data-action="zoom-in"]').click();
		at("pointerdown", 0, 0); window.pan = (() => { let n = 0; return () => { window.panned = ++n; at("pointermove", 300 * Math.sin(n / 40), 150 * Math.sin(n / 23)); }; })();
		window.wheel = (() => { let n = 0; return () => { n++; box.dispatchEvent(new WheelEvent("wheel", {ctrlKey: true, deltaY: Math.sin(n / 30) * 12, clientX: cx, clientY: cy, bubbles: true, cancelable: true})); }; })();
		window.release = () => at("pointerup", 0, 0); })()`
)

// BenchmarkTopology measures the bars of the home page at three sizes. CPU is of all of the browser's processes while the page is live and nothing else is open; memory
// is the renderer's own and its share of what it has in common with others.
func BenchmarkTopology(b *testing.B) {
	for _, c := range []struct {
		size int
		path string
	}{{50, "/"}, {300, "/"}, {1000, "/?group=none"}, {1000, "/"}} {
		name := fmt.Sprint(c.size)
		if c.size > 300 && c.path == "/" {
			name += "-grouped"
		}
		b.Run(name, func(b *testing.B) {
			var draw, drawThread, fps, frame, panThread, zoomFPS, zoomFrame, live, cpu, memory []float64
			for b.Loop() {
				func() {
					p := openMesh(b, c.size, c.path, look{width: 1440, height: 900})
					draw = append(draw, eval[float64](p, `performance.getEntriesByName("tulle-graph-drawn")[0].startTime - performance.getEntriesByType("navigation")[0].responseEnd`))
					p.do(performance.Enable().WithTimeDomain(performance.EnableTimeDomainThreadTicks))
					before := p.thread()
					p.do(chromedp.Reload())
					p.until("the graph is drawn", `performance.getEntriesByName("tulle-graph-drawn").length > 0`)
					drawThread = append(drawThread, p.thread()-before)
					p.until("it is live", `document.querySelector('[data-action="live"]').dataset.state === "live"`)
					eval[any](p, `new Promise(r => setTimeout(r, 1500))`) // what follows the first picture is over
					eval[any](p, grab)
					before = p.thread()
					f := p.shown(3*time.Second, `window.pan()`)
					fps, frame = append(fps, f.perSecond()), append(frame, f.p95())
					panThread = append(panThread, (p.thread()-before)/eval[float64](p, `window.panned`))
					eval[any](p, `window.release()`)
					f = p.shown(3*time.Second, `window.wheel()`)
					zoomFPS, zoomFrame = append(zoomFPS, f.perSecond()), append(zoomFrame, f.p95())
					eval[any](p, `document.querySelector('[data-action="zoom-fit"]').click(); new Promise(r => setTimeout(r, 1500))`)
					live = append(live, p.ticks(5*time.Second))
					pid := chromedp.FromContext(browser.ctx).Browser.Process().Pid
					start := processes(b, pid)
					took := eval[float64](p, `new Promise(r => { const t = performance.now(); setTimeout(() => r(performance.now() - t), 8000); })`)
					used, most := 0.0, 0.0
					for id, now := range processes(b, pid) {
						used += now.cpu - start[id].cpu
						if now.renderer {
							most = max(most, now.memory)
						}
					}
					cpu, memory = append(cpu, used/(took/1000)*100), append(memory, most)
					p.close()
				}()
			}
			for _, m := range []struct {
				list []float64
				unit string
			}{
				{draw, "ms-to-draw"}, {drawThread, "ms-thread-to-draw"}, {panThread, "ms-thread-per-frame"}, {fps, "pan-fps"}, {frame, "ms-pan-p95"}, {zoomFPS, "zoom-fps"}, {zoomFrame, "ms-zoom-p95"}, {live, "ms-tick-to-screen"}, {cpu, "%cpu-live"}, {memory, "MB-renderer"},
			} {
				slices.Sort(m.list)
				b.ReportMetric(m.list[len(m.list)/2], m.unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// thread is how much processor time the page's main thread has taken, ms. It must have been enabled. Unlike the time on a clock it does not depend on what else the
// machine does.
func (p *tab) thread() float64 {
	p.t.Helper()
	var v float64
	p.do(chromedp.ActionFunc(func(ctx context.Context) error {
		list, err := performance.GetMetrics().Do(ctx)
		for _, m := range list {
			if m.Name == "TaskDuration" {
				v = m.Value * 1000
			}
		}
		return err
	}))
	return v
}

// ticks returns how long after a tick of the preview, which is at whole seconds, its figures are shown, ms: the median of the ticks in a while.
func (p *tab) ticks(long time.Duration) float64 {
	p.t.Helper()
	f := p.watch(`new Promise(r => { const t = performance.now(); setTimeout(() => r(performance.now() - t), ` + itoa(int(long.Milliseconds())) + `); })`)
	var after []float64
	last := 0.0
	for _, at := range f.at {
		if tick := math.Floor(at / 1000); tick != last {
			last, after = tick, append(after, at-1000*tick)
		}
	}
	if len(after) > 2 {
		after = after[1:] // of the first, the picture may be of before
	}
	slices.Sort(after)
	return after[len(after)/2]
}

type process struct {
	cpu      float64 // seconds
	memory   float64 // MB, PSS
	renderer bool
}

// processes are those that a process has started, and their children, by what Linux says of them.
func processes(t testing.TB, root int) map[int]process {
	t.Helper()
	parents, out := map[int]int{}, map[int]process{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	stats := map[int][]string{}
	for _, d := range dirs {
		stat, err := os.ReadFile(filepath.Join(d, "stat"))
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parents[pid], _ = strconv.Atoi(fields[1])
		stats[pid] = fields
	}
	for pid, fields := range stats {
		at := pid
		for at > 1 && at != root {
			at = parents[at]
		}
		if at != root {
			continue
		}
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		pr := process{cpu: (user + system) / 100, renderer: strings.Contains(string(line), "--type=renderer")}
		rollup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for l := range strings.Lines(string(rollup)) {
			if kb, ok := strings.CutPrefix(l, "Pss:"); ok {
				v, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
				pr.memory = v / 1024
			}
		}
		out[pid] = pr
	}
	return out
}
