package page

import (
	"context"
	"errors"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// Timeline is the strip below the graph on which one goes back in time: how much was asked and how much of it failed, what was decided, and
// where the drawing stands.
type Timeline struct {
	Start, End time.Time
	At         time.Time // of the drawing; zero: it is live
	From       time.Time // what it is compared with; zero: with nothing
	Spans      []SpanLink
	All, Bad   string // SVG areas in a box of timelineW × timelineH
	AtX, FromX string
	Marks      []TimeMark
	Peak       string // the most that was asked in it
	Step       time.Duration
	Span       string
	Back       string // URLs of one step back and forward; "" where there is no further
	Forward    string
	Compare    []SpanLink
	Note       string
	Lens       lens
}

// SpanLink is a choice.
type SpanLink struct {
	Title, Href string
	Current     bool
}

// TimeMark is one instant at which something was decided, or several that are too near to each other to be told apart.
type TimeMark struct {
	X, Title, Href string
	Level          part.Level
}

const (
	timelineW, timelineH = 1200.0, 40.0
	markApart            = 8.0 // in units of the box
	maxTimeMarks         = 400 // events that are looked at
)

// spans are the choices of how much the strip covers; step is also how far the steps back and forward go.
var spans = []struct {
	name string
	long time.Duration
	step time.Duration
}{
	{"15m", 15 * time.Minute, 10 * time.Second},
	{"1h", time.Hour, 30 * time.Second},
	{"6h", 6 * time.Hour, 3 * time.Minute},
	{"24h", 24 * time.Hour, 12 * time.Minute},
	{"7d", 7 * 24 * time.Hour, 84 * time.Minute},
}

const defaultSpan = 1

// compareWith are the distances offered for a comparison.
var compareWith = []struct {
	name string
	ago  time.Duration
}{{"5 min", 5 * time.Minute}, {"15 min", 15 * time.Minute}, {"1 h", time.Hour}, {"1 day", 24 * time.Hour}, {"1 week", 7 * 24 * time.Hour}}

// instants are what the URL of the topology says about time.
type instants struct {
	at, from time.Time // zero: not given
	span     int       // index into spans; -1: no strip is asked for
	lens     lens      // which part is drawn, for links
}

// parseInstants reads at, from and span. A time is RFC 3339, unix seconds, or how long before now (at) or before at (from): "-15m".
func parseInstants(q url.Values, now time.Time) (instants, error) {
	i := instants{span: -1}
	var err error
	if s := q.Get("at"); s != "" {
		if i.at, err = instant(s, now); err != nil {
			return i, err
		}
		if i.at.After(now) {
			i.at = now
		}
	}
	if s := q.Get("from"); s != "" {
		base := now
		if !i.at.IsZero() {
			base = i.at
		}
		if i.from, err = instant(s, base); err != nil {
			return i, err
		}
	}
	if s := q.Get("span"); s != "" {
		for k := range spans {
			if spans[k].name == s {
				i.span = k
			}
		}
		if i.span < 0 {
			return i, errors.New("the span " + strconv.Quote(s) + " is none of 15m, 1h, 6h, 24h, 7d")
		}
	} else if !i.at.IsZero() || !i.from.IsZero() {
		i.span = defaultSpan
	}
	return i, nil
}

func instant(s string, base time.Time) (time.Time, error) {
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		if d, err := time.ParseDuration(ago); err == nil {
			return base.Add(-d), nil
		}
	}
	t, err := ParseTime(s)
	if err != nil {
		return t, errors.New(strconv.Quote(s) + " is no time: write 2026-11-20T14:30:00Z, unix seconds, or -15m for a quarter of an hour before")
	}
	return t, nil
}

// url is the topology at other instants; the zero time leaves one out.
func (i instants) url(at, from time.Time) string {
	q := url.Values{}
	i.lens.set(q)
	if !at.IsZero() {
		q.Set("at", part.ISO(at))
	}
	if !from.IsZero() {
		q.Set("from", part.ISO(from))
	}
	if i.span >= 0 {
		q.Set("span", spans[i.span].name)
	}
	if len(q) == 0 {
		return "/"
	}
	return "/?" + q.Encode()
}

