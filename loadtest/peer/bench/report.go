//go:build linux

package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// series is what was measured of one proxy under one workload, one value per round.
type series struct {
	name, title string
	cpu         []float64 // µs of CPU time per request, all processes of the proxy
	rate        []float64 // requests per second
	busy        []float64 // share of its core
	failure     string    // why it is disqualified; "" if it is not
	flags       []string  // what else went wrong
	note        string    // for the page
}

// bar is what the subject must reach: at most limit times what another one needs.
type bar struct {
	against string // a proxy's name
	limit   float64
}

// subject is the proxy that the bars are for.
const subject = "tulle"

// comparison is the outcome of one workload.
type comparison struct {
	title  string
	unit   string // of what is counted: request, handshake
	series []series
	bars   []bar
	rate   float64 // that all were to carry, requests per second; 0: as many as they could
}

// ratio is the subject's cost relative to another's, by the medians of all rounds and by the best round of each.
type ratio struct {
	against     string
	median, min float64
	limit       float64 // 0: no bar
	behind      bool    // the other did not carry the rate: what it needs for a request at another rate is no measure
}

// met says that both hold.
func (r ratio) met() bool { return r.limit == 0 || r.median <= r.limit && r.min <= r.limit }

// find is nil for a proxy that was not measured.
func (c *comparison) find(name string) *series {
	for i := range c.series {
		if c.series[i].name == name {
			return &c.series[i]
		}
	}
	return nil
}

// ratios are the subject's against every other one that was measured and not disqualified, those with a bar first.
func (c *comparison) ratios() []ratio {
	s := c.find(subject)
	if s == nil || s.failure != "" || len(s.cpu) == 0 {
		return nil
	}
	var out []ratio
	for _, other := range c.series {
		if other.name == subject || other.failure != "" || len(other.cpu) == 0 {
			continue
		}
		r := ratio{against: other.name, median: median(s.cpu) / median(other.cpu), min: slices.Min(s.cpu) / slices.Min(other.cpu)}
		r.behind = c.rate > 0 && median(other.rate) < 0.98*c.rate
		for _, b := range c.bars {
			if b.against == other.name && !r.behind {
				r.limit = b.limit
			}
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b ratio) int { return cmp.Compare(sign(b.limit), sign(a.limit)) })
	return out
}

func sign(v float64) int {
	if v > 0 {
		return 1
	}
	return 0
}

// problems are the bars that are not met and everything that makes the figures doubtful.
func (c *comparison) problems() (out []string) {
	say := func(format string, args ...any) { out = append(out, c.title+": "+fmt.Sprintf(format, args...)) }
	for _, s := range c.series {
		if s.failure != "" {
			say("%s is disqualified: %s", s.title, s.failure)
		}
		for _, f := range s.flags {
			say("%s: %s", s.title, f)
		}
	}
	if s := c.find(subject); s != nil && len(s.rate) > 0 && median(s.rate) < 0.98*c.rate {
		say("Tulle carried %.0f of %.0f requests/s", median(s.rate), c.rate)
	}
	for _, r := range c.ratios() {
		if !r.met() {
			say("%.2f × %s on medians, %.2f × on the best rounds; the bar is %.2f", r.median, r.against, r.min, r.limit)
		}
	}
	return out
}

// markdown is the comparison as a table and its ratios.
func (c *comparison) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n| | CPU µs per %s, median | best round | %ss/s, median | core busy |\n|---|---|---|---|---|\n", c.title, c.unit, c.unit)
	for _, s := range c.series {
		switch {
		case s.failure != "":
			fmt.Fprintf(&b, "| %s | disqualified: %s | | | |\n", s.title, s.failure)
		case len(s.cpu) == 0:
			fmt.Fprintf(&b, "| %s | not measured | | | |\n", s.title)
		default:
			fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.0f | %.0f %% |\n", s.title, median(s.cpu), slices.Min(s.cpu), median(s.rate), 100*median(s.busy))
		}
	}
	if ratios := c.ratios(); len(ratios) > 0 {
		b.WriteString("\n| Tulle relative to | on medians | on best rounds | bar |\n|---|---|---|---|\n")
		for _, r := range ratios {
			verdict := ""
			if r.behind {
				verdict = fmt.Sprintf("none: it did not carry %.0f requests/s", c.rate)
			}
			if r.limit > 0 {
				verdict = fmt.Sprintf("≤ %.2f: met", r.limit)
				if !r.met() {
					verdict = fmt.Sprintf("≤ %.2f: **not met**", r.limit)
				}
			}
			fmt.Fprintf(&b, "| %s | %.2f | %.2f | %s |\n", c.find(r.against).title, r.median, r.min, verdict)
		}
	}
	for _, s := range c.series {
		if s.note != "" {
			fmt.Fprintf(&b, "\n%s: %s.\n", s.title, s.note)
		}
		for _, f := range s.flags {
			fmt.Fprintf(&b, "\n%s: %s.\n", s.title, f)
		}
	}
	return b.String()
}

// median of an even number of values is the mean of the two in the middle; NaN for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// rewrite puts sections into the part of a page between its markers, each in the place of the one that was there of the same workload. Those of other
// workloads stay, and those of workloads that are no more go.
func rewrite(page string, sections []section) (string, error) {
	before, rest, ok := strings.Cut(page, markBegin)
	old, after, ok2 := strings.Cut(rest, markEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("the page has no lines %q and %q", markBegin, markEnd)
	}
	texts := map[string]string{}
	for _, part := range strings.Split(old, markWorkload)[1:] {
		if name, text, ok := strings.Cut(part, " -->\n"); ok {
			texts[name] = strings.TrimSpace(text)
		}
	}
	for _, s := range sections {
		texts[s.name] = strings.TrimSpace(s.text)
	}
	var b strings.Builder
	for _, w := range workloads() {
		if text := texts[w.name]; text != "" {
			b.WriteString(markWorkload + w.name + " -->\n" + text + "\n\n")
		}
	}
	return before + markBegin + "\n\n" + b.String() + markEnd + after, nil
}

const (
	markBegin    = "<!-- make bench-peers writes from here -->"
	markWorkload = "<!-- workload "
	markEnd      = "<!-- to here -->"
)
