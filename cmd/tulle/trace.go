//go:build unix

package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
)

func traceCommand() *cobra.Command {
	var (
		at    observerAt
		out   output
		width int
	)
	c := &cobra.Command{
		Use: "trace ID", GroupID: "see", Args: oneArg("the trace's id"),
		Short: "One trace as a waterfall",
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if b, err := hex.DecodeString(args[0]); err != nil || len(b) != 16 {
				return usageError{fmt.Errorf("%q is not a trace id: 32 hex digits, as 'tulle traces' lists them", args[0])}
			}
			td, raw, err := at.client().Trace(c.Context(), args[0])
			if err != nil {
				return err
			}
			return out.print(c, raw, func(w io.Writer, s show.Style) error { return s.Waterfall(w, show.Spans(td), width) })
		},
	}
	at.flag(c)
	out.flag(c)
	columns, err := strconv.Atoi(os.Getenv("COLUMNS"))
	if err != nil || columns < 60 {
		columns = 140
	}
	c.Flags().IntVar(&width, "width", columns, "characters per line (environment: COLUMNS)")
	return c
}