// whole is the same instants without a lens.
func (i instants) whole() string {
	i.lens = lens{kiosk: i.lens.kiosk} // and without what is found and hidden
	return i.url(i.at, i.from)
}

// opened is now with the strip, closed now without; both through the same lens.
func (i instants) opened() string {
	i.span = defaultSpan
	return i.url(time.Time{}, time.Time{})
}

func (i instants) closed() string {
	i.span = -1
	return i.url(time.Time{}, time.Time{})
}

// timeline fills the strip for i.
func (d *Deps) timeline(ctx context.Context, i instants) *Timeline {
	now := d.Clock().UTC()
	sp := spans[i.span]
	t := &Timeline{At: i.at, From: i.from, Step: sp.step, Span: sp.name, Lens: i.lens}
	at := i.at
	if at.IsZero() {
		at = now.Truncate(time.Second)
	}
	// What is drawn is on the strip, and what it is compared with where there is room for both.
	t.End = now.Truncate(sp.step).Add(sp.step)
	oldest := at
	if !i.from.IsZero() && i.from.Before(at) {
		oldest = i.from
	}
	if oldest.Before(t.End.Add(-sp.long)) {
		end := oldest.Add(sp.long * 9 / 10)
		if at.After(end) {
			end = at.Add(sp.long / 10)
		}
		if end = end.Truncate(sp.step); end.Before(t.End) {
			t.End = end
		}
	}
	t.Start = t.End.Add(-sp.long)
	for k := range spans {
		other := i
		other.span = k
		t.Spans = append(t.Spans, SpanLink{spans[k].name, other.url(i.at, i.from), k == i.span})
	}
	t.Back = i.url(at.Add(-sp.step), i.from)
	if next := at.Add(sp.step); next.Before(now) {
		t.Forward = i.url(next, i.from)
	}
	for _, c := range compareWith {
		from := at.Add(-c.ago)
		t.Compare = append(t.Compare, SpanLink{c.name, i.url(at, from), from.Equal(i.from)})
	}
	t.AtX, t.FromX = t.x(i.at), t.x(i.from)
	d.timelineTraffic(ctx, t)
	d.timelineMarks(ctx, t, i)
	return t
}

// timelineTraffic draws how much was asked: of each edge what the side saw that saw more.
func (d *Deps) timelineTraffic(ctx context.Context, t *Timeline) {
	if d.Metrics.Engine == nil || d.Metrics.Queryable == nil {
		t.Note = "This observer keeps no series, so there is no past to go to."
		return
	}
	window := strconv.Itoa(int(max(t.Step, 30*time.Second)/time.Second)) + "s"
	n := int(t.End.Sub(t.Start)/t.Step) + 1
	rates := make([][]float64, 2)
	for k, series := range []string{`tulle_requests_total{probe=""}`, `tulle_request_failures_total`} {
		rates[k] = make([]float64, n)
		query := `sum(max by (source, destination, protocol) (sum by (source, destination, protocol, side) (rate(` + series + `[` + window + `]))))`
		if err := d.fill(ctx, rates[k], query, t.Start, t.End, t.Step); err != nil {
			t.Note = "How much was asked cannot be drawn: " + err.Error()
			return
		}
	}
	top := 0.0
	for _, v := range rates[0] {
		top = math.Max(top, v)
	}
	if top == 0 {
		t.Note = "Nothing was counted in this time."
		return
	}
	t.Peak = part.Rate(top)
	t.All, t.Bad = steps(rates[0], top), steps(rates[1], top)
}

