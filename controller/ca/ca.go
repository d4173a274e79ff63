// Package ca is the mesh's certificate authority: it keeps the signing key, issues SPIFFE leaf certificates, and answers the Identity service.
//
// Open creates the authority on first use; Leaf signs. The key stays behind the small interface Key, so that it can live in a file, as here,
// or elsewhere later. Everything is safe for concurrent use.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Key signs certificates. Public must not change.
type Key interface{ crypto.Signer }

// Lifetimes.
const (
	DefaultLeafTTL = 24 * time.Hour
	authorityTTL   = 10 * 365 * 24 * time.Hour
	// clockSkew is how far a peer's clock may be behind ours: leaves are valid from that long ago.
	clockSkew = 5 * time.Minute
)

// CA is an open authority.
type CA struct {
	trustDomain string
	key         Key
	cert        *x509.Certificate
	bundleFile  string
}

// Open reads the authority kept in dataDir/ca, or creates it there: ca.pem (key and certificate, mode 0600) and bundle.pem (certificate only,
// for distribution). Two processes that create it at the same time end up with the same one.
func Open(dataDir, trustDomain string) (*CA, error) {
	if _, err := identity.Parse("spiffe://" + trustDomain); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	dir := filepath.Join(dataDir, "ca")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ca: cannot create its folder: %w (choose a writable data directory)", err)
	}
	file := filepath.Join(dir, "ca.pem")
	content, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		if err := create(file, trustDomain); err != nil {
			return nil, err
		}
		content, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	c := &CA{trustDomain: trustDomain, bundleFile: filepath.Join(dir, "bundle.pem")}
	if c.key, c.cert, err = parse(content); err != nil {
		return nil, fmt.Errorf("ca: %s: %w (restore it from a backup; without it every workload must join again)", file, err)
	}
	if len(c.cert.URIs) != 1 || c.cert.URIs[0].Host != trustDomain {
		return nil, fmt.Errorf("ca: %s is of trust domain %q, the configuration says %q; change the trust domain or use another data directory",
			file, c.cert.URIs[0].Host, trustDomain)
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
	if old, err := os.ReadFile(c.bundleFile); err != nil || string(old) != string(bundle) {
		if err := writeAtomic(c.bundleFile, bundle, 0o644); err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
	}
	return c, nil
}

func create(file, trustDomain string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	now := time.Now()
	serial, err := newSerial()
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Tulle"}, CommonName: trustDomain},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	content = append(content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	tmp, err := writeTemp(file, content, 0o600)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	defer os.Remove(tmp)
	// A link, unlike a rename, fails when somebody else was faster; then theirs counts.
	if err := os.Link(tmp, file); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

func parse(content []byte) (Key, *x509.Certificate, error) {
	var key Key
	var cert *x509.Certificate
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			signer, ok := k.(crypto.Signer)
			if !ok {
				return nil, nil, fmt.Errorf("key of type %T cannot sign", k)
			}
			key = signer
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			cert = c
		}
	}
	switch {
	case key == nil:
		return nil, nil, errors.New("it has no private key")
	case cert == nil || !cert.IsCA || len(cert.URIs) == 0:
		return nil, nil, errors.New("it has no authority certificate")
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(cert.PublicKey) {
		return nil, nil, errors.New("key and certificate do not belong together")
	}
	return key, cert, nil
}

// TrustDomain is the trust domain this authority signs for.
func (c *CA) TrustDomain() string { return c.trustDomain }

// BundleFile is the PEM file with the trust anchors.
func (c *CA) BundleFile() string { return c.bundleFile }

// BundleDER is the trust anchors.
func (c *CA) BundleDER() [][]byte { return [][]byte{c.cert.Raw} }

// Leaf signs a certificate for public key pub and identity id, valid for ttl from now (and never longer than the authority). The chain is
// leaf first, without the anchor.
func (c *CA) Leaf(pub crypto.PublicKey, id identity.ID, now time.Time, ttl time.Duration) (chainDER [][]byte, notAfter time.Time, err error) {
	if id.TrustDomain() != c.trustDomain {
		return nil, time.Time{}, fmt.Errorf("ca: %s is not of trust domain %s", id, c.trustDomain)
	}
	if err := checkKey(pub); err != nil {
		return nil, time.Time{}, err
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("ca: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("ca: %w", err)
	}
	notAfter = now.Add(ttl)
	if notAfter.After(c.cert.NotAfter) {
		notAfter = c.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
	}, c.cert, pub, c.key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("ca: signing %s: %w", id, err)
	}
	return [][]byte{der}, notAfter, nil
}

// ErrWeakKey is wrapped by refusals of a key.
var ErrWeakKey = errors.New("ca: key refused")

func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return fmt.Errorf("%w: ECDSA %s; use P-256 or stronger", ErrWeakKey, k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("%w: RSA with %d bits; use at least 2048", ErrWeakKey, k.N.BitLen())
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("%w: type %T; use ECDSA P-256", ErrWeakKey, pub)
	}
	return nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}

func writeTemp(file string, content []byte, mode os.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func writeAtomic(file string, content []byte, mode os.FileMode) error {
	tmp, err := writeTemp(file, content, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}
