//go:build unix

// Command life wears a sidecar out, from outside, as processes:
//
//	life churn         a million connections of every kind through one sidecar, well ended and badly; nothing may grow
//	life hot-restart   both sidecars of a hop replaced again and again under load; no request may fail
//
// Run it in the folder that holds bin/tulle-sidecar (make churn and make hot-restart do). It exits with 1 when the bar is missed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	sidecar := flag.String("sidecar", "bin/tulle-sidecar", "the executable")
	connections := flag.Int64("connections", 1_000_000, "of churn")
	requests := flag.Int64("requests", 100_000, "of hot-restart, at least")
	restarts := flag.Int("restarts", 20, "of hot-restart, at least, of both sidecars together")
	drain := flag.Duration("drain", 6*time.Second, "of hot-restart: how long an old process keeps what is open")
	workers := flag.Int("workers", 48, "how many connections churn has at a time, beside those that wait for a time-out")
	verbose := flag.Bool("verbose", false, "show what the sidecars say")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var log *os.File
	if *verbose {
		log = os.Stderr
	}
	var err error
	switch flag.Arg(0) {
	case "churn":
		err = churn(ctx, os.Stdout, *sidecar, log, *connections, *workers)
	case "hot-restart":
		err = hotRestart(ctx, os.Stdout, *sidecar, log, *requests, *restarts, *drain)
	default:
		fmt.Fprintln(os.Stderr, "life: want churn or hot-restart")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "life:", err)
		os.Exit(1)
	}
}