// steps is the area below values, as high as the box at top. Each value is as wide as its step.
func steps(values []float64, top float64) string {
	var b strings.Builder
	w := timelineW / float64(len(values)-1)
	b.WriteString("M0 " + px(timelineH))
	for i, v := range values {
		y := timelineH
		if v > 0 {
			y = math.Min(timelineH-1, timelineH-(timelineH-4)*v/top) // what is there is seen
		}
		b.WriteString("H" + px(max(0, (float64(i)-.5)*w)) + "V" + px(y))
	}
	b.WriteString("H" + px(timelineW) + "V" + px(timelineH) + "Z")
	return b.String()
}

// x is the place of an instant, "" outside the strip.
func (t *Timeline) x(at time.Time) string {
	if at.IsZero() || at.Before(t.Start) || at.After(t.End) {
		return ""
	}
	return px(timelineW * float64(at.Sub(t.Start)) / float64(t.End.Sub(t.Start)))
}

// timelineMarks puts what was decided on the strip; what would lie on top of each other is one mark.
func (d *Deps) timelineMarks(ctx context.Context, t *Timeline, i instants) {
	if d.Events == nil {
		return
	}
	list, _, err := d.Events.Query(ctx, event.Query{Start: t.Start, End: t.End, Limit: maxTimeMarks})
	if err != nil {
		t.Note = "Events cannot be read: " + err.Error()
		return
	}
	last, count := math.Inf(-1), 0
	for _, e := range slices.Backward(list) { // oldest first
		if e.Kind.Routine() {
			continue
		}
		x := timelineW * float64(e.Time.Sub(t.Start)) / float64(t.End.Sub(t.Start))
		level := part.SeverityLevel(e.Severity)
		if n := len(t.Marks); n > 0 && x-last < markApart {
			m := &t.Marks[n-1]
			count++
			m.Title = strings.SplitN(m.Title, "\n", 2)[0] + "\nand " + part.Plural(count, "more event", "more events")
			if rank(level) > rank(m.Level) {
				m.Level = level
			}
			continue
		}
		last, count = x, 0
		t.Marks = append(t.Marks, TimeMark{X: px(x), Level: level, Title: e.Time.UTC().Format("15:04:05") + " " + e.Message, Href: i.url(e.Time, i.from)})
	}
}

// ChangeView is one line of what changed.
type ChangeView struct {
	What, Href, Was, Is string
	Source, Destination string // of an edge
	Change              graph.Change
	Level               part.Level
}

// changeWords say a change to a person.
var changeWords = map[graph.Change]string{
	graph.ChangeNew: "new", graph.ChangeGone: "gone", graph.ChangeMoreErrors: "more errors", graph.ChangeFewerErrors: "fewer errors", graph.ChangeSlower: "slower",
	graph.ChangeFaster: "faster", graph.ChangeMoreTraffic: "more traffic", graph.ChangeLessTraffic: "less traffic", graph.ChangeUnprotected: "plaintext now",
	graph.ChangeProtected: "mutual TLS now",
}

func changeLevel(c graph.Change) part.Level {
	switch c {
	case graph.ChangeMoreErrors:
		return part.Bad
	case graph.ChangeSlower, graph.ChangeGone, graph.ChangeUnprotected:
		return part.Warn
	}
	return part.OK
}

// changeViews puts a Difference into words.
func changeViews(d graph.Difference) []ChangeView {
	out := make([]ChangeView, 0, len(d.Nodes)+len(d.Edges))
	for _, e := range d.Edges {
		v := ChangeView{Source: e.Source, Destination: e.Destination, Href: EdgeURL(e.Source, e.Destination, e.Protocol), Change: e.Changes[0], Level: changeLevel(e.Changes[0])}
		words := make([]string, len(e.Changes))
		for i, c := range e.Changes {
			words[i] = changeWords[c]
		}
		v.What = strings.Join(words, ", ")
		v.Was, v.Is = viewWords(e.Before, e.Protocol), viewWords(e.After, e.Protocol)
		out = append(out, v)
	}
	for _, n := range d.Nodes {
		out = append(out, ChangeView{Source: n.Name, Href: ServiceURL(n.ID), What: changeWords[n.Change], Change: n.Change, Level: part.OK})
	}
	return out
}

