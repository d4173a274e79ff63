//go:build linux

// Command scenario plays failures to four contenders in turn and compares what a client sees of them: a client that calls endpoints itself, Tulle with its
// defaults, Envoy with its defaults, and Envoy as an expert would set it. Every cell (a scenario and a contender) has processes and endpoints of its own,
// a warm-up, and a window in which something fails; the load is open-loop. The endpoints are servers in this process that misbehave on demand and count what
// reaches them.
//
// A scenario is a line of table.go and what it names; a contender one of contender.go. Figures are kept in a file from run to run (-results), so that a page
// can be made of several runs. Run it in the folder that holds bin/; make scenarios does. It needs Linux, and Envoy for the contenders of that name.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/loadtest/machine"
)

// options are what a person chose.
type options struct {
	bin, envoy string
	scenarios  []scenario
	contenders []contender
	rounds     int
	results    string
	write      string
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`folder` with tulle and tulle-sidecar")
	flag.StringVar(&o.envoy, "envoy", "", "the envoy `executable`")
	only := flag.String("only", "", "play only these `scenarios`, comma separated; list names them all")
	which := flag.String("contenders", "", "play only for these `contenders`, comma separated: "+strings.Join(contenderNames(contenders), ", "))
	flag.IntVar(&o.rounds, "rounds", 3, "how often each is played; the tables have medians. 0 plays nothing, and makes tables of what -results has")
	flag.StringVar(&o.results, "results", "", "`file` where figures are kept from run to run: each cell that is played replaces its older one")
	flag.StringVar(&o.write, "write", "", "rewrite the figures of this `page`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *only == "list" {
		for _, s := range scenarios {
			fmt.Printf("%-20s %s\n", s.name, s.title)
		}
		return
	}
	if err := choose(&o, *only, *which); err != nil {
		fmt.Fprintln(os.Stderr, "scenario: "+err.Error())
		os.Exit(2)
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "scenario: "+err.Error())
		os.Exit(1)
	}
}

// choose reads -only and -contenders; nothing means all.
func choose(o *options, only, which string) (err error) {
	if o.rounds < 0 {
		return fmt.Errorf("-rounds %d: must not be below 0", o.rounds)
	}
	if o.scenarios, err = pick("-only", only, scenarios, func(s scenario) string { return s.name }); err != nil {
		return err
	}
	o.contenders, err = pick("-contenders", which, contenders, func(c contender) string { return c.name })
	return err
}

// pick are the members of a table that a list names, in the table's order.
func pick[T any](flag, list string, table []T, name func(T) string) ([]T, error) {
	if list == "" {
		return table, nil
	}
	want := strings.Split(list, ",")
	var known []string
	var out []T
	for _, t := range table {
		known = append(known, name(t))
		if slices.Contains(want, name(t)) {
			out = append(out, t)
		}
	}
	for _, w := range want {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("%s %s: known are %s", flag, w, strings.Join(known, ", "))
		}
	}
	return out, nil
}

func contenderNames(cs []contender) (out []string) {
	for _, c := range cs {
		out = append(out, c.name)
	}
	return out
}

// run plays everything that was chosen, round by round, contenders in turn and in another order each time, and reports.
func run(ctx context.Context, o options) error {
	found, err := openResults(o.results)
	if err != nil {
		return err
	}
	if o.rounds == 0 {
		return tell(o, found)
	}
	others, err := machine.Watch()
	if err != nil {
		return err
	}
	r, err := newRig(ctx, o)
	if err != nil {
		return errors.Join(err, r.close())
	}
	made, err := circumstances(o, r)
	if err != nil {
		return errors.Join(err, r.close())
	}
	var failed []string
	for round := range o.rounds {
		for n, sc := range o.scenarios {
			for i := range o.contenders {
				c := o.contenders[(i+n+round)%len(o.contenders)]
				if sc.not[c.name] != "" {
					continue
				}
				f, err := cell(ctx, r, sc, c)
				if err != nil {
					if ctx.Err() != nil {
						return errors.Join(errors.New("stopped before the end"), r.close())
					}
					failed = append(failed, fmt.Sprintf("%s for %s: %v", sc.name, c.name, err))
					fmt.Fprintln(os.Stderr, "scenario: "+failed[len(failed)-1])
					continue
				}
				fmt.Fprintf(os.Stderr, "%s round %d %-18s %-12s %s\n", time.Now().Format("15:04:05"), round+1, sc.name, c.name, f.line())
				found.add(sc.name, c.name, round, f, made)
				if err := found.save(); err != nil {
					return errors.Join(err, r.close())
				}
			}
		}
	}
	if err := r.close(); err != nil {
		return err
	}
	share, err := others.Share()
	if err != nil {
		return err
	}
	found.amend(made, fmt.Sprintf("; other work used %.2f cores", share))
	if err := found.save(); err != nil {
		return err
	}
	if err := tell(o, found); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d cells could not be played", len(failed))
	}
	return nil
}

// tell prints the tables of what was chosen, and writes the page of all that is known.
func tell(o options, found *results) error {
	fmt.Print(found.markdown(o.scenarios))
	if o.write == "" {
		return nil
	}
	return rewrite(o.write, found.markdown(scenarios))
}

// cell plays one scenario for one contender.
func cell(ctx context.Context, r *rig, sc scenario, c contender) (figures, error) {
	s, err := newStage(ctx, r, sc, c)
	if err != nil {
		return figures{}, errors.Join(err, s.close())
	}
	samples, attempts, err := s.play()
	if err = errors.Join(err, s.close()); err != nil {
		return figures{}, err
	}
	return judge(samples, attempts, s.window), nil
}
