// Package part holds what pages share: the shell around every page, figures as text, icons, charts and small pieces of markup.
//
// Figures are formatted here and nowhere else, on the server, also for the live feed: a number looks the same in the drawing, in a table,
// after a live update and in the title of a tooltip.
package part

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
)

// Level is how alarming something is. It is always shown by shape or word as well as by colour.
type Level string

const (
	OK    Level = "ok"
	Quiet Level = "quiet" // no traffic in the window
	Warn  Level = "warn"
	Bad   Level = "bad"
	Lost  Level = "lost" // a reporter is missing: the figures are incomplete
)

// Error ratios from which an edge or a service is drawn as warning and as bad.
const (
	WarnRatio = 0.01
	BadRatio  = 0.05
)

// LevelOf judges one view's counts.
func LevelOf(v *graph.View) Level {
	switch {
	case v == nil || (v.Requests == 0 && v.Connections == 0 && v.Active == 0 && v.Rate == 0):
		return Quiet
	case v.ErrorRatio >= BadRatio:
		return Bad
	case v.ErrorRatio >= WarnRatio:
		return Warn
	}
	return OK
}

// Dash stands for a figure that is not known or does not apply.
const Dash = "–"

// Number prints three significant digits with k, M, G.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return Dash
	case a >= 1e9:
		return significant(v/1e9) + "G"
	case a >= 1e6:
		return significant(v/1e6) + "M"
	case a >= 1e4:
		return significant(v/1e3) + "k"
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	default:
		return significant(v)
	}
}

func significant(v float64) string {
	a := math.Abs(v)
	switch {
	case v == 0:
		return "0"
	case a >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 9.995:
		return trimZero(strconv.FormatFloat(v, 'f', 1, 64))
	case a >= 0.095:
		return trimZero(strconv.FormatFloat(v, 'f', 1, 64))
	case a >= 0.01:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return "<0.01"
}

func trimZero(s string) string { return strings.TrimSuffix(s, ".0") }

// Rate prints events per second.
func Rate(v float64) string { return Number(v) + "/s" }

// Count prints an exact count with thin grouping up to a million, then shortened.
func Count[T ~int | ~int64 | ~uint64](v T) string {
	n := int64(v)
	if n >= 1_000_000 || n <= -1_000_000 {
		return Number(float64(v))
	}
	s := strconv.FormatInt(n, 10)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	if len(s) > 3 {
		s = s[:len(s)-3] + "\u202f" + s[len(s)-3:]
	}
	if neg {
		s = "-" + s
	}
	return s
}

// Percent prints a ratio of 0 to 1.
func Percent(ratio float64) string {
	p := ratio * 100
	switch {
	case math.IsNaN(p):
		return Dash
	case p == 0:
		return "0%"
	case p < 0.1:
		return "<0.1%"
	case p < 9.95:
		return strconv.FormatFloat(p, 'f', 1, 64) + "%"
	default:
		return strconv.FormatFloat(p, 'f', 0, 64) + "%"
	}
}

// Seconds prints a latency given in seconds; zero is "not known", because no latency is zero.
func Seconds(s float64) string {
	switch {
	case math.IsNaN(s) || math.IsInf(s, 0) || s <= 0:
		return Dash
	case s < 0.001:
		return strconv.FormatFloat(s*1e6, 'f', 0, 64) + " µs"
	case s < 0.00995:
		return trimZero(strconv.FormatFloat(s*1e3, 'f', 1, 64)) + " ms"
	case s < 0.9995:
		return strconv.FormatFloat(s*1e3, 'f', 0, 64) + " ms"
	case s < 9.995:
		return strconv.FormatFloat(s, 'f', 2, 64) + " s"
	case s < 99.5:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	case s < 5400:
		return strconv.FormatFloat(s/60, 'f', 0, 64) + " min"
	default:
		return strconv.FormatFloat(s/3600, 'f', 1, 64) + " h"
	}
}

// Span prints a duration as a latency; unlike Seconds it shows zero.
func Span(d time.Duration) string {
	if d == 0 {
		return "0 µs"
	}
	if d < 0 {
		return "−" + Seconds((-d).Seconds())
	}
	if d < time.Microsecond {
		return strconv.FormatInt(int64(d), 10) + " ns"
	}
	return Seconds(d.Seconds())
}

// Bytes prints a size in decimal units.
func Bytes(n uint64) string {
	v := float64(n)
	for _, u := range []string{"B", "kB", "MB", "GB", "TB"} {
		if v < 999.5 || u == "TB" {
			return significant(v) + " " + u
		}
		v /= 1000
	}
	return ""
}

// Ago prints how long ago t was, in one unit.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return Dash
	}
	d := now.Sub(t)
	switch {
	case d < 0:
		return "just now"
	case d < 2*time.Second:
		return "just now"
	case d < 100*time.Second:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 100*time.Minute:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}

// Clock prints the time of day, or date and time when it was not today.
func Clock(now, t time.Time) string {
	t = t.In(now.Location())
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2 Jan 15:04:05")
}

// ISO is the machine form of a time, for <time datetime>.
func ISO(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// Offset prints a clock difference with its sign.
func Offset(d time.Duration) string {
	switch {
	case d > 0:
		return "+" + Span(d)
	default:
		return Span(d)
	}
}

// Ellipsis cuts s to about width columns, counting wide scripts double; a cut is marked.
func Ellipsis(s string, width int) string {
	used := 0
	for i, r := range s {
		w := 1
		if r >= 0x1100 && (r <= 0x115f || (r >= 0x2e80 && r <= 0xa4cf) || (r >= 0xac00 && r <= 0xd7a3) || (r >= 0xf900 && r <= 0xfaff) ||
			(r >= 0xfe30 && r <= 0xfe6f) || (r >= 0xff00 && r <= 0xff60) || r >= 0x1f300) {
			w = 2
		}
		if used+w > width-1 && (used+w > width || i+len(string(r)) < len(s)) {
			return s[:i] + "…"
		}
		used += w
	}
	return s
}

// Plural prints n with its noun.
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}