func viewWords(v *graph.View, protocol string) string {
	if v == nil {
		return ""
	}
	if isTCP(protocol) {
		return openText(v.Active)
	}
	return part.Rate(v.Rate) + ", " + part.Percent(v.ErrorRatio) + " errors, p50 " + part.Seconds(v.P50) + ", p99 " + part.Seconds(v.P99)
}

// union is after with what it no longer has of before, so that what is gone can be drawn. Neither is changed.
func union(before, after *graph.Snapshot) *graph.Snapshot {
	u := *after
	u.Nodes, u.Edges = slices.Clone(after.Nodes), slices.Clone(after.Edges)
	nodes, edges := map[string]bool{}, map[string]bool{}
	for i := range after.Nodes {
		nodes[after.Nodes[i].ID] = true
	}
	for i := range after.Edges {
		edges[after.Edges[i].ID] = true
	}
	for i := range before.Nodes {
		if n := before.Nodes[i]; !nodes[n.ID] {
			u.Nodes = append(u.Nodes, graph.Node{ID: n.ID, Name: n.Name, Namespace: n.Namespace, Kind: n.Kind})
		}
	}
	for i := range before.Edges {
		if e := before.Edges[i]; !edges[e.ID] {
			u.Edges = append(u.Edges, graph.Edge{ID: e.ID, Source: e.Source, Destination: e.Destination, Protocol: e.Protocol, MTLS: e.MTLS, State: e.State})
		}
	}
	return &u
}

// mark notes on the drawing what changed.
func (v *GraphView) mark(d graph.Difference) {
	nodes, edges := map[string]graph.Change{}, map[string]graph.EdgeChange{}
	for _, n := range d.Nodes {
		nodes[n.ID] = n.Change
	}
	for _, e := range d.Edges {
		edges[e.ID] = e
	}
	for i := range v.Nodes {
		v.Nodes[i].Change = nodes[v.Nodes[i].ID]
		if c := v.Nodes[i].Change; c != "" {
			v.Nodes[i].Fig.Note = changeWords[c]
		}
	}
	for i := range v.Edges {
		e := &v.Edges[i]
		c, ok := edges[e.ID]
		if !ok {
			continue
		}
		e.Change = c.Changes[0]
		e.Title = changeWords[e.Change] + "; " + e.Title
		e.Fig.Detail = changeWords[e.Change]
	}
}

// compared says whether any row has changed.
func compared(rows []EdgeView) bool {
	return slices.ContainsFunc(rows, func(e EdgeView) bool { return e.Change != "" })
}

func (t *Timeline) value() int64 {
	if t.At.IsZero() {
		return t.End.Unix()
	}
	return t.At.Unix()
}

func (t *Timeline) valueText() string {
	if t.At.IsZero() {
		return "now"
	}
	return t.At.UTC().Format("2 January 15:04:05")
}

// Ticks are five instants from the strip's begin to its end, evenly apart.
func (t *Timeline) Ticks() []string {
	layout := "15:04:05"
	switch long := t.End.Sub(t.Start); {
	case long > 24*time.Hour:
		layout = "2 Jan 15:04"
	case long >= time.Hour:
		layout = "15:04"
	}
	out := make([]string, 5)
	for i := range out {
		out[i] = t.Start.Add(t.End.Sub(t.Start) * time.Duration(i) / 4).UTC().Format(layout)
	}
	return out
}

// clockTime is an instant as a headline says it, in UTC: with its date when that is not today's.
func clockTime(now, t time.Time) string {
	t = t.UTC()
	if t.Format(time.DateOnly) == now.UTC().Format(time.DateOnly) {
		return t.Format("15:04:05 UTC")
	}
	return t.Format("2 January 2006, 15:04:05 UTC")
}

func isoOrNone(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return part.ISO(t)
}
