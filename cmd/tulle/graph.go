//go:build unix

package main

import (
	"io"

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
			return out.print(c, g, func(w io.Writer, s show.Style) error { return s.Tree(w, g) })
		},
	}
	at.flag(c)
	out.flag(c)
	return c
}
