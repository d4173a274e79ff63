//go:build unix

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// sample is one look at one process; -1 is "not known".
type sample struct {
	at                   time.Duration
	pid                  int
	rss, goroutines, fds float64
}

type samples struct{ by map[string][]sample }

func newSamples() *samples { return &samples{by: map[string][]sample{}} }

func (s *samples) add(name string, v sample) { s.by[name] = append(s.by[name], v) }

// growth compares two stretches of a run: the fifth after the middle and the last fifth, by their medians, which one collection or one burst
// does not move.
func growth(all []sample, of func(sample) float64) (early, late float64) {
	n := len(all)
	median := func(part []sample) float64 {
		v := make([]float64, len(part))
		for i, p := range part {
			v[i] = of(p)
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	fifth := max(n/5, 1)
	return median(all[n*2/5 : n*2/5+fifth]), median(all[n-fifth:])
}

// allowed is how much a figure may rise between the two stretches and not count as growth: a share, and a little besides.
type allowed struct{ share, more float64 }

var (
	allowRSS        = allowed{0.15, 4 << 20}
	allowGoroutines = allowed{0.15, 15}
	allowFDs        = allowed{0.15, 15}
)

func (a allowed) exceeded(early, late float64) bool { return late > early*(1+a.share)+a.more }

// judge prints the table and returns what is wrong. Every name in want must have been seen.
func (s *samples) judge(out io.Writer, want []string) []error {
	var problems []error
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "process\tRSS\tpeak\tgoroutines\t\tfds\t\t")
	fmt.Fprintln(w, "\tMiB\tMiB\tthen\tnow\tthen\tnow\t")
	var control float64
	for _, name := range want {
		all := s.by[name]
		if len(all) < 5 {
			problems = append(problems, fmt.Errorf("%s: seen only %d times", name, len(all)))
			continue
		}
		pids := map[int]bool{}
		var peak float64
		for _, v := range all {
			pids[v.pid] = true
			peak = max(peak, v.rss)
		}
		if len(pids) > 1 {
			problems = append(problems, fmt.Errorf("%s was restarted %d times", name, len(pids)-1))
		}
		r0, r1 := growth(all, func(v sample) float64 { return v.rss })
		g0, g1 := growth(all, func(v sample) float64 { return v.goroutines })
		f0, f1 := growth(all, func(v sample) float64 { return v.fds })
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%s\t%s\t%s\t%s\t\n", name, r1/(1<<20), peak/(1<<20), known(g0), known(g1), known(f0), known(f1))
		if allowRSS.exceeded(r0, r1) {
			problems = append(problems, fmt.Errorf("%s: memory grew from %.1f to %.1f MiB", name, r0/(1<<20), r1/(1<<20)))
		}
		if g1 < 0 {
			problems = append(problems, fmt.Errorf("%s: its admin port does not tell go_goroutines", name))
		} else if allowGoroutines.exceeded(g0, g1) {
			problems = append(problems, fmt.Errorf("%s: goroutines grew from %.0f to %.0f", name, g0, g1))
		}
		if allowFDs.exceeded(f0, f1) {
			problems = append(problems, fmt.Errorf("%s: descriptors grew from %.0f to %.0f", name, f0, f1))
		}
		if strings.HasSuffix(name, "-sidecar") {
			if peak > sidecarBudget {
				problems = append(problems, fmt.Errorf("%s: %.1f MiB, at most %d are allowed", name, peak/(1<<20), sidecarBudget>>20))
			}
		} else {
			control += peak
		}
	}
	w.Flush()
	fmt.Fprintf(out, "controller + observer: %.1f MiB at their peaks, at most %d allowed\n", control/(1<<20), controlBudget>>20)
	if control > controlBudget {
		problems = append(problems, fmt.Errorf("controller + observer: %.1f MiB, at most %d are allowed", control/(1<<20), controlBudget>>20))
	}
	return problems
}

func known(v float64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", v)
}
