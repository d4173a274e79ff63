//go:build unix

package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
)

func versionCommand() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "version", GroupID: "see", Short: "Print the version", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			v := map[string]string{"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH}
			return out.print(c, v, func(w io.Writer, _ show.Style) error {
				_, err := fmt.Fprintf(w, "tulle %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return err
			})
		},
	}
	out.flag(c)
	return c
}
