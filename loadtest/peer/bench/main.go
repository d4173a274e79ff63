//go:build linux

// Command bench compares Tulle's sidecar, with all its telemetry on, with Envoy, HAProxy and nginx on this machine: CPU time per request above all, measured
// as the CPU clocks of the proxies' processes. One core has the load generator, the backend and the receiver of spans, another one the proxy, with one
// worker. The proxies take turns, in another order every round; every answer is verified, and a proxy that drops or corrupts one is disqualified.
//
// Run it in the folder that holds bin/ (make bench-peers does). It needs Linux, two cores, Envoy, HAProxy and nginx.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/loadtest/machine"
)

// options are what a person chose.
type options struct {
	bin       string
	proxies   []*proxy
	workloads []*workload
	rounds    int
	warmup    time.Duration
	window    time.Duration
	short     bool // fewer or shorter rounds than the page's figures, or not all proxies
}

// quiet is how much of one core other work may use before the figures are doubtful.
const quiet = 0.1

func main() {
	if len(os.Args) == 3 && os.Args[1] == childArgument {
		beChild(os.Args[2])
	}
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`folder` with tulle and tulle-sidecar")
	only := flag.String("only", "", "measure only these `proxies and workloads`, comma separated; the report says so")
	flag.IntVar(&o.rounds, "rounds", fullRounds, "windows per proxy and workload")
	flag.DurationVar(&o.window, "window", fullWindow, "length of a window")
	flag.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "load before each window")
	write := flag.String("write", "", "rewrite what this `page` says of the workloads that are measured")
	tools := map[string]*string{}
	for _, t := range []*tool{envoyTool, haproxyTool, nginxTool} {
		tools[t.name] = flag.String(t.name, "", "the "+t.name+" `executable`")
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := choose(&o, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(2)
	}
	if err := bench(ctx, o, tools, *write); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

// What the figures of the page are made with.
const (
	fullRounds = 5
	fullWindow = 2 * time.Second
)

// choose reads -only: names of proxies and workloads in any order; none of a kind means all of it.
func choose(o *options, only string) error {
	o.proxies, o.workloads = proxies(), workloads()
	o.short = o.rounds < fullRounds || o.window < fullWindow
	if o.rounds < 1 || o.window <= 0 || o.warmup < 0 {
		return errors.New("-rounds and -window must be above 0, -warmup not below")
	}
	if only == "" {
		return nil
	}
	names := strings.Split(only, ",")
	var known []string
	var ps []*proxy
	var ws []*workload
	for _, p := range o.proxies {
		known = append(known, p.name)
		if slices.Contains(names, p.name) {
			ps = append(ps, p)
		}
	}
	for _, w := range o.workloads {
		known = append(known, w.name)
		if slices.Contains(names, w.name) {
			ws = append(ws, w)
		}
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return fmt.Errorf("-only %s: known are %s", n, strings.Join(known, ", "))
		}
	}
	if len(ps) > 0 {
		o.proxies, o.short = ps, true
	}
	if len(ws) > 0 {
		o.workloads = ws
	}
	return nil
}

// bench measures everything that was chosen and reports.
func bench(ctx context.Context, o options, flags map[string]*string, write string) (err error) {
	for _, name := range []string{"tulle", "tulle-sidecar"} {
		if _, err := os.Stat(filepath.Join(o.bin, name)); err != nil {
			return fmt.Errorf("%s is missing: run 'make build' first, in the folder that holds the Makefile", filepath.Join(o.bin, name))
		}
	}
	paths, err := findTools(o.proxies, flags)
	if err != nil {
		return err
	}
	if write != "" && o.short {
		return fmt.Errorf("-write needs all proxies and at least %d rounds of %s", fullRounds, fullWindow)
	}
	others, err := machine.Watch()
	if err != nil {
		return err
	}
	r, err := newRig(ctx, o, os.Stderr)
	if err != nil {
		return errors.Join(err, r.close())
	}
	r.paths = paths
	sections, problems, err := r.measure()
	if err = errors.Join(err, r.close()); err != nil {
		return err
	}
	share, err := others.Share()
	if err != nil {
		return err
	}
	if share > quiet {
		problems = append(problems, fmt.Sprintf("the machine was not quiet: other work used %.2f cores", share))
	}
	made, err := circumstances(o, paths, share)
	if err != nil {
		return err
	}
	for i := range sections {
		sections[i].text += "\n" + made + "\n"
		fmt.Print("\n" + sections[i].text)
	}
	if write != "" {
		old, err := os.ReadFile(write)
		if err != nil {
			return err
		}
		page, err := rewrite(string(old), sections)
		if err != nil {
			return fmt.Errorf("%s: %w", write, err)
		}
		if err := os.WriteFile(write, []byte(page), 0o644); err != nil {
			return err
		}
	}
	report(os.Stderr, problems)
	if len(problems) > 0 {
		return fmt.Errorf("%d bars are not met or figures are doubtful", len(problems))
	}
	return nil
}

// section is what the page says of one workload.
type section struct {
	name string // of the workload
	text string
}

// measure runs the chosen workloads, one after the other.
func (r *rig) measure() (sections []section, problems []string, err error) {
	for _, w := range r.o.workloads {
		r.say("%s: %s", w.name, w.title)
		found, err := w.run(r, w)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", w.name, err)
		}
		sections = append(sections, section{w.name, found.markdown()})
		problems = append(problems, found.problems()...)
	}
	return sections, problems, nil
}

func report(w io.Writer, problems []string) {
	for _, p := range problems {
		fmt.Fprintln(w, "bench: "+p)
	}
}

// circumstances says, in one line, on what and with what the figures were made.
func circumstances(o options, paths map[string]string, others float64) (string, error) {
	var b strings.Builder
	tulle, err := (&tool{version: []string{"--version"}}).versionOf(filepath.Join(o.bin, "tulle-sidecar"))
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "_%s", tulle)
	seen := map[string]bool{}
	for _, p := range o.proxies {
		if p.tool == nil || seen[p.tool.name] {
			continue
		}
		seen[p.tool.name] = true
		v, err := p.tool.versionOf(paths[p.tool.name])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "; %s %s", p.tool.name, strings.TrimSpace(strings.TrimPrefix(v, paths[p.tool.name])))
	}
	fmt.Fprintf(&b, "; %s; %d rounds of %s each, in turn; other work used %.2f cores._", machine.String(), o.rounds, o.window, others)
	if o.short {
		b.WriteString("\n\n**Only for a look: not all proxies, or not for long.**")
	}
	return b.String(), nil
}
