// Package identity holds SPIFFE identities as small comparable values, and the holders of a process's own certificate
// and of the trust bundle that connections are verified against.
package identity

import (
	"fmt"
	"strings"
)

// ID is a SPIFFE ID (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md). The zero value is "no
// identity" (plaintext). It compares with == and is a valid map key.
type ID struct{ uri string }

// Parse accepts "spiffe://trust-domain/path". It refuses ports, user info, query, fragment, empty and dot segments, upper-case
// trust domains, and ids over 2,048 bytes.
func Parse(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("identity %q: must start with spiffe://", s)
	}
	if len(s) > 2048 {
		return ID{}, fmt.Errorf("identity: %d bytes long, at most 2048 are allowed", len(s))
	}
	td, path, _ := strings.Cut(rest, "/")
	if td == "" || len(td) > 255 {
		return ID{}, fmt.Errorf("identity %q: trust domain must have 1 to 255 characters", s)
	}
	for _, c := range []byte(td) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return ID{}, fmt.Errorf("identity %q: trust domain may contain only a-z 0-9 - . _", s)
		}
	}
	if strings.Contains(rest, "/") {
		for seg := range strings.SplitSeq(path, "/") {
			if seg == "" || seg == "." || seg == ".." {
				return ID{}, fmt.Errorf("identity %q: path has an empty or dot segment", s)
			}
			for _, c := range []byte(seg) {
				if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
					return ID{}, fmt.Errorf("identity %q: path may contain only letters, digits, - . _ and /", s)
				}
			}
		}
	}
	return ID{uri: s}, nil
}

// Workload is the identity of a service account: spiffe://TRUSTDOMAIN/ns/NAMESPACE/sa/ACCOUNT.
func Workload(trustDomain, namespace, account string) (ID, error) {
	return Parse("spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + account)
}

// IsZero reports whether there is no identity.
func (id ID) IsZero() bool { return id.uri == "" }

// String is the SPIFFE URI, or "" for the zero value.
func (id ID) String() string { return id.uri }

// TrustDomain is the part between "spiffe://" and the path.
func (id ID) TrustDomain() string {
	td, _, _ := strings.Cut(strings.TrimPrefix(id.uri, "spiffe://"), "/")
	return td
}

// Account splits a workload identity into namespace and service account; ok is false for any other shape.
func (id ID) Account() (namespace, account string, ok bool) {
	_, path, _ := strings.Cut(strings.TrimPrefix(id.uri, "spiffe://"), "/")
	p := strings.Split(path, "/")
	if len(p) != 4 || p[0] != "ns" || p[2] != "sa" {
		return "", "", false
	}
	return p[1], p[3], true
}
