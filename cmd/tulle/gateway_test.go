//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/translate"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar"
)

// TestGateway serves configuration as people write it: an edge and two services of the mesh, each with its sidecar, and what callers outside get.
func TestGateway(t *testing.T) {
	dir := t.TempDir()
	ca, web := testmesh.NewCA(t), testmesh.NewCA(t)
	web.WritePair(web.Web("shop.example.com", "pgs.example.com"), dir+"/cert.pem", dir+"/key.pem")
	web.WriteRoots(dir + "/ca.pem")
	m := startMesh(t, ca, strings.ReplaceAll(gatewayMesh, "DIR", dir), "edge-1", "catalog-1", "catalog-2", "vault-1")
	for at, name := range map[string]string{"127.0.0.11:80": "v1", "127.0.0.12:80": "v2"} {
		m.serveHTTP(at, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s %s test=%q", name, r.Host, r.URL.Path, r.Header.Get("x-test"))
		})
	}
	bank := &tls.Config{Certificates: []tls.Certificate{web.Web("api.bank.example", "spiffe://bank.example/api")}}
	m.serveTLS("10.0.0.31:443", bank, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "bank %s by %s", r.URL.Path, r.TLS.ServerName)
	})
	vault := tls.Config{Certificates: []tls.Certificate{web.Web("vault.example.com")}}
	m.serveLines("127.0.0.13:443", &vault, "vault")
	m.serveLines("10.0.0.21:5432", nil, "one")
	m.serveLines("10.0.0.22:5432", nil, "two")

	// Requests, by TLS and both versions of HTTP.
	for _, two := range []bool{false, true} {
		c := m.client(web, two)
		for _, r := range []struct {
			url    string
			status int
			want   string // of the body, or the Location
		}{
			{"https://shop.example.com/catalog/7", 200, `v1 shop.example.com /items/7 test="edge"`},
			{"https://shop.example.com/canary", 200, `v2 shop.example.com /canary test=""`},
			{"https://shop.example.com/old", 301, "https://shop.example.com/new"},
			{"https://shop.example.com/broken", 500, ""},
			{"https://shop.example.com/bank", 200, "bank /bank by sent.bank.example"},
			{"https://shop.example.com/impostor", 503, ""},
			{"https://shop.example.com/", 404, "no rule of the routes"},
			{"http://shop.example.com/anything", 302, "https://shop.example.com/anything"},
			{"http://other.example.com/", 404, ""},
		} {
			if two && strings.HasPrefix(r.url, "http:") {
				continue
			}
			resp, err := c.Get(r.url)
			if err != nil {
				t.Fatalf("%s: %v", r.url, err)
			}
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			got := string(b) + resp.Header.Get("Location")
			if resp.StatusCode != r.status || !strings.HasPrefix(got, r.want) {
				t.Errorf("%s, HTTP/2 %v: got %d %q, want %d %q", r.url, two, resp.StatusCode, got, r.status, r.want)
			}
		}
	}

	// TLS that is passed through, to the service's own certificate.
	if got, err := m.line("10.9.0.1:9443", &tls.Config{ServerName: "vault.example.com", RootCAs: web.Roots()}, "open"); got != "vault open" {
		t.Errorf("passed through: got %q, %v", got, err)
	}
	if got, err := m.line("10.9.0.1:9443", &tls.Config{ServerName: "nobody.example.com", RootCAs: web.Roots()}, "open"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a host that is nobody's: got %q, %v", got, err)
	}
	// TLS that is ended, and bytes that go on.
	if got, err := m.line("10.9.0.1:5433", &tls.Config{ServerName: "pgs.example.com", RootCAs: web.Roots()}, "select"); got != "one select" {
		t.Errorf("ended: got %q, %v", got, err)
	}

	// Connections by weight: 80, 15 and 5 of nobody, which are refused.
	const n = 2000
	count := map[string]int{}
	for range n {
		got, _ := m.line("10.9.0.1:5432", nil, "x")
		count[got]++
	}
	for got, share := range map[string]float64{"one x": 0.80, "two x": 0.15, "": 0.05} {
		if off := math.Abs(float64(count[got]) - n*share); off > 4*math.Sqrt(n*share*(1-share)) {
			t.Errorf("%q came %d times of %d, want %g", got, count[got], n, share)
		}
	}
}

