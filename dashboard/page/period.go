package page

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
)

// Period is the time that the charts of a page cover, as its address says: `last` (one of spans) up to now, or `start` and `end`.
type Period struct {
	Start, End time.Time
	Step       time.Duration
	Last       string // "" when start and end are given
	Choices    []SpanLink
	Wider      string // an address three times as long, of a fixed period
	Wrong      string // what the address says that cannot be; the default is shown then
}

const (
	shortestPeriod = time.Minute
	longestPeriod  = 31 * 24 * time.Hour
	mostPoints     = 240 // of a chart; the pages' drawings are some 500 px wide
)

// chartSteps are the distances of points: series have samples every 5 s, histograms every 10 s.
var chartSteps = []time.Duration{
	10 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour,
}

// parsePeriod reads last, start and end; times are as ParseTime reads them. Links keep the rest of the address u.
func parsePeriod(u *url.URL, now time.Time) Period {
	q := u.Query()
	p, err := readPeriod(q, now)
	if err != nil {
		p, _ = readPeriod(url.Values{}, now)
		p.Wrong = err.Error()
	}
	for _, s := range spans {
		p.Choices = append(p.Choices, SpanLink{s.name, periodURL(u, "last", s.name), s.name == p.Last})
	}
	p.Step = chartSteps[len(chartSteps)-1]
	for _, s := range chartSteps {
		if p.End.Sub(p.Start) <= mostPoints*s {
			p.Step = s
			break
		}
	}
	// Ends stand still for a while, so that a page that is asked again soon shows the same.
	long := time.Duration((int64(p.End.Sub(p.Start))+int64(p.Step)-1)/int64(p.Step)) * p.Step
	p.End = p.End.Truncate(chartSteps[0])
	p.Start = p.End.Add(-long)
	if p.Fixed() {
		p.Wider = p.wider(u, now)
	}
	return p
}

func readPeriod(q url.Values, now time.Time) (Period, error) {
	if q.Get("start") == "" && q.Get("end") == "" {
		name := q.Get("last")
		if name == "" {
			name = spans[0].name
		}
		for _, s := range spans {
			if s.name == name {
				return Period{Start: now.Add(-s.long), End: now, Last: name}, nil
			}
		}
		return Period{}, errors.New("last=" + strconv.Quote(name) + " is none of 15m, 1h, 6h, 24h, 7d. ")
	}
	p := Period{End: now}
	for name, to := range map[string]*time.Time{"start": &p.Start, "end": &p.End} {
		if s := q.Get(name); s != "" {
			t, err := ParseTime(s)
			if err != nil {
				return p, errors.New(name + "=" + strconv.Quote(s) + " is no time: write 2026-11-20T14:30:00Z or unix seconds. ")
			}
			*to = t
		}
	}
	if p.End.After(now) {
		p.End = now
	}
	if p.Start.IsZero() {
		p.Start = p.End.Add(-spans[0].long)
	}
	if !p.Start.Before(p.End) {
		return p, errors.New("start is not before end, or in the future. ")
	}
	if p.End.Sub(p.Start) < shortestPeriod { // around what was asked for
		middle := p.Start.Add(p.End.Sub(p.Start) / 2)
		if p.End = middle.Add(shortestPeriod / 2); p.End.After(now) {
			p.End = now
		}
		p.Start = p.End.Add(-shortestPeriod)
	}
	if p.End.Sub(p.Start) > longestPeriod {
		return p, errors.New("start and end are more than 31 days apart. ")
	}
	return p, nil
}

// periodURL is the address u over another period, without what was selected in the old one; pairs are name, value.
func periodURL(u *url.URL, pairs ...string) string {
	q := u.Query()
	for _, name := range []string{"last", "start", "end", "from", "to", "min", "max"} {
		q.Del(name)
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return u.EscapedPath() + "?" + q.Encode()
}

// window is the range of rate(): no shorter than two samples of a histogram need, and no gap between two points.
func (p *Period) window() string {
	return strconv.FormatInt(int64(max(30*time.Second, p.Step)/time.Second), 10) + "s"
}

// points is how many points a chart has.
func (p *Period) points() int { return int(p.End.Sub(p.Start)/p.Step) + 1 }

// Fixed says whether it does not move with the time.
func (p *Period) Fixed() bool { return p.Last == "" }

// Title is the period in words.
func (p *Period) Title() string {
	if !p.Fixed() {
		return "Last " + strings.NewReplacer("m", " min", "h", " h", "d", " days").Replace(p.Last)
	}
	from, to := p.Start.UTC(), p.End.UTC()
	layout := "15:04:05"
	if p.End.Sub(p.Start) >= time.Hour {
		layout = "15:04"
	}
	if from.YearDay() == to.YearDay() && from.Year() == to.Year() {
		return from.Format("2 Jan 2006 "+layout) + " – " + to.Format(layout) + " UTC"
	}
	return from.Format("2 Jan 2006 "+layout) + " – " + to.Format("2 Jan 2006 "+layout) + " UTC"
}

// wider is an address three times as long around the same middle, up to now.
func (p *Period) wider(u *url.URL, now time.Time) string {
	long := p.End.Sub(p.Start)
	end := p.End.Add(long)
	if end.After(now) {
		end = now
	}
	return periodURL(u, "start", part.ISO(end.Add(-3*long)), "end", part.ISO(end))
}
