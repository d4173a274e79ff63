//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// sample is one look at a sidecar that is at rest.
type sample struct {
	at              time.Duration
	connections     int64
	heap            float64 // bytes that are in use after a collection
	rss             float64 // bytes
	goroutines, fds float64
}

// What the second half of a run may have more than the first, by their medians. Resident memory at rest goes up and down by some MiB, with what the runtime
// keeps of the memory that it has freed; the heap does not.
const (
	heapSlack  = 512 << 10
	rssSlack   = 3 << 20
	countSlack = 4 // goroutines, descriptors: an upstream connection more or less
)

// judge prints the samples and says what has grown.
func judge(out io.Writer, all []sample) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "connections\tafter\theap\tRSS\tgoroutines\tfds\t")
	for _, s := range all {
		fmt.Fprintf(w, "%d\t%s\t%.2f MiB\t%.1f MiB\t%.0f\t%.0f\t\n", s.connections, s.at.Round(time.Second), s.heap/(1<<20), s.rss/(1<<20), s.goroutines, s.fds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(all) < 10 {
		return fmt.Errorf("%d samples are too few to see growth; let it run longer", len(all))
	}
	var problems []error
	for _, f := range []struct {
		name  string
		of    func(sample) float64
		slack float64
		unit  float64
	}{
		{"heap (MiB)", func(s sample) float64 { return s.heap }, heapSlack, 1 << 20},
		{"memory (MiB)", func(s sample) float64 { return s.rss }, rssSlack, 1 << 20},
		{"goroutines", func(s sample) float64 { return s.goroutines }, countSlack, 1},
		{"descriptors", func(s sample) float64 { return s.fds }, countSlack, 1},
	} {
		first := len(all) / 10 // what a sidecar takes once is no growth
		half := (len(all) - first) / 2
		early, late := median(all[first:first+half], f.of), median(all[len(all)-half:], f.of)
		fmt.Fprintf(out, "%s: %.2f, then %.2f\n", f.name, early/f.unit, late/f.unit)
		if late > early+f.slack {
			problems = append(problems, fmt.Errorf("%s grew from %.2f to %.2f", f.name, early/f.unit, late/f.unit))
		}
	}
	return errors.Join(problems...)
}

func median(part []sample, of func(sample) float64) float64 {
	v := make([]float64, len(part))
	for i, s := range part {
		v[i] = of(s)
	}
	slices.Sort(v)
	return v[len(v)/2]
}
