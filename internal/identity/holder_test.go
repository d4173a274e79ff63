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

// A peer whose clock is an hour off shows a certificate that is not valid yet, or no longer: the error is one line and speaks of clocks.
func TestVerifyChainOfAnotherHour(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(template, parent *x509.Certificate) *x509.Certificate {
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
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root = sign(root, root)
	anchors := x509.NewCertPool()
	anchors.AddCert(root)
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
