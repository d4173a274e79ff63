//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/store/match"
	"github.com/tulle-mesh/tulle/store/requests"
)

// matchArg reads the one argument that may be left out: a match expression. It is checked here, so that a mistake is shown where it is.
func matchArg(c *cobra.Command, args []string) (string, error) {
	if len(args) > 1 {
		return "", usageError{fmt.Errorf("%s takes one match expression; put it in quotes as a whole: '%s' (see docs/reference/match.md)", c.CommandPath(), strings.Join(args, " "))}
	}
	if len(args) == 0 {
		return "", nil
	}
	_, err := match.Parse(args[0])
	var wrong *match.Error
	if errors.As(err, &wrong) {
		return "", usageError{fmt.Errorf("%w\n\n%s", wrong, indented(wrong.Pointer()))}
	}
	return args[0], err
}

func indented(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

func requestsCommand() *cobra.Command {
	var (
		at   observerAt
		out  output
		q    client.RequestQuery
		last time.Duration
		top  int
	)
	c := &cobra.Command{
		Use: "requests [EXPRESSION]", GroupID: "see",
		Short: "Search requests by a match expression, or count them by their fields",
		Example: `  tulle requests 'status>=500 and dst=catalog' --last 1h
  tulle requests --group-by src,dst,reason --top 10 'failed'
  tulle requests --group-by http.route --sort p99 'dst=payments'`,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if err := out.check(); err != nil {
				return err
			}
			if q.Match, err = matchArg(c, args); err != nil {
				return err
			}
			q.Start = time.Now().Add(-last)
			if len(q.By) == 0 {
				page, err := ask(c, "searching requests", func(ctx context.Context) (requests.Page, error) { return at.client().Requests(ctx, q) })
				if err != nil {
					return err
				}
				return out.print(c, page, func(w io.Writer, s show.Style) error { return s.Requests(w, page) })
			}
			q.Limit = top
			table, err := ask(c, "counting requests", func(ctx context.Context) (requests.Table, error) { return at.client().CountRequests(ctx, q) })
			if err != nil {
				return err
			}
			return out.print(c, table, func(w io.Writer, s show.Style) error { return s.Groups(w, table) })
		},
	}
	at.flag(c)
	out.flag(c)
	c.ValidArgsFunction = expression(&at)
	f := c.Flags()
	f.StringSliceVar(&q.By, "group-by", nil, "count by these fields, at most four, as in src,path")
	f.IntVar(&top, "top", 20, "with --group-by: at most so many groups")
	f.StringVar(&q.Sort, "sort", "count", "with --group-by: "+choice(requests.Orders())+", the most first")
	f.StringVar(&q.Side, "side", "client", "seen by client, server or both (both: with every try)")
	f.DurationVar(&last, "last", 15*time.Minute, "how far back")
	f.IntVar(&q.Limit, "limit", 20, "at most so many, the newest")
	f.IntVar(&q.Budget, "budget", 0, "how many spans may be looked at (default: 200000, with --group-by 25000)")
	complete(c, "sort", fixed(requests.Orders()...))
	complete(c, "side", fixed("client", "server", "both"))
	complete(c, "group-by", fixed(match.Words()...))
	return c
}
