//go:build unix

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/store/backup"
	"github.com/tulle-mesh/tulle/store/span/local"
)

func storeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "store", GroupID: "run", Args: noArgs,
		Short: "Look at, check, back up, restore and migrate what an observer keeps on disk",
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(storeStats(), storeVerify(), storeBackup(), storeRestore(), storeMigrate())
	return c
}

func twoArgs(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usageError{fmt.Errorf("%s needs exactly two arguments, %s (see '%s --help')", c.CommandPath(), what, c.CommandPath())}
		}
		return nil
	}
}

// onStore is a command on a directory that shows a T.
func onStore[T any](use, short string, args cobra.PositionalArgs, run func(c *cobra.Command, args []string) (T, error), table func(io.Writer, T)) *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			v, err := run(c, args)
			if err != nil {
				return err
			}
			return out.print(c, v, func(w io.Writer, _ show.Style) error {
				tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				table(tw, v)
				return tw.Flush()
			})
		},
	}
	out.flag(c)
	return c
}

const dirHelp = "DIR is the data directory of an observer or a server"

func storeStats() *cobra.Command {
	return onStore("stats DIR", "What is on disk: spans, bytes, blocks, what was left out ("+dirHelp+")", oneArg("the data directory"),
		func(_ *cobra.Command, args []string) (local.Description, error) {
			_, spans, err := backup.Find(args[0])
			if err != nil {
				return local.Description{}, err
			}
			return local.Describe(spans)
		},
		func(w io.Writer, d local.Description) {
			perSpan := func(p local.Partition) string {
				if p.Spans == 0 {
					return "-"
				}
				return fmt.Sprintf("%.1f", float64(p.Bytes)/float64(p.Spans))
			}
			stamp := func(t time.Time) string {
				if t.IsZero() {
					return "-"
				}
				return t.Format("2006-01-02 15:04:05")
			}
			_, _ = fmt.Fprintln(w, "PARTITION\tBLOCKS\tSPANS\tTRACES\tBYTES\tB/SPAN\tLEFT OUT\tOLDEST\tNEWEST\tARRIVED")
			total := d.Partition
			total.Name = "in all"
			for _, p := range append(d.Partitions, total) {
				_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%d\t%s\t%s\t%s\n", p.Name, p.Blocks, p.Spans, p.Traces, p.Bytes, perSpan(p), p.LeftOutTraces, stamp(p.Oldest), stamp(p.Newest), stamp(p.Arrived))
			}
			_, _ = fmt.Fprintf(w, "\nlog: %d files, %d bytes\n", d.WALSegments, d.WALBytes)
			if d.Damaged > 0 {
				_, _ = fmt.Fprintf(w, "set aside as damaged: %d blocks\n", d.Damaged)
			}
			if d.Live {
				_, _ = fmt.Fprintln(w, "an observer uses the directory: what is in its memory is in the log, not in the table")
			}
		})
}

func storeVerify() *cobra.Command {
	var damaged int
	c := onStore("verify DIR", "Read all spans with their checksums; exit code 1 when something is damaged ("+dirHelp+")", oneArg("the data directory"),
		func(c *cobra.Command, args []string) (local.Verified, error) {
			_, spans, err := backup.Find(args[0])
			if err != nil {
				return local.Verified{}, err
			}
			v, err := local.Verify(c.Context(), spans)
			damaged = v.Damaged
			return v, err
		},
		func(w io.Writer, v local.Verified) {
			for _, f := range v.Findings {
				what := "note"
				if f.Damage {
					what = "DAMAGED"
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", what, f.Path, f.Message)
			}
			_, _ = fmt.Fprintf(w, "read %d blocks with %d spans of %d traces, %d log files with %d batches: %d damaged\n", v.Blocks, v.Spans, v.Traces, v.Segments, v.Batches, v.Damaged)
		})
	show := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := show(c, args); err != nil || damaged == 0 {
			return err
		}
		return fmt.Errorf("%d places are damaged; a running observer sets such blocks aside when it meets them, and serves the rest. Check the disk, and restore a backup if it matters", damaged)
	}
	return c
}

func storeBackup() *cobra.Command {
	return onStore("backup DIR TO", "Copy all that an observer keeps, while it runs or not; TO must be empty or absent ("+dirHelp+")", twoArgs("the data directory and where the copy goes"),
		func(c *cobra.Command, args []string) (backup.Report, error) {
			return backup.Backup(c.Context(), args[0], args[1])
		}, showBackup)
}

func storeRestore() *cobra.Command {
	return onStore("restore BACKUP TO", "Copy a backup to the data directory of an observer that does not run yet; TO must be empty or absent",
		twoArgs("the backup and the new data directory"),
		func(c *cobra.Command, args []string) (backup.Report, error) {
			return backup.Restore(c.Context(), args[0], args[1])
		}, showBackup)
}

func showBackup(w io.Writer, r backup.Report) {
	_, _ = fmt.Fprintf(w, "spans\t%d blocks (%d bytes, %d by hard links), %d log files with %d batches\n", r.Spans.Blocks, r.Spans.Bytes, r.Spans.Linked, r.Spans.Segments, r.Spans.Batches)
	_, _ = fmt.Fprintf(w, "series\t%d blocks, %d log files\n", r.Series.Blocks, r.Series.Log)
	_, _ = fmt.Fprintf(w, "events and alerts\t%d files\n", r.Files)
	_, _ = fmt.Fprintf(w, "as of\t%s\n", r.Time.Format(time.RFC3339))
}
