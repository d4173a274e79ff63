//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

var nginxTool = &tool{name: "nginx", install: "Debian/Ubuntu: apt-get install nginx-light", version: []string{"-v"}}

// Connections are kept on both sides without nginx's usual end after 1,000 requests. No access log. proxy_ssl_verify stays off: nginx can only check
// host names, and mesh certificates have none; it is a check per handshake, not per request.
const nginxConfig = `daemon off;
worker_processes 1;
user root;
pid %[1]s/nginx.pid;
error_log stderr error;
events { worker_connections 19000; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  upstream app {
    server %[2]s;
    keepalive 256;
    keepalive_requests 1000000000;
  }
  server {
    listen %[3]s%[4]s backlog=4096;
%[5]s    location / {
      proxy_pass %[6]s://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
%[7]s    }
  }
}
`

func startNginx(r *rig, p *proxy, s setup) (*running, error) {
	address, err := r.ports.free()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.dir, fmt.Sprintf("nginx-%d", r.started))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	upstream, ssl, in, scheme, out := r.plain, "", "", "http", ""
	pair := r.pki.pair(proxyAccount)
	if s.tlsIn {
		ssl = " ssl"
		in = fmt.Sprintf("    ssl_protocols TLSv1.3;\n    ssl_certificate %[1]s;\n    ssl_certificate_key %[1]s;\n    ssl_client_certificate %[2]s;\n    ssl_verify_client on;\n    ssl_session_cache none;\n",
			pair, r.pki.anchors())
	}
	if s.tlsOut {
		upstream, scheme = r.secure, "https"
		out = fmt.Sprintf("      proxy_ssl_protocols TLSv1.3;\n      proxy_ssl_certificate %[1]s;\n      proxy_ssl_certificate_key %[1]s;\n", pair)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, upstream, address, ssl, in, scheme, out), 0o600); err != nil {
		return nil, err
	}
	proc, err := r.launch(p.name, r.paths[p.tool.name], []string{"-c", file, "-p", dir}, accepts(address))
	if err != nil {
		return nil, err
	}
	return &running{proxy: p, address: address, proc: proc}, nil
}
