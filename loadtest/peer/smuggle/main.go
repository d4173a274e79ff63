//go:build unix

// Command smuggle tries to make Tulle and real services disagree about where an HTTP/1.1 message ends. It starts a controller and sidecars as
// processes, and behind them Go's net/http, nginx and Node; sends every case of testdata/request to each of them, through one sidecar and
// through two with mTLS between them; and compares what the service took for messages with what Tulle passed on or refused. Then a service
// of its own sends every case of testdata/response, and a careful caller says what it was led to believe. It prints one line per way and
// exits with 1 when two parties disagreed.
//
// Run it in the folder that holds bin/tulle and bin/tulle-sidecar (make test-peers does). It needs nginx and node.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
)

func main() {
	bin := flag.String("bin", "bin", "folder with the executables tulle and tulle-sidecar")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := smuggle(ctx, os.Stdout, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "smuggle: "+err.Error())
		os.Exit(1)
	}
}

func smuggle(ctx context.Context, out io.Writer, bin string) (err error) {
	requests, err := cases("request")
	if err != nil {
		return err
	}
	responses, err := cases("response")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tulle-smuggle-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Mkdir(filepath.Join(dir, "nginx"), 0o700); err != nil {
		return err
	}

	var services []*service
	defer func() {
		for _, s := range services {
			s.stop()
		}
	}()
	for _, start := range []func() (*service, error){
		startGo,
		func() (*service, error) { return startNginx(ctx, filepath.Join(dir, "nginx")) },
		func() (*service, error) { return startNode(ctx) },
	} {
		s, err := start()
		if err != nil {
			return err
		}
		services = append(services, s)
	}
	e, err := startEvil()
	if err != nil {
		return err
	}
	defer e.stop()

	m, err := startMesh(ctx, bin, dir, services, e.l.Addr().String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.stop()) }()

	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "SERVICE\tTHROUGH\tCASES\tDISAGREEMENTS")
	total := 0
	line := func(name, through string, n int, wrong []error) {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", name, through, n, len(wrong))
		for _, err := range wrong {
			fmt.Fprintf(w, "\t%v\t\t\n", err)
		}
		total += len(wrong)
	}
	for _, s := range services {
		for _, way := range m.ways(s.name) {
			var wrong []error
			for i, c := range requests {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err := attack(ctx, way.addr, s, c, fmt.Sprintf("/canary/%s/%d", way.short, i)); err != nil {
					wrong = append(wrong, fmt.Errorf("%s: %s: %w", c.file, c.name, err))
				}
			}
			line(s.name, way.name, len(requests), wrong)
		}
	}
	var wrong []error
	for i, c := range responses {
		e.arm(c)
		if err := split(m.evil, c, fmt.Sprintf("/canary/%d", i)); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %s: %w", c.file, c.name, err))
		}
	}
	line("evil", "one sidecar", len(responses), wrong)
	if total > 0 {
		return fmt.Errorf("%d disagreements: each is a way to smuggle a message, or a case of testdata that says the wrong thing", total)
	}
	return nil
}
