//go:build unix

// Command peer runs the demo and speaks to it as others would, through the standards that Tulle claims to follow: promtool reads its metrics
// pages and its query API, a client of Jaeger's HTTP API reads its traces, and an application sends its own span by OTLP/HTTP into a trace that
// began with its traceparent. It prints one line per check and exits with 1 when one failed.
//
// Run it in the folder that holds bin/tulle (make test-peers does). It needs promtool.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/loadtest/demo"
	"github.com/tulle-mesh/tulle/loadtest/rig"
)

// patience bounds one check, with all the waiting for what must become visible.
const patience = 30 * time.Second

func main() {
	tulle := flag.String("tulle", "", "the tulle executable (default bin/tulle)")
	promtool := flag.String("promtool", "promtool", "the promtool executable")
	offset := flag.Int("offset", 2000, "added to every port of the demo, so that it runs beside another one")
	verbose := flag.Bool("v", false, "show what the demo prints")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := rig.Options{Tulle: *tulle, Offset: *offset, Args: []string{"--no-fault"}}
	if *verbose {
		o.Out = os.Stderr
	}
	if err := meet(ctx, os.Stdout, o, *promtool); err != nil {
		fmt.Fprintln(os.Stderr, "peer: "+err.Error())
		os.Exit(1)
	}
}

// meet starts a demo, makes all checks and stops it.
func meet(ctx context.Context, out io.Writer, o rig.Options, promtool string) (err error) {
	tool, err := findPromtool(promtool)
	if err != nil {
		return err
	}
	r, err := rig.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	fmt.Fprintf(out, "live graph %.1f s after the start\n\n", r.Live.Sub(r.Started).Seconds())
	checks, err := all(r, tool)
	if err != nil {
		return err
	}
	return perform(ctx, out, checks)
}

// all is the table of checks of one running demo, in the order in which they are made.
func all(r *rig.Rig, tool promtool) ([]check, error) {
	catalog, err := instance(r.Workloads(), "catalog")
	if err != nil {
		return nil, err
	}
	web, err := instance(r.Workloads(), "web")
	if err != nil {
		return nil, err
	}
	a := &application{api: api{r.API.Base()}, otlp: "http://" + r.Config.OTLPHTTP, web: "http://" + web.Inbound, out: "http://" + web.Outbound["catalog"]}
	var checks []check
	checks = append(checks, tool.pages(map[string]string{
		"sidecar": catalog.Admin, "controller": r.Config.ControllerAdmin, "observer": r.Config.HTTP,
	})...)
	checks = append(checks, tool.queries(r.API.Base())...)
	checks = append(checks, jaeger{api{r.API.Base()}}.checks()...)
	return append(checks, a.checks()...), nil
}

// instance is the first instance of a service of the demo.
func instance(all []demo.Workload, service string) (demo.Workload, error) {
	for _, w := range all {
		if w.Service == service {
			return w, nil
		}
	}
	return demo.Workload{}, fmt.Errorf("the demo has no service %q", service)
}

// check is one thing that must hold. Its detail is what was found; its error is what was found instead.
type check struct {
	name string
	run  func(context.Context) (detail string, err error)
}

// perform makes the checks one after the other and prints a line for each. A failed one does not keep the others from being made.
func perform(ctx context.Context, out io.Writer, checks []check) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CHECK\tRESULT\tDETAIL")
	failed := 0
	for _, c := range checks {
		limited, cancel := context.WithTimeout(ctx, patience)
		detail, err := c.run(limited)
		cancel()
		result := "ok"
		if err != nil {
			result, detail = "FAILED", err.Error()
			failed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.name, result, strings.Join(strings.Fields(detail), " "))
	}
	w.Flush()
	if err := ctx.Err(); err != nil {
		return errors.New("stopped before the end")
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checks))
	}
	fmt.Fprintf(out, "\nall %d checks passed\n", len(checks))
	return nil
}
