//go:build unix

// Command soak runs the demo without its scripted fault, samples memory, goroutines and descriptors of every process of the mesh, prints a
// table, and exits with 1 when something grows, is over its budget, or when an endpoint was ejected although nothing was wrong.
//
// Run it in the folder that holds bin/tulle (make soak does).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/loadtest/rig"
	"github.com/tulle-mesh/tulle/store/event"
)

// Budgets, of issue "The whole loop, running".
const (
	controlBudget = 450 << 20 // controller + observer
	sidecarBudget = 40 << 20  // each
)

func main() {
	duration := flag.Duration("duration", 10*time.Minute, "how long to watch")
	every := flag.Duration("every", 5*time.Second, "how often to sample")
	tulle := flag.String("tulle", "", "the tulle executable (default bin/tulle)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := soak(ctx, os.Stdout, *tulle, *duration, *every); err != nil {
		fmt.Fprintln(os.Stderr, "soak: "+err.Error())
		os.Exit(1)
	}
}

func soak(ctx context.Context, out io.Writer, tulle string, duration, every time.Duration) (err error) {
	r, err := rig.Start(ctx, rig.Options{Tulle: tulle, Args: []string{"--no-fault"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	fmt.Fprintf(out, "live graph %.1f s after the start; watching for %s\n", r.Live.Sub(r.Started).Seconds(), duration)
	admin := map[string]string{"controller": r.Config.ControllerAdmin, "observer": r.Config.HTTP}
	for _, w := range r.Workloads() {
		if w.Admin != "" {
			admin[w.Instance+"-sidecar"] = w.Admin
		}
	}
	s := newSamples()
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.NewTimer(duration)
	defer end.Stop()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			return errors.New("stopped before the end")
		case <-end.C:
			done = true
		case <-tick.C:
		}
		all, err := rig.Descendants(r.PID())
		if err != nil {
			return err
		}
		at := time.Since(r.Live)
		for _, p := range all {
			address, watched := admin[p.Name]
			if !watched {
				continue
			}
			v := sample{at: at, pid: p.PID, rss: float64(p.RSS), goroutines: -1, fds: -1}
			if n, ok := rig.Metric("http://"+address+"/metrics", "go_goroutines"); ok {
				v.goroutines = n
			}
			if n, ok := rig.Descriptors(p.PID); ok {
				v.fds = float64(n)
			}
			s.add(p.Name, v)
		}
	}
	problems := s.judge(out, slices.Sorted(keys(admin)))
	events, err := r.API.Events(ctx, client.EventQuery{Kind: string(event.KindEjected), Start: r.Started, Limit: 100})
	if err != nil {
		return err
	}
	for _, e := range events {
		problems = append(problems, fmt.Errorf("false ejection at %s: %s", e.Time.Format(time.TimeOnly), e.Message))
	}
	if len(problems) == 0 {
		fmt.Fprintln(out, "no growth, within budget, no false ejection")
	}
	return errors.Join(problems...)
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
