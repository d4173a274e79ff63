package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
)

const domain = "tulle.local"

func id(t *testing.T, account string) identity.ID {
	t.Helper()
	v, err := identity.Workload(domain, "shop", account)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t *testing.T, key any, uris ...string) []byte {
	t.Helper()
	template := &x509.CertificateRequest{}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAuthorityIsCreatedOnce(t *testing.T) {
	dir := t.TempDir()
	const n = 8
	bundles := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			c, err := Open(dir, domain)
			if err != nil {
				t.Error(err)
				return
			}
			bundles[i] = string(c.BundleDER()[0])
		})
	}
	wg.Wait()
	for _, b := range bundles {
		if b != bundles[0] {
			t.Fatal("two processes opened different authorities")
		}
	}
	info, err := os.Stat(filepath.Join(dir, "ca", "ca.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v, want mode 0600", info.Mode(), err)
	}
	if _, err := Open(dir, "other.domain"); err == nil || !strings.Contains(err.Error(), "is of trust domain") {
		t.Errorf("opened with another trust domain: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca", "ca.pem"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, domain); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
		t.Errorf("opened a damaged authority: %v", err)
	}
}

func TestLeafIsASpiffeCertificate(t *testing.T) {
	c, err := Open(t.TempDir(), domain)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	chain, notAfter, err := c.Leaf(newKey(t).Public(), id(t, "web"), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := identity.CertificateID(leaf); err != nil || got != id(t, "web") {
		t.Errorf("certificate is for %s, %v", got, err)
	}
	if leaf.IsCA || len(leaf.DNSNames) != 0 || leaf.KeyUsage != x509.KeyUsageDigitalSignature || notAfter.Sub(now) != time.Hour {
		t.Errorf("certificate is %+v", leaf)
	}
	other, err := identity.Workload("else.where", "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Leaf(newKey(t).Public(), other, now, time.Hour); err == nil {
		t.Error("signed for another trust domain")
	}
	for range 100 {
		if f := RenewAt(now, notAfter).Sub(now).Minutes() / 60; f < 0.5 || f > 0.7 {
			t.Fatalf("renewal after %.2f of the life, want 0.5 to 0.7", f)
		}
	}
}

func TestSign(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(dir, domain)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s := NewService(c, dir, time.Hour, slog.New(slog.DiscardHandler))
	s.now = func() time.Time { return now }
	issue := func(account string, ttl time.Duration) string {
		token, err := IssueToken(dir, "shop", account, now, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	web := id(t, "web")
	key, key2 := newKey(t), newKey(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	used := issue("web", time.Minute)
	if _, err := s.sign(identity.ID{}, &tullev1.SignRequest{CsrDer: request(t, key, web.String()), JoinToken: used}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		caller identity.ID
		csr    []byte
		token  string
		code   codes.Code
		want   string
	}{
		{"the same key again", identity.ID{}, request(t, key, web.String()), used, codes.OK, ""},
		{"another key", identity.ID{}, request(t, key2, web.String()), used, codes.Unauthenticated, "already used"},
		{"no proof", identity.ID{}, request(t, key, web.String()), "", codes.Unauthenticated, "neither a join token nor"},
		{"unknown token", identity.ID{}, request(t, key, web.String()), "tulle-x", codes.Unauthenticated, "not known here"},
		{"path as token", identity.ID{}, request(t, key, web.String()), "../../ca/ca.pem", codes.Unauthenticated, "not known here"},
		{"expired token", identity.ID{}, request(t, key, web.String()), issue("web", time.Nanosecond), codes.Unauthenticated, "expired"},
		{"token of another", identity.ID{}, request(t, key, web.String()), issue("cart", time.Minute), codes.PermissionDenied, "service account cart"},
		{"renewal", web, request(t, key2, web.String()), "", codes.OK, ""},
		{"renewal with an old token", web, request(t, key2, web.String()), used, codes.OK, ""},
		{"for somebody else", web, request(t, key, id(t, "cart").String()), "", codes.PermissionDenied, "may not obtain"},
		{"other trust domain", identity.ID{}, request(t, key, "spiffe://else.where/ns/shop/sa/web"), used, codes.PermissionDenied, "trust domain"},
		{"two names", identity.ID{}, request(t, key, web.String(), id(t, "cart").String()), used, codes.InvalidArgument, "exactly one"},
		{"no name", identity.ID{}, request(t, key), used, codes.InvalidArgument, "exactly one"},
		{"weak key", identity.ID{}, request(t, weak, web.String()), used, codes.InvalidArgument, "at least 2048"},
		{"junk", identity.ID{}, []byte("junk"), used, codes.InvalidArgument, "unreadable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if strings.HasPrefix(tc.name, "expired") {
				now = now.Add(time.Second)
			}
			_, err := s.sign(tc.caller, &tullev1.SignRequest{CsrDer: tc.csr, JoinToken: tc.token})
			if status.Code(err) != tc.code || tc.want != "" && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s …%s…", err, tc.code, tc.want)
			}
		})
	}
	// The token itself is nowhere on disk.
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content)+path, used) {
			t.Errorf("%s holds the token in the clear", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// serve runs the Identity service on loopback with a certificate of its own.
func serve(t *testing.T, c *CA, s *Service) (addr string, stop func()) {
	t.Helper()
	controller, err := identity.Controller(domain)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	chain, _, err := c.Leaf(key.Public(), controller, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13,
	})))
	tullev1.RegisterIdentityServer(server, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	var once sync.Once
	stop = func() { once.Do(func() { server.Stop(); <-done }) }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func TestJoinRenewAndSurvive(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	c, err := Open(dir, domain)
	if err != nil {
		t.Fatal(err)
	}
	s := NewService(c, dir, 4*time.Second, slog.New(slog.DiscardHandler)) // leaves so short that they renew during the test
	addr, stopServer := serve(t, c, s)
	controller, _ := identity.Controller(domain)
	token, err := IssueToken(dir, "shop", "web", time.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	run := func(holder *identity.Holder, token string, who identity.ID) (stop, ended func() error, ready <-chan struct{}, client *join.Client) {
		client, err := join.New(join.Config{
			Controller: addr, ControllerID: who, ID: id(t, "web"), Token: token, BundleFile: c.BundleFile(), StateDir: state, Holder: holder,
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		r, done := make(chan struct{}), make(chan error, 1)
		var once sync.Once
		go func() { done <- client.Run(ctx, func() { once.Do(func() { close(r) }) }) }()
		var result error
		var waited sync.Once
		ended = func() error { waited.Do(func() { result = <-done }); return result }
		stop = func() error { cancel(); return ended() }
		t.Cleanup(func() { _ = stop() })
		return stop, ended, r, client
	}
	wait := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(15 * time.Second); !f(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("waited 15 s for: " + what)
			}
		}
	}

	var holder identity.Holder
	stop, _, ready, _ := run(&holder, token, controller)
	<-ready
	first := holder.Get().Certificate.Leaf.SerialNumber
	wait("a renewal", func() bool { return holder.Get().Certificate.Leaf.SerialNumber.Cmp(first) != 0 })
	info, err := os.Stat(filepath.Join(state, "identity.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity.pem: %v %v, want mode 0600", info, err)
	}

	// Without a controller, and restarted, the certificate on disk serves.
	stopServer()
	if err := stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	var again identity.Holder
	stop, _, ready, client := run(&again, "", controller)
	<-ready
	if again.Get().ID != id(t, "web") {
		t.Errorf("identity from disk is %s", again.Get().ID)
	}
	wait("an error that names the address", func() bool {
		e := client.Status().LastError
		return strings.Contains(e, addr+" cannot be reached") && !strings.Contains(e, "\n")
	})
	_ = stop()

	// A token that is no longer good ends the actor when there is no certificate.
	addr, _ = serve(t, c, s)
	state = t.TempDir()
	var none identity.Holder
	_, ended, _, _ := run(&none, token, controller)
	if err = ended(); err == nil || !strings.Contains(err.Error(), "already used") {
		t.Errorf("ended with %v", err)
	}

	// Somebody else at the controller's address is not believed.
	stop, _, _, client = run(&identity.Holder{}, token, id(t, "impostor"))
	wait("a refusal of the server", func() bool { return strings.Contains(client.Status().LastError, "peer refused") })
	_ = stop()
}
