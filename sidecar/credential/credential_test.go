package credential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// shake makes a handshake in memory and returns what each side says of it, and the client's state.
func shake(client, server *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	at := netip.MustParseAddrPort("192.0.2.1:443")
	network := testmesh.NewNet()
	l, err := network.Listen(at)
	if err != nil {
		return state, err, err
	}
	near, err := network.Dialer(at.Addr())(context.Background(), at)
	if err != nil {
		return state, err, err
	}
	away, err := l.Accept()
	if err != nil {
		return state, err, err
	}
	_ = near.SetDeadline(time.Now().Add(time.Minute))
	_ = away.SetDeadline(time.Now().Add(time.Minute))
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(away, server)
		err := s.Handshake()
		if err == nil {
			_, err = io.WriteString(s, "x") // a client of TLS 1.3 takes its tickets with it
		}
		done <- err
		_ = s.Close()
	}()
	c := tls.Client(near, client)
	if clientErr = c.Handshake(); clientErr == nil {
		if n, err := c.Read(make([]byte, 1)); n == 0 {
			clientErr = err
		}
	}
	state = c.ConnectionState()
	if clientErr != nil {
		_ = near.Close()
	}
	serverErr = <-done
	_ = near.Close()
	return state, clientErr, serverErr
}

func serving(c ...tls.Certificate) *tls.Config { return &tls.Config{Certificates: c} }

func TestClientVerifies(t *testing.T) {
	ca, other := testmesh.NewCA(t), testmesh.NewCA(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	ca.WriteRoots(file)
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := ca.Web("api.bank.example")
	for _, v := range []struct {
		name   string
		c      policy.ClientTLS
		server *tls.Config
		want   []string // parts of the error; none: it goes well
	}{
		{"good", policy.ClientTLS{ServerName: "api.bank.example", CAFile: file}, serving(ca.Web("api.bank.example")), nil},
		{"an address", policy.ClientTLS{ServerName: "192.0.2.1", CAFile: file}, serving(ca.Web("192.0.2.1")), nil},
		{"a wildcard", policy.ClientTLS{ServerName: "api.bank.example", CAFile: file}, serving(ca.Web("*.bank.example")), nil},
		{"TLS 1.2", policy.ClientTLS{ServerName: "a", CAFile: file}, &tls.Config{Certificates: []tls.Certificate{ca.Web("a")}, MaxVersion: tls.VersionTLS12}, nil},
		{"one of its names", policy.ClientTLS{ServerName: "sent.example", CAFile: file, Names: []string{"spiffe://x/y", "b.example"}}, serving(ca.Web("b.example")), nil},
		{"a URI", policy.ClientTLS{ServerName: "sent.example", CAFile: file, Names: []string{"spiffe://x/y"}}, serving(ca.Web("a", "spiffe://x/y")), nil},
		{"below", policy.ClientTLS{ServerName: "sent.example", CAFile: file, Names: []string{"*.b.example"}}, serving(ca.Web("z.b.example")), nil},
		{
			"none of its names", // though it is for what is sent
			policy.ClientTLS{ServerName: "sent.example", CAFile: file, Names: []string{"spiffe://x/y", "*.b.example", "c.example"}},
			serving(ca.Web("sent.example", "b.example", "spiffe://x/z")),
			[]string{"sent.example presented a certificate for sent.example, b.example, spiffe://x/z", "it is for none of spiffe://x/y, *.b.example, c.example"},
		},
		{
			"another name",
			policy.ClientTLS{ServerName: "api.bank.example", CAFile: file},
			serving(ca.Web("shop.example", "b.example")),
			[]string{"api.bank.example presented a certificate for shop.example, b.example, issued by", "set spec.tls.serverName to a name that it is for"},
		},
		{
			"another authority",
			policy.ClientTLS{ServerName: "a", CAFile: file},
			serving(other.Web("a")),
			[]string{"a presented a certificate for a", "no authority in " + file + " has signed it"},
		},
		{
			"not the system's",
			policy.ClientTLS{ServerName: "a"},
			serving(ca.Web("a")),
			[]string{"no authority that this system trusts has signed it", "spec.tls.caFile"},
		},
		{"no file", policy.ClientTLS{ServerName: "a", CAFile: dir + "/none.pem"}, serving(old), []string{"trust anchors " + dir + "/none.pem", "put it there, on the host of the sidecar"}},
		{"no anchors", policy.ClientTLS{ServerName: "a", CAFile: empty}, serving(old), []string{"there is no certificate in it; write PEM"}},
		{"a folder", policy.ClientTLS{ServerName: "a", CAFile: dir}, serving(old), []string{"it is no regular file"}},
		{
			"too old",
			policy.ClientTLS{ServerName: "a", CAFile: file, MinVersion: tls.VersionTLS13},
			&tls.Config{Certificates: []tls.Certificate{ca.Web("a")}, MaxVersion: tls.VersionTLS12},
			[]string{"protocol version"},
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := New(slog.New(slog.DiscardHandler))
			_, err, _ := shake(s.Client(v.c, flow.ProtocolTCP), v.server)
			if v.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, part := range v.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %v\nwant …%s…", err, part)
				}
			}
		})
	}
}

