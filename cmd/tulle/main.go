//go:build unix

// Command tulle is the control plane, the dashboard, the demo and the command line of Tulle. Each subcommand is one file here: flags become
// a Config, and the package that owns the work runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/internal/process"
)

// version is set by the linker.
var version = "dev"

// Exit codes; `tulle --help` lists them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitNotFound    = 4
	exitWarnings    = 5
	exitUnhealthy   = 6
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() { os.Exit(run()) }

func run() int {
	// The process that started this one (demo, server) may vanish: then this one stops too.
	ctx := process.Lifeline(context.Background(), 45*time.Second)
	ctx, stop := untilSignal(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetContext(ctx)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintln(os.Stderr, "tulle: "+advised(err))
	return exitCode(err)
}

// echo is how long after the first signal further ones are taken for the same: wrappers (timeout, make, shells) often pass on what the
// terminal has sent already.
const echo = 2 * time.Second

// untilSignal is a context that ends with the first signal. A second one, later than echo, has its default effect: the process ends at once.
func untilSignal(ctx context.Context, signals ...os.Signal) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	got := make(chan os.Signal, 1)
	signal.Notify(got, signals...)
	go func() {
		select {
		case <-got:
			cancel()
			time.AfterFunc(echo, func() { signal.Stop(got) })
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tulle",
		Short: "A service mesh that you can see through",
		Long: `Tulle: sidecars carry the traffic and write down what they saw; an embedded store keeps it; a live picture of who calls
whom is drawn from it; and the controller uses the same evidence to move traffic.

Exit codes: 0 done, 1 it failed, 2 the command line is wrong, 3 no observer answers, 4 what was asked for does not exist,
5 doctor has warnings, 6 doctor found failures.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           version,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see '%s --help')", err, c.CommandPath())}
	})
	root.SetVersionTemplate("tulle {{.Version}}\n")
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "see", Title: "See:"},
		&cobra.Group{ID: "reason", Title: "Reason:"},
		&cobra.Group{ID: "health", Title: "Health:"},
	)
	for _, c := range commands() {
		root.AddCommand(c)
	}
	root.SetHelpCommandGroupID("see")
	return root
}

// commands is the one table of subcommands.
func commands() []*cobra.Command {
	return []*cobra.Command{
		demoCommand(),
		serverCommand(),
		controllerCommand(),
		observerCommand(),
		storeCommand(),
		topCommand(),
		graphCommand(),
		tapCommand(),
		requestsCommand(),
		tracesCommand(),
		traceCommand(),
		queryCommand(),
		eventsCommand(),
		whyCommand(),
		lintCommand(),
		explainCommand(),
		testCommand(),
		doctorCommand(),
		caCommand(),
		interceptCommand(),
		versionCommand(),
		shopServiceCommand(), // hidden: started by demo
		loadgenCommand(),     // hidden: started by demo
	}
}

// advised adds to an error what a person can do about it.
func advised(err error) string {
	text := strings.TrimSpace(err.Error())
	if errors.Is(err, client.ErrUnreachable) {
		text += ". Start one with 'tulle demo' or 'tulle server', or say where it is with --observer ADDRESS"
	}
	if errors.Is(err, client.ErrNoController) {
		text += ". Start one with 'tulle controller' or 'tulle server', say where it is with --controller-admin ADDRESS, or name files with --config"
	}
	return text
}

func exitCode(err error) int {
	var (
		usage usageError
		ill   diagnosis
		none  missing
	)
	switch {
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.As(err, &ill):
		return ill.code()
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrNoController):
		return exitUnreachable
	case client.NotFound(err), errors.As(err, &none):
		return exitNotFound
	}
	return exitFailed
}

// noArgs and oneArg refuse other numbers of arguments in the words of this command line.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument, got %q (see '%s --help')", c.CommandPath(), args[0], c.CommandPath())}
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s needs exactly one argument, %s (see '%s --help')", c.CommandPath(), what, c.CommandPath())}
		}
		return nil
	}
}

// terminal reports whether f is one that shows colours and can be redrawn.
func terminal(f io.Writer) bool {
	file, ok := f.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// colored reports whether output to f should carry colours (https://no-color.org).
func colored(f io.Writer) bool { return terminal(f) && os.Getenv("NO_COLOR") == "" }

// logger writes to standard error: for people on a terminal, as JSON otherwise.
func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %q: must be debug, info, warn or error", level)}
	}
	if terminal(os.Stderr) {
		return slog.New(tint.NewTextHandler(os.Stderr, &tint.Options{Level: l, TimeFormat: time.TimeOnly, NoColor: !colored(os.Stderr)})), nil
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
