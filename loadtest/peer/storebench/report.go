//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/loadtest/machine"
)

type options struct {
	corpus, page, dir, keep, only string
	spans, write, peer, rounds    int

	observer string
	rate     int
	last     time.Duration
	window   time.Duration
	ids      bool
}

const (
	pageBegin = "<!-- make bench-store writes from here -->"
	pageEnd   = "<!-- make bench-store to here -->"
	writers   = 8
)

// randomColumns are the ids that no encoding makes smaller.
var randomColumns = []string{"trace_id", "span_id", "parent_id", strings.NewReplacer(".", "_", "-", "_").Replace(flow.AttrRequestID), "(bloom)", "(sidecar: filter)", "(sidecar: trace ids)"}

func measure(o options) error {
	parts := map[string]bool{}
	for p := range strings.SplitSeq(o.only, ",") {
		parts[p] = true
	}
	if o.only == "" {
		parts = map[string]bool{"write": true, "peers": true, "queries": true}
	}
	c, err := readCorpus(o.corpus)
	if err != nil {
		return err
	}
	others, err := machine.Watch()
	if err != nil {
		return err
	}
	dir, clean, err := temporary(o)
	if err != nil {
		return err
	}
	defer clean()
	if o.corpus, err = filepath.Abs(o.corpus); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s; Jaeger %s; corpus of %d spans in %d batches, %d traces.\n", machine.String(), version("github.com/jaegertracing/jaeger"), c.spans, len(c.batches), len(c.traces))
	copies := func(spans int) uint64 { return uint64(max(1, spans/c.spans)) } //nolint:gosec // positive
	if parts["write"] {
		if err := reportWrites(&b, o, dir, copies); err != nil {
			return err
		}
	}
	if parts["peers"] {
		if err := reportQueries(&b, o, dir, []string{"tulle", "badger", "memory"}, c, copies(o.peer)); err != nil {
			return err
		}
	}
	if parts["queries"] {
		if err := reportQueries(&b, o, dir, []string{"tulle"}, c, copies(o.spans)); err != nil {
			return err
		}
	}
	if parts["observer"] {
		if err := reportObserver(&b, o, dir, c); err != nil {
			return err
		}
	}
	if parts["beside"] {
		if err := reportBeside(&b, o, dir, c); err != nil {
			return err
		}
	}
	share, err := others.Share()
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nOther work on the machine meanwhile: %.1f of its cores.\n", share)
	fmt.Print(b.String())
	if o.page == "" {
		return nil
	}
	page, err := os.ReadFile(o.page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), pageBegin)
	_, after, ok2 := strings.Cut(rest, pageEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no %q and %q to write between", o.page, pageBegin, pageEnd)
	}
	return os.WriteFile(o.page, []byte(before+pageBegin+"\n"+b.String()+"\n"+pageEnd+after), 0o644) //nolint:gosec // a page of the repository
}

func version(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown version"
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version
		}
	}
	return "of unknown version"
}

// way is one way to write, measured with several contenders in turn.
type way struct {
	title    string
	batch    int
	decode   bool
	unmerged bool
	only     string // one contender
	bar      float64
}

var ways = []way{
	{"decoded spans, batches of 512, nothing is merged", 512, false, true, "", 120_000},
	{"OTLP bytes, batches of 512, nothing is merged", 512, true, true, "", 90_000},
	{"decoded spans, batches of 512", 512, false, false, "tulle", 0},
	{"OTLP bytes, batches of 512", 512, true, false, "tulle", 0},
	{"decoded spans, batches as recorded", 0, false, false, "tulle", 0},
}

func reportWrites(b *strings.Builder, o options, dir string, copies func(int) uint64) error {
	names := []string{"tulle", "badger", "memory"}
	b.WriteString("\n### Writing\n\n| | storage | spans/s of a core, median | best round | times Jaeger's badger | bytes per span on disk | peak RSS, MiB | bar |\n|---|---|---|---|---|---|---|---|\n")
	var columns map[string]int64
	spans := 0
	for _, w := range ways {
		rates := map[string][]float64{}
		last := map[string]outcome{}
		for round := range o.rounds {
			for i := range names {
				name := names[(i+round)%len(names)]
				if w.only != "" && w.only != name {
					continue
				}
				n := o.peer
				if name == "tulle" {
					n = o.write
				}
				out, err := spawn(job{
					Do: "write", Contender: name, Corpus: o.corpus, Dir: filepath.Join(dir, name), Copies: copies(n), Batch: w.batch, Decode: w.decode, Unmerged: w.unmerged, Writers: writers,
					Base: uint64(time.Now().Add(-24 * time.Hour).UnixNano()), //nolint:gosec // a date
				})
				if err != nil {
					return err
				}
				rates[name] = append(rates[name], float64(out.Spans)/out.CPU.Seconds())
				last[name] = out
			}
		}
		for _, name := range names {
			r := rates[name]
			if len(r) == 0 {
				continue
			}
			slices.Sort(r)
			against, bar := "", ""
			if name == "tulle" && len(rates["badger"]) > 0 {
				x := median(r) / median(rates["badger"])
				against = fmt.Sprintf("%.1f", x)
				bar = fmt.Sprintf("≥ %.0f %s, ≥ 15 × badger %s", w.bar, verdict(median(r) >= w.bar), verdict(x >= 15))
			}
			if name == "tulle" {
				columns, spans = last[name].Columns, last[name].Spans
			}
			size := ""
			if last[name].Bytes > 0 {
				size = fmt.Sprintf("%.1f", float64(last[name].Bytes)/float64(last[name].Spans))
			}
			fmt.Fprintf(b, "| %s | %s | %.0f | %.0f | %s | %s | %.0f | %s |\n", w.title, name, median(r), r[len(r)-1], against, size, float64(last[name].RSS)/(1<<20), bar)
		}
	}
	reportColumns(b, columns, spans)
	return nil
}

