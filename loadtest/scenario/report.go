//go:build linux

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/loadtest/machine"
)

// results are the figures of cells, by scenario and contender, kept in a file if it has a name.
type results struct {
	file  string
	Cells map[string]map[string]*played `json:"cells"`
}

// played is what is known of a cell.
type played struct {
	Rounds []figures `json:"rounds"`
	Made   string    `json:"made"` // with what and when
}

// openResults reads what earlier runs have left.
func openResults(file string) (*results, error) {
	r := &results{file: file, Cells: map[string]map[string]*played{}}
	if file == "" {
		return r, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to begin anew", file, err)
	}
	return r, nil
}

// add takes a cell's figures. Those of the first round of a run replace those of earlier runs.
func (r *results) add(scenario, contender string, round int, f figures, made string) {
	of := r.Cells[scenario]
	if of == nil {
		of = map[string]*played{}
		r.Cells[scenario] = of
	}
	if p := of[contender]; p == nil || round == 0 {
		of[contender] = &played{Made: made}
	}
	of[contender].Rounds = append(of[contender].Rounds, f)
}

// amend adds to what is said of how cells were made, when that is known.
func (r *results) amend(made, further string) {
	for _, of := range r.Cells {
		for _, p := range of {
			if p.Made == made {
				p.Made += further
			}
		}
	}
}

func (r *results) save() error {
	if r.file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return place(r.file, text)
}

// of are the medians of a scenario, by contender.
func (r *results) of(scenario string) map[string]figures {
	out := map[string]figures{}
	for name, p := range r.Cells[scenario] {
		out[name] = middle(p.Rounds)
	}
	return out
}

// line is a cell for a terminal.
func (f figures) line() string {
	return fmt.Sprintf("success %6.2f %%  p50 %6.1f ms  p99 %7.1f ms  attempts %.2f  recovered %-7s %s", 100*f.Success, f.P50, f.P99, f.Attempts, f.recovered(), f.failures(3))
}

func (f figures) recovered() string {
	switch {
	case f.Never:
		return "not"
	case f.Recovered == 0:
		return "at once"
	}
	return fmt.Sprintf("%.2f s", f.Recovered)
}

// failures are the n most frequent ways to fail.
func (f figures) failures(n int) string {
	kinds := slices.SortedFunc(maps.Keys(f.Failures), func(a, b string) int { return cmp.Or(cmp.Compare(f.Failures[b], f.Failures[a]), cmp.Compare(a, b)) })
	var out []string
	for _, k := range kinds[:min(n, len(kinds))] {
		out = append(out, fmt.Sprintf("%d × %s", f.Failures[k], k))
	}
	return strings.Join(out, ", ")
}

// markdown is what the page says of these scenarios: a table of who is best, and one table of figures for each.
func (r *results) markdown(of []scenario) string {
	var b strings.Builder
	b.WriteString(r.made(of) + "\n\n| contender | |\n|---|---|\n")
	for _, c := range contenders {
		fmt.Fprintf(&b, "| %s | %s |\n", c.title, c.what)
	}
	b.WriteString("\n")
	b.WriteString(r.overview(of))
	for _, sc := range of {
		sc = sc.withDefaults()
		figures := r.of(sc.name)
		if len(figures) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n`%s`: %s %.0f requests/s for %s, deadline %s.\n\n", sc.title, sc.name, sc.what, sc.rate, sc.window, sc.deadline)
		b.WriteString("| | success | p50, ms | p99, ms | attempts per request | recovered | how it failed |\n|---|---|---|---|---|---|---|\n")
		for _, c := range contenders {
			f, ok := figures[c.name]
			switch {
			case ok:
				fmt.Fprintf(&b, "| %s | %.2f %% | %.1f | %.1f | %.2f | %s | %s |\n", c.title, 100*f.Success, f.P50, f.P99, f.Attempts, f.recovered(), f.failures(2))
			case sc.not[c.name] != "":
				fmt.Fprintf(&b, "| %s | %s | | | | | |\n", c.title, sc.not[c.name])
			}
		}
	}
	return b.String()
}

