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

// look is one look at the callers of catalog: the share of their requests that failed, over the 10 s that end at at.
type look struct {
	at    time.Time
	ratio float64
}

// round is one fault and all that followed; zero times did not happen.
type round struct {
	instance, kind      string
	began, healed       time.Time
	ejected, readmitted time.Time // as their events say
	shown               time.Time // ejection first seen in the live graph
	alert, resolved     time.Time // arrived at the webhook
	looks               []look
	ejectedOthers       int // ejections of healthy endpoints during the round
}

// Bars, of issue "The whole loop, running".
const (
	barEjected    = 5 * time.Second
	barErrors     = 8 * time.Second
	barAlert      = 60 * time.Second
	barReadmitted = 120 * time.Second
)

// errorsUntil is when the callers' error ratio was last at or above 1 %, after the fault began; 0 when it never was.
func (r round) errorsUntil() (after time.Duration, worst float64) {
	for _, l := range r.looks {
		if l.at.Before(r.began) || !r.healed.IsZero() && l.at.After(r.healed) {
			continue
		}
		worst = max(worst, l.ratio)
		if l.ratio >= 0.01 {
			after = l.at.Sub(r.began)
		}
	}
	return after, worst
}

// report prints the table and returns the bars that were missed.
func report(out io.Writer, rounds []round, want int) error {
	var problems []error
	if len(rounds) < want {
		problems = append(problems, fmt.Errorf("%d faults were seen, %d were waited for", len(rounds), want))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\tejected\tin graph\terrors ≥ 1 % until\tworst 10 s\talert\treadmitted\tresolved\t")
	fmt.Fprintln(w, "\tafter it began\t\t\t\t\tafter it healed\t\t")
	for i, r := range rounds {
		until, worst := r.errorsUntil()
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%.2f %%\t%s\t%s\t%s\t\n", r.instance, r.kind, since(r.began, r.ejected), since(r.began, r.shown),
			fmt.Sprintf("%.1f s", until.Seconds()), 100*worst, since(r.began, r.alert), since(r.healed, r.readmitted), since(r.healed, r.resolved))
		check := func(what string, from, to time.Time, bar time.Duration) {
			if to.IsZero() {
				problems = append(problems, fmt.Errorf("fault %d (%s %s): not %s", i+1, r.instance, r.kind, what))
			} else if d := to.Sub(from); d > bar {
				problems = append(problems, fmt.Errorf("fault %d (%s %s): %s after %.1f s, at most %s", i+1, r.instance, r.kind, what, d.Seconds(), bar))
			}
		}
		check("ejected", r.began, r.ejected, barEjected)
		check("alerted", r.began, r.alert, barAlert)
		check("readmitted", r.healed, r.readmitted, barReadmitted)
		if r.resolved.IsZero() {
			problems = append(problems, fmt.Errorf("fault %d (%s %s): the alert did not resolve", i+1, r.instance, r.kind))
		}
		if until > barErrors {
			problems = append(problems, fmt.Errorf("fault %d (%s %s): callers saw 1 %% errors or more for %.1f s, at most %s", i+1, r.instance, r.kind, until.Seconds(), barErrors))
		}
		if r.ejectedOthers > 0 {
			problems = append(problems, fmt.Errorf("fault %d (%s %s): %d healthy endpoints were ejected", i+1, r.instance, r.kind, r.ejectedOthers))
		}
	}
	w.Flush()
	return errors.Join(problems...)
}

func since(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%.1f s", to.Sub(from).Seconds())
}

// ratio over several views.
func ratio(errs, requests uint64) float64 {
	if requests == 0 {
		return 0
	}
	return float64(errs) / float64(requests)
}

// last is the newest round, if it is about instance.
func last(rounds []*round, instance string) *round {
	i := slices.IndexFunc(rounds, func(r *round) bool { return r.instance == instance && r.readmitted.IsZero() })
	if i < 0 {
		return nil
	}
	return rounds[i]
}
