package exchange

import "net/netip"

// SplitAuthority cuts the port off, which is empty when there is none.
func SplitAuthority(b []byte) (host, port []byte) {
	for i := len(b) - 1; i >= 0 && b[i] != ']'; i-- {
		if b[i] == ':' {
			return b[:i], b[i+1:]
		}
	}
	return b, nil
}

// ValidAuthority accepts host, host:port and [v6]:port of RFC 3986, without user info and, inside the brackets, without a zone (RFC 6874,
// section 4, forbids to send one). Two things are refused though RFC 3986 allows them in a host: a comma, because a list of hosts looks like
// that, and an escape, because two spellings of a host would not compare equal. Empty is valid (RFC 9112, section 3.2), and so is an empty
// port, but not one above 65535.
func ValidAuthority(b []byte) bool {
	for _, c := range b {
		if Class[c]&IsHost == 0 {
			return false
		}
	}
	host, port := SplitAuthority(b)
	n := 0
	for _, c := range port {
		if c < '0' || c > '9' {
			return false
		}
		if n = n*10 + int(c-'0'); n > 65535 {
			return false
		}
	}
	if len(host) == 0 {
		return len(b) == 0 // a port alone is no authority
	}
	if host[0] == '[' {
		if host[len(host)-1] != ']' {
			return false
		}
		a, err := netip.ParseAddr(Aliased(host[1 : len(host)-1]))
		return err == nil && a.Is6() && a.Zone() == ""
	}
	for _, c := range host {
		if c == ':' || c == '[' || c == ']' {
			return false
		}
	}
	return true
}
