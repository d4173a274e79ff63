package route

import (
	"fmt"
	"strings"
)

// Hosts finds what was filed under a host name. Names have no case and may have the root's dot at their end. The zero value is empty; it is built by Add and
// then shared by any number of goroutines.
//
// An exact name counts before a wildcard, a longer wildcard before a shorter one, "*" last. "*.example.com" stands for every name below example.com, however many
// labels it has, and not for example.com itself, as with Envoy's server_names and the Gateway API's hostnames.
type Hosts[T any] struct {
	exact map[string]*T
	below map[string]*T // by what follows "*."
	rest  *T            // "*"
}

// Add files v under a pattern that CheckHost takes. False: there is something under it already, which stays.
func (h *Hosts[T]) Add(pattern string, v T) bool {
	pattern = Canonical(pattern)
	if pattern == "*" {
		if h.rest != nil {
			return false
		}
		h.rest = &v
		return true
	}
	m := &h.exact
	if suffix, ok := strings.CutPrefix(pattern, "*."); ok {
		m, pattern = &h.below, suffix
	}
	if _, taken := (*m)[pattern]; taken {
		return false
	}
	if *m == nil {
		*m = map[string]*T{}
	}
	(*m)[pattern] = &v
	return true
}

// Match finds what a host name, without a port, stands for. "" matches "*" alone.
func (h *Hosts[T]) Match(host string) (v T, ok bool) {
	if found, ok := h.match(host); ok {
		return *found, true
	}
	return v, false
}

func (h *Hosts[T]) match(host string) (*T, bool) {
	if h == nil {
		return nil, false
	}
	if host != "" && (len(h.exact) > 0 || len(h.below) > 0) {
		host = Canonical(host)
		if v, ok := h.exact[host]; ok {
			return v, true
		}
		for rest := host; len(h.below) > 0; {
			dot := strings.IndexByte(rest, '.')
			if dot < 0 {
				break
			}
			rest = rest[dot+1:]
			if found, ok := h.below[rest]; ok && dot > 0 {
				return found, true
			}
		}
	}
	return h.rest, h.rest != nil
}

// Empty reports whether nothing was added.
func (h *Hosts[T]) Empty() bool {
	return h == nil || h.rest == nil && len(h.exact) == 0 && len(h.below) == 0
}

// Canonical is a host name in lower case and without the root's dot.
func Canonical(host string) string {
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		if c := host[i]; c >= 'A' && c <= 'Z' {
			return strings.ToLower(host)
		}
	}
	return host
}

// Hostname is the host of an authority, without its port, and of an IPv6 address without its brackets.
func Hostname(authority string) string {
	if strings.HasPrefix(authority, "[") {
		if end := strings.IndexByte(authority, ']'); end > 0 {
			return authority[1:end]
		}
		return authority
	}
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && strings.IndexByte(authority, ':') == i {
		return authority[:i]
	}
	return authority
}

// ValidHost reports whether s can be a host name: labels of letters, digits, '-' and '_' (which names of services may have), of 1 to 63 bytes, 253 in all. A dot
// at its end is not part of it (RFC 6066, section 3, forbids it in SNI).
func ValidHost(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if label == 0 || s[i-1] == '-' {
				return false
			}
			label = 0
			continue
		case c == '-' && label == 0:
			return false
		case c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0 && s[len(s)-1] != '-'
}

// CheckHost refuses what is no pattern for Hosts.
func CheckHost(pattern string) error {
	if pattern == "*" || ValidHost(strings.TrimPrefix(pattern, "*.")) {
		return nil
	}
	return fmt.Errorf(`%q is no host name: write one such as shop.example.com, "*.example.com" for all below it, or "*" for all`, pattern)
}
