//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/process"
)

// mesh is a controller, a sidecar for the caller, and two for each service, of which the second is reached over HTTP/2 in plaintext.
type mesh struct {
	meshed, external, bridged map[string]string // service -> the caller's listener for it
	evil                      string
	procs                     []*process.Process
}

// way is one of the ways to a service.
type way struct{ name, short, addr string }

func (m *mesh) ways(service string) []way {
	return []way{{"one sidecar", "one", m.external[service]}, {"two sidecars", "two", m.meshed[service]}, {"two bridges", "bridges", m.bridged[service]}}
}

func (m *mesh) stop() error {
	var errs []error
	for i := len(m.procs) - 1; i >= 0; i-- {
		errs = append(errs, m.procs[i].Stop())
	}
	return errors.Join(errs...)
}

const namespace = "smuggle"

// startMesh starts everything and returns when every sidecar is ready.
func startMesh(ctx context.Context, bin, dir string, services []*service, evil string) (_ *mesh, err error) {
	m := &mesh{meshed: map[string]string{}, external: map[string]string{}, bridged: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.stop())
		}
	}()
	addrs := make([]string, 8+8*len(services))
	for i := range addrs {
		if addrs[i], err = freeAddr(); err != nil {
			return nil, err
		}
	}
	next := func() string {
		a := addrs[0]
		addrs = addrs[1:]
		return a
	}

	// The resources.
	var yaml strings.Builder
	resource := func(kind, name, spec string) {
		fmt.Fprintf(&yaml, "---\napiVersion: tulle.dev/v1alpha1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", kind, name, namespace, spec)
	}
	var upstreams []string
	upstream := func(service string) string {
		a := next()
		upstreams = append(upstreams, fmt.Sprintf("{service: %s, listen: %q}", service, a))
		return a
	}
	// Declared: of a port that is detected, what is no HTTP goes through as bytes, and the service is right to see it.
	for _, s := range services {
		resource("Workload", s.name+"-1", fmt.Sprintf("{service: %s, ports: [{listen: %q, target: %q, protocol: http}]}", s.name, next(), s.addr))
		resource("ExternalService", "bare-"+s.name, fmt.Sprintf("{addresses: [%q], protocol: http}", s.addr))
		down := next()
		resource("Workload", "down-"+s.name+"-1", fmt.Sprintf("{service: down-%s, ports: [{listen: %q, target: %q, protocol: http1, mode: permissive}]}", s.name, down, s.addr))
		resource("ExternalService", "up-"+s.name, fmt.Sprintf("{addresses: [%q], protocol: http2}", down))
		m.meshed[s.name], m.external[s.name], m.bridged[s.name] = upstream(s.name), upstream("bare-"+s.name), upstream("up-"+s.name)
	}
	resource("ExternalService", "evil", fmt.Sprintf("{addresses: [%q], protocol: http}", evil))
	m.evil = upstream("evil")
	resource("Workload", "caller-1", fmt.Sprintf("{service: caller, upstreams: [%s]}", strings.Join(upstreams, ", ")))
	config, data := filepath.Join(dir, "config"), filepath.Join(dir, "data")
	if err := os.Mkdir(config, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(config, "mesh.yaml"), []byte(yaml.String()), 0o600); err != nil {
		return nil, err
	}

	// The processes.
	bundle, err := controller.EnsureCA(data, controller.DefaultTrustDomain)
	if err != nil {
		return nil, err
	}
	start := func(name, executable, admin string, args ...string) error {
		path, err := filepath.Abs(filepath.Join(bin, executable))
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s is missing: run 'make build' first, in the folder that holds the Makefile", path)
		}
		log, err := os.Create(filepath.Join(dir, name+".log"))
		if err != nil {
			return err
		}
		defer log.Close()
		p, err := process.Start(process.Spec{Name: name, Path: path, Args: args, Log: log})
		if err != nil {
			return err
		}
		m.procs = append(m.procs, p)
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := process.Await(ctx, ready("http://"+admin+"/readyz")); err != nil {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s does not get ready: %w; it says:\n%s", name, err, said)
		}
		return nil
	}
	grpc, admin := next(), next()
	if err := start("controller", "tulle", admin, "controller", "--config", config, "--data-dir", data, "--grpc", grpc, "--admin", admin); err != nil {
		return nil, err
	}
	names := []string{"caller"}
	for _, s := range services {
		names = append(names, s.name, "down-"+s.name)
	}
	for _, name := range names {
		token, err := controller.IssueToken(data, namespace, name, time.Hour)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, name+".token")
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			return nil, err
		}
		admin := next()
		if err := start(name, "tulle-sidecar", admin, "--controller", grpc, "--otlp", "off", "--bundle", bundle, "--token-file", file,
			"--state-dir", filepath.Join(dir, name), "--admin", admin, "--namespace", namespace, "--service", name, "--instance", name+"-1",
			"--drain-timeout", "1s"); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func ready(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return nil
	}
}
