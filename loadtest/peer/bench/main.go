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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what a person chose.
type options struct {
	bin       string
	proxies   []*proxy
	workloads []*workload
	rounds    int
	warmup    time.Duration
	window    time.Duration
	partial   bool // not everything was chosen, or not as long: no figures for the page
}

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
	write := flag.String("write", "", "rewrite the section of this `page` between its markers")
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
	o.partial = only != "" || o.rounds < fullRounds || o.window < fullWindow
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
		o.proxies = ps
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
	if write != "" && o.partial {
		return fmt.Errorf("-write needs a whole run: no -only, at least %d rounds of %s", fullRounds, fullWindow)
	}
	others, err := newBystander()
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
	share, err := others.share()
	if err != nil {
		return err
	}
	if share > quiet {
		problems = append(problems, fmt.Sprintf("the machine was not quiet: other work used %.2f cores", share))
	}
	head, err := preamble(o, paths, share)
	if err != nil {
		return err
	}
	text := head + sections
	fmt.Print(text)
	if write != "" {
		old, err := os.ReadFile(write)
		if err != nil {
			return err
		}
		page, err := rewrite(string(old), text)
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

// measure runs the chosen workloads, one after the other.
func (r *rig) measure() (sections string, problems []string, err error) {
	var b strings.Builder
	for _, w := range r.o.workloads {
		r.say("%s: %s", w.name, w.title)
		found, err := w.run(r, w)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", w.name, err)
		}
		b.WriteString("\n" + found.markdown())
		problems = append(problems, found.problems()...)
	}
	return b.String(), problems, nil
}

func report(w io.Writer, problems []string) {
	for _, p := range problems {
		fmt.Fprintln(w, "bench: "+p)
	}
}

// preamble says on what and with what the figures were made.
func preamble(o options, paths map[string]string, others float64) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "Machine: %s, Go %s.\n", machine(), strings.TrimPrefix(runtime.Version(), "go"))
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
		fmt.Fprintf(&b, "%s: `%s`.\n", p.tool.name, strings.TrimPrefix(v, paths[p.tool.name]))
	}
	fmt.Fprintf(&b, "Command: `make bench-peers`; %d rounds of %s per proxy and workload, in turn. Other work used %.2f cores meanwhile.\n", o.rounds, o.window, others)
	if o.partial {
		b.WriteString("\n**Not a whole run: only part was measured, or not for long.**\n")
	}
	return b.String(), nil
}
