//go:build unix

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/controller/lint"
)

// unclean is the error of a configuration in which lint found what makes it fail.
type unclean struct{ report lint.Report }

func (u unclean) Error() string {
	return fmt.Sprintf("%s, %s, %s", count(u.report.Errors, "error"), count(u.report.Warnings, "warning"), count(u.report.Advice, "piece")+" of advice")
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func lintCommand() *cobra.Command {
	var (
		paths  []string
		format string
		strict bool
	)
	c := &cobra.Command{
		Use: "lint", GroupID: "reason", Args: noArgs,
		Short: "What is wrong, or hardly meant, in a configuration, and what to do about it",
		Long: `Reads configuration as the controller does and says what it would refuse, warn of and put into statuses, and what is allowed but hardly meant: rules that never
decide, backends that nobody serves, timeouts that cannot end anything. It needs no controller. Exit codes: 0 no error was found (with --strict no warning either), 1 one was.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return usageError{fmt.Errorf("--output %q: must be text or json", format)}
			}
			report, err := lintFiles(paths)
			if err != nil {
				return err
			}
			if format == "json" {
				err = printJSON(c, report)
			} else {
				err = printFindings(c.OutOrStdout(), report)
			}
			if err == nil && (report.Errors > 0 || strict && report.Warnings > 0) {
				err = unclean{report}
			}
			return err
		},
	}
	c.Flags().StringArrayVar(&paths, "config", []string{"."}, "folder of *.yaml resources, or a file; may be repeated")
	c.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	c.Flags().BoolVar(&strict, "strict", false, "fail with warnings, too")
	return c
}

// lintFiles reads configuration as a controller that starts.
func lintFiles(paths []string) (lint.Report, error) {
	conf, err := readConfiguration(paths)
	if err != nil {
		return lint.Report{}, err
	}
	return lint.Run(lint.Input{Set: conf.set, Problems: conf.problems, Endpoints: conf.endpoints}), nil
}

// printFindings writes two lines for each, as compilers do: what and where, and what to do.
func printFindings(w io.Writer, r lint.Report) error {
	for _, f := range r.Findings {
		if _, err := fmt.Fprintf(w, "%s\n    %s\n", f, f.Fix); err != nil {
			return err
		}
	}
	return nil
}
