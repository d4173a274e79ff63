//go:build unix

package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/client/show"
)

func eventsCommand() *cobra.Command {
	var (
		at   observerAt
		out  output
		q    client.EventQuery
		last time.Duration
	)
	c := &cobra.Command{
		Use: "events", GroupID: "see", Args: noArgs,
		Short: "What happened and why: ejections, alerts, configuration, certificates",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			q.Start = time.Now().Add(-last)
			events, err := at.client().Events(c.Context(), q)
			if err != nil {
				return err
			}
			return out.print(c, events, func(w io.Writer, s show.Style) error { return s.Events(w, events) })
		},
	}
	at.flag(c)
	out.flag(c)
	c.Flags().StringVar(&q.Kind, "kind", "", "only this kind, as in endpoint.ejected")
	c.Flags().StringVar(&q.Service, "service", "", "only this service")
	c.Flags().IntVar(&q.Limit, "limit", 50, "at most so many, the newest")
	c.Flags().DurationVar(&last, "last", time.Hour, "how far back")
	complete(c, "kind", fixed(kinds()...))
	complete(c, "service", services(&at))
	return c
}
