//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// sustained is what a whole observer did while spans came for a time: collector, store with merging and thinning, graph, series and alerts.
type sustained struct {
	acknowledged int64
	refused      int64 // batches that were told to come again, and came again
	lasted, cpu  time.Duration
	rss          []int64 // once a second, bytes
}

// reportObserver sends recorded spans to an observer of its own, over OTLP/gRPC on loopback: at a rate, and as fast as one core of it takes them.
func reportObserver(b *strings.Builder, o options, dir string, c *corpus) error {
	bin, err := filepath.Abs(o.observer)
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("%w: make build makes it, or name it with -observer", err)
	}
	c.merge(512) // as sidecars send when they have more to say
	from, err := newSource(c, true)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "\n### A whole observer for %s, OTLP/gRPC, batches of 512\n\n| | spans/s, acknowledged | spans/s of a core | cores used | RSS, median MiB | peak RSS, MiB | batches told to come again | bar |\n|---|---|---|---|---|---|---|---|\n", o.last)
	for _, w := range []struct {
		title string
		rate  int
		procs string
		bar   func(s sustained) string
	}{
		{fmt.Sprintf("%d spans/s", o.rate), o.rate, "", func(s sustained) string {
			peak := slices.Max(s.rss) >> 20
			return "RSS ≤ 500 MiB " + verdict(peak <= 500)
		}},
		{"as fast as one core takes them", 0, "1", func(s sustained) string {
			return "≥ 50000 spans/s of a core " + verdict(float64(s.acknowledged)/s.cpu.Seconds() >= 50_000)
		}},
	} {
		s, err := sustain(bin, filepath.Join(dir, "observer"), w.procs, w.rate, o.last, c, from)
		if err != nil {
			return fmt.Errorf("%s: %w", w.title, err)
		}
		slices.Sort(s.rss)
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.2f | %d | %d | %d | %s |\n", w.title, float64(s.acknowledged)/s.lasted.Seconds(), float64(s.acknowledged)/s.cpu.Seconds(),
			s.cpu.Seconds()/s.lasted.Seconds(), s.rss[len(s.rss)/2]>>20, s.rss[len(s.rss)-1]>>20, s.refused, w.bar(s))
	}
	return nil
}

// freePort is a port of loopback nobody listens on now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// observed is an observer of its own that runs, its store in dir.
type observed struct {
	cmd  *exec.Cmd
	http string // address of its API
	conn *grpc.ClientConn
	log  bytes.Buffer
	dir  string

	refused atomic.Int64 // batches that were told to come again
}

// startObserver starts one on an empty directory and waits until it is ready; procs is its GOMAXPROCS, "" for what the machine has.
func startObserver(bin, dir, procs string) (_ *observed, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	var at [3]string
	for i := range at {
		if at[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	ob := &observed{http: "http://" + at[0], dir: dir}
	ob.cmd = exec.Command(bin, "observer", "--data-dir", dir, "--controller", "", "--http", at[0], "--otlp-http", at[1], "--otlp-grpc", at[2], "--log-level", "warn") //nolint:gosec // the build
	ob.cmd.Env = os.Environ()
	if procs != "" {
		ob.cmd.Env = append(ob.cmd.Env, "GOMAXPROCS="+procs)
	}
	ob.cmd.Stdout, ob.cmd.Stderr = &ob.log, &ob.log
	if err := ob.cmd.Start(); err != nil {
		return nil, err
	}
	ob.conn, err = grpc.NewClient(at[2], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	if err != nil {
		return nil, errors.Join(err, ob.stop())
	}
	client := &http.Client{Timeout: 30 * time.Second}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if res, err := client.Get(ob.http + "/readyz"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return ob, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("the observer is not ready after 30 s:\n%s", ob.log.String()), ob.stop())
		}
	}
}

// post sends one batch, as often as it is told to come again.
func (ob *observed) post(ctx context.Context, body []byte) error {
	for {
		var answer []byte
		err := ob.conn.Invoke(ctx, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", body, &answer)
		switch status.Code(err) {
		case codes.OK:
			return nil
		case codes.Unavailable, codes.ResourceExhausted:
			ob.refused.Add(1)
			time.Sleep(100 * time.Millisecond)
		default:
			return err
		}
	}
}

func (ob *observed) used() (time.Duration, int64, error) { return usage(ob.cmd.Process.Pid) }

// stop ends it and removes its store.
func (ob *observed) stop() error {
	var err error
	if ob.conn != nil {
		err = ob.conn.Close()
	}
	err = errors.Join(err, ob.cmd.Process.Signal(os.Interrupt))
	if werr := ob.cmd.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("%w\n%s", werr, ob.log.String()))
	}
	return errors.Join(err, os.RemoveAll(ob.dir))
}

func sustain(bin, dir, procs string, rate int, last time.Duration, c *corpus, from *source) (s sustained, err error) {
	ob, err := startObserver(bin, dir, procs)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, ob.stop()) }()
	ctx, cancel := context.WithTimeout(context.Background(), last)
	defer cancel()
	before, _, err := ob.used()
	if err != nil {
		return s, err
	}
	begin := time.Now()
	var (
		wg   sync.WaitGroup
		sent atomic.Int64                          // spans that are on their way or there
		base = uint64(begin.UnixNano()) - c.length //nolint:gosec // a date
	)
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if _, rss, err := ob.used(); err == nil {
				s.rss = append(s.rss, rss)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	var acknowledged atomic.Int64
	err = from.feed(writers, 0, 32_000, base, func(b batch) error {
		n := int64(b.spans)
		if rate > 0 { // not before its time
			due := begin.Add(time.Duration(float64(sent.Add(n)) / float64(rate) * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := ob.post(ctx, b.raw)
		if err == nil {
			acknowledged.Add(n)
		}
		return err
	})
	if ctx.Err() != nil {
		err = nil // its time is over
	}
	cancel()
	wg.Wait()
	after, _, uerr := ob.used()
	s.acknowledged, s.refused, s.lasted, s.cpu = acknowledged.Load(), ob.refused.Load(), time.Since(begin), after-before
	return s, errors.Join(err, uerr)
}

// bytesCodec sends and takes messages that are bytes already.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("a %T is not bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (bytesCodec) Unmarshal(b mem.BufferSlice, v any) error {
	out, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a %T is not bytes", v)
	}
	*out = b.Materialize()
	return nil
}

func (bytesCodec) Name() string { return "proto" }

// usage is the CPU time of a process, and its resident memory, by proc(5).
func usage(pid int) (cpu time.Duration, rss int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // behind the name, which may have spaces
	if len(f) < 22 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	var ticks int64
	for _, i := range []int{11, 12} { // user and system
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		ticks += n
	}
	pages, err := strconv.ParseInt(f[21], 10, 64)
	const hz = 100 // USER_HZ of every Linux
	return time.Duration(ticks) * time.Second / hz, pages * int64(os.Getpagesize()), err
}
