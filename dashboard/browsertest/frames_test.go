package browsertest

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/tracing"
	"github.com/chromedp/chromedp"
)

// frames are what was shown in a while: when the display compositor drew and swapped, in milliseconds of the page's wall clock, by the browser's own trace. A browser
// without a screen calls none of them presented.
type frames struct {
	at   []float64
	took float64 // how long one looked, ms
}

func (f frames) perSecond() float64 { return float64(len(f.at)) / f.took * 1000 }

// p95 is the time between two frames that 95 of 100 keep, ms.
func (f frames) p95() float64 {
	var gaps []float64
	for i := 1; i < len(f.at); i++ {
		gaps = append(gaps, f.at[i]-f.at[i-1])
	}
	if len(gaps) == 0 {
		return f.took
	}
	slices.Sort(gaps)
	return gaps[len(gaps)*95/100]
}

// shown runs step before every frame for a while, and returns the frames that were shown with it.
func (p *tab) shown(long time.Duration, step string) frames {
	p.t.Helper()
	return p.watch(`new Promise(r => { const t = performance.now(); const go = () => { ` + step + `; performance.now() - t < ` + ftoa(float64(long.Milliseconds())) +
		` ? requestAnimationFrame(go) : r(performance.now() - t); }; requestAnimationFrame(go); })`)
}

// watch returns the frames that were shown until a promise yields how many milliseconds it took.
func (p *tab) watch(promise string) frames {
	p.t.Helper()
	const clock = "tulle-clock-"
	var mu sync.Mutex
	var at []float64
	ahead, done := 0.0, make(chan struct{}) // of the trace's clock, ms
	var once sync.Once
	chromedp.ListenTarget(p.ctx, func(e any) {
		switch e := e.(type) {
		case *tracing.EventDataCollected:
			mu.Lock()
			defer mu.Unlock()
			for _, v := range e.Value {
				var f struct {
					Name  string  `json:"name"`
					Phase string  `json:"ph"`
					At    float64 `json:"ts"`
					Took  float64 `json:"dur"`
					Args  struct {
						Pipeline struct {
							Step string `json:"step"`
						} `json:"chrome_graphics_pipeline"`
					} `json:"args"`
				}
				if json.Unmarshal([]byte(v), &f) != nil {
					continue
				}
				if f.Phase == "X" && f.Args.Pipeline.Step == "STEP_DRAW_AND_SWAP" {
					at = append(at, (f.At+f.Took)/1000)
				}
				if wall, ok := strings.CutPrefix(f.Name, clock); ok {
					if w, err := strconv.ParseFloat(wall, 64); err == nil {
						ahead = f.At/1000 - w
					}
				}
			}
		case *tracing.EventTracingComplete:
			once.Do(func() { close(done) })
		}
	})
	p.do(tracing.Start().WithTransferMode(tracing.TransferModeReportEvents).WithTraceConfig(&tracing.TraceConfig{
		IncludedCategories: []string{"graphics.pipeline", "blink.user_timing"}, ExcludedCategories: []string{"*"},
	}))
	took := eval[float64](p, `performance.mark("`+clock+`" + (performance.timeOrigin + performance.now())), `+promise)
	p.do(tracing.End())
	select {
	case <-done:
	case <-p.ctx.Done():
		p.t.Fatal("the browser's trace did not end")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(at) == 0 || ahead == 0 {
		p.t.Fatal("the browser's trace has no frame that was drawn and swapped, or no mark: its format is another one than Chromium's of 2026")
	}
	for i := range at {
		at[i] -= ahead
	}
	slices.Sort(at)
	return frames{at, took}
}
