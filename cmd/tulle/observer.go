//go:build unix

package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// observerFlags are shared by observer and server.
type observerFlags struct {
	dataDir, http, controller, otlpGRPC, otlpHTTP, webhook string
}

func (v *observerFlags) flags(f *pflag.FlagSet, server bool) {
	if !server {
		f.StringVar(&v.dataDir, "data-dir", "", "where spans, series and events are kept (required)")
		f.StringVar(&v.controller, "controller", "127.0.0.1:8641", "address of the controller")
	}
	f.StringVar(&v.http, "http", "127.0.0.1:8640", "address of the dashboard, query APIs and metrics")
	f.StringVar(&v.otlpGRPC, "otlp-grpc", "127.0.0.1:4317", "address for OTLP over gRPC")
	f.StringVar(&v.otlpHTTP, "otlp-http", "127.0.0.1:4318", "address for OTLP over HTTP")
	f.StringVar(&v.webhook, "webhook", "", "URL that alerts are sent to")
}

func (v *observerFlags) args() []string {
	return []string{"--data-dir", v.dataDir, "--http", v.http, "--controller", v.controller, "--otlp-grpc", v.otlpGRPC, "--otlp-http", v.otlpHTTP, "--webhook", v.webhook}
}

func observerCommand() *cobra.Command {
	var v observerFlags
	c := &cobra.Command{
		Use: "observer", GroupID: "run", Args: noArgs,
		Short: "Run the observer: collector, store, dashboard, alerts",
		RunE:  func(c *cobra.Command, _ []string) error { return errors.New("not merged") },
	}
	v.flags(c.Flags(), false)
	return c
}
