//go:build unix

package main

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/internal/testmesh/chain"
)

// lenient are the cases that net/http does not pass, with the reasons.
var lenient = []string{
	"http2/4.2/3",     // it announces frames of up to 1 MiB, and h2spec sends 20 KiB as one that is too large
	"http2/6.5.3/1",   // it refuses a setting that is sent twice in one frame
	"http2/8.1.2.2/1", // it takes connection-specific fields
	"http2/8.1.2.2/2", // it takes any TE
}

// pair writes a certificate of the mesh and its key to a file.
func pair(t *testing.T, m *identity.Material) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(m.Certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(t.TempDir(), "pair.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every case of h2spec passes at every listener of a sidecar, whatever net/http behind it would have taken.
func TestSidecars(t *testing.T) {
	run, err := build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, err := startApplication()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.stop)
	app := netip.MustParseAddrPort(a.address)
	ca := testmesh.NewCA(t)
	client := pair(t, ca.Material(chain.Caller))
	for name, c := range map[string]struct {
		at   netip.AddrPort
		pair string
	}{
		"net/http":           {at: app},
		"inbound, plaintext": {at: chain.Inbound(t, ca.Holder(chain.Service), app, policy.ModePermissive).At},
		"inbound, mTLS":      {at: chain.Inbound(t, ca.Holder(chain.Service), app, policy.ModeStrict).At, pair: client},
		"outbound":           {at: chain.Outbound(t, ca.Holder(chain.Caller), app, false).At},
		"two sidecars":       {at: chain.Outbound(t, ca.Holder(chain.Caller), chain.Inbound(t, ca.Holder(chain.Service), app, policy.ModeStrict).At, true).At},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cases, err := run.cases(t.Context(), c.at.String(), c.pair)
			if err != nil {
				t.Fatal(err)
			}
			failed := with(cases, "failed")
			if name == "net/http" {
				failed = slices.DeleteFunc(failed, func(id string) bool { return slices.Contains(lenient, id) })
			}
			if skipped := with(cases, "skipped"); len(failed) > 0 || len(skipped) > 0 {
				t.Errorf("failed %v, skipped %v\n%s", failed, skipped, summary(cases))
			}
		})
	}
}

// Who does not speak HTTP/2 fails, and the report says where.
func TestFailuresAreSeen(t *testing.T) {
	run, err := build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
			c.Close()
		}
	}()
	cases, err := run.cases(t.Context(), l.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	if failed := with(cases, "failed"); len(failed) < expected*9/10 { // some cases want a connection that is closed, and get it
		t.Errorf("only %d of %d cases fail against a server of HTTP/1.1", len(failed), len(cases))
	}
	if text := summary(cases); !strings.Contains(text, "http2 6.7. PING\n    http2/6.7/1 Sends a PING frame\n") {
		t.Error(text)
	}
}
