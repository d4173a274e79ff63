//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/process"
	runner "github.com/tulle-mesh/tulle/internal/run"
)

func serverCommand() *cobra.Command {
	var (
		dataDir  string
		ctl      controllerFlags
		obs      observerFlags
		level    string
		together = &cobra.Command{
			Use: "server", GroupID: "run", Args: noArgs,
			Short: "Run controller and observer on this machine, as two supervised processes",
			Long: `Runs 'tulle controller' and 'tulle observer' as two child processes: a heavy query cannot take the certificate authority down, and either is
started again when it dies. SIGTERM and Ctrl-C stop the observer first, then the controller, and wait for both.`,
		}
	)
	f := together.Flags()
	f.StringVar(&dataDir, "data-dir", "", "where both keep their data, in folders controller and observer (required)")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	ctl.flags(f, true)
	obs.flags(f, true)
	together.RunE = func(c *cobra.Command, _ []string) error {
		log, err := logger(level)
		if err != nil {
			return err
		}
		if dataDir == "" {
			return usageError{fmt.Errorf("--data-dir is required: a folder where controller and observer keep their data")}
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("cannot find the running executable: %w", err)
		}
		ctl.dataDir, obs.dataDir = filepath.Join(dataDir, "controller"), filepath.Join(dataDir, "observer")
		obs.controller = ctl.grpc
		child := func(name, address string, args []string) runner.Actor {
			s := &process.Supervisor{
				Spec: process.Spec{Name: name, Path: self, Args: append([]string{name, "--log-level", level}, args...), Log: os.Stderr, StopTimeout: 30 * time.Second},
				Ready: func(ctx context.Context) error {
					conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
					if err != nil {
						return err
					}
					return conn.Close()
				},
				Log: log,
			}
			return runner.Actor{Name: name, Run: s.Run}
		}
		return supervise(c.Context(),
			child("controller", ctl.grpc, ctl.args()),
			child("observer", obs.http, obs.args()),
		)
	}
	return together
}

// supervise starts all children at once (each waits for what it needs by itself) and stops them in reverse order. When one gives up, all stop.
func supervise(ctx context.Context, children ...runner.Actor) error {
	var g errgroup.Group
	ended := make(chan struct{}, len(children))
	type running struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	var all []running
	for _, a := range children {
		actx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{cancel, make(chan struct{})}
		all = append(all, r)
		g.Go(func() error {
			defer close(r.done)
			err := a.Run(actx, func() {})
			ended <- struct{}{}
			return err
		})
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	for i := len(all) - 1; i >= 0; i-- {
		all[i].cancel()
		<-all[i].done
	}
	return g.Wait()
}
