//go:build unix

package main

import (
	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
)

func graphCommand() *cobra.Command {
	var (
		at  observerAt
		out output
	)
	c := &cobra.Command{
		Use: "graph", GroupID: "see", Args: noArgs,
		Short: "Who calls whom, as a tree",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			g, err := at.client().Graph(c.Context())
			if err != nil {
				return err
			}
			if out.json() {
				return printJSON(c, g)
			}
			return show.Style{Color: colored(c.OutOrStdout())}.Tree(c.OutOrStdout(), g)
		},
	}
	at.flag(c)
	out.flag(c)
	return c
}
