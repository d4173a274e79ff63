//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/client/show"
)

// answered is what a query has: its values at an instant, and before it.
type answered struct {
	Now     []client.Series `json:"now"`
	History []client.Series `json:"history,omitempty"`
}

func queryCommand() *cobra.Command {
	var (
		obs     observerAt
		out     output
		at      instant
		last    time.Duration
		step    time.Duration
		instant bool
		watch   bool
	)
	c := &cobra.Command{
		Use: "query PROMQL", GroupID: "see", Args: oneArg("a PromQL expression, in quotes"),
		Short: "A PromQL expression: its values now or then, and how they went",
		Example: `  tulle query 'sum by (destination) (rate(tulle_requests_total{side="client"}[1m]))'
  tulle query --instant --at 14:30 'sum(rate(tulle_request_failures_total[5m]))'
  tulle query --last 6h 'histogram_quantile(0.99, sum(rate(tulle_request_duration_seconds{destination="catalog"}[5m])))'`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if last < time.Second || step < 0 {
				return usageError{errors.New("--last must be at least 1s, --step above 0")}
			}
			if watch && !at.IsZero() {
				return usageError{errors.New("--watch draws what is now; leave out --at")}
			}
			cl := obs.client()
			get := func(ctx context.Context) (a answered, err error) {
				if a.Now, err = cl.QueryAt(ctx, args[0], at.Time); err != nil || instant {
					return a, err
				}
				end := at.Time
				if end.IsZero() {
					end = time.Now()
				}
				each := step
				if each == 0 {
					each = max((last / 120).Round(time.Second), time.Second)
				}
				a.History, err = cl.QueryRange(ctx, args[0], end.Add(-last), end, each)
				return a, err
			}
			return shown(c, &out, watch, "evaluating", get, func(w io.Writer, s show.Style, a answered) error { return s.Series(w, a.Now, a.History, 40) })
		},
	}
	obs.flag(c)
	out.flag(c)
	f := c.Flags()
	f.Var(&at, "at", "then: 10m (ago), 14:30, or 2026-11-20T14:30:00Z (default: now)")
	f.DurationVar(&last, "last", 15*time.Minute, "how long its history is")
	f.DurationVar(&step, "step", 0, "from one value of the history to the next (default: a 120th of it, at least 1s)")
	f.BoolVar(&instant, "instant", false, "no history")
	watchFlag(c, &watch)
	return c
}
