package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// verified remembers chains that were checked against a bundle, so that a peer that connects again costs no signature check of its
// certificates; what TLS itself checks, above all that the peer holds the key, is untouched. An entry is good for exactly the chain, the bundle
// and the time of validity that were checked. Only chains that passed get in, so nobody outside the mesh can fill it. Safe for concurrent use.
type verified struct {
	mu sync.RWMutex
	m  map[[sha256.Size]byte]proof
}

type proof struct {
	id            ID
	bundle        *x509.CertPool
	begins, until time.Time
}

// maxVerified bounds the entries, about 200 bytes each; at the bound all are forgotten.
const maxVerified = 4096

func chainKey(certs []*x509.Certificate) (key [sha256.Size]byte) {
	if len(certs) == 1 {
		return sha256.Sum256(certs[0].Raw)
	}
	h := sha256.New()
	for _, c := range certs { // DER carries its own length, so the parts cannot be shifted against each other
		_, _ = h.Write(c.Raw)
	}
	h.Sum(key[:0])
	return key
}

// chain is VerifyChain with a memory.
func (v *verified) chain(certs []*x509.Certificate, bundle *x509.CertPool, now time.Time) (ID, error) {
	key := chainKey(certs)
	v.mu.RLock()
	p, ok := v.m[key]
	v.mu.RUnlock()
	if ok && p.bundle == bundle && !now.Before(p.begins) && !now.After(p.until) {
		return p.id, nil
	}
	id, chains, err := verifyChain(certs, bundle, now)
	if err != nil {
		return ID{}, err
	}
	p = proof{id: id, bundle: bundle}
	p.begins, p.until = validity(chains[0])
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m == nil || len(v.m) >= maxVerified {
		v.m = make(map[[sha256.Size]byte]proof)
	}
	v.m[key] = p
	return id, nil
}

// validity is the time during which every certificate of a chain is valid.
func validity(chain []*x509.Certificate) (begins, until time.Time) {
	begins, until = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(begins) {
			begins = c.NotBefore
		}
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return begins, until
}
