package credential

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// sessions is how many sessions are kept for resumption, of all endpoints of a service together.
const sessions = 64

// Client is the configuration for connections to a service of a protocol by c. For HTTP it offers HTTP/1.1 alone: who speaks HTTP/2 says so.
//
// The certificate is verified here and not by crypto/tls, at every connection, resumed ones too, so that anchors can change, and so that a refusal says what to do.
func (s *Store) Client(c policy.ClientTLS, protocol flow.Protocol) *tls.Config {
	c = c.WithDefaults()
	var anchors *item
	if c.CAFile != "" {
		anchors = s.anchors(c.CAFile)
	}
	config := &tls.Config{
		MinVersion: c.MinVersion, ServerName: c.ServerName, ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
		InsecureSkipVerify: true, // replaced by VerifyConnection
		VerifyConnection:   func(cs tls.ConnectionState) error { return verifyServer(cs, c, anchors, time.Now()) },
	}
	switch {
	case protocol == flow.ProtocolHTTP2 || protocol == flow.ProtocolGRPC:
		config.NextProtos = []string{"h2"}
	case protocol.MayBeHTTP():
		config.NextProtos = []string{"http/1.1"}
	default:
		config.NextProtos = c.ALPN
	}
	if c.CertFile != "" {
		pair := s.pair(c.CertFile, c.KeyFile)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return value[*tls.Certificate](pair)
		}
	}
	return config
}

// Expect names again what Client's configuration rests on, for Store.Keep.
func (s *Store) Expect(c policy.ClientTLS) {
	if c.CAFile != "" {
		s.anchors(c.CAFile)
	}
	if c.CertFile != "" {
		s.pair(c.CertFile, c.KeyFile)
	}
}

// ErrHost wraps every refusal of a host's certificate.
var ErrHost = errors.New("the certificate of the host was refused")

func verifyServer(cs tls.ConnectionState, c policy.ClientTLS, anchors *item, now time.Time) error {
	opts := x509.VerifyOptions{CurrentTime: now, Intermediates: x509.NewCertPool()}
	if anchors != nil {
		pool, err := value[*x509.CertPool](anchors)
		if err != nil {
			return err
		}
		opts.Roots = pool
	}
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%w: %s sent none", ErrHost, c.ServerName)
	}
	leaf := cs.PeerCertificates[0]
	for _, i := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(i)
	}
	if len(c.Names) == 0 {
		opts.DNSName = c.ServerName
	}
	_, err := leaf.Verify(opts)
	switch {
	case err == nil && (len(c.Names) == 0 || slices.ContainsFunc(c.Names, func(n string) bool { return isFor(leaf, n) })):
		return nil
	case err == nil:
		return fmt.Errorf("%w: %s presented %s; it is for none of %s: name one that it is for", ErrHost, c.ServerName, describe(leaf), strings.Join(c.Names, ", "))
	}
	var (
		name    x509.HostnameError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
	)
	todo := err.Error()
	switch {
	case errors.As(err, &name):
		todo = "it is not for this name: set spec.tls.serverName to a name that it is for, or correct spec.addresses"
	case errors.As(err, &unknown) && anchors != nil:
		todo = "no authority in " + c.CAFile + " has signed it: put the certificate of the one that has into it"
	case errors.As(err, &unknown):
		todo = "no authority that this system trusts has signed it: put the certificate of the one that has into a file, and name that in spec.tls.caFile"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		todo = "it is not valid now: its owner must renew it, or the clock of this host (" + now.UTC().Format(time.RFC3339) + ") is wrong"
	}
	return fmt.Errorf("%w: %s presented %s; %s", ErrHost, c.ServerName, describe(leaf), todo)
}

// isFor reports whether a certificate is for a name of policy.ClientTLS.Names.
func isFor(leaf *x509.Certificate, name string) bool {
	if policy.IsURI(name) {
		return slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == name })
	}
	if suffix, wild := strings.CutPrefix(name, "*"); wild {
		return slices.ContainsFunc(leaf.DNSNames, func(d string) bool {
			d = strings.ToLower(d)
			return strings.HasSuffix(d, suffix) && len(d) > len(suffix)
		})
	}
	return leaf.VerifyHostname(name) == nil
}

// describe is a certificate in words.
func describe(c *x509.Certificate) string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if len(names) == 0 {
		names = []string{"no name"}
	}
	const most = 5
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("a certificate for %s, issued by %q, valid from %s to %s", strings.Join(names, ", "), c.Issuer.String(),
		c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly))
}