const gatewayMesh = `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: edge-1, namespace: shop}
spec: {service: edge, edge: {gateway: {name: web, address: 10.9.0.1}}}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-1, namespace: shop, labels: {track: stable}}
spec: {service: catalog, ports: [{protocol: http1, listen: 10.0.0.11:8080, target: 127.0.0.11:80}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-2, namespace: shop, labels: {track: canary}}
spec: {service: catalog, ports: [{protocol: http1, listen: 10.0.0.12:8080, target: 127.0.0.12:80}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: vault-1, namespace: shop}
spec: {service: vault, ports: [{protocol: tls, listen: 10.0.0.13:8443, target: 127.0.0.13:443}]}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: one, namespace: shop}
spec: {addresses: [10.0.0.21:5432]} # whose protocol is found out
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: two, namespace: shop}
spec: {addresses: [10.0.0.22:5432], protocol: tcp}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: bank, namespace: shop}
spec: {addresses: [10.0.0.31:443], protocol: http1}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: impostor, namespace: shop} # where the bank is, but for another name
spec: {addresses: [10.0.0.31:443], protocol: http1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: bank, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: bank}]
  validation:
    caCertificateRefs: [{group: "", kind: ConfigMap, name: shop}]
    hostname: sent.bank.example
    subjectAltNames: [{type: URI, uri: "spiffe://bank.example/api"}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: impostor, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: impostor}]
  validation:
    caCertificateRefs: [{group: "", kind: ConfigMap, name: shop}]
    hostname: api.bank.example
    subjectAltNames: [{type: URI, uri: "spiffe://bank.example/other"}]
---
apiVersion: tulle.dev/v1alpha1
kind: Subset
metadata: {name: stable, namespace: shop}
spec: {service: catalog, labels: {track: stable}}
---
apiVersion: tulle.dev/v1alpha1
kind: Subset
metadata: {name: canary, namespace: shop}
spec: {service: catalog, labels: {track: canary}}
---
apiVersion: tulle.dev/v1alpha1
kind: TLSFiles
metadata: {name: shop, namespace: shop}
spec: {certFile: DIR/cert.pem, keyFile: DIR/key.pem, caFile: DIR/ca.pem}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  gatewayClassName: tulle
  listeners:
    - {name: http, port: 80, protocol: HTTP, hostname: shop.example.com}
    - {name: https, port: 443, protocol: HTTPS, hostname: "*.example.com", tls: {certificateRefs: [{name: shop}]}}
    - {name: pass, port: 9443, protocol: TLS, tls: {mode: Passthrough}}
    - {name: pg, port: 5432, protocol: TCP}
    - {name: pgs, port: 5433, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: shop}]}}
    - {name: bad, port: 444, protocol: HTTPS, tls: {certificateRefs: [{name: absent}]}} # takes no other down
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: to-https, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: http}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: https}]
  hostnames: [shop.example.com]
  rules:
    - matches: [{path: {value: /catalog}}]
      filters:
        - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /items}}}
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Test, value: edge}]}}
      backendRefs: [{group: tulle.dev, kind: Subset, name: stable}]
    - matches: [{path: {value: /canary}}]
      backendRefs: [{group: tulle.dev, kind: Subset, name: canary}]
    - matches: [{path: {type: Exact, value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}]
    - matches: [{path: {value: /bank}}]
      backendRefs: [{name: bank}]
    - matches: [{path: {value: /impostor}}]
      backendRefs: [{name: impostor}]
    - matches: [{path: {value: /broken}}]
      backendRefs: [{name: nobody}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: vault, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: pass}]
  hostnames: [vault.example.com]
  rules: [{backendRefs: [{name: vault}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: pg, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: pg}]
  rules: [{backendRefs: [{name: one, weight: 80}, {name: two, weight: 15}, {name: nobody, weight: 5}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: pgs, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: pgs}]
  hostnames: [pgs.example.com]
  rules: [{backendRefs: [{name: one}]}]
`

