package show

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/client"
)

// Series writes one line per series: its labels, how it went, and its last value. now are the values of the last instant; history may be nil.
func (s Style) Series(w io.Writer, now, history []client.Series, width int) error {
	if len(now) == 0 && len(history) == 0 {
		_, err := fmt.Fprintln(w, "the query has no series")
		return err
	}
	byLabels := map[string]*client.Series{}
	for i := range history {
		byLabels[labels(history[i].Labels)] = &history[i]
	}
	var rows [][]cell
	line := func(name string, last *client.Point, past *client.Series) {
		value := cell{text: "-"}
		if last != nil {
			value.text = number(last.Value)
		}
		row := []cell{{text: cmp.Or(name, "{}")}}
		if history != nil {
			low, high, spark := "-", "-", ""
			if past != nil && len(past.Points) > 0 {
				l, h := bounds(past.Points)
				low, high, spark = number(l), number(h), Sparkline(past.Points, width)
			}
			row = append(row, cell{spark, cyan}, cell{text: low}, cell{text: high})
		}
		rows = append(rows, append(row, value))
	}
	for i := range now {
		name := labels(now[i].Labels)
		var last *client.Point
		if n := len(now[i].Points); n > 0 {
			last = &now[i].Points[n-1]
		}
		line(name, last, byLabels[name])
		delete(byLabels, name)
	}
	var gone []string
	for name := range byLabels {
		gone = append(gone, name)
	}
	slices.Sort(gone)
	for _, name := range gone {
		line(name, nil, byLabels[name])
	}
	cols := []column{{"SERIES", false}}
	if history != nil {
		cols = append(cols, column{"HISTORY", false}, column{"MIN", true}, column{"MAX", true})
	}
	return s.table(w, append(cols, column{"VALUE", true}), rows)
}

// labels writes a set as PromQL does, the name first.
func labels(m map[string]string) string {
	var parts []string
	for k, v := range m {
		if k != "__name__" {
			parts = append(parts, k+"="+strconv.Quote(v))
		}
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return m["__name__"]
	}
	return m["__name__"] + "{" + strings.Join(parts, ", ") + "}"
}

// number writes v with four figures.
func number(v float64) string {
	if a := math.Abs(v); a >= 10_000 && a < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func bounds(points []client.Point) (low, high float64) {
	low, high = math.NaN(), math.NaN()
	for _, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
			continue
		}
		if !(low <= p.Value) {
			low = p.Value
		}
		if !(high >= p.Value) {
			high = p.Value
		}
	}
	return low, high
}

var sparks = []rune("▁▂▃▄▅▆▇█")

// Sparkline draws points in at most width characters, each the mean of its share of the time between the first and the last; a blank is a time without a value. The lowest
// value is the lowest bar, the highest the highest.
func Sparkline(points []client.Point, width int) string {
	if len(points) == 0 || width < 1 {
		return ""
	}
	low, high := bounds(points)
	first, span := points[0].Time, points[len(points)-1].Time.Sub(points[0].Time)
	width = min(width, len(points))
	sum, n := make([]float64, width), make([]int, width)
	for _, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
			continue
		}
		i := 0
		if span > 0 {
			i = min(int(float64(p.Time.Sub(first))/float64(span)*float64(width)), width-1)
		}
		sum[max(i, 0)] += p.Value
		n[max(i, 0)]++
	}
	var b strings.Builder
	for i := range sum {
		switch {
		case n[i] == 0:
			b.WriteByte(' ')
		case high == low:
			b.WriteRune(sparks[0])
		default:
			at := int((sum[i]/float64(n[i]) - low) / (high - low) * float64(len(sparks)))
			b.WriteRune(sparks[min(max(at, 0), len(sparks)-1)])
		}
	}
	return b.String()
}
