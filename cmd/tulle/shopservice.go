//go:build unix

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/loadtest/shop"
)

func shopServiceCommand() *cobra.Command {
	var (
		cfg   shop.Config
		hosts []string
		level string
	)
	c := &cobra.Command{
		Use: "shop-service", Short: "Serve one instance of one service of the demo shop", Hidden: true, Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			cfg.Log = log
			cfg.Hosts = map[string]string{}
			for _, h := range hosts {
				name, address, ok := strings.Cut(h, "=")
				if !ok || name == "" || address == "" {
					return usageError{fmt.Errorf("--host %q: write it as NAME=IP:PORT", h)}
				}
				cfg.Hosts[name] = address
			}
			return shop.Run(c.Context(), cfg, nil)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Service, "name", "", "service: web, catalog, …")
	f.StringVar(&cfg.Instance, "instance", "", "name of this instance (default: the service's)")
	f.StringVar(&cfg.Version, "version", "v1", "version this instance plays")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:0", "address of the application")
	f.StringVar(&cfg.Control, "control", "", "address of the port where faults are set")
	f.StringArrayVar(&hosts, "host", nil, "address of a dependency, NAME=IP:PORT (repeat)")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}
