package exchange

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// What crypto/tls says of a peer's alert is recognised, and only of those alerts.
func TestCertificateRefused(t *testing.T) {
	ca, other := testmesh.NewCA(t), testmesh.NewCA(t)
	server := &tls.Config{Certificates: []tls.Certificate{ca.Web("a.example")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Roots()}
	for name, v := range map[string]struct {
		certs []tls.Certificate
		alert tls.AlertError // that the server sends once the handshake is over; 0: what its handshake sends
		want  bool
	}{
		"none":           {nil, 0, true},
		"of another CA":  {[]tls.Certificate{other.Web("client")}, 0, true},
		"internal error": {[]tls.Certificate{ca.Web("client")}, 80, false},
	} {
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s := tls.Server(there, server)
			if s.Handshake() == nil && v.alert != 0 {
				_ = s.Close() // close_notify, which is no refusal
			}
			_ = there.Close()
		}()
		c := tls.Client(here, &tls.Config{ServerName: "a.example", RootCAs: ca.Roots(), Certificates: v.certs})
		if err := c.Handshake(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err := c.Read(make([]byte, 1))
		x := &Exchange{Destination: &Destination{Service: policy.Service{TLS: &policy.ClientTLS{ServerName: "a.example"}}}}
		x.Choice.Endpoint = &policy.Endpoint{Address: netip.MustParseAddrPort("192.0.2.1:443")}
		if why, got := x.CertificateRefused(err); got != v.want || got && !strings.Contains(why, "a.example at 192.0.2.1:443") {
			t.Errorf("%s: %v is %v: %s", name, err, got, why)
		}
		_ = here.Close()
		<-done
	}
	x := &Exchange{Destination: &Destination{}}
	for alert, want := range map[tls.AlertError]bool{40: false, 42: true, 45: true, 49: true, 50: false, 80: false, 116: true} {
		err := &net.OpError{Op: "remote error", Err: alert}
		if _, got := x.CertificateRefused(err); got != want {
			t.Errorf("%v is %v", err, got)
		}
		if _, got := x.CertificateRefused(&net.OpError{Op: "local error", Err: alert}); got {
			t.Errorf("%v of our own is a refusal", alert)
		}
	}
}
