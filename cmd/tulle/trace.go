//go:build unix

package main

import (
	"github.com/spf13/cobra"
)

func traceCommand() *cobra.Command {
	var (
		at  observerAt
		out output
	)
	c := &cobra.Command{
		Use: "trace ID", GroupID: "see", Args: oneArg("the trace's id"),
		Short: "One trace as a waterfall",
		RunE: func(c *cobra.Command, args []string) error {
			return out.check()
		},
	}
	at.flag(c)
	out.flag(c)
	return c
}