// TestConnectionsToServices splits what a workload's own application sends to a service, by the rule of a TCPRoute.
func TestConnectionsToServices(t *testing.T) {
	m := startMesh(t, testmesh.NewCA(t), `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {service: web, upstreams: [{service: db, listen: 127.0.0.1:5432}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: db-1, namespace: shop}
spec: {service: db, ports: [{protocol: tcp, listen: 10.0.0.11:5432, target: 127.0.0.11:5432}]}
---
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: new-db, namespace: shop}
spec: {addresses: [10.0.0.21:5432], protocol: tcp}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: db}]
  rules: [{name: move, backendRefs: [{name: db, weight: 3}, {group: tulle.dev, kind: ExternalService, name: new-db, weight: 1}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: too-late, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: db}]
  rules: [{backendRefs: [{name: nobody}]}]
`, "db-1", "web-1")
	m.serveLines("127.0.0.11:5432", nil, "old")
	m.serveLines("10.0.0.21:5432", nil, "new")
	const n = 1000
	count := map[string]int{}
	for range n {
		got, _ := m.line("127.0.0.1:5432", nil, "x")
		count[got]++
	}
	if off := math.Abs(float64(count["old x"]) - n*0.75); off > 4*math.Sqrt(n*0.75*0.25) || count["old x"]+count["new x"] != n {
		t.Errorf("got %v, want three of four of the old one", count)
	}
}

// meshOf is sidecars on a network in memory, told what the controller makes of a file.
type meshOf struct {
	t   *testing.T
	net *testmesh.Net
}

var outside = netip.MustParseAddr("192.0.2.1")

func startMesh(t *testing.T, ca *testmesh.CA, config string, instances ...string) *meshOf {
	m := &meshOf{t: t, net: testmesh.NewNet()}
	set, problems := resource.Resolve(resource.Decode("mesh.yaml", []byte(config)), resource.EmptySet())
	for _, p := range problems {
		if p.Severity == resource.Refused {
			t.Fatal(p)
		}
	}
	endpoints, err := discovery.FromSet(set, testmesh.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	out, err := translate.Translate(translate.Input{TrustDomain: testmesh.TrustDomain, Set: set, Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range instances {
		snap, err := policy.FromXDS(out.Workloads[name].Resources)
		if err != nil {
			t.Fatal(err)
		}
		s, err := sidecar.New(sidecar.Config{
			Policy: testmesh.NewSource(snap), Identity: ca.Holder(snap.Workload.Service), Recorder: &testmesh.Recorder{}, Log: slog.New(slog.DiscardHandler), DrainTimeout: time.Second,
			Listen: m.net.Listen, Dial: m.net.Dialer(netip.AddrFrom4([4]byte{10, 200, 0, byte(1 + i)})),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- s.Run(ctx, func() { close(ready) }) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		<-ready
		if p := s.Problems(); len(p) > 0 {
			t.Fatalf("%s: %v", name, p)
		}
	}
	return m
}

func (m *meshOf) listen(at string) net.Listener {
	l, err := m.net.Listen(netip.MustParseAddrPort(at))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (m *meshOf) serveHTTP(at string, h http.HandlerFunc) {
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(m.listen(at)) }()
	m.t.Cleanup(func() { _ = s.Close() })
}

func (m *meshOf) serveTLS(at string, config *tls.Config, h http.HandlerFunc) {
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)} // it says who has hung up
	go func() { _ = s.Serve(tls.NewListener(m.listen(at), config)) }()
	m.t.Cleanup(func() { _ = s.Close() })
}

// serveLines answers the first line of each connection, over TLS if there is a config.
func (m *meshOf) serveLines(at string, config *tls.Config, name string) {
	var serving sync.WaitGroup
	m.t.Cleanup(serving.Wait) // after l is closed
	l := m.listen(at)
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				if config != nil {
					c = tls.Server(c, config)
				}
				s, _ := bufio.NewReader(c).ReadString('\n')
				_, _ = io.WriteString(c, name+" "+s)
				_ = c.Close()
			})
		}
	})
}

// line sends a line to the edge and returns the one that comes back.
func (m *meshOf) line(at string, config *tls.Config, text string) (string, error) {
	c, err := m.net.Dialer(outside)(context.Background(), netip.MustParseAddrPort(at))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if config != nil {
		tc := tls.Client(c, config)
		if err := tc.Handshake(); err != nil {
			return "", err
		}
		c = tc
	}
	_, _ = io.WriteString(c, text+"\n")
	got, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(got), err
}

// client is one outside the mesh, for whom every host is the edge.
func (m *meshOf) client(web *testmesh.CA, two bool) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			_, port, _ := strings.Cut(addr, ":")
			return m.net.Dialer(outside)(ctx, netip.MustParseAddrPort("10.9.0.1:"+port))
		},
		TLSClientConfig: &tls.Config{RootCAs: web.Roots()}, Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!two)
	tr.Protocols.SetHTTP2(two)
	m.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
