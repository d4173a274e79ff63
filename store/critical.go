package store

import (
	"slices"
	"time"
)

// Timed is what CriticalPath looks at of a span.
type Timed struct {
	ID, Parent string // Parent "" for none
	Start      time.Time
	Duration   time.Duration // 0 and up
}

// CriticalPath is how long each span of a trace, by its id, was what the whole waited for: time that would have been saved had it taken none. What a span spends while a
// child of it is waited for is the child's. The sum is the duration of the root that ends last. Spans that nothing waited for are not there.
//
// It goes backwards from the end of the root: the child that ended last before that point is what was waited for until then, and so on, in each child alike. A child that
// outlives its parent counts up to the parent's end; children at the same time as the one that was waited for count for nothing.
func CriticalPath(spans []Timed) map[string]time.Duration {
	path := map[string]time.Duration{}
	known := map[string]bool{}
	for _, sp := range spans {
		known[sp.ID] = true
	}
	children := map[string][]*Timed{}
	var root *Timed
	for i := range spans {
		sp := &spans[i]
		if known[sp.Parent] && sp.Parent != sp.ID {
			children[sp.Parent] = append(children[sp.Parent], sp)
			continue
		}
		if root == nil || sp.Start.Before(root.Start) || sp.Start.Equal(root.Start) && sp.Duration > root.Duration {
			root = sp
		}
	}
	if root == nil {
		return path // all parents form rings
	}
	end := func(sp *Timed) time.Time { return sp.Start.Add(sp.Duration) }
	for _, c := range children {
		slices.SortStableFunc(c, func(a, b *Timed) int { return end(b).Compare(end(a)) })
	}
	var walk func(sp *Timed, from, to time.Time)
	walk = func(sp *Timed, from, to time.Time) {
		own := time.Duration(0)
		at := to
		for _, c := range children[sp.ID] {
			last, first := end(c), c.Start
			if last.After(at) {
				if !first.Before(at) || at != to { // all of it later, or beside what was waited for
					continue
				}
				last = at
			}
			if first.Before(from) {
				first = from
			}
			if !last.After(first) {
				continue
			}
			own += at.Sub(last)
			walk(c, first, last)
			at = first
		}
		if own += at.Sub(from); own > 0 {
			path[sp.ID] += own
		}
	}
	walk(root, root.Start, end(root))
	return path
}
