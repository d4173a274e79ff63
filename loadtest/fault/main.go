//go:build unix

// Command fault runs the demo with its scripted fault and measures from outside, through the control ports of the shop, the observer's API
// and the webhook receiver: how long until the endpoint is ejected, how long callers saw more than 1 % errors, when the alert arrived, and
// when the endpoint was readmitted and the alert resolved. It prints a table and exits with 1 when a bar is missed.
//
// Run it in the folder that holds bin/tulle (make fault does).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/loadtest/rig"
)

func main() {
	rounds := flag.Int("rounds", 2, "how many faults to wait for: the first answers 5xx, the second is slow, in turn")
	tulle := flag.String("tulle", "", "the tulle executable (default bin/tulle)")
	lasts := flag.Duration("for", 40*time.Second, "how long each fault lasts")
	every := flag.Duration("every", 200*time.Second, "from one fault to the next: time enough to be readmitted")
	verbose := flag.Bool("v", false, "show what the demo prints")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, *tulle, *rounds, *lasts, *every, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "fault: "+err.Error())
		os.Exit(1)
	}
}

func measure(ctx context.Context, tulle string, rounds int, lasts, every time.Duration, verbose bool) (err error) {
	o := rig.Options{Tulle: tulle, Args: []string{"--fault-for", lasts.String(), "--fault-every", every.String()}}
	if verbose {
		o.Out = os.Stderr
	}
	r, err := rig.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	fmt.Printf("live graph %.1f s after the start\n", r.Live.Sub(r.Started).Seconds())
	w := newWatcher(r)
	ctx, cancel := context.WithTimeout(ctx, 45*time.Second+time.Duration(rounds)*every)
	defer cancel()
	w.watch(ctx, rounds)
	return report(os.Stdout, w.rounds(), rounds)
}
