//go:build testtls && unix

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/translate"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar"
)

const peersMesh = `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: edge-1, namespace: shop}
spec: {service: edge, edge: {gateway: {name: web, address: 127.0.0.1}}}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: web, namespace: shop}
spec: {addresses: ["WEB"], protocol: http1}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: secure, namespace: shop}
spec: {addresses: ["SECURE"], protocol: tcp}
---
apiVersion: tulle.dev/v1alpha1
kind: TLSFiles
metadata: {name: shop, namespace: shop}
spec: {certFile: DIR/cert.pem, keyFile: DIR/key.pem}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  gatewayClassName: tulle
  listeners:
    - {name: https, port: HTTPS, protocol: HTTPS, tls: {certificateRefs: [{name: shop}]}}
    - {name: pass, port: PASS, protocol: TLS, tls: {mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: https}]
  hostnames: [shop.example.com]
  rules:
    - {matches: [{path: {value: /web}}], backendRefs: [{name: web}]}
    - {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example.com, port: 443, statusCode: 301}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: secure, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: pass}]
  hostnames: [secure.example.com]
  rules: [{backendRefs: [{name: secure}]}]
`

// TestGatewayPeers calls a Gateway by curl and openssl, over sockets.
func TestGatewayPeers(t *testing.T) {
	for _, name := range []string{"curl", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is missing: install it", name)
		}
	}
	dir, ca, world := t.TempDir(), testmesh.NewCA(t), testmesh.NewCA(t)
	world.WriteRoots(dir + "/ca.pem")
	world.WritePair(world.Web("shop.example.com"), dir+"/cert.pem", dir+"/key.pem")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "web %s%s", r.Host, r.URL.Path) }))
	defer app.Close()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "secure ", r.TLS.ServerName) }))
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{world.Web("secure.example.com")}}
	secure.StartTLS()
	defer secure.Close()
	ports, held := map[string]string{}, []net.Listener(nil)
	for _, name := range []string{"HTTPS", "PASS"} { // free when they were asked for
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, ports[name], _ = net.SplitHostPort(l.Addr().String())
		held = append(held, l)
	}
	for _, l := range held {
		_ = l.Close()
	}
	config := strings.NewReplacer("DIR", dir, "WEB", app.Listener.Addr().String(), "SECURE", secure.Listener.Addr().String(), "port: HTTPS", "port: "+ports["HTTPS"], "PASS", ports["PASS"]).Replace(peersMesh)
	set, problems := resource.Resolve(resource.Decode("mesh.yaml", []byte(config)), resource.EmptySet())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	endpoints, err := discovery.FromSet(set, testmesh.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	out, err := translate.Translate(translate.Input{TrustDomain: testmesh.TrustDomain, Set: set, Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := policy.FromXDS(out.Workloads["edge-1"].Resources)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sidecar.New(sidecar.Config{
		Policy: testmesh.NewSource(snap), Identity: ca.Holder("edge"), Recorder: &testmesh.Recorder{}, Log: slog.New(slog.DiscardHandler), DrainTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-ready
	if p := s.Problems(); len(p) > 0 {
		t.Fatal(p)
	}
	curl := func(port, host, path string, more ...string) string {
		args := append([]string{"-sS", "--max-time", "20", "--cacert", dir + "/ca.pem", "--resolve", host + ":" + port + ":127.0.0.1", "-w", " %{http_code} %{redirect_url}"}, more...)
		b, err := exec.CommandContext(t.Context(), "curl", append(args, "https://"+host+":"+port+path)...).CombinedOutput()
		if err != nil {
			return err.Error() + " " + string(b)
		}
		return strings.TrimSpace(string(b))
	}
	for _, version := range []string{"--http1.1", "--http2"} {
		for path, want := range map[string]string{
			"/web/7": "web shop.example.com:" + ports["HTTPS"] + "/web/7 200", "/old": "301 https://new.example.com/old", "/": "no rule of the routes for listener https is for this request\n 404",
		} {
			if got := curl(ports["HTTPS"], "shop.example.com", path, version); got != want {
				t.Errorf("%s %s: got %q, want %q", version, path, got, want)
			}
		}
	}
	if got, want := curl(ports["PASS"], "secure.example.com", "/"), "secure secure.example.com 200"; got != want {
		t.Errorf("passed through: got %q, want %q", got, want)
	}
	b, _ := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", "127.0.0.1:"+ports["PASS"], "-servername", "nobody.example.com").CombinedOutput()
	if !strings.Contains(string(b), "unrecognized name") {
		t.Errorf("openssl, for a host that is nobody's: %s", b)
	}
}
