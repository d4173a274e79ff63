//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/process"
)

const (
	trustDomain = "tulle.local"
	namespace   = "scenario"
)

// mesh is a controller and an observer with their defaults, for the whole run.
type mesh struct {
	rig                    *rig
	config, data, bundle   string
	grpc, admin, otlp, web string
	controller, observer   *process.Process
}

func newMesh(ctx context.Context, r *rig) (m *mesh, err error) {
	m = &mesh{rig: r, config: filepath.Join(r.dir, "config"), data: filepath.Join(r.dir, "controller")}
	if err := os.MkdirAll(m.config, 0o700); err != nil {
		return m, err
	}
	if m.bundle, err = controller.EnsureCA(m.data, trustDomain); err != nil {
		return m, err
	}
	for _, at := range []*string{&m.grpc, &m.admin, &m.otlp, &m.web} {
		if *at, err = r.ports.free(); err != nil {
			return m, err
		}
	}
	if err := m.startController(ctx); err != nil {
		return m, err
	}
	token, err := m.token(identity.SystemNamespace, "observer")
	if err != nil {
		return m, err
	}
	m.observer, err = r.launch(ctx, "observer", filepath.Join(r.bin, "tulle"), []string{
		"observer", "--data-dir", filepath.Join(r.dir, "observer"), "--controller", m.grpc, "--trust-domain", trustDomain, "--bundle", m.bundle, "--token-file", token,
		"--http", m.web, "--otlp-grpc", m.otlp, "--otlp-http", "off", "--log-level", "warn",
	}, accepts(m.otlp))
	return m, err
}

func (m *mesh) startController(ctx context.Context) (err error) {
	m.controller, err = m.rig.launch(ctx, "controller", filepath.Join(m.rig.bin, "tulle"), []string{
		"controller", "--data-dir", m.data, "--config", m.config, "--grpc", m.grpc, "--admin", m.admin, "--trust-domain", trustDomain, "--log-level", "warn",
	}, accepts(m.grpc))
	return err
}

// kill ends the controller at once.
func (m *mesh) kill() error {
	if err := m.controller.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-m.controller.Done()
	return nil
}

func (m *mesh) stop() error {
	var errs []error
	for _, p := range []*process.Process{m.observer, m.controller} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	return errors.Join(errs...)
}

// token issues a join token and returns the file that holds it.
func (m *mesh) token(ns, account string) (file string, err error) {
	text, err := controller.IssueToken(m.data, ns, account, time.Hour)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(m.rig.dir, "token-")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	return f.Name(), errors.Join(err, f.Close())
}

// tulle has a sidecar beside every caller and every endpoint.
type tulle struct {
	s    *stage
	file string // of the cell's workloads

	mu      sync.Mutex
	seats   map[string]*seat // by instance
	pending []chan error
	used    []*http.Transport
}

// seat is where one instance's sidecar stands.
type seat struct {
	instance, service, zone string
	e                       *endpoint // nil: the client
	in, out, admin          string
	calls                   string
	proc                    *process.Process
}

func newTulle(s *stage) carrier {
	return &tulle{s: s, file: filepath.Join(s.rig.mesh.config, fmt.Sprintf("cell-%d.yaml", s.number)), seats: map[string]*seat{}}
}

func (t *tulle) start(ctx context.Context) error {
	client := &seat{instance: t.s.qualified("client") + "-1", service: t.s.qualified("client"), zone: t.s.zone, calls: t.s.services[0].name}
	if err := t.add("client", client); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return t.launch(ctx, client) })
	for _, e := range t.s.all {
		p, err := t.beside(e)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		g.Go(func() error { return t.launch(ctx, p) })
	}
	return errors.Join(t.told(""), g.Wait())
}

// beside makes the seat of an endpoint's sidecar.
func (t *tulle) beside(e *endpoint) (*seat, error) {
	p := &seat{instance: e.instance, service: t.s.qualified(e.service.name), zone: e.zone, e: e, calls: e.service.calls}
	return p, t.add(e.instance, p)
}

