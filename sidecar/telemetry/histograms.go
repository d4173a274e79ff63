package telemetry

import (
	"bufio"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// given is a histogram of another part of the sidecar.
type given struct {
	name string
	description
	read func() flow.Histogram
}

// Histogram adds a histogram of another part of the sidecar to /metrics: a name without labels that ends in the unit (_seconds), and its HELP. f is called at
// every scrape, concurrently; what it returns is the caller's to keep. A name may be added once, before the first scrape.
func (t *Telemetry) Histogram(name, help string, f func() flow.Histogram) {
	t.given = append(t.given, given{name, description{"histogram", help}, f})
	slices.SortFunc(t.given, func(a, b given) int { return strings.Compare(a.name, b.name) })
}

func (t *Telemetry) writeGiven(w *bufio.Writer, open bool) {
	for _, g := range t.given {
		h := g.read()
		g.header(w, g.name, open)
		(&series{hist: &h}).histogram(w, g.name, open)
	}
}
