//go:build unix

// Command words measures how long each command of tulle takes to its first output on a running demo, and how much of a processor it costs: make words. It fails when the
// median of a command is above the bar.
//
// Run it in the folder that holds bin/tulle. Times are of a wall clock, so the machine should have nothing else to do; CPU is that of the command's own process.
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
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/loadtest/rig"
	"github.com/tulle-mesh/tulle/store"
)

type options struct {
	tulle    string
	observer string // of a demo that runs already
	admin    string // of its controller
	offset   int
	rounds   int
	warm     time.Duration
	bar      time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.tulle, "tulle", filepath.Join("bin", "tulle"), "the tulle executable")
	flag.StringVar(&o.observer, "observer", "", "measure a demo that runs already, at this address, instead of starting one")
	flag.StringVar(&o.admin, "controller-admin", "127.0.0.1:8644", "with -observer: admin address of that demo's controller")
	flag.IntVar(&o.offset, "port-offset", 0, "added to every port of the demo, to run beside another one")
	flag.IntVar(&o.rounds, "rounds", 15, "how often each command runs")
	flag.DurationVar(&o.warm, "warm", time.Minute, "how long the demo runs before")
	flag.DurationVar(&o.bar, "bar", 150*time.Millisecond, "longest median to the first output")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "words: "+err.Error())
		os.Exit(1)
	}
}

func measure(ctx context.Context, out io.Writer, o options) (err error) {
	api, admin := client.New(o.observer), o.admin
	if o.observer == "" {
		r, err := rig.Start(ctx, rig.Options{Tulle: o.tulle, Offset: o.offset})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Stop()) }()
		api, admin = r.API, r.Config.ControllerAdmin
		fmt.Fprintf(out, "the demo is live; it runs for %s before it is asked\n", o.warm)
		select {
		case <-time.After(o.warm):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	page, _, err := api.Traces(ctx, store.TraceQuery{Service: "web", Limit: 1, Start: time.Now().Add(-time.Minute), End: time.Now().Add(-10 * time.Second)}, "", "")
	if err != nil {
		return err
	}
	if len(page.Traces) == 0 {
		return errors.New("the observer has no trace of web: does the demo have load?")
	}
	id := page.Traces[0].ID
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "first output\tworst\twhole\tCPU\t  command")
	var slow []string
	for _, args := range [][]string{
		{"top", "--once"},
		{"top", "--once", "-o", "wide"},
		{"tap", "--limit", "1"},
		{"requests"},
		{"requests", "failed or duration>100ms"},
		{"requests", "--group-by", "src,dst,route"},
		{"graph"},
		{"graph", "-o", "dot"},
		{"graph", "--at", "30s"},
		{"graph", "--diff", "30s"},
		{"traces"},
		{"traces", "status>=500"},
		{"trace", id},
		{"why", id},
		{"events"},
		{"query", `sum by (destination) (rate(tulle_requests_total{side="client"}[1m]))`},
		{"query", "--instant", "up"},
		{"doctor"},
		{"explain", "service/catalog"},
		{"version"},
		{"--help"},
		{"__complete", "traces", "--service", ""},
	} {
		line, median, err := command(ctx, o, api.Base(), admin, args)
		if err != nil {
			return err
		}
		fmt.Fprintln(tw, line)
		if median > o.bar {
			slow = append(slow, strings.Join(args, " "))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(slow) > 0 {
		return fmt.Errorf("more than %s to the first output: %s", o.bar, strings.Join(slow, "; "))
	}
	return nil
}

// command runs one command again and again.
func command(ctx context.Context, o options, observer, admin string, args []string) (line string, median time.Duration, err error) {
	var first, whole, cpu []time.Duration
	for range o.rounds {
		all := args
		if args[0] == "explain" {
			all = append(slices.Clone(args), "--controller-admin", admin)
		}
		c := exec.CommandContext(ctx, o.tulle, all...)
		c.Env = append(os.Environ(), "TULLE_OBSERVER="+observer, "NO_COLOR=1")
		said := &strings.Builder{}
		c.Stderr = said
		stdout, err := c.StdoutPipe()
		if err != nil {
			return "", 0, err
		}
		begun := time.Now()
		if err := c.Start(); err != nil {
			return "", 0, err
		}
		b := make([]byte, 1)
		_, err = io.ReadFull(stdout, b)
		first = append(first, time.Since(begun))
		if err != nil {
			_ = c.Wait()
			return "", 0, fmt.Errorf("tulle %s says nothing: %w: %s", strings.Join(args, " "), err, said)
		}
		_, _ = io.Copy(io.Discard, stdout)
		err = c.Wait()
		whole = append(whole, time.Since(begun))
		var exit *exec.ExitError
		if errors.As(err, &exit) && args[0] == "doctor" {
			err = nil // 5 and 6 are what it has found
		}
		if err != nil {
			return "", 0, fmt.Errorf("tulle %s: %w: %s", strings.Join(args, " "), err, said)
		}
		cpu = append(cpu, c.ProcessState.UserTime()+c.ProcessState.SystemTime())
	}
	mid := func(l []time.Duration) time.Duration { slices.Sort(l); return l[len(l)/2] }
	median = mid(first)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/1e6) }
	return fmt.Sprintf("%s\t%s\t%s\t%s\t  %s", ms(median), ms(first[len(first)-1]), ms(mid(whole)), ms(mid(cpu)), strings.Join(args, " ")), median, nil
}
