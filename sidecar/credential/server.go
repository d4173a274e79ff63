package credential

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Server is the configuration for callers of a listener of a protocol by c. For HTTP it offers HTTP/2 and HTTP/1.1.
//
// Each handshake gets the configuration of what the files say then; tickets of sessions are those of the one that is returned, so that a session survives a change.
// A caller's certificate is verified at every connection, resumed ones too, by the anchors of that time.
func (s *Store) Server(c policy.ServerTLS, protocol flow.Protocol) *tls.Config {
	files := make([]*item, len(c.Certificates))
	for i, f := range c.Certificates {
		files[i] = s.pair(f.CertFile, f.KeyFile)
	}
	v := &listening{pairs: files, auth: c.ClientAuth}
	v.base = tls.Config{MinVersion: c.MinVersion, CipherSuites: policy.CipherSuites}
	if v.base.MinVersion == 0 {
		v.base.MinVersion = tls.VersionTLS12
	}
	if protocol.HTTP() {
		v.base.NextProtos = []string{"h2", "http/1.1"}
	}
	if c.ClientCAFile != "" {
		v.anchors = s.anchors(c.ClientCAFile)
	}
	outer := v.base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return v.now() }
	return outer
}

// ExpectServer names again what Server's configuration rests on, for Store.Keep.
func (s *Store) ExpectServer(c policy.ServerTLS) {
	for _, f := range c.Certificates {
		s.pair(f.CertFile, f.KeyFile)
	}
	if c.ClientCAFile != "" {
		s.anchors(c.ClientCAFile)
	}
}

// listening is a listener's configuration as its files change.
type listening struct {
	base    tls.Config
	pairs   []*item
	anchors *item // nil: callers have no certificates
	auth    policy.ClientAuth

	mu     sync.Mutex
	made   *tls.Config
	from   []*tls.Certificate
	hinted *x509.CertPool
}

// errNoCertificate: none of the files could be read yet.
var errNoCertificate = errors.New("the listener has no certificate that can be used")

// now is the configuration for a handshake that begins.
func (v *listening) now() (*tls.Config, error) {
	var pairs []*tls.Certificate
	var failed error
	for _, i := range v.pairs {
		p, err := value[*tls.Certificate](i)
		if err != nil {
			failed = err
			continue
		}
		pairs = append(pairs, p)
	}
	if len(pairs) == 0 {
		return nil, fmt.Errorf("%w: %w", errNoCertificate, failed)
	}
	var anchors *x509.CertPool
	if v.anchors != nil {
		pool, err := value[*x509.CertPool](v.anchors)
		if err != nil {
			return nil, err
		}
		anchors = pool
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.made != nil && anchors == v.hinted && equal(pairs, v.from) {
		return v.made, nil
	}
	c := v.base.Clone()
	for _, p := range pairs {
		c.Certificates = append(c.Certificates, *p) // crypto/tls takes the first that is for the name and the algorithms of the caller, else the first
	}
	if anchors != nil {
		c.ClientCAs = anchors // as a hint
		c.ClientAuth = tls.RequestClientCert
		if v.auth == policy.ClientAuthRequire {
			c.ClientAuth = tls.RequireAnyClientCert
		}
		c.VerifyConnection = func(cs tls.ConnectionState) error { return verifyCaller(cs, anchors, time.Now()) }
	}
	v.made, v.from, v.hinted = c, pairs, anchors
	return c, nil
}

func equal(a, b []*tls.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// ErrCaller wraps every refusal of a caller's certificate.
var ErrCaller = errors.New("the certificate of the caller was refused")

func verifyCaller(cs tls.ConnectionState, anchors *x509.CertPool, now time.Time) error {
	if len(cs.PeerCertificates) == 0 { // whether it needs one, the handshake knows
		return nil
	}
	opts := x509.VerifyOptions{Roots: anchors, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, i := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(i)
	}
	if _, err := cs.PeerCertificates[0].Verify(opts); err != nil {
		return fmt.Errorf("%w: it presented %s: %w", ErrCaller, describe(cs.PeerCertificates[0]), err)
	}
	return nil
}
