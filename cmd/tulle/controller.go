//go:build unix

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/controller"
)

// controllerFlags are shared by controller and server.
type controllerFlags struct {
	dataDir, config, grpc, admin, trustDomain string
	leafTTL                                   time.Duration
}

// flags adds them; under server some have longer names and the data directory is the server's.
func (v *controllerFlags) flags(f *pflag.FlagSet, server bool) {
	grpc, admin := "grpc", "admin"
	if server {
		grpc, admin = "controller", "controller-admin"
	} else {
		f.StringVar(&v.dataDir, "data-dir", "", "where the certificate authority and join tokens are kept (required)")
	}
	f.StringVar(&v.config, "config", "", "folder of *.yaml resources (required)")
	f.StringVar(&v.grpc, grpc, controller.DefaultGRPC, "address of xDS, identity and evidence")
	f.StringVar(&v.admin, admin, controller.DefaultAdmin, "address of the controller's health and metrics")
	f.StringVar(&v.trustDomain, "trust-domain", controller.DefaultTrustDomain, "SPIFFE trust domain of this mesh")
	f.DurationVar(&v.leafTTL, "certificate-ttl", 24*time.Hour, "how long workload certificates are valid")
}

// listeners are what the controller listens on.
func (v *controllerFlags) listeners(server bool) []listener {
	grpc, admin := "--grpc", "--admin"
	if server {
		grpc, admin = "--controller", "--controller-admin"
	}
	return []listener{{"the controller", grpc, v.grpc}, {"the controller's admin page", admin, v.admin}}
}

// args is the command line that sets them on `tulle controller`.
func (v *controllerFlags) args() []string {
	return []string{
		"--data-dir", v.dataDir, "--config", v.config, "--grpc", v.grpc, "--admin", v.admin,
		"--trust-domain", v.trustDomain, "--certificate-ttl", v.leafTTL.String(),
	}
}

func controllerCommand() *cobra.Command {
	var (
		v     controllerFlags
		level string
	)
	c := &cobra.Command{
		Use: "controller", GroupID: "run", Args: noArgs,
		Short: "Run the controller: configuration, certificates, judgement, xDS",
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			if v.dataDir == "" || v.config == "" {
				return usageError{fmt.Errorf("--data-dir and --config are required: a folder for the controller's data, and one with *.yaml resources")}
			}
			if err := checkPorts(v.listeners(false)...); err != nil {
				return err
			}
			return controller.Run(c.Context(), controller.Config{
				DataDir: v.dataDir, ConfigDir: v.config, GRPC: v.grpc, Admin: v.admin, TrustDomain: v.trustDomain, LeafTTL: v.leafTTL,
				Log: log.With("process", "controller"),
			})
		},
	}
	v.flags(c.Flags(), false)
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}