func (t *tulle) add(name string, p *seat) (err error) {
	for _, at := range []*string{&p.in, &p.out, &p.admin} {
		if *at, err = t.s.rig.ports.free(); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seats[name] = p
	return nil
}

// launch starts a sidecar and waits until it is ready.
func (t *tulle) launch(ctx context.Context, p *seat) error {
	m := t.s.rig.mesh
	token, err := m.token(namespace, p.service)
	if err != nil {
		return err
	}
	proc, err := t.s.rig.launch(ctx, p.instance+"-sidecar", filepath.Join(t.s.rig.bin, "tulle-sidecar"), []string{
		"--controller", m.grpc, "--otlp", m.otlp, "--bundle", m.bundle, "--token-file", token, "--state-dir", filepath.Join(t.s.dir, p.instance), "--admin", p.admin,
		"--namespace", namespace, "--service", p.service, "--instance", p.instance, "--log-level", "warn",
	}, answers("http://"+p.admin+"/readyz"))
	t.mu.Lock()
	p.proc = proc
	t.mu.Unlock()
	return err
}

// told writes the workloads of the cell: the client, and all endpoints that are listed.
func (t *tulle) told(string) error {
	var b bytes.Buffer
	t.mu.Lock()
	defer t.mu.Unlock()
	t.workload(&b, t.seats["client"])
	for i := range t.s.services {
		for _, e := range t.s.endpointsOf(t.s.services[i].name) {
			t.workload(&b, t.seats[e.instance])
		}
	}
	t.routes(&b)
	return place(t.file, b.Bytes())
}

// routes writes the weights of the last service's versions, where it has some.
func (t *tulle) routes(b *bytes.Buffer) {
	weights := t.s.weighed()
	if weights == nil {
		return
	}
	last := &t.s.services[len(t.s.services)-1]
	service := t.s.qualified(last.name)
	for _, v := range last.versions {
		fmt.Fprintf(b, "---\napiVersion: tulle.dev/v1alpha1\nkind: Subset\nmetadata: {name: %s-%s, namespace: %s}\nspec: {service: %s, labels: {version: %s}}\n", service, v, namespace, service, v)
	}
	fmt.Fprintf(b, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s, namespace: %s}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: %s}]\n  rules:\n    - backendRefs:\n",
		service, namespace, service)
	for i, v := range last.versions {
		fmt.Fprintf(b, "        - {group: tulle.dev, kind: Subset, name: %s-%s, weight: %d}\n", service, v, weights[i])
	}
}

func (t *tulle) workload(b *bytes.Buffer, p *seat) {
	fmt.Fprintf(b, "---\napiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: %s, namespace: %s}\nspec:\n  service: %s\n", p.instance, namespace, p.service)
	if p.e != nil && p.e.version != "" {
		fmt.Fprintf(b, "  version: %s\n", p.e.version)
	}
	if p.zone != "" {
		fmt.Fprintf(b, "  locality: {region: here, zone: %s}\n", p.zone)
	}
	if p.e != nil {
		protocol := "http"
		if p.e.service.grpc {
			protocol = "grpc"
		}
		fmt.Fprintf(b, "  ports:\n    - {listen: %q, target: %q, protocol: %s}\n", p.in, p.e.address, protocol)
	}
	if p.calls != "" {
		fmt.Fprintf(b, "  upstreams:\n    - {service: %s, listen: %q}\n", t.s.qualified(p.calls), p.out)
	}
}

func (t *tulle) caller(from *endpoint, service string) http.RoundTripper {
	tr := transport(t.s.isGRPC(service))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = append(t.used, tr)
	return toDoor{t.seats[instanceOf(from)].out, tr}
}

// join starts the sidecar of a new endpoint. It becomes ready when its workload is known, so that is not waited for here.
func (t *tulle) join(e *endpoint) error {
	p := t.seatOf(e)
	if p == nil {
		var err error
		if p, err = t.beside(e); err != nil {
			return err
		}
	}
	done := make(chan error, 1)
	t.pending = append(t.pending, done)
	go func() { done <- t.launch(t.s.ctx, p) }()
	return nil
}

func (t *tulle) seatOf(e *endpoint) *seat {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seats[e.instance]
}

// leave ends an endpoint's sidecar. In order it is asked to, and drains on its own.
func (t *tulle) leave(e *endpoint, inOrder bool) error {
	t.mu.Lock()
	proc := t.seats[e.instance].proc
	t.mu.Unlock()
	if proc == nil {
		return fmt.Errorf("the sidecar of %s is not there", e.instance)
	}
	if !inOrder {
		_ = proc.Signal(syscall.SIGKILL) // an error means that it is gone
		<-proc.Done()
		return nil
	}
	done := make(chan error, 1)
	t.pending = append(t.pending, done)
	go func() { done <- proc.Stop() }()
	return nil
}

func (t *tulle) address(e *endpoint) string { return t.seatOf(e).in }

func (t *tulle) stop() error {
	var errs []error
	for _, done := range t.pending {
		errs = append(errs, <-done)
	}
	for _, tr := range t.used {
		tr.CloseIdleConnections()
	}
	var g errgroup.Group
	for _, p := range t.seats {
		if p.proc != nil {
			g.Go(func() error { // those that were killed say so
				select {
				case <-p.proc.Done():
				default:
					return p.proc.Stop()
				}
				return nil
			})
		}
	}
	return errors.Join(append(errs, g.Wait(), os.RemoveAll(t.file))...)
}
