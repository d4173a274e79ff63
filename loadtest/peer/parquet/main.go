//go:build unix

// Command parquet proves that engines which know nothing of Tulle read its sealed spans and see the same: DuckDB and ClickHouse's engine (PyPI
// chdb) count spans by service, status, duration, time, trace, map attribute and reason in the Parquet files of a store, and the answers must be
// those of the store itself. It also holds that both skip what the bloom filters and the bounds of pages exclude.
//
// Without -dir it makes a store of its own. With it, the spans of that store are taken as they are; no observer may have it open. Only what is in
// blocks is compared, so a store with spans in its log is refused.
//
// It needs a Python with both engines (make test-peers makes one in .tools/python).
package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
)

//go:embed engines.py
var script string

// patience bounds the whole run.
const patience = 5 * time.Minute

func main() {
	python := flag.String("python", "python3", "a `python` that has the packages duckdb and chdb")
	dir := flag.String("dir", "", "read the store in this `folder` instead of making one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := compare(ctx, os.Stdout, *python, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "parquet: "+err.Error())
		os.Exit(1)
	}
}

func compare(ctx context.Context, out io.Writer, python, dir string) (err error) {
	if err := findEngines(ctx, python); err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "tulle-parquet-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		if err := makeCorpus(ctx, dir, allTraces); err != nil {
			return err
		}
	}
	db, err := local.Open(local.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	st := db.Stats()
	if n := sealed(st); uint64(n) != st.Spans { //nolint:gosec // a count
		return fmt.Errorf("%d of %d spans in %s are in blocks, the others only in the log: let the observer run for a minute without traffic first", n, st.Spans, dir)
	}
	qs, err := questions(ctx, db)
	if err != nil {
		return err
	}
	pattern := filepath.Join(dir, "blocks", "*", "*.parquet")
	files, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	r, err := askEngines(ctx, python, job{Files: pattern, File: largest(files), Questions: qs})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d spans in %d blocks; %s, %s\n\n", st.Spans, st.Blocks, r.Versions["duckdb"], r.Versions["clickhouse"])
	return judge(ctx, out, db, qs, r)
}

// judge prints a line for each question and each way of skipping, and fails when one is not as it must be.
func judge(ctx context.Context, out io.Writer, s store.Spans, qs []question, r report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "QUESTION\tSPANS\tRESULT")
	failed := 0
	for i := range qs {
		want, err := qs[i].ask(ctx, s)
		if err != nil {
			return fmt.Errorf("ask the store for %s: %w", qs[i].Name, err)
		}
		result := "the same"
		for _, engine := range slices.Sorted(maps.Keys(qs[i].Where)) {
			switch got := r.Answers[engine]; {
			case len(got) != len(qs):
				return fmt.Errorf("%s answered %d of %d questions", engine, len(got), len(qs))
			case got[i] != want:
				result = fmt.Sprintf("DIFFERS: %s says %+v, the store %+v, where %s", engine, got[i], want, qs[i].Where[engine])
				failed++
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", qs[i].Name, want.Spans, result)
	}
	fmt.Fprintln(w, "\nSKIPPING\tCOUNT\tRESULT")
	for _, k := range r.Skips {
		result := "ok"
		if (k.Count == 0) != strings.HasSuffix(k.What, "(none)") {
			result = "WRONG"
			failed++
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", k.What, k.Count, result)
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d answers are not as they must be", failed)
	}
	return nil
}

// job and report are what the script reads and writes.
type job struct {
	Files     string     `json:"files"`
	File      string     `json:"file"`
	Questions []question `json:"questions"`
}

type report struct {
	Versions map[string]string   `json:"versions"`
	Answers  map[string][]answer `json:"answers"`
	Skips    []skip              `json:"skips"`
}

// skip is how much an engine read, or did not; What ends in "(none)" where it must be nothing.
type skip struct {
	What  string `json:"what"`
	Count int    `json:"count"`
}

func findEngines(ctx context.Context, python string) error {
	if _, err := exec.LookPath(python); err != nil {
		return fmt.Errorf("no executable %s: install Python 3 (Debian/Ubuntu: apt-get install python3 python3-venv), or name one with -python PATH", python)
	}
	cmd := exec.CommandContext(ctx, python, "-c", "import duckdb, chdb")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s has not both engines (%s): %s -m pip install duckdb chdb, or name another Python with -python PATH", python, lastLine(b), python)
	}
	return nil
}

// largest is the file with the most pages, on which skipping shows.
func largest(files []string) string {
	size := func(name string) int64 {
		st, err := os.Stat(name)
		if err != nil {
			return -1
		}
		return st.Size()
	}
	return slices.MaxFunc(files, func(a, b string) int { return cmp.Compare(size(a), size(b)) })
}

func lastLine(b []byte) string {
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(lines[len(lines)-1])
}

func askEngines(ctx context.Context, python string, j job) (r report, err error) {
	in, err := json.Marshal(j)
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, python, "-c", script)
	cmd.Stdin = bytes.NewReader(in)
	var out, fault bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &fault
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("ask the engines: %w: %s", err, strings.TrimSpace(fault.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("ask the engines: their answer is not JSON: %w", err)
	}
	return r, nil
}

func notFoundIsNone(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
