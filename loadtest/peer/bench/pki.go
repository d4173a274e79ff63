//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/controller/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	trustDomain    = "bench.test"
	namespace      = "bench"
	clientAccount  = "client"  // the load generator
	backendAccount = "backend" // the backend, and in the place of a far sidecar
	proxyAccount   = "proxy"   // every proxy but Tulle, whose sidecars join
	sinkAccount    = "sink"    // the observer's identity
)

// pki is a folder with certificates of the mesh's own authority: NAME.pem (certificate and key, ECDSA P-256) for each account, and ca.pem. All proxies
// have certificates of one kind, and check each other's against the same anchor.
type pki struct{ Dir string }

// newPKI issues them from the authority in the controller's data directory.
func newPKI(dir, controllerData string) (pki, error) {
	p := pki{dir}
	authority, err := ca.Open(controllerData, trustDomain)
	if err != nil {
		return p, err
	}
	anchors, err := os.ReadFile(authority.BundleFile())
	if err == nil {
		err = os.WriteFile(p.anchors(), anchors, 0o600)
	}
	if err != nil {
		return p, err
	}
	for _, account := range []string{clientAccount, backendAccount, proxyAccount, sinkAccount} {
		id, err := identity.Workload(trustDomain, namespace, account)
		if account == sinkAccount {
			id, err = identity.Observer(trustDomain)
		}
		if err != nil {
			return p, err
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return p, err
		}
		chain, _, err := authority.Leaf(key.Public(), id, time.Now(), ca.DefaultLeafTTL)
		if err != nil {
			return p, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return p, err
		}
		var text []byte
		for _, c := range chain {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
		if err := os.WriteFile(p.pair(account), text, 0o600); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p pki) anchors() string            { return filepath.Join(p.Dir, "ca.pem") }
func (p pki) pair(account string) string { return filepath.Join(p.Dir, account+".pem") }

// backendID is the identity that a proxy must find at the backend.
func backendID() string {
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + backendAccount
}

// proxyID is the identity of every proxy but Tulle.
func proxyID() string {
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + proxyAccount
}

func (p pki) holder(account string) (*identity.Holder, error) {
	pair, err := tls.LoadX509KeyPair(p.pair(account), p.pair(account))
	if err != nil {
		return nil, err
	}
	id, err := identity.CertificateID(pair.Leaf)
	if err != nil {
		return nil, err
	}
	anchors, err := os.ReadFile(p.anchors())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(anchors) {
		return nil, fmt.Errorf("%s holds no certificate", p.anchors())
	}
	h := &identity.Holder{}
	h.Set(&identity.Material{ID: id, Certificate: pair, Bundle: pool})
	return h, nil
}

// client is how the load generator speaks to proxies: TLS 1.3 with its own certificate, and any peer of the mesh.
func (p pki) client() (*tls.Config, error) {
	h, err := p.holder(clientAccount)
	if err != nil {
		return nil, err
	}
	return h.ClientTLS(), nil
}

// server is how account takes connections: TLS 1.3 with a certificate of the mesh at both ends.
func (p pki) server(account string) (*tls.Config, error) {
	h, err := p.holder(account)
	if err != nil {
		return nil, err
	}
	return h.ServerTLS(), nil
}
