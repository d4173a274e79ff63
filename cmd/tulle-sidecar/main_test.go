package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

func noEnv(string) (string, bool) { return "", false }

// bundle writes a trust anchor of the domain "test".
func bundle(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "test"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestParse(t *testing.T) {
	file, state := bundle(t), t.TempDir()
	needed := []string{"--instance", "cart-1", "--service", "cart", "--bundle", file, "--state-dir", state}
	env := map[string]string{"TULLE_OTLP": "obs:1", "TULLE_NAMESPACE": "env", "TULLE_JOIN_TOKEN": " secret\n", "TULLE_DRAIN_TIMEOUT": "3s", "TULLE_VERSION": "v1.2.3"}
	c, err := parse(append(needed, "--namespace", "shop", "--admin-host", "Cart.Shop, x"), func(k string) (string, bool) { v, ok := env[k]; return v, ok }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.otlp != "obs:1" || c.workload.Namespace != "shop" || c.token != "secret" || c.drainTimeout != 3*time.Second ||
		c.trustDomain != "test" || c.account != "cart" || strings.Join(c.adminHosts, "|") != "cart.shop|x" || c.controller != "127.0.0.1:8641" {
		t.Errorf("got %+v", c)
	}

	for _, bad := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{needed[2:], nil, "--instance is missing"},
		{needed[:4], nil, "--bundle is missing"},
		{append(needed, "--instance", "Not A Name"), nil, "instance"},
		{append(needed, "--otlp", "nowhere"), nil, "--otlp"},
		{append(needed, "--access-log", "xml"), nil, "json, text"},
		{append(needed, "--token-file", "/does/not/exist"), nil, "--token-file"},
		{append(needed, "--bundle", "/does/not/exist"), nil, "--bundle"},
		{append(needed, "--log-level", "loud"), nil, "--log-level"},
		{append(needed, "--drain-timeout", "-1s"), nil, "--drain-timeout"},
		{append(needed, "--max-series", "1"), nil, "--max-series 1: want 2 to 1000000"},
		{append(needed, "extra"), nil, `"extra"`},
		{append(needed, "--nonsense"), nil, "nonsense"},
		{needed, map[string]string{"TULLE_DRAIN_TIMEOUT": "soon"}, "TULLE_DRAIN_TIMEOUT"},
	} {
		_, err := parse(bad.args, func(k string) (string, bool) { v, ok := bad.env[k]; return v, ok }, io.Discard)
		if err == nil || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: want one line with %q, got %v", bad.args, bad.want, err)
		}
	}

	// After the first start a token is not needed any more, and its file may be gone.
	if err := os.WriteFile(filepath.Join(state, "identity.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parse(append(needed, "--token-file", "/does/not/exist"), noEnv, io.Discard); err != nil {
		t.Error(err)
	}

	var help bytes.Buffer
	if _, err := parse([]string{"--help"}, noEnv, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-state-dir") {
		t.Errorf("%v: %s", err, &help)
	}
}

// output may be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// A sidecar without a controller lives, says what it is missing, and stops cleanly when it is drained.
func TestNoController(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	adminAddr := free.Addr().String()
	free.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()

	c, err := parse([]string{
		"--instance", "cart-1", "--service", "cart", "--bundle", bundle(t), "--state-dir", t.TempDir(),
		"--admin", adminAddr, "--controller", nobody, "--otlp", nobody,
	}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	log := &output{}
	done := make(chan error, 1)
	go func() { done <- serve(context.Background(), c, io.Discard, log) }()
	ask := func(method, path string) (int, string) {
		req, err := http.NewRequest(method, "http://"+adminAddr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	testmesh.Eventually(t, "the admin page", func() bool { code, _ := ask("GET", "/healthz"); return code == 200 })
	testmesh.Eventually(t, "a line about the controller", func() bool {
		return strings.Contains(log.String(), nobody) && strings.Contains(log.String(), "cannot be reached")
	})
	if code, body := ask("GET", "/readyz"); code != 503 || !strings.Contains(body, "no certificate yet") {
		t.Errorf("readyz: %d %s", code, body)
	}
	code, body := ask("GET", "/metrics")
	for _, line := range []string{
		"tulle_controller_connected 0", "tulle_connections_open 0", "tulle_connections_limit 16384", "tulle_connections_per_source_limit 12288",
		"tulle_buffer_bytes 0", "tulle_buffer_limit_bytes 268435456", `tulle_limit_reached_total{limit="connections"} 0`, `tulle_limit_reached_total{limit="bufferBytes"} 0`,
		`tulle_destination_lookups_total{answer="service"} 0`, `tulle_destination_lookups_total{answer="timeout"} 0`, `tulle_destination_unanswered_total{decision="refuse"} 0`,
		`tulle_destination_lookup_seconds_bucket{le="+Inf"} 0`, "tulle_destination_lookup_seconds_count 0", "tulle_policy_services_on_demand 0",
	} {
		if code != 200 || !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("metrics: %d, no line %q in\n%s", code, line, body)
		}
	}
	if code, body := ask("POST", "/drain"); code != 202 {
		t.Errorf("drain: %d %s", code, body)
	}
	if err := <-done; err != nil {
		t.Errorf("a drained sidecar ends without an error, got %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// An admin port in use ends the sidecar with one line that names the address and the flag.
func TestAdminPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c, err := parse([]string{
		"--instance", "cart-1", "--service", "cart", "--bundle", bundle(t), "--state-dir", t.TempDir(),
		"--admin", taken.Addr().String(), "--controller", taken.Addr().String(), "--otlp", "off",
	}, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	err = serve(t.Context(), c, io.Discard, io.Discard)
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), taken.Addr().String()) || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("got %v, want one line with the address and --admin", err)
	}
}
