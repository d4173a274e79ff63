// Package testmesh is for tests only: a throw-away CA, a Source of Snapshots that a test can change, a Recorder that keeps and counts, and
// small helpers that wait for a condition.
package testmesh

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// TrustDomain is that of every CA made here.
const TrustDomain = "test.mesh"

// Certificates are valid also in the year 2000, where the clock of testing/synctest begins.
var (
	begin = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	end   = time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
)

// CA signs identities for one test.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

// NewCA makes a CA with a new key.
func NewCA(t testing.TB) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "throw-away CA"},
		NotBefore: begin, NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &CA{t: t, cert: cert, key: key, pool: pool}
}

// ID is the identity of a service account of namespace "shop".
func ID(account string) identity.ID {
	id, err := identity.Workload(TrustDomain, "shop", account)
	if err != nil {
		panic(err) // an account of a test is a constant
	}
	return id
}

// Material signs a certificate for ID(account).
func (ca *CA) Material(account string) *identity.Material {
	ca.t.Helper()
	id := ID(account)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(ca.t, err)
	uri, err := url.Parse(id.String())
	check(ca.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial(ca.t), URIs: []*url.URL{uri},
		NotBefore: begin, NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	check(ca.t, err)
	leaf, err := x509.ParseCertificate(der)
	check(ca.t, err)
	return &identity.Material{
		ID: id, Bundle: ca.pool, BundleDER: [][]byte{ca.cert.Raw},
		Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
	}
}

// Holder holds a certificate for ID(account).
func (ca *CA) Holder(account string) *identity.Holder {
	ca.t.Helper()
	h := &identity.Holder{}
	h.Set(ca.Material(account))
	return h
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	check(t, err)
	return n
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
