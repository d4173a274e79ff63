package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Material is what a process needs to prove itself and to check others. Immutable.
type Material struct {
	ID          ID
	Certificate tls.Certificate // with Leaf set; the key never leaves the process
	Bundle      *x509.CertPool  // trust anchors of the trust domain
	BundleDER   [][]byte        // the same anchors, for handing on
}

// Holder keeps the current Material; rotation swaps it and touches no open connection. The zero value is empty and refuses
// handshakes with a clear error. Safe for concurrent use.
type Holder struct {
	current atomic.Pointer[Material]
	peers   verified
}

// Set publishes m; m must not change afterwards.
func (h *Holder) Set(m *Material) { h.current.Store(m) }

// Get is nil before the first Set.
func (h *Holder) Get() *Material { return h.current.Load() }

// ErrNoMaterial is returned by handshakes before the first Set.
var ErrNoMaterial = errors.New("identity: no certificate yet (has the controller signed one?)")

// ErrPeer wraps every refusal of a peer's identity.
var ErrPeer = errors.New("identity: peer refused")

// ServerTLS is a TLS 1.3 configuration that presents the current certificate, requires a client certificate from the trust bundle and
// accepts any SPIFFE ID in it; the caller authorizes by PeerID afterwards.
func (h *Holder) ServerTLS() *tls.Config {
	c := h.base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.certificate() }
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error { return h.verify(cs, nil) }
	return c
}

// ClientTLS is a TLS 1.3 configuration that presents the current certificate and accepts only peers whose SPIFFE ID is one of allowed (any
// ID of the trust domain when allowed is empty).
func (h *Holder) ClientTLS(allowed ...ID) *tls.Config {
	c := h.base()
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.certificate() }
	c.InsecureSkipVerify = true // replaced by VerifyConnection: SPIFFE names peers by URI SAN, not by host name (SPIFFE X509-SVID §5)
	c.VerifyConnection = func(cs tls.ConnectionState) error { return h.verify(cs, allowed) }
	return c
}

func (h *Holder) base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13}
}

func (h *Holder) certificate() (*tls.Certificate, error) {
	m := h.Get()
	if m == nil {
		return nil, ErrNoMaterial
	}
	return &m.Certificate, nil
}

func (h *Holder) verify(cs tls.ConnectionState, allowed []ID) error {
	m := h.Get()
	if m == nil {
		return ErrNoMaterial
	}
	id, err := h.peers.chain(cs.PeerCertificates, m.Bundle, time.Now())
	if err != nil {
		return err
	}
	if len(allowed) == 0 {
		if id.TrustDomain() != m.ID.TrustDomain() {
			return fmt.Errorf("%w: %s is not of trust domain %s", ErrPeer, id, m.ID.TrustDomain())
		}
		return nil
	}
	for _, a := range allowed {
		if a == id {
			return nil
		}
	}
	return fmt.Errorf("%w: it is %s, expected %v", ErrPeer, id, allowed)
}

// VerifyChain checks an X.509-SVID chain (SPIFFE X509-SVID §5) against the bundle and returns its ID.
func VerifyChain(certs []*x509.Certificate, bundle *x509.CertPool) (ID, error) {
	id, _, err := verifyChain(certs, bundle, time.Now())
	return id, err
}

// verifyChain also returns the chains it found, at least one.
func verifyChain(certs []*x509.Certificate, bundle *x509.CertPool, now time.Time) (ID, [][]*x509.Certificate, error) {
	if len(certs) == 0 {
		return ID{}, nil, fmt.Errorf("%w: it sent no certificate", ErrPeer)
	}
	leaf := certs[0]
	inter := x509.NewCertPool()
	for _, c := range certs[1:] {
		inter.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: bundle, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			return ID{}, nil, fmt.Errorf("%w: %w (check the clocks of both machines; this one says %s)", ErrPeer, err, now.UTC().Format(time.RFC3339))
		}
		return ID{}, nil, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	id, err := CertificateID(leaf)
	return id, chains, err
}

// CertificateID is the one SPIFFE ID of a leaf; a certificate with none or several is refused (X509-SVID §2).
func CertificateID(leaf *x509.Certificate) (ID, error) {
	if leaf.IsCA {
		return ID{}, fmt.Errorf("%w: certificate is a CA's", ErrPeer)
	}
	if len(leaf.URIs) != 1 {
		return ID{}, fmt.Errorf("%w: certificate has %d URI names, a SPIFFE certificate has exactly one", ErrPeer, len(leaf.URIs))
	}
	id, err := Parse(leaf.URIs[0].String())
	if err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return id, nil
}

// PeerID is the verified SPIFFE ID at the other end of an established connection made with ServerTLS or ClientTLS; zero when there is none.
func PeerID(cs tls.ConnectionState) ID {
	if len(cs.PeerCertificates) == 0 {
		return ID{}
	}
	id, err := CertificateID(cs.PeerCertificates[0])
	if err != nil {
		return ID{}
	}
	return id
}
