package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

// authority makes a root, valid for a day around now, that signs with one key for all.
func authority(t *testing.T) (sign func(template, parent *x509.Certificate) *x509.Certificate, root *x509.Certificate, anchors *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign = func(template, parent *x509.Certificate) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	now := time.Now()
	root = &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root = sign(root, root)
	anchors = x509.NewCertPool()
	anchors.AddCert(root)
	return sign, root, anchors
}

// What was verified once is taken again for the same chain, the same bundle and the same time of validity, and for nothing else.
func TestVerifiedChains(t *testing.T) {
	sign, root, anchors := authority(t)
	_, _, others := authority(t)
	web := &url.URL{Scheme: "spiffe", Host: "tulle.local", Path: "/ns/shop/sa/web"}
	now := time.Now()
	leaf := func(n int64) []*x509.Certificate {
		return []*x509.Certificate{sign(&x509.Certificate{SerialNumber: big.NewInt(n), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), URIs: []*url.URL{web}}, root)}
	}
	first := leaf(2)
	forged, err := x509.ParseCertificate(first[0].Raw)
	if err != nil {
		t.Fatal(err)
	}
	forged.Raw = append([]byte{}, forged.Raw...)
	forged.Raw[len(forged.Raw)-1] ^= 1 // of the signature
	forged.Signature = append([]byte{}, forged.Signature...)
	forged.Signature[len(forged.Signature)-1] ^= 1

	var v verified
	for _, c := range []struct {
		name   string
		chain  []*x509.Certificate
		bundle *x509.CertPool
		at     time.Time
		ok     bool
	}{
		{"the first time", first, anchors, now, true},
		{"again", first, anchors, now.Add(59 * time.Minute), true},
		{"after its end", first, anchors, now.Add(61 * time.Minute), false},
		{"before its beginning", first, anchors, now.Add(-61 * time.Minute), false},
		{"another bundle", first, others, now, false},
		{"forged", []*x509.Certificate{forged}, anchors, now, false},
		{"forged, again", []*x509.Certificate{forged}, anchors, now, false},
		{"still", first, anchors, now, true},
		{"another", leaf(3), anchors, now, true},
	} {
		id, err := v.chain(c.chain, c.bundle, c.at)
		if (err == nil) != c.ok || c.ok && id.String() != web.String() {
			t.Errorf("%s: %s, %v", c.name, id, err)
		}
	}
	if len(v.m) != 2 {
		t.Errorf("%d chains are remembered, want 2", len(v.m))
	}
}

// A peer whose clock is an hour off shows a certificate that is not valid yet, or no longer: the error is one line and speaks of clocks.
func TestVerifyChainOfAnotherHour(t *testing.T) {
	sign, root, anchors := authority(t)
	now := time.Now()
	web := &url.URL{Scheme: "spiffe", Host: "tulle.local", Path: "/ns/shop/sa/web"}
	for name, tc := range map[string]struct {
		from  time.Time
		valid bool
	}{
		"now":              {now.Add(-5 * time.Minute), true},
		"one hour ahead":   {now.Add(time.Hour - 5*time.Minute), false},
		"long ago expired": {now.Add(-2 * time.Hour), false},
	} {
		t.Run(name, func(t *testing.T) {
			leaf := sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: tc.from, NotAfter: tc.from.Add(time.Hour), URIs: []*url.URL{web}}, root)
			id, err := VerifyChain([]*x509.Certificate{leaf}, anchors)
			if tc.valid {
				if err != nil || id.String() != web.String() {
					t.Fatalf("%s, %v", id, err)
				}
				return
			}
			if !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), "check the clocks of both machines") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want one line that speaks of clocks", err)
			}
		})
	}
}
