//go:build unix

package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/store/why"
)

func whyCommand() *cobra.Command {
	var (
		at  observerAt
		out output
	)
	c := &cobra.Command{
		Use: "why ID", GroupID: "reason", Args: oneArg("a trace id, span id or x-request-id"),
		Short: "What became of a request, in plain words: who decided, why, and what to do",
		Example: `  tulle why 4bf92f3577b34da6a3ce929d0e0e4736
  tulle why a8f1c7d2-0b6e-4c1e-9a57-3f0c6f9f1f11 -o json`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			e, err := ask(c, "looking for it", func(ctx context.Context) (why.Explanation, error) { return at.client().Why(ctx, args[0]) })
			if err != nil {
				return err
			}
			return out.print(c, e, func(w io.Writer, s show.Style) error { return s.Why(w, &e) })
		},
	}
	at.flag(c)
	out.flag(c)
	return c
}
