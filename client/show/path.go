package show

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store"
)

// CriticalPath is store.CriticalPath of spans.
func CriticalPath(spans []Span) map[string]time.Duration {
	timed := make([]store.Timed, len(spans))
	for i, s := range spans {
		timed[i] = store.Timed{ID: s.ID, Parent: s.Parent, Start: s.Start, Duration: s.Duration}
	}
	return store.CriticalPath(timed)
}

// pathWords names what was waited for longest.
func pathWords(spans []Span, path map[string]time.Duration) string {
	type part struct {
		label string
		took  time.Duration
	}
	var parts []part
	total := time.Duration(0)
	for _, sp := range spans {
		if own := path[sp.ID]; own > 0 {
			parts = append(parts, part{sp.Service + " " + sp.Name, own})
			total += own
		}
	}
	if len(parts) == 0 {
		return "no critical path: no span has a duration"
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.took, a.took) })
	more := ""
	if len(parts) > 4 {
		more = fmt.Sprintf(", and %d more", len(parts)-4)
		parts = parts[:4]
	}
	var words []string
	for _, p := range parts {
		words = append(words, fmt.Sprintf("%s %s (%.0f%%)", p.label, Duration(p.took), 100*float64(p.took)/float64(total)))
	}
	return "* critical path " + Duration(total) + ": " + strings.Join(words, ", ") + more
}
