//go:build unix

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/loadtest/demo"
)

func demoCommand() *cobra.Command {
	cfg := demo.Defaults()
	var (
		clean bool
		level string
	)
	c := &cobra.Command{
		Use: "demo", GroupID: "run", Args: noArgs,
		Short: "Run the whole mesh with a shop of real services on this machine",
		Long: `Starts controller, observer, a shop of real services, each with its own sidecar, a load with a wave, and a scripted fault: from 30 s on, for
40 s, then every few minutes, one of catalog's three endpoints turns slow or answers 5xx. Everything listens on loopback and needs no root.
Ctrl-C stops it in reverse order and leaves nothing behind but the data directory, which --clean removes.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if clean {
				return cleanDemo(c, cfg.DataDir)
			}
			log, err := logger(level)
			if err != nil {
				return err
			}
			cfg.Log = log
			cfg.Out = c.OutOrStdout()
			cfg.Color = colored(cfg.Out)
			return demo.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.BoolVar(&clean, "clean", false, "remove the data directory of earlier runs, and do nothing else")
	f.StringVar(&cfg.DataDir, "data-dir", "", "where the demo keeps its data (default: tulle/demo in the user's cache folder)")
	f.BoolVar(&cfg.KeepData, "keep-data", false, "keep what the last run stored instead of starting afresh")
	f.StringVar(&cfg.HTTP, "http", cfg.HTTP, "address of the dashboard, query APIs and metrics")
	f.StringVar(&cfg.Controller, "controller", cfg.Controller, "address of the controller (xDS, identity)")
	f.StringVar(&cfg.ControllerAdmin, "controller-admin", cfg.ControllerAdmin, "address of the controller's health and metrics")
	f.StringVar(&cfg.OTLPGRPC, "otlp-grpc", cfg.OTLPGRPC, "address where the observer takes OTLP over gRPC")
	f.StringVar(&cfg.OTLPHTTP, "otlp-http", cfg.OTLPHTTP, "address where the observer takes OTLP over HTTP")
	f.StringVar(&cfg.Webhook, "webhook", cfg.Webhook, "address of the demo's own receiver of alerts")
	f.IntVar(&cfg.AdminBase, "admin-base", cfg.AdminBase, "first of the sidecars' admin ports")
	f.IntVar(&cfg.ShopBase, "shop-base", cfg.ShopBase, "first of the shop's ports (20 per process)")
	f.DurationVar(&cfg.Duration, "duration", 0, "stop after this time (default: run until Ctrl-C)")
	f.BoolVar(&cfg.NoLoad, "no-load", false, "start everything, send no requests")
	f.BoolVar(&cfg.NoFault, "no-fault", false, "no scripted fault")
	f.Float64Var(&cfg.Rate, "rate", cfg.Rate, "customers' requests per second on average")
	f.DurationVar(&cfg.Fault.First, "fault-after", 0, "when the first fault begins (default 30s)")
	f.DurationVar(&cfg.Fault.Last, "fault-for", 0, "how long each fault lasts (default 40s)")
	f.DurationVar(&cfg.Fault.Every, "fault-every", 0, "from one fault to the next (default 4m)")
	f.StringVar(&cfg.Sidecar, "sidecar", "", "the tulle-sidecar executable (default: beside this one)")
	f.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	return c
}

func cleanDemo(c *cobra.Command, dir string) error {
	if dir == "" {
		var err error
		if dir, err = demo.DefaultDataDir(); err != nil {
			return err
		}
	}
	removed, err := demo.Clean(dir)
	if err != nil {
		return fmt.Errorf("nothing was removed: %w", err)
	}
	if removed {
		_, err = fmt.Fprintf(c.OutOrStdout(), "removed %s\n", dir)
	} else {
		_, err = fmt.Fprintf(c.OutOrStdout(), "nothing to remove: %s does not exist\n", dir)
	}
	return err
}
