//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
)

func topCommand() *cobra.Command {
	var (
		at    observerAt
		out   output
		once  bool
		every time.Duration
	)
	c := &cobra.Command{
		Use: "top", GroupID: "see", Args: noArgs,
		Short: "Services and edges, live",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if every < 200*time.Millisecond {
				return usageError{errors.New("--every: at least 200ms")}
			}
			w := c.OutOrStdout()
			cl := at.client()
			draw := func(ctx context.Context, w io.Writer) error {
				g, err := cl.Graph(ctx)
				if err != nil {
					return err
				}
				return show.Style{Color: colored(c.OutOrStdout()), Wide: out.format == "wide"}.Top(w, g)
			}
			if out.data() {
				g, err := cl.Graph(c.Context())
				if err != nil {
					return err
				}
				return out.print(c, g, nil)
			}
			if once || !terminal(w) {
				return draw(c.Context(), w)
			}
			return redraw(c.Context(), w, every, draw)
		},
	}
	at.flag(c)
	out.flag(c)
	c.Flags().BoolVar(&once, "once", false, "print once and end (the default when the output is not a terminal)")
	c.Flags().DurationVar(&every, "every", time.Second, "how often the picture is drawn again")
	return c
}

// redraw draws until ctx ends, each time over the last picture. A picture that cannot be had ends it.
func redraw(ctx context.Context, w io.Writer, every time.Duration, draw func(context.Context, io.Writer) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var b bytes.Buffer
		b.WriteString("\x1b[H\x1b[J") // home, clear to the end
		if err := draw(ctx, &b); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
