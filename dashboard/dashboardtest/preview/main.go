// Preview serves the dashboard over a made-up shop, to look at while working on pages. It is no part of Tulle's binaries.
//
//	go run ./dashboard/dashboardtest/preview -addr 127.0.0.1:8649
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/tulle-mesh/tulle/dashboard"
	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8649", "listen address")
	bare := flag.Bool("empty", false, "show a mesh without traffic")
	banner := flag.Bool("banner", false, "show a banner")
	long := flag.Int("long", 0, "store a trace of so many spans too")
	nasty := flag.Bool("nasty", false, "show a mesh in which everything has a hostile name")
	size := flag.Int("size", 0, "show a mesh of so many services, five edges for each, instead of the shop's")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *addr, *bare, *banner, *nasty, *long, *size); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string, bare, banner, nasty bool, long, size int) error {
	dir, err := os.MkdirTemp("", "preview")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, closeAll, err := dashboardtest.Sources(dir, time.Now)
	if err != nil {
		return err
	}
	defer func() { _ = closeAll() }()
	if spans, ok := s.Spans.(*dashboardtest.Spans); ok {
		if long > 0 {
			dashboardtest.Long(spans, long, time.Now())
		}
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		s.Tap = dashboardtest.Replay(ctx, spans, tick.C)
	}
	if bare {
		s = source.Sources{Spans: dashboardtest.NewSpans(), Graph: &dashboardtest.Graph{Empty: true}, Events: &dashboardtest.Events{}}
	}
	if size > 0 {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // it ticks at whole seconds, by which make bench-browser measures
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		s.Graph = &dashboardtest.Large{Graph: dashboardtest.Graph{Ticks: tick.C, Now: time.Now}, Size: size}
	}
	if nasty {
		s = dashboardtest.NastySources(time.Now())
	}
	if banner {
		s.Banner = func() []source.Notice {
			return []source.Notice{{Severity: "warning", Message: "The controller is not reachable at 127.0.0.1:8641 since 14:02.", Action: "Sidecars keep their last configuration; start it with: tulle controller."}}
		}
	}
	d, err := dashboard.New(dashboard.Config{Addr: addr, Sources: s, Log: slog.Default()})
	if err != nil {
		return err
	}
	return d.Run(ctx, func() { fmt.Println("http://" + d.Addr(ctx)) })
}
