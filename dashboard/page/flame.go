package page

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
)

// FlameView is a trace as calls above those that they made, as wide as they took long together.
type FlameView struct {
	Bars   []FlameBar
	Height int
	Hidden int // calls that are too narrow or too deep to be drawn
	Rows   []CallRow
}

// FlameBar is one call. X and W are in percent of the width.
type FlameBar struct {
	X, W        string
	Y           int
	Kind        string
	Error       bool
	Label, Says string
	Link        string
}

// CallRow is one call in the table below, the one that took most itself first.
type CallRow struct {
	Service, Name, Kind string
	Count, Errors       int
	Total, Self         time.Duration
	Share               float64 // of all that calls took themselves
	Link                string
}

const (
	flameRow   = 24  // px
	flameDepth = 60  // rows
	flameWidth = .05 // percent; what is narrower cannot be seen
	flameTable = 50  // rows of the table
)

func newFlame(rows []SpanRow, link func(span string) string) *FlameView {
	v := &FlameView{}
	type placed struct {
		c    *call
		x, w float64
	}
	self := time.Duration(0)
	top := callTree(rows)
	next := []placed{{top, 0, 100}}
	for len(next) > 0 {
		p := next[0]
		next = next[1:]
		below := time.Duration(0)
		for _, c := range p.c.Calls {
			below += c.Total
		}
		if p.c != top {
			below = max(below, p.c.Total) // calls at the same time take more together: they are drawn narrower
		}
		x := p.x
		for _, c := range p.c.Calls {
			w := 0.0
			if below > 0 {
				w = p.w * float64(c.Total) / float64(below)
			}
			if c.Depth >= flameDepth || w < flameWidth {
				v.Hidden++
				c.each(func(*call) { v.Hidden++ })
				continue
			}
			label := c.Service + " " + c.Name
			says := fmt.Sprintf("%s: %s in %s, %s of it itself", label, part.Span(c.Total), part.Plural(c.Count, "call", "calls"), part.Span(c.Self))
			if c.Errors > 0 {
				says += ", " + part.Plural(c.Errors, "error", "errors")
			}
			v.Bars = append(v.Bars, FlameBar{percent(x), percent(w), c.Depth * flameRow, c.Kind, c.Errors > 0, label, says, link(c.Longest)})
			v.Height = max(v.Height, (c.Depth+1)*flameRow)
			next = append(next, placed{c, x, w})
			x += w
		}
	}
	byName := map[[3]string]*CallRow{}
	var list []*CallRow
	top.each(func(c *call) {
		self += c.Self
		k := [3]string{c.Service, c.Name, c.Kind}
		r := byName[k]
		if r == nil {
			r = &CallRow{Service: c.Service, Name: c.Name, Kind: c.Kind, Link: link(c.Longest)}
			byName[k] = r
			list = append(list, r)
		}
		r.Count, r.Errors, r.Total, r.Self = r.Count+c.Count, r.Errors+c.Errors, r.Total+c.Total, r.Self+c.Self
	})
	slices.SortStableFunc(list, func(a, b *CallRow) int { return cmp.Compare(b.Self, a.Self) })
	for _, r := range list[:min(len(list), flameTable)] {
		if self > 0 {
			r.Share = float64(r.Self) / float64(self)
		}
		v.Rows = append(v.Rows, *r)
	}
	return v
}

func percent(f float64) string { return fmt.Sprintf("%.3f%%", f) }
