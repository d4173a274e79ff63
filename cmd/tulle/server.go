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

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/identity"
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
		if err := checkPorts(append(ctl.listeners(true), obs.listeners()...)...); err != nil {
			return err // a child would be started again and again
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("cannot find the running executable: %w", err)
		}
		ctl.dataDir = filepath.Join(dataDir, "controller")
		obs.cfg.DataDir = filepath.Join(dataDir, "observer")
		bundle, token, err := admitObserver(ctl, obs.cfg.DataDir)
		if err != nil {
			return err
		}
		observerArgs := append([]string{
			"--data-dir", obs.cfg.DataDir, "--controller", ctl.grpc, "--trust-domain", ctl.trustDomain, "--bundle", bundle, "--token-file", token,
		}, handOn(c.Flags(), passed)...)
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
			child("observer", obs.cfg.HTTP, observerArgs),
		)
	}
	return together
}

// admitObserver creates the authority if need be and a join token for the observer, good for an hour: enough for its first certificate, and not
// needed once it has one.
func admitObserver(ctl controllerFlags, dir string) (bundle, tokenFile string, err error) {
	if bundle, err = controller.EnsureCA(ctl.dataDir, ctl.trustDomain); err != nil {
		return "", "", fmt.Errorf("creating the certificate authority: %w", err)
	}
	token, err := controller.IssueToken(ctl.dataDir, identity.SystemNamespace, "observer", time.Hour)
	if err != nil {
		return "", "", fmt.Errorf("join token for the observer: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("data directory: %w (choose one that can be written with --data-dir)", err)
	}
	tokenFile = filepath.Join(dir, "join-token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		return "", "", fmt.Errorf("join token for the observer: %w", err)
	}
	return bundle, tokenFile, nil
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
