//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

func tracesCommand() *cobra.Command {
	var (
		at   observerAt
		out  output
		q    store.TraceQuery
		last time.Duration
		tags string
		grpc string
	)
	c := &cobra.Command{
		Use: "traces [EXPRESSION]", GroupID: "see",
		Short: "Search traces, newest first, by flags and a match expression about one of their spans",
		Example: `  tulle traces 'status>=500 and path~"^/pay"'
  tulle traces --service catalog --errors
  tulle traces --source web --destination catalog --min 100ms
  tulle traces --tags 'http.response.status_code=404 url.path=~"/items/.*"'
  tulle traces --destination catalog --grpc UNAVAILABLE`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			expr, err := matchArg(c, args)
			if err != nil {
				return err
			}
			if q.Limit < 1 || q.Limit > 500 {
				return usageError{fmt.Errorf("--limit %d: must be 1 to 500 (--cursor goes on)", q.Limit)}
			}
			if grpc != "" {
				s, ok := flow.ParseGRPCStatus(strings.ToUpper(grpc))
				if !ok {
					return usageError{fmt.Errorf("--grpc %q: must be the name of a gRPC status such as UNAVAILABLE", grpc)}
				}
				tags += " " + flow.AttrGRPC + "=" + s.String()
			}
			q.Start = time.Now().Add(-last)
			partial := false
			page, err := ask(c, "searching traces", func(ctx context.Context) (page store.TracePage, err error) {
				page, partial, err = at.client().Traces(ctx, q, tags, expr)
				return page, err
			})
			if err != nil {
				return err
			}
			if partial {
				_, _ = fmt.Fprintf(c.ErrOrStderr(), "tulle: the page is short because too many traces had to be read for it; --cursor %s goes on\n", page.Next)
			}
			if page.LeftOut > 0 {
				c.PrintErrf("of this time, %d ordinary traces were left out to make room (errors, slow and rare ones are kept; see --span-thin-keep of the observer)\n", page.LeftOut)
			}
			return out.print(c, page, func(w io.Writer, s show.Style) error { return s.Traces(w, page.Traces, time.Now()) })
		},
	}
	at.flag(c)
	out.flag(c)
	f := c.Flags()
	f.StringVar(&q.Service, "service", "", "with a span of this service")
	f.StringVar(&q.Operation, "operation", "", "with a span of this name")
	f.StringVar(&q.Source, "source", "", "with a call from this service")
	f.StringVar(&q.Destination, "destination", "", "with a call to this service")
	f.StringVar(&q.Reason, "reason", "", "with this reason, as in upstream_5xx")
	f.StringVar(&grpc, "grpc", "", "with this gRPC status, as in UNAVAILABLE")
	f.DurationVar(&q.MinDuration, "min", 0, "with a span that took at least this long")
	f.DurationVar(&q.MaxDuration, "max", 0, "with a span that took at most this long")
	f.BoolVar(&q.Errors, "errors", false, "with an error")
	f.StringVar(&tags, "tags", "", "with these attributes on one span, as in 'k=v k2!=v2 k3 k4=~pattern'")
	f.IntVar(&q.Limit, "limit", 20, "at most so many")
	f.StringVar(&q.Cursor, "cursor", "", "go on where a page ended (\"next\" of -o json)")
	f.DurationVar(&last, "last", time.Hour, "how far back")
	c.ValidArgsFunction = expression(&at)
	for _, name := range []string{"service", "source", "destination"} {
		complete(c, name, services(&at))
	}
	complete(c, "reason", fixed(reasons()...))
	return c
}