func verdict(ok bool) string {
	if ok {
		return "met"
	}
	return "**not met**"
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

func reportColumns(b *strings.Builder, columns map[string]int64, spans int) {
	if spans == 0 {
		return
	}
	total, random := int64(0), int64(0)
	for name, n := range columns {
		total += n
		if slices.Contains(randomColumns, name) {
			random += n
		}
	}
	per := func(n int64) float64 { return float64(n) / float64(spans) }
	fmt.Fprintf(b, "\n### Bytes per span\n\n%.1f in all (bar: ≤ 60, %s); %.1f without the random ids (bar: ≤ 40, %s): trace, span, parent and request id, and the sidecars' trace ids and filters of them.\n\n| column | bytes per span |\n|---|---|\n",
		per(total), verdict(per(total) <= 60), per(total-random), verdict(per(total-random) <= 40))
	names := slices.SortedFunc(maps.Keys(columns), func(x, y string) int { return int(columns[y] - columns[x]) })
	for _, n := range names {
		if per(columns[n]) < 0.05 {
			break
		}
		fmt.Fprintf(b, "| `%s` | %.2f |\n", n, per(columns[n]))
	}
}

func reportQueries(b *strings.Builder, o options, dir string, names []string, c *corpus, copies uint64) error {
	base := uint64(time.Now().UnixNano()) - copies*c.length //nolint:gosec // a date
	outs := map[string]outcome{}
	spans := 0
	for _, name := range names {
		j := job{Do: "build", Contender: name, Corpus: o.corpus, Dir: filepath.Join(dir, name+"-queries"), Copies: copies, Batch: 512, Writers: writers, Base: base}
		if o.keep != "" && len(names) == 1 {
			j.Dir = o.keep
			at := filepath.Join(o.keep, "storebench.base")
			if kept, err := os.ReadFile(at); err == nil {
				if _, err := fmt.Sscan(string(kept), &j.Base); err != nil {
					return fmt.Errorf("%s: %w", at, err)
				}
				j.Do = ""
			} else if err := errors.Join(os.MkdirAll(o.keep, 0o700), os.WriteFile(at, fmt.Append(nil, j.Base), 0o600)); err != nil {
				return err
			}
		}
		if j.Do != "" && name != "memory" {
			out, err := spawn(j)
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s: built %d spans, %.0f/s of a core, %.1f B each, RSS %d MiB\n", name, out.Spans, float64(out.Spans)/out.CPU.Seconds(), float64(out.Bytes)/float64(out.Spans), out.RSS>>20)
		}
		j.Do, j.Rounds, j.IDs = "query", 20, o.ids
		out, err := spawn(j)
		if err != nil {
			return err
		}
		outs[name], spans = out, out.Spans
		if o.keep == "" {
			if err := os.RemoveAll(j.Dir); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(b, "\n### Queries on %.1f M spans\n\n| | storage | p50 ms | p99 ms | CPU ms, p50 | CPU ms, p99 | found, mean | bar |\n|---|---|---|---|---|---|---|---|\n", float64(spans)/1e6)
	for _, q := range outs["tulle"].Queries {
		for _, name := range names {
			for _, t := range outs[name].Queries {
				if t.Name == q.Name {
					fmt.Fprintf(b, "| %s | %s | %.2f | %.2f | %.2f | %.2f | %.1f | %s |\n", t.Name, name, ms(t.P50), ms(t.P99), ms(t.CPU50), ms(t.CPU99), float64(t.Found)/float64(t.N), queryBar(name, t, spans))
				}
			}
		}
	}
	fmt.Fprintf(b, "\nPeak RSS of the process that asked Tulle: %d MiB.\n", outs["tulle"].RSS>>20)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// queryBar is the bar of one row, which hold at 10 M spans and, of single traces, at 100 M.
func queryBar(name string, t timing, spans int) string {
	if name != "tulle" || spans < 9_000_000 {
		return ""
	}
	var limits [2]time.Duration
	switch {
	case t.Name == "trace by id, warm" && spans < 50_000_000:
		limits = [2]time.Duration{3 * time.Millisecond, 10 * time.Millisecond}
	case strings.HasPrefix(t.Name, "trace by id"):
		limits[1] = 25 * time.Millisecond
	case spans < 50_000_000:
		for _, s := range searches {
			if s.name == t.Name {
				limits = s.bar
			}
		}
	}
	out := ""
	for i, got := range []time.Duration{t.P50, t.P99} {
		if limits[i] > 0 {
			out += fmt.Sprintf("p%d ≤ %.0f ms %s ", []int{50, 99}[i], ms(limits[i]), verdict(got <= limits[i]))
		}
	}
	return strings.TrimSpace(out)
}
