//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/doctor"
	"github.com/tulle-mesh/tulle/client/show"
)

// diagnosis is the error of a mesh that is not well.
type diagnosis struct{ report doctor.Report }

func (d diagnosis) Error() string {
	warn, fail := 0, 0
	for _, r := range d.report.Results {
		switch r.Level {
		case doctor.Warn:
			warn++
		case doctor.Fail:
			fail++
		}
	}
	return fmt.Sprintf("of %d checks %d failed and %d have warnings", len(d.report.Results), fail, warn)
}

func (d diagnosis) code() int {
	if d.report.Level == doctor.Fail {
		return exitUnhealthy
	}
	return exitWarnings
}

func doctorCommand() *cobra.Command {
	var (
		at  observerAt
		out output
	)
	c := &cobra.Command{
		Use: "doctor", GroupID: "health", Args: noArgs,
		Short: "What is wrong with the mesh, and what to do about it",
		Long: `Looks at sidecars, policy, versions, certificates, clocks, telemetry, disk, endpoints and ports that should be opaque.

Exit codes: 0 all is well, 5 there are warnings, 6 something failed, 3 no observer answers.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			r, err := ask(c, "looking at the mesh", func(ctx context.Context) (doctor.Report, error) { return doctor.Examine(ctx, at.client(), time.Now()) })
			if err != nil {
				return err
			}
			err = out.print(c, r, func(w io.Writer, s show.Style) error { return s.Doctor(w, r) })
			if err == nil && r.Level != doctor.OK {
				err = diagnosis{r}
			}
			return err
		},
	}
	at.flag(c)
	out.flag(c)
	return c
}
