//go:build linux

// Command storebench measures Tulle's span store beside Jaeger's badger and memory storages: CPU per span written, bytes per span, and how long queries take.
//
//	storebench                      everything up to 10 M spans, and write docs/benchmarks.md
//	storebench -spans 100000000     the named scale run: only Tulle, only queries
//	storebench record DIR FILE      make a corpus from the log of an observer's spans, DIR/wal
//
// Each measurement runs in a process of its own (this program again), contenders in turn. CPU time is of the whole process, user and system.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// job is what a child does; its outcome goes to stdout as JSON.
type job struct {
	Do        string // write, build or query
	Contender string
	Corpus    string
	Dir       string
	Copies    uint64 // of the corpus
	Batch     int    // least spans in a batch; 0: as recorded
	Decode    bool   // the batches come as OTLP bytes
	Unmerged  bool   // Tulle's blocks stay as they were sealed
	Writers   int
	Rounds    int  // of each query
	IDs       bool // no other queries than by id
	Base      uint64
}

// outcome of a job; fields that it does not measure are 0.
type outcome struct {
	Spans   int
	CPU     time.Duration // of what was measured
	Wall    time.Duration
	Bytes   int64
	RSS     int64 // peak of the process, bytes
	Columns map[string]int64
	Queries []timing
}

// timing is one kind of query.
type timing struct {
	Name     string
	P50, P99 time.Duration // wall
	CPU50    time.Duration // CPU time of the whole process meanwhile
	CPU99    time.Duration
	N        int // how many were asked
	Found    int // in all
}

var jobs = map[string]func(job) (outcome, error){"write": writeJob, "build": buildJob, "query": queryJob}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "storebench:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		return child(os.Args[2])
	}
	if len(os.Args) == 4 && os.Args[1] == "record" {
		return record(os.Args[2], os.Args[3], 26_000)
	}
	var o options
	flag.StringVar(&o.corpus, "corpus", "loadtest/peer/storebench/testdata/shop.otlp.zst", "recorded spans")
	flag.StringVar(&o.page, "page", "docs/benchmarks.md", "page to write the tables into; empty: only print")
	flag.StringVar(&o.dir, "dir", "", "where the stores are made and removed (default: a temporary directory)")
	flag.StringVar(&o.keep, "keep", "", "build the large store here and keep it; when it is there already it is used as it is")
	flag.IntVar(&o.spans, "spans", 10_000_000, "spans in the store that queries are measured on")
	flag.IntVar(&o.write, "write", 500_000, "spans of each measurement of writing with Tulle")
	flag.IntVar(&o.peer, "peer", 100_000, "spans of each measurement with Jaeger's storages, and of the queries that all are asked")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of writing")
	flag.StringVar(&o.only, "only", "", "comma-separated parts: write, peers, queries, observer, beside (default: write, peers, queries)")
	flag.StringVar(&o.observer, "observer", "bin/tulle", "program that is an observer, for that part")
	flag.IntVar(&o.rate, "rate", 20_000, "spans per second to the observer")
	flag.DurationVar(&o.last, "last", 30*time.Minute, "how long each measurement of the observer lasts")
	flag.BoolVar(&o.ids, "ids", false, "of queries, only those by trace id")
	flag.DurationVar(&o.window, "window", 10*time.Second, "how long spans come with and without searches beside them, each time")
	flag.Parse()
	return measure(o)
}

func child(arg string) error {
	var j job
	if err := json.Unmarshal([]byte(arg), &j); err != nil {
		return err
	}
	do, ok := jobs[j.Do]
	if !ok {
		return fmt.Errorf("no job %q", j.Do)
	}
	out, err := do(j)
	if err != nil {
		return err
	}
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return err
	}
	out.RSS = u.Maxrss << 10
	return json.NewEncoder(os.Stdout).Encode(out)
}

// spawn runs a job in a process of its own.
func spawn(j job) (out outcome, err error) {
	arg, err := json.Marshal(j)
	if err != nil {
		return out, err
	}
	self, err := os.Executable()
	if err != nil {
		return out, err
	}
	cmd := exec.Command(self, "child", string(arg)) //nolint:gosec // this program
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s with %s: %w", j.Do, j.Contender, err)
	}
	return out, json.Unmarshal(b, &out)
}

// cpu is what this process has used so far.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func load(j job) (*corpus, error) {
	c, err := readCorpus(j.Corpus)
	if err == nil && j.Batch > 0 {
		c.merge(j.Batch)
	}
	return c, err
}

// writeJob measures the CPU time from a batch to everything on disk. What it takes to make the batches is measured first, without a store, and taken off.
func writeJob(j job) (out outcome, err error) {
	c, err := load(j)
	if err != nil {
		return out, err
	}
	if err := os.RemoveAll(j.Dir); err != nil {
		return out, err
	}
	s, err := contenders[j.Contender](j)
	if err != nil {
		return out, err
	}
	from, err := newSource(c, j.Decode)
	if err != nil {
		return out, err
	}
	pass := func(k uint64, store bool) (time.Duration, error) {
		runtime.GC()
		begin := cpu()
		err := from.feed(j.Writers, k, k+j.Copies, j.Base, sender(s, store))
		if err == nil && store {
			err = s.settle()
		}
		if err == nil && store {
			err = s.close()
		}
		return cpu() - begin, err
	}
	if _, err := pass(0, false); err != nil { // the heap grows once
		return out, err
	}
	making, err := pass(0, false)
	if err != nil {
		return out, err
	}
	begin := time.Now()
	all, err := pass(0, true)
	if err != nil {
		return out, err
	}
	out.Spans, out.CPU, out.Wall = c.spans*int(j.Copies), all-making, time.Since(begin) //nolint:gosec // small
	if out.Bytes, err = s.size(); err != nil {
		return out, err
	}
	if j.Contender == "tulle" {
		out.Columns, err = columnSizes(j.Dir)
	}
	return out, errors.Join(err, os.RemoveAll(j.Dir))
}

// buildJob fills a store with copies of the corpus, the last of which ended just now.
func buildJob(j job) (out outcome, err error) {
	c, err := load(j)
	if err != nil {
		return out, err
	}
	s, err := contenders[j.Contender](j)
	if err != nil {
		return out, err
	}
	from, err := newSource(c, false)
	if err != nil {
		return out, err
	}
	begin, wall := cpu(), time.Now()
	if err := from.feed(j.Writers, 0, j.Copies, j.Base, sender(s, true)); err != nil {
		return out, errors.Join(err, s.close())
	}
	if err := errors.Join(s.settle(), s.rest(), s.close()); err != nil {
		return out, err
	}
	out.Spans, out.CPU, out.Wall = c.spans*int(j.Copies), cpu()-begin, time.Since(wall) //nolint:gosec // small
	out.Bytes, err = s.size()
	return out, err
}

func temporary(o options) (string, func(), error) {
	dir, err := os.MkdirTemp(o.dir, "storebench-")
	if err != nil {
		return "", nil, err
	}
	abs, err := filepath.Abs(dir)
	return abs, func() { _ = os.RemoveAll(dir) }, err
}
