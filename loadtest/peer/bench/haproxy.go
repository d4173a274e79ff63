//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

var haproxyTool = &tool{name: "haproxy", install: "Debian/Ubuntu: apt-get install haproxy", version: []string{"-v"}}

// Connections to the backend are kept and shared, as a sidecar does. No log.
const haproxyConfig = `global
  nbthread 1
  maxconn %d
  ssl-default-bind-options ssl-min-ver TLSv1.3 prefer-client-ciphers
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend in
  bind %s%s
  default_backend out
backend out
  server app %s pool-max-conn -1%s
`

func startHAProxy(r *rig, p *proxy, s setup) (*running, error) {
	address, err := r.ports.free()
	if err != nil {
		return nil, err
	}
	upstream, in, out := r.plain, "", ""
	if s.tlsIn {
		in = fmt.Sprintf(" ssl crt %s ca-file %s verify required", r.pki.pair(proxyAccount), r.pki.anchors())
	}
	if s.tlsOut {
		upstream, out = r.secure, fmt.Sprintf(" ssl crt %s ca-file %s verify required", r.pki.pair(proxyAccount), r.pki.anchors())
	}
	file := filepath.Join(r.dir, fmt.Sprintf("haproxy-%d.cfg", r.started))
	if err := os.WriteFile(file, fmt.Appendf(nil, haproxyConfig, r.files/2-200, address, in, upstream, out), 0o600); err != nil {
		return nil, err
	}
	proc, err := r.launch(p.name, r.paths[p.tool.name], []string{"-db", "-f", file}, accepts(address))
	if err != nil {
		return nil, err
	}
	return &running{proxy: p, address: address, proc: proc}, nil
}
