package page

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store"
)

// WhenView is when the spans that meet a search start: bars, each a link to its time.
type WhenView struct {
	Bars    []WhenBar
	From    time.Time
	To      time.Time
	Step    time.Duration
	Spans   uint64
	Errors  uint64
	Partial bool // there was no time to count all
	Summary string
	steps   int
}

// Width is that of a bar, with the gap behind it.
func (v *WhenView) Width() float64 { return float64(WhenWidth) / float64(v.steps) }

// WhenBar is one step; heights and places are of a drawing of WhenWidth by WhenHeight.
type WhenBar struct {
	X, Y, Height, Bad float64 // Bad is the part of Height that failed, at its foot
	URL, Title        string
}

// The drawing's size, and how wide a bar is.
const (
	WhenWidth  = 960
	WhenHeight = 56
	whenBars   = 48
	// whenTime is how long a page waits for the counts, which must not make it late.
	whenTime = 150 * time.Millisecond
)

// whenSteps are the lengths that a bar may have: those that people count time in.
var whenSteps = []time.Duration{
	10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
}

// stepsOver covers [from, to) with at most whenBars steps that begin at multiples of their length.
func stepsOver(from, to time.Time) store.Steps {
	step := whenSteps[len(whenSteps)-1]
	for _, s := range whenSteps {
		if to.Sub(from) <= s*(whenBars-1) {
			step = s
			break
		}
	}
	s := store.Steps{From: from.Truncate(step), Step: step}
	s.N = min(store.MaxSteps, int(to.Sub(s.From)/step)+1)
	return s
}

// when counts what the search of q's parameters finds in all of its time; nil when nothing is there or it cannot be known.
func when(ctx context.Context, d *Deps, q url.Values, query store.TraceQuery, now time.Time) *WhenView {
	from, to := query.Start, query.End
	if st := d.Spans.Stats(); from.Before(st.Oldest) {
		from = st.Oldest
	}
	if to.IsZero() || to.After(now) {
		to = now
	}
	if from.IsZero() || !from.Before(to) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, whenTime)
	defer cancel()
	counts, err := d.Spans.Count(ctx, query, stepsOver(from, to))
	if err != nil {
		return nil // the list says what is wrong
	}
	v := &WhenView{From: counts.From, To: counts.End(), Step: counts.Step, Partial: counts.Partial, steps: counts.N}
	most := uint64(0)
	for i, n := range counts.Spans {
		v.Spans += n
		v.Errors += counts.Errors[i]
		most = max(most, n)
	}
	if v.Spans == 0 {
		return nil
	}
	for i, n := range counts.Spans {
		if n == 0 {
			continue
		}
		begin := counts.From.Add(time.Duration(i) * counts.Step)
		link := searchURL(q, url.Values{"start": {exact(begin)}, "end": {exact(begin.Add(counts.Step))}}, "cursor", "lookback")
		bar := WhenBar{
			X: v.Width() * float64(i), Height: max(2, float64(n)/float64(most)*WhenHeight), URL: link,
			Title: fmt.Sprintf("%s: %s, %s failed", part.Clock(now, begin), part.Plural(int(n), "span", "spans"), part.Count(counts.Errors[i])), //nolint:gosec // a count
		}
		bar.Y = WhenHeight - bar.Height
		if counts.Errors[i] > 0 {
			bar.Bad = max(2, bar.Height*float64(counts.Errors[i])/float64(n))
		}
		v.Bars = append(v.Bars, bar)
	}
	v.Summary = fmt.Sprintf("%s that match, %s of them failed, from %s to %s", part.Plural(int(v.Spans), "span", "spans"), part.Count(v.Errors), part.Clock(now, v.From), part.Clock(now, v.To)) //nolint:gosec // a count
	return v
}

// exact is a time as a search reads it back, to the nanosecond.
func exact(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// coord is a coordinate of a drawing.
func coord(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
