//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/store/graph"
)

func graphCommand() *cobra.Command {
	var (
		out      output
		obs      observerAt
		at, diff instant
		watch    bool
		retries  bool
		from, to string
	)
	c := &cobra.Command{
		Use: "graph", GroupID: "see", Args: noArgs,
		Short: "Who calls whom: a tree, DOT, Mermaid or JSON, now or then, or what changed",
		Example: `  tulle graph -o dot | dot -Tsvg > mesh.svg
  tulle graph --at 14:30
  tulle graph --diff 1h             # what changed since an hour ago
  tulle graph --diff 2h --at 1h
  tulle graph --retries --to db     # what retries make of the calls to db`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			drawn := out.format == "dot" || out.format == "mermaid"
			switch {
			case !retries && from+to != "":
				return usageError{errors.New("--from and --to say which ways --retries shows; add it")}
			case retries && (drawn || !diff.IsZero()):
				return usageError{errors.New("--retries is written as table, wide, json or yaml, and without --diff")}
			case drawn && !diff.IsZero():
				return usageError{errors.New("--diff is written as table, wide, json or yaml")}
			case !diff.IsZero() && !at.IsZero() && !diff.Before(at.Time):
				return usageError{errors.New("--diff must be before --at")}
			case watch && (drawn || out.data() || !at.IsZero()):
				return usageError{errors.New("--watch draws a table of what is now; leave out -o and --at")}
			}
			cl := obs.client()
			if retries {
				return shown(c, &out, watch, "following the ways", func(ctx context.Context) (r show.Retries, err error) {
					r.Paths, r.More, err = cl.Retries(ctx, from, to, at.Time)
					return r, err
				}, func(w io.Writer, s show.Style, r show.Retries) error { return s.Retries(w, r) })
			}
			if !diff.IsZero() {
				return shown(c, &out, watch, "comparing", func(ctx context.Context) (graph.Difference, error) { return cl.GraphDiff(ctx, diff.Time, at.Time) },
					func(w io.Writer, s show.Style, d graph.Difference) error { return s.Difference(w, d) })
			}
			get := cl.Graph
			if !at.IsZero() {
				get = func(ctx context.Context) (*graph.Snapshot, error) { return cl.GraphAt(ctx, at.Time) }
			}
			return shown(c, &out, watch, "drawing the graph", get, func(w io.Writer, s show.Style, g *graph.Snapshot) error {
				switch out.format {
				case "dot":
					return show.DOT(w, g)
				case "mermaid":
					return show.Mermaid(w, g)
				}
				return s.Tree(w, g)
			})
		},
	}
	obs.flag(c)
	out.flag(c, "dot", "mermaid")
	c.Flags().Var(&at, "at", "as it was then: 10m (ago), 14:30, or 2026-11-20T14:30:00Z")
	c.Flags().Var(&diff, "diff", "what changed since then, up to --at or now")
	c.Flags().BoolVar(&retries, "retries", false, "attempts against requests along the ways that calls take")
	c.Flags().StringVar(&from, "from", "", "with --retries: ways that begin with this service")
	c.Flags().StringVar(&to, "to", "", "with --retries: ways that end with this service")
	watchFlag(c, &watch)
	return c
}

func watchFlag(c *cobra.Command, watch *bool) {
	c.Flags().BoolVarP(watch, "watch", "w", false, "draw it again every two seconds, until Ctrl-C")
}

// watchEvery is how often --watch asks.
const watchEvery = 2 * time.Second

// shown asks and writes the answer; with watch again and again.
func shown[T any](c *cobra.Command, out *output, watch bool, what string, get func(ctx context.Context) (T, error), table func(w io.Writer, s show.Style, v T) error) error {
	w := c.OutOrStdout()
	style := show.Style{Color: colored(w), Wide: out.format == "wide"}
	if watch && out.data() {
		return usageError{errors.New("--watch draws a table; leave out -o")}
	}
	if watch && terminal(w) {
		return redraw(c.Context(), w, watchEvery, func(ctx context.Context, w io.Writer) error {
			v, err := get(ctx)
			if err != nil {
				return err
			}
			return table(w, style, v)
		})
	}
	v, err := ask(c, what, get)
	if err != nil {
		return err
	}
	return out.print(c, v, func(w io.Writer, s show.Style) error { return table(w, s, v) })
}
