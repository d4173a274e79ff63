package part

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Series is one line of a chart: points at Start, Start+Step, …; NaN where nothing is known.
type Series struct {
	Name   string
	Tone   string // "a" main, "b" second, "c" third, "bad" errors
	Values []float64
}

// Chart is a small time-series drawing, rendered on the server.
type Chart struct {
	ID     string
	Title  string
	Unit   Unit
	Start  time.Time
	Step   time.Duration
	Series []Series
	// Marks are instants worth a line: decisions, deploys.
	Marks []Mark
	Dots  []Dot
	Note  string // why there is nothing to draw
}

// Unit is what the values of a chart are; web/src/charts.ts knows the same.
type Unit string

const (
	UnitRate    Unit = "rate"    // events per second
	UnitRatio   Unit = "ratio"   // 0 to 1, shown as percent
	UnitSeconds Unit = "seconds" // a latency
	UnitCount   Unit = "count"   // how many there are
)

// Format is a value with its unit.
func (u Unit) Format(v float64) string {
	switch u {
	case UnitRate:
		return Rate(v)
	case UnitRatio:
		return Percent(v)
	case UnitSeconds:
		return Seconds(v)
	}
	return Number(v)
}

// Dot is one request of which the trace is known, at its time and value.
type Dot struct {
	Time        time.Time
	Value       float64
	Title, Href string
}

// Mark is a vertical line in a chart.
type Mark struct {
	Time  time.Time
	Title string
}

// Chart geometry, in the units of its viewBox.
const (
	chartW, chartH             = 480.0, 152.0
	chartLeft, chartRight      = 4.0, 476.0
	chartTop, chartBottom      = 12.0, 132.0
	chartLabelY                = 148.0
	chartGridLines             = 3
	minimumVisible, fullCircle = 1e-9, 1.0
)

// Empty says whether no series has a point.
func (c *Chart) Empty() bool {
	for _, s := range c.Series {
		for _, v := range s.Values {
			if !math.IsNaN(v) {
				return false
			}
		}
	}
	return true
}

func (c *Chart) top() float64 {
	m := 0.0
	for _, s := range c.Series {
		for _, v := range s.Values {
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				m = math.Max(m, v)
			}
		}
	}
	return niceCeil(m)
}

// niceCeil rounds up to 1, 1.5, 2, 3, 4, 6 or 8 times a power of ten, so that thirds and halves of it print well.
func niceCeil(v float64) float64 {
	if v <= minimumVisible {
		return fullCircle
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 1.5, 2, 3, 4, 6, 8, 10} {
		if v <= m*p*1.0001 {
			return m * p
		}
	}
	return 10 * p
}

func (c *Chart) points() int {
	n := 0
	for _, s := range c.Series {
		n = max(n, len(s.Values))
	}
	return n
}

func (c *Chart) x(i int) float64 {
	return chartLeft + (chartRight-chartLeft)*float64(i)/float64(max(1, c.points()-1))
}

// Line is the SVG path of s; gaps where values are missing.
func (c *Chart) Line(s Series) string { return c.path(s, false) }

// Area is Line closed to the base line.
func (c *Chart) Area(s Series) string { return c.path(s, true) }

func (c *Chart) path(s Series, closed bool) string {
	top := c.top()
	var b strings.Builder
	open := false
	firstX, lastX := 0.0, 0.0
	end := func() {
		if open && closed {
			b.WriteString("L" + fixed(lastX) + " " + fixed(chartBottom) + "L" + fixed(firstX) + " " + fixed(chartBottom) + "Z")
		}
		open = false
	}
	for i, v := range s.Values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			end()
			continue
		}
		x, y := c.x(i), chartBottom-(chartBottom-chartTop)*v/top
		if open {
			b.WriteByte('L')
		} else {
			b.WriteByte('M')
			firstX = x
		}
		b.WriteString(fixed(x) + " " + fixed(y))
		lastX, open = x, true
	}
	end()
	return b.String()
}

