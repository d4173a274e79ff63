//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/backup"
	"github.com/tulle-mesh/tulle/store/migrate"
	"github.com/tulle-mesh/tulle/store/span"
)

func storeMigrate() *cobra.Command {
	return onStore("migrate FROM TO", "Copy all spans to another store, and check that it has them; the same command goes on where it was interrupted (FROM and TO are data directories that no observer uses)",
		twoArgs("the data directory to copy from and the one to copy to"), runMigrate,
		func(w io.Writer, r migrate.Report) {
			_, _ = fmt.Fprintf(w, "copied\t%d spans of %d traces, of which the target lacked %d spans\n", r.Spans, r.Traces, r.Written)
			_, _ = fmt.Fprintf(w, "checked\t%d traces, %d spans are missing\n", r.Checked, r.Missing)
			if r.Damaged > 0 {
				_, _ = fmt.Fprintf(w, "not readable\t%d traces of the source; 'tulle store verify' says why\n", r.Damaged)
			}
		})
}

func runMigrate(c *cobra.Command, args []string) (r migrate.Report, err error) {
	_, source, err := backup.Find(args[0])
	if err != nil {
		return r, err
	}
	if source, err = filepath.Abs(source); err != nil {
		return r, err
	}
	_, target, err := backup.Find(args[1])
	if err != nil {
		target = filepath.Join(args[1], "spans") // a new one
		if err := os.MkdirAll(target, 0o700); err != nil {
			return r, fmt.Errorf("make the target: %w", err)
		}
	}
	if target, err = filepath.Abs(target); err != nil {
		return r, err
	}
	if source == target {
		return r, usageError{fmt.Errorf("%s and %s are the same store: name another directory to copy to", args[0], args[1])}
	}
	from, err := openWhole(source)
	if err != nil {
		return r, fmt.Errorf("open the store to copy from: %w", err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := openWhole(target)
	if err != nil {
		return r, fmt.Errorf("open the store to copy to: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()

	began, said := time.Now(), time.Now()
	return migrate.Run(c.Context(), migrate.Config{
		From: from, To: to, Source: source, Checkpoint: target + ".migrate",
		Progress: func(r migrate.Report) {
			if time.Since(said) < time.Second {
				return
			}
			said = time.Now()
			if r.Checking {
				_, _ = fmt.Fprintf(c.ErrOrStderr(), "%s: checked %d of %d traces\n", time.Since(began).Round(time.Second), r.Checked, r.Traces)
				return
			}
			_, _ = fmt.Fprintf(c.ErrOrStderr(), "%s: copied %d spans of %d traces\n", time.Since(began).Round(time.Second), r.Spans, r.Traces)
		},
	})
}

// openWhole opens the embedded store in dir so that it drops nothing for age or size: what is kept is decided by the observer that uses it next.
func openWhole(dir string) (store.Spans, error) {
	return span.Open("local", span.Config{Dir: dir, RetainAge: 100 * 365 * 24 * time.Hour, RetainBytes: math.MaxInt64, ThinAfter: 100 * 365 * 24 * time.Hour, ThinKeep: 1})
}
