// Command tulle-sidecar is the data plane of one workload: it carries the workload's traffic in and out, and tells the observer what it saw.
//
// It needs a controller once, to join; afterwards it starts from its state directory and serves whatever the controller told it last.
// SIGTERM, SIGINT, POST /drain and POST /quit on the admin address let requests in flight finish, flush what was recorded, and exit with 0; a second
// signal ends it at once. A sidecar started with the state directory of one that runs takes over from it. With a COMMAND, or --hot-restart, this process
// only starts and stops others: the sidecar, and the application (launch.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/process"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

func main() {
	cfg, err := parse(os.Args[1:], os.LookupEnv, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "tulle-sidecar:", err)
		os.Exit(2)
	case cfg.version:
		fmt.Println("tulle-sidecar", version(), runtime.Version())
		return
	}
	if c := cfg; c.wait || c.quit || c.hotRestart || len(c.command) > 0 {
		os.Exit(beside(c))
	}
	run := serve
	if cfg.node == "" {
		tuneRuntime(os.LookupEnv, 256<<20, 4)
	} else {
		run = serveNode
		tuneRuntime(os.LookupEnv, cfg.nodeBuffers+cfg.nodeBuffers/2+256<<20, 0)
	}
	// A supervisor that started this process and vanished counts as a request to stop.
	ctx := process.Lifeline(context.Background(), cfg.drainDelay+cfg.drainTimeout+20*time.Second)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from now on a signal has its default effect
	if err := run(ctx, cfg, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "tulle-sidecar:", err)
		os.Exit(1)
	}
}

// tuneRuntime makes Go fit a process of which there is one per workload. Each setting yields to its environment variable.
//
//   - GOGC: see garbage.
//   - GOMEMLIMIT as given, 256 MiB: only a brake for the exceptional case (thousands of connections, a long outage of the observer): above it the
//     runtime collects harder instead of growing.
//   - GOMAXPROCS at most procs, 4; 0: as it is, for a node has work for all: a sidecar on a 64-core node needs no 64 sets of caches, and idle ones would be woken for nothing. Go already
//     respects the CPU limit of the cgroup when that is lower.
func tuneRuntime(env func(string) (string, bool), memory int64, procs int) {
	if _, set := env("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(memory)
	}
	if _, set := env("GOMAXPROCS"); !set && procs > 0 && runtime.GOMAXPROCS(0) > procs {
		runtime.GOMAXPROCS(procs)
	}
}

// stamped by make build: -ldflags "-X main.stamp=…".
var stamp string

// version is what make build stamped, or else the module's version as the Go toolchain knows it.
func version() string {
	if stamp != "" {
		return stamp
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// openLog opens where the access log goes; "-" is stdout. Until it is closed or ctx is done, SIGHUP makes a file be opened anew; stdout is whoever reads its.
func openLog(ctx context.Context, path string, stdout io.Writer) (w io.Writer, closer func() error, err error) {
	if path == "-" {
		return stdout, func() error { return nil }, nil
	}
	f, err := telemetry.OpenLogFile(path)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hup:
				f.Reopen()
			case <-ctx.Done():
				return
			}
		}
	}()
	return f, func() error {
		cancel()
		<-done
		signal.Stop(hup)
		return f.Close()
	}, nil
}