func fixed(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// GridLine is one horizontal line with its value.
type GridLine struct{ Y, TextY, Label string }

// Grid are the horizontal lines, top first; the base line has no label.
func (c *Chart) Grid() []GridLine {
	top := c.top()
	var out []GridLine
	for i := range chartGridLines {
		f := float64(chartGridLines-1-i) / float64(chartGridLines-1)
		y := chartBottom - (chartBottom-chartTop)*f
		g := GridLine{Y: fixed(y), TextY: fixed(y - 3)}
		if f > 0 {
			g.Label = c.Unit.Format(top * f)
		}
		out = append(out, g)
	}
	return out
}

// Tick is a time on the axis.
type Tick struct{ X, Anchor, Label string }

// Ticks are the first, middle and last instant.
func (c *Chart) Ticks() []Tick {
	n := c.points()
	if n < 2 {
		return nil
	}
	layout := "15:04"
	switch long := time.Duration(n-1) * c.Step; {
	case long > 24*time.Hour:
		layout = "2 Jan 15:04"
	case long < 10*time.Minute:
		layout = "15:04:05"
	}
	at := func(i int) string { return c.Start.Add(time.Duration(i) * c.Step).UTC().Format(layout) }
	return []Tick{
		{fixed(chartLeft), "start", at(0)},
		{fixed((chartLeft + chartRight) / 2), "middle", at(n / 2)},
		{fixed(chartRight), "end", at(n - 1)},
	}
}

// MarkX is the place of a mark, "" outside the chart.
func (c *Chart) MarkX(m Mark) string { return c.xAt(m.Time) }

func (c *Chart) xAt(t time.Time) string {
	n := c.points()
	if n < 2 {
		return ""
	}
	f := float64(t.Sub(c.Start)) / float64(c.Step*time.Duration(n-1))
	if f < 0 || f > 1 {
		return ""
	}
	return fixed(chartLeft + (chartRight-chartLeft)*f)
}

// place is where a dot is drawn; one that is higher than the chart at its upper edge. x is "" outside of the time.
func (c *Chart) place(d Dot) (x, y string) {
	return c.xAt(d.Time), fixed(max(chartTop, chartBottom-(chartBottom-chartTop)*d.Value/c.top()))
}

// Data is what a script draws the chart from, as JSON: unit, start (unix seconds) and step (seconds), for each series its name, tone and values (null where nothing is known),
// for each mark its time and title. "" when there is nothing to draw.
func (c *Chart) Data() string {
	if c.Empty() {
		return ""
	}
	b := []byte(`{"unit":"` + string(c.Unit) + `","start":` + fixed3(c.Start) + `,"step":` + number(c.Step.Seconds()) + `,"series":[`)
	for i, s := range c.Series {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`+inJSON(s.Name)+`,"tone":"`+s.Tone+`","values":[`...)
		for k, v := range s.Values {
			if k > 0 {
				b = append(b, ',')
			}
			b = append(b, number(v)...)
		}
		b = append(b, "]}"...)
	}
	b = append(b, `],"marks":[`...)
	for i, m := range c.Marks {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"t":`+fixed3(m.Time)+`,"title":`+inJSON(m.Title)+`}`...)
	}
	return string(append(b, "]}"...))
}

// number is v with five digits as JSON; null when it is none.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "null"
	}
	return strconv.FormatFloat(v, 'g', 5, 64)
}

func fixed3(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', -1, 64) }

func inJSON(s string) string {
	b, _ := json.Marshal(s) // a string always can
	return string(b)
}

// Last is the newest value of s as text.
func (c *Chart) Last(s Series) string {
	for i := len(s.Values) - 1; i >= 0; i-- {
		if !math.IsNaN(s.Values[i]) {
			return c.Unit.Format(s.Values[i])
		}
	}
	return Dash
}

// Summary describes the chart in words for readers who do not see it.
func (c *Chart) Summary() string {
	var b strings.Builder
	b.WriteString(c.Title)
	for _, s := range c.Series {
		b.WriteString("; " + s.Name + " now " + c.Last(s))
	}
	return b.String()
}
