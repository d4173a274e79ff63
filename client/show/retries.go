package show

import (
	"fmt"
	"io"
	"strings"

	"github.com/tulle-mesh/tulle/store/graph"
)

// Retries are the ways of calls with what retries make of them, as an observer answers.
type Retries struct {
	Paths []graph.RetryPath `json:"paths"`
	More  bool              `json:"more"` // there are more ways than these
}

// Retries writes each way with its hops, the most amplified first.
func (s Style) Retries(w io.Writer, r Retries) error {
	if len(r.Paths) == 0 {
		_, err := fmt.Fprintln(w, "no calls take such a way now")
		return err
	}
	cols := []column{{"WAY", false}, {"REQUESTS", true}, {"ATTEMPTS", true}, {"ATTEMPTS/REQUEST", true}, {"CALLS/REQUEST", true}, {"ERRORS", true}}
	var rows [][]cell
	for _, p := range r.Paths {
		names := make([]string, len(p.Services))
		for i, n := range p.Services {
			names[i] = name(n)
		}
		way := strings.Join(names, " → ")
		if p.Cyclic {
			way += " → …"
		}
		rows = append(rows, []cell{{way, bold}, {}, {}, factor(p.Amplification), {text: fmt.Sprintf("%.2f", p.PerEntry)}, {}})
		for i, h := range p.Hops {
			rows = append(rows, []cell{
				{strings.Repeat("  ", i+1) + name(h.Source) + " → " + name(h.Destination), dim},
				{text: fmt.Sprint(h.Requests)},
				{text: fmt.Sprint(h.Attempts)},
				factor(h.PerRequest),
				{text: fmt.Sprintf("%.2f", h.Calls)},
				ratio(h.ErrorRatio),
			})
		}
	}
	if err := s.table(w, cols, rows); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, "\nA way's attempts for one request are the product of its hops'; its calls are attempts at its end for one request at its beginning.\n")
	if r.More && err == nil {
		_, err = fmt.Fprintln(w, "There are more ways: name where they begin or end with --from and --to.")
	}
	return err
}

// factor is yellow where retries add a tenth, and red where they double.
func factor(f float64) cell {
	c := cell{text: fmt.Sprintf("×%.2f", f)}
	switch {
	case f >= 2:
		c.code = red
	case f >= 1.1:
		c.code = yellow
	}
	return c
}
