//go:build unix

package main

import (
	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
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
			e, err := at.client().Why(c.Context(), args[0])
			if err != nil {
				return err
			}
			if out.json() {
				return printJSON(c, e)
			}
			return show.Style{Color: colored(c.OutOrStdout())}.Why(c.OutOrStdout(), &e)
		},
	}
	at.flag(c)
	out.flag(c)
	return c
}
