//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/controller/ca"
	"github.com/tulle-mesh/tulle/internal/process"
)

// mesh is a controller with the configuration of the sidecars that are measured. It runs on the load's core and has nothing to do during a window.
type mesh struct {
	proc   *process.Process
	grpc   netip.AddrPort
	config string // folder
	data   string
}

// The backend is a member of the mesh, in the place of a far sidecar, and a host outside of it.
const meshYAML = `apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: backend-1, namespace: ` + namespace + `}
spec:
  service: ` + backendAccount + `
  ports:
    - {listen: %q, target: "127.0.0.1:9"}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: outside, namespace: ` + namespace + `}
spec:
  addresses: [%q]
`

func newMesh(r *rig) (*mesh, error) {
	m := &mesh{config: filepath.Join(r.dir, "config"), data: filepath.Join(r.dir, "controller")}
	for _, d := range []string{m.config, m.data, filepath.Join(r.dir, "pki")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(m.config, "mesh.yaml"), fmt.Appendf(nil, meshYAML, r.secure, r.plain), 0o600); err != nil {
		return nil, err
	}
	var err error
	if r.pki, err = newPKI(filepath.Join(r.dir, "pki"), m.data); err != nil {
		return nil, err
	}
	if m.grpc, err = r.ports.free(); err != nil {
		return nil, err
	}
	admin, err := r.ports.free()
	if err != nil {
		return nil, err
	}
	m.proc, err = r.launchOn(r.loadCore, "controller", filepath.Join(r.o.bin, "tulle"), []string{
		"controller", "--data-dir", m.data, "--config", m.config, "--grpc", m.grpc.String(), "--admin", admin.String(), "--trust-domain", trustDomain,
		"--log-level", "warn",
	}, accepts(m.grpc))
	return m, err
}

func (m *mesh) stop() error {
	if m.proc == nil {
		return nil
	}
	return m.proc.Stop()
}

// startTulle starts a sidecar with all its telemetry: RED metrics, a span of every request, a JSON log line of every request.
func startTulle(r *rig, p *proxy, s setup) (*running, error) {
	log := filepath.Join(r.logs, fmt.Sprintf("%s-%d.log", p.name, r.started))
	return startSidecar(r, p, s, "tulle-sidecar", log, "--otlp", r.sinkSecure.String(), "--access-log", "json", "--access-log-file", log)
}

// startSidecar starts a sidecar with these flags besides those that every one needs.
func startSidecar(r *rig, p *proxy, s setup, binary, log string, flags ...string) (*running, error) {
	name := fmt.Sprintf("%s-%d", p.name, r.started)
	address, err := r.ports.free()
	if err != nil {
		return nil, err
	}
	admin, err := r.ports.free()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: %s, namespace: %s}\nspec:\n  service: %s\n", name, namespace, name)
	switch {
	case s.outbound && s.tlsOut:
		fmt.Fprintf(&b, "  upstreams:\n    - {service: %s, listen: %q}\n", cmp.Or(s.service, backendAccount), address)
	case s.outbound:
		fmt.Fprintf(&b, "  upstreams:\n    - {service: outside, listen: %q}\n", address)
	default:
		mode := "permissive"
		if s.tlsIn {
			mode = "strict"
		}
		protocol := "http"
		if s.tcp {
			protocol = "tcp"
		}
		target := cmp.Or(s.to, r.plain).String()
		if s.unix {
			target = "unix:" + r.local
		}
		fmt.Fprintf(&b, "  ports:\n    - {listen: %q, target: %q, mode: %s, protocol: %s}\n", address, target, mode, protocol)
	}
	if s.many {
		b.WriteString("  limits: {connections: 65536, connectionsPerSource: 65536}\n")
	}
	config := filepath.Join(r.mesh.config, name+".yaml")
	if err := os.WriteFile(config, []byte(b.String()), 0o600); err != nil {
		return nil, err
	}
	state := filepath.Join(r.dir, name)
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, err
	}
	token, err := ca.IssueToken(r.mesh.data, namespace, name, time.Now(), time.Hour)
	if err != nil {
		return nil, err
	}
	tokenFile := filepath.Join(state, "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		return nil, err
	}
	path := binary
	if !strings.ContainsRune(binary, filepath.Separator) {
		path = filepath.Join(r.o.bin, binary)
	}
	proc, err := r.launch(p.name, path, append([]string{
		"--controller", r.mesh.grpc.String(), "--bundle", r.pki.anchors(), "--token-file", tokenFile, "--state-dir", state, "--admin", admin.String(),
		"--namespace", namespace, "--service", name, "--instance", name, "--log-level", "warn",
	}, flags...), func(ctx context.Context) error {
		_, err := page(ctx, admin.String(), "/readyz")
		return err
	})
	if err != nil {
		return nil, err
	}
	run := &running{proxy: p, address: address, admin: admin.String(), service: name, log: log, proc: proc}
	run.cleanup = func() error { return errors.Join(os.Remove(config), os.RemoveAll(state)) }
	return run, nil
}
