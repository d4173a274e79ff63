package testmesh

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"path/filepath"
)

// Roots are the CA's as anchors.
func (ca *CA) Roots() *x509.CertPool { return ca.pool }

// Web signs a certificate for host names, addresses and URIs, as a server outside the mesh has one, good for a client as well.
func (ca *CA) Web(names ...string) tls.Certificate {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(ca.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial(ca.t), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: begin, NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Host != "" {
			tmpl.URIs = append(tmpl.URIs, u)
		} else if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	check(ca.t, err)
	leaf, err := x509.ParseCertificate(der)
	check(ca.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// WriteRoots writes the CA's certificate as PEM.
func (ca *CA) WriteRoots(file string) {
	ca.t.Helper()
	check(ca.t, replace(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})))
}

// WritePair writes a certificate and its key as PEM, each in one step.
func (ca *CA) WritePair(c tls.Certificate, certFile, keyFile string) {
	ca.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	check(ca.t, err)
	check(ca.t, replace(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	check(ca.t, replace(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// replace puts content in place of a file that others may be reading.
func replace(file string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "new-*")
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	return err
}