// overview is the table of who is best, and how often each is.
func (r *results) overview(of []scenario) string {
	var b strings.Builder
	b.WriteString("Success · attempts per request · p99:\n\n| scenario |")
	for _, c := range contenders {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(contenders)) + "\n")
	best, fewest, quick, all := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	for _, sc := range of {
		figures := r.of(sc.name)
		if len(figures) == 0 {
			continue
		}
		v := compare(figures)
		fmt.Fprintf(&b, "| %s |", sc.title)
		for _, c := range contenders {
			f, ok := figures[c.name]
			if !ok {
				b.WriteString(" – |")
				continue
			}
			all[c.name]++
			success, attempts, p99 := fmt.Sprintf("%.1f %%", 100*f.Success), fmt.Sprintf("×%.2f", f.Attempts), fmt.Sprintf("%.0f ms", f.P99)
			if slices.Contains(v.success, c.name) {
				best[c.name]++
				success = "**" + success + "**"
			}
			if slices.Contains(v.attempts, c.name) {
				fewest[c.name]++
				attempts = "**" + attempts + "**"
			}
			if slices.Contains(v.p99, c.name) {
				quick[c.name]++
				p99 = "**" + p99 + "**"
			}
			fmt.Fprintf(&b, " %s · %s · %s |", success, attempts, p99)
		}
		b.WriteString("\n")
	}
	for _, line := range []struct {
		say string
		n   map[string]int
	}{{"best or equal on success", best}, {"best or equal on attempts", fewest}, {"best or equal on p99", quick}} {
		fmt.Fprintf(&b, "| *%s* |", line.say)
		for _, c := range contenders {
			fmt.Fprintf(&b, " %d of %d |", line.n[c.name], all[c.name])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// made says with what and when the figures of these scenarios were made; several runs are several lines.
func (r *results) made(of []scenario) string {
	rounds, seen := map[string]map[int]bool{}, []string{}
	for _, sc := range of {
		for _, p := range r.Cells[sc.name] {
			if rounds[p.Made] == nil {
				rounds[p.Made] = map[int]bool{}
				seen = append(seen, p.Made)
			}
			rounds[p.Made][len(p.Rounds)] = true
		}
	}
	slices.Sort(seen)
	var out []string
	for _, m := range seen {
		n := slices.Sorted(maps.Keys(rounds[m]))
		text := fmt.Sprintf("%d rounds", n[0])
		switch {
		case len(n) > 1:
			text = fmt.Sprintf("%d to %d rounds", n[0], n[len(n)-1])
		case n[0] == 1:
			text = "1 round"
		}
		out = append(out, "_"+m+"; "+text+"._")
	}
	return strings.Join(out, "\n\n")
}

// circumstances says with what and on what this run is made.
func circumstances(o options, r *rig) (string, error) {
	parts := []string{time.Now().UTC().Format("2006-01-02")}
	for _, c := range o.contenders {
		for _, need := range c.needs {
			path := filepath.Join(o.bin, "tulle-sidecar")
			if need != "tulle" {
				path = r.paths[need]
			}
			out, err := exec.Command(path, "--version").Output()
			if err != nil {
				return "", fmt.Errorf("%s --version: %w", path, err)
			}
			text := strings.TrimSpace(strings.ReplaceAll(string(out), path, ""))
			if need == "envoy" {
				text = "Envoy " + strings.TrimSpace(strings.TrimPrefix(text[strings.Index(text, "version:")+1:], "ersion:"))
			}
			if !slices.Contains(parts, text) {
				parts = append(parts, text)
			}
		}
	}
	return strings.Join(append(parts, runtime.Version(), machine.String()), "; "), nil
}

// The part of the page that is written by a run.
const (
	markBegin = "<!-- make scenarios writes from here -->"
	markEnd   = "<!-- to here -->"
)

// rewrite puts text between the marks of a page.
func rewrite(file, text string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), markBegin)
	_, after, ok2 := strings.Cut(rest, markEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", file, markBegin, markEnd)
	}
	return os.WriteFile(file, []byte(before+markBegin+"\n\n"+strings.TrimSpace(text)+"\n\n"+markEnd+after), 0o644)
}
