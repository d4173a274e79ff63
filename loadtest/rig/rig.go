//go:build unix

// Package rig runs `tulle demo` as a process and measures it from outside, as a user could: through the observer's API, the admin ports, the
// control ports of the shop and the operating system. The measurements (loadtest/soak, loadtest/fault) hold it so: Start, use, Stop.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/internal/process"
	"github.com/tulle-mesh/tulle/loadtest/demo"
)

// Options of a run.
type Options struct {
	Tulle  string   // the executable; "" means bin/tulle below the working directory
	Args   []string // further arguments of `tulle demo`
	Offset int      // added to every port of the demo, so that it runs beside another one; 0 to 5,000
	Out    io.Writer
}

// Rig is one running demo.
type Rig struct {
	API     *client.Client
	Config  demo.Config // where everything listens
	Started time.Time   // when the process was started
	Live    time.Time   // when the live graph first showed traffic
	DataDir string
	proc    *process.Process
}

// Start starts a demo with a data directory of its own and returns when its live graph shows traffic.
func Start(ctx context.Context, o Options) (*Rig, error) {
	if o.Tulle == "" {
		o.Tulle = filepath.Join("bin", "tulle")
	}
	if _, err := os.Stat(o.Tulle); err != nil {
		return nil, fmt.Errorf("%s is missing: run 'make build' first, in the folder that holds the Makefile", o.Tulle)
	}
	tulle, err := filepath.Abs(o.Tulle)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tulle-rig-")
	if err != nil {
		return nil, err
	}
	cfg, where, err := move(demo.Defaults(), o.Offset)
	if err != nil {
		return nil, err
	}
	r := &Rig{API: client.New("http://" + cfg.HTTP), Config: cfg, Started: time.Now(), DataDir: filepath.Join(dir, "data")}
	said := &tail{}
	out := io.Writer(said)
	if o.Out != nil {
		out = io.MultiWriter(said, o.Out)
	}
	r.proc, err = process.Start(process.Spec{
		Name: "tulle demo", Path: tulle, Args: slices.Concat([]string{"demo", "--data-dir", r.DataDir}, where, o.Args), Log: out, StopTimeout: 90 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-r.proc.Done():
			cancel()
		case <-limited.Done():
		}
	}()
	err = process.Await(limited, func(ctx context.Context) error {
		g, err := r.API.Graph(ctx)
		if err != nil {
			return err
		}
		for _, e := range g.Edges {
			if e.Destination == "catalog" && (e.Client != nil && e.Client.Rate > 0) {
				return nil
			}
		}
		return errors.New("the graph shows no traffic to catalog")
	})
	cancel()
	<-ended
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the demo did not come to life: %w; it said last: %s", err, said.last()), r.Stop())
	}
	r.Live = time.Now()
	return r, nil
}

// move adds offset to every port of a demo and returns the arguments that say so.
func move(c demo.Config, offset int) (demo.Config, []string, error) {
	if offset < 0 || offset > 5000 {
		return c, nil, fmt.Errorf("port offset %d: must be 0 to 5000", offset)
	}
	if offset == 0 {
		return c, nil, nil
	}
	var args []string
	for name, addr := range map[string]*string{
		"--http": &c.HTTP, "--controller": &c.Controller, "--controller-admin": &c.ControllerAdmin,
		"--otlp-grpc": &c.OTLPGRPC, "--otlp-http": &c.OTLPHTTP, "--webhook": &c.Webhook,
	} {
		host, port, err := net.SplitHostPort(*addr)
		if err != nil {
			return c, nil, err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return c, nil, fmt.Errorf("port of %s: %w", *addr, err)
		}
		*addr = net.JoinHostPort(host, strconv.Itoa(n+offset))
		args = append(args, name, *addr)
	}
	c.AdminBase, c.ShopBase = c.AdminBase+offset, c.ShopBase+offset
	return c, append(args, "--admin-base", strconv.Itoa(c.AdminBase), "--shop-base", strconv.Itoa(c.ShopBase)), nil
}

// Workloads are the demo's, with their addresses.
func (r *Rig) Workloads() []demo.Workload { return demo.Plan(r.Config) }

// PID is the demo's process id.
func (r *Rig) PID() int { return r.proc.PID() }

// Stop stops the demo as Ctrl-C would, waits, and removes its data. It returns an error when the demo did not exit with 0, and when it
// left a process behind.
func (r *Rig) Stop() error {
	pids, _ := Descendants(r.proc.PID())
	err := r.proc.Stop()
	var left []string
	for _, p := range pids {
		if alive(p.PID) {
			left = append(left, fmt.Sprintf("%d (%s)", p.PID, p.Name))
		}
	}
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("processes left behind: %v", left))
	}
	if _, serr := os.Stat(filepath.Join(r.DataDir, "demo.lock")); serr == nil {
		err = errors.Join(err, errors.New("the lock file was left behind"))
	}
	return errors.Join(err, os.RemoveAll(filepath.Dir(r.DataDir)))
}

// tail keeps the last of what was written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// last is the last line that is not empty.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(string(t.b))
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}
