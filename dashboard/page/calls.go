package page

import (
	"cmp"
	"slices"
	"time"
)

// call is what spans of one trace that were called alike are together: those of one service and name, called by one and the same call.
type call struct {
	Service, Name, Kind string
	Count, Errors       int
	Total               time.Duration // of all, added up
	Self                time.Duration // of it, what no child of theirs took
	Longest             string        // span id
	Depth               int
	Calls               []*call

	longest time.Duration
}

// callTree puts the rows of a trace, which come parents first, together by how they were called. The call that it returns is above all of them.
func callTree(rows []SpanRow) *call {
	top := &call{Depth: -1}
	at := make(map[string]*call, len(rows)) // by span id
	type name struct {
		above               *call
		service, name, kind string
	}
	known := map[name]*call{}
	below := map[string][][2]time.Duration{}
	for i := range rows {
		if r := &rows[i]; r.Parent != "" {
			below[r.Parent] = append(below[r.Parent], [2]time.Duration{r.Start, r.Start + r.Duration})
		}
	}
	for i := range rows {
		r := &rows[i]
		above := top
		if p := at[r.Parent]; p != nil && r.Parent != "" {
			above = p
		}
		k := name{above, r.Service, r.Name, r.Kind}
		c := known[k]
		if c == nil {
			c = &call{Service: r.Service, Name: r.Name, Kind: r.Kind, Depth: above.Depth + 1}
			known[k] = c
			above.Calls = append(above.Calls, c)
		}
		at[r.ID] = c
		c.Count++
		if r.Error {
			c.Errors++
		}
		c.Total += r.Duration
		c.Self += r.Duration - covered(below[r.ID], r.Start, r.Start+r.Duration)
		if c.Longest == "" || r.Duration > c.longest {
			c.Longest, c.longest = r.ID, r.Duration
		}
	}
	for _, c := range known {
		slices.SortStableFunc(c.Calls, func(a, b *call) int { return cmp.Compare(b.Total, a.Total) })
	}
	return top
}

// covered is how much of [from, to) some of the stretches cover.
func covered(stretches [][2]time.Duration, from, to time.Duration) (sum time.Duration) {
	slices.SortFunc(stretches, func(a, b [2]time.Duration) int { return cmp.Compare(a[0], b[0]) })
	at := from
	for _, s := range stretches {
		lo, hi := max(s[0], at), min(s[1], to)
		if hi > lo {
			sum += hi - lo
			at = hi
		}
	}
	return sum
}

// each calls fn for every call below c, callers first.
func (c *call) each(fn func(*call)) {
	stack := slices.Clone(c.Calls)
	slices.Reverse(stack)
	for len(stack) > 0 {
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		fn(x)
		for _, b := range slices.Backward(x.Calls) {
			stack = append(stack, b)
		}
	}
}
