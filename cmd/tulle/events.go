//go:build unix

package main

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/store/event"
)

func eventsCommand() *cobra.Command {
	var (
		at    observerAt
		out   output
		q     client.EventQuery
		last  time.Duration
		watch bool
	)
	c := &cobra.Command{
		Use: "events", GroupID: "see", Args: noArgs,
		Short: "What happened and why: ejections, alerts, configuration, certificates",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			q.Start = time.Now().Add(-last)
			events, err := ask(c, "reading events", func(ctx context.Context) ([]event.Event, error) { return at.client().Events(ctx, q) })
			if err != nil {
				return err
			}
			if watch {
				return follow(c, &out, at.client(), q, events)
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
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what happens from now on, until Ctrl-C; with -o json one line each")
	complete(c, "kind", fixed(kinds()...))
	complete(c, "service", services(&at))
	return c
}

// overlap is how much later than others of its time an event may come in and be shown: those of the controller come by way of a stream.
const overlap = 10 * time.Second

// follow writes events, and then those that come, oldest first, until the context ends.
func follow(c *cobra.Command, out *output, cl *client.Client, q client.EventQuery, events []event.Event) error {
	w := c.OutOrStdout()
	style := show.Style{Color: colored(w), Wide: out.format == "wide"}
	data := json.NewEncoder(w)
	seen := map[string]time.Time{} // those of the last overlap
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	q.Limit = 1000
	for {
		slices.SortFunc(events, func(a, b event.Event) int { return a.Time.Compare(b.Time) })
		for _, e := range events {
			if _, twice := seen[e.ID]; twice {
				continue
			}
			seen[e.ID] = e.Time
			if start := e.Time.Add(-overlap); start.After(q.Start) {
				q.Start = start
			}
			var err error
			switch out.format {
			case "json":
				err = data.Encode(e)
			case "yaml":
				if _, err = io.WriteString(w, "---\n"); err == nil {
					err = printYAML(w, e)
				}
			default:
				err = style.Event(w, e)
			}
			if err != nil {
				return err
			}
		}
		for id, t := range seen {
			if t.Before(q.Start) {
				delete(seen, id)
			}
		}
		select {
		case <-tick.C:
		case <-c.Context().Done():
			return nil
		}
		var err error
		if events, err = cl.Events(c.Context(), q); err != nil {
			if c.Context().Err() != nil {
				return nil
			}
			return err
		}
	}
}