// Sessions are resumed, and a resumed one is verified too: when the anchors change, it is refused.
func TestClientResumes(t *testing.T) {
	ca, other := testmesh.NewCA(t), testmesh.NewCA(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	ca.WriteRoots(file)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ca.WriteRoots(file)
		s := New(slog.New(slog.DiscardHandler))
		c := s.Client(policy.ClientTLS{ServerName: "a", CAFile: file}, flow.ProtocolTCP)
		server := serving(ca.Web("a"))
		server.MaxVersion = version
		for i, resumed := range []bool{false, true} {
			state, err, _ := shake(c, server)
			if err != nil || state.DidResume != resumed {
				t.Fatalf("%#x, connection %d: resumed %v, %v", version, i, state.DidResume, err)
			}
		}
		other.WriteRoots(file)
		s.Refresh()
		if _, err, _ := shake(c, server); !errors.Is(err, ErrHost) {
			t.Errorf("%#x: with other anchors: %v", version, err)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	ca := testmesh.NewCA(t)
	dir := t.TempDir()
	c := policy.ClientTLS{ServerName: "a", CAFile: dir + "/ca.pem", CertFile: dir + "/cert.pem", KeyFile: dir + "/key.pem"}
	ca.WriteRoots(c.CAFile)
	s := New(slog.New(slog.DiscardHandler))
	config := s.Client(c, flow.ProtocolTCP)
	var saw string
	server := serving(ca.Web("a"))
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, ca.Roots()
	server.VerifyConnection = func(cs tls.ConnectionState) error {
		saw = cs.PeerCertificates[0].DNSNames[0]
		return nil
	}
	if _, err, _ := shake(config, server); err == nil || !strings.Contains(err.Error(), "certificate "+c.CertFile) {
		t.Errorf("without files: %v", err)
	}
	if p := s.Problems(); len(p) != 1 || !strings.Contains(p[0], "put it there") {
		t.Errorf("problems %q", p)
	}
	for _, name := range []string{"one", "two"} {
		ca.WritePair(ca.Web(name), c.CertFile, c.KeyFile)
		s.Refresh()
		server.SessionTicketsDisabled = true
		if _, err, serr := shake(config, server); err != nil || serr != nil || saw != name {
			t.Errorf("%s: the server saw %q, %v, %v", name, saw, err, serr)
		}
	}
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("problems %q", p)
	}
}

// A certificate whose key has not come yet leaves the old pair in force; so does what is broken, or gone.
func TestRotation(t *testing.T) {
	ca := testmesh.NewCA(t)
	dir := t.TempDir()
	cert, key := dir+"/cert.pem", dir+"/key.pem"
	ca.WritePair(ca.Web("one"), cert, key)
	s := New(slog.New(slog.DiscardHandler))
	name := func() string {
		t.Helper()
		p, err := value[*tls.Certificate](s.pair(cert, key))
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(p.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.DNSNames[0]
	}
	step := func(what, want string, problem bool) {
		t.Helper()
		s.Refresh()
		if got := name(); got != want || len(s.Problems()) == 1 != problem {
			t.Errorf("%s: %s is in force, want %s; problems %q", what, got, want, s.Problems())
		}
	}
	step("at first", "one", false)
	ca.WritePair(ca.Web("two"), cert, dir+"/later.pem")
	step("with the old key", "one", true)
	if err := os.Rename(dir+"/later.pem", key); err != nil {
		t.Fatal(err)
	}
	step("with both", "two", false)
	if err := os.WriteFile(cert, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	step("half written", "two", true)
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	step("gone", "two", true)
	ca.WritePair(ca.Web("three"), cert, key)
	step("whole again", "three", false)

	s.Keep(func() {})
	if len(s.items) != 0 {
		t.Errorf("%d items are left of none", len(s.items))
	}
}

// A change is noticed within Interval.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := testmesh.NewCA(t), testmesh.NewCA(t)
		file := filepath.Join(t.TempDir(), "ca.pem")
		ca.WriteRoots(file)
		s := New(slog.New(slog.DiscardHandler))
		i := s.anchors(file)
		before, err := value[*x509.CertPool](i)
		if err != nil || !before.Equal(ca.Roots()) {
			t.Fatalf("%v", err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 2*Interval)
		defer stop()
		other.WriteRoots(file)
		s.Run(ctx)
		if now, err := value[*x509.CertPool](i); err != nil || !now.Equal(other.Roots()) {
			t.Errorf("after %s it is not taken: %v", 2*Interval, err)
		}
	})
}
