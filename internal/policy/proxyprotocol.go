package policy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// ProxyVersion is the version of the PROXY protocol in which a connection says whose it is; 0: it does not.
type ProxyVersion uint8

const maxProxyVersion = 2

// String is "v1", "v2", or "" for 0.
func (v ProxyVersion) String() string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("v%d", uint8(v))
}

// ParseProxyVersion is the inverse of String.
func ParseProxyVersion(word string) (ProxyVersion, error) {
	switch word {
	case "":
		return 0, nil
	case "v1":
		return 1, nil
	case "v2":
		return 2, nil
	}
	return 0, fmt.Errorf("%q: must be v1 or v2", word)
}

// checkProxyVersion refuses what a connection to one of protocol p cannot say: one of HTTP carries the requests of many callers.
func checkProxyVersion(v ProxyVersion, p flow.Protocol) error {
	switch {
	case v > maxProxyVersion:
		return fmt.Errorf("version %d: must be 1 or 2", v)
	case v != 0 && !p.Relayed():
		return fmt.Errorf("%s: only protocols tcp and tls have it, for a connection of HTTP carries the requests of many callers; remove it", v)
	}
	return nil
}

// DefaultProxyTimeout is how long a header of the PROXY protocol may take; its specification asks for 3 s at least.
const DefaultProxyTimeout = 5 * time.Second

const (
	minProxyTimeout = 10 * time.Millisecond
	maxProxyTimeout = time.Minute
	maxProxyFrom    = 64
)

// ProxyProtocol says which connections to a listener begin with a header of the PROXY protocol, version 1 or 2: exactly those of From. There is no guessing.
type ProxyProtocol struct {
	From    []netip.Prefix // masked, at least one
	Timeout time.Duration  // from the accept to the header's last byte; default 5 s
}

// WithDefaults fills in Timeout.
func (p ProxyProtocol) WithDefaults() ProxyProtocol {
	def(&p.Timeout, DefaultProxyTimeout)
	return p
}

// Check refuses what a sidecar could not act on.
func (p ProxyProtocol) Check() error {
	p = p.WithDefaults()
	switch {
	case len(p.From) == 0 || len(p.From) > maxProxyFrom:
		return fmt.Errorf("from: has %d entries, must have 1 to %d", len(p.From), maxProxyFrom)
	case p.Timeout < minProxyTimeout || p.Timeout > maxProxyTimeout:
		return fmt.Errorf("timeout %s: must be from %s to %s", p.Timeout, minProxyTimeout, maxProxyTimeout)
	}
	for _, from := range p.From {
		if !from.IsValid() || from != from.Masked() {
			return fmt.Errorf("from: %q must be a network such as 10.0.0.0/8", from)
		}
	}
	return nil
}

// Takes reports whether a connection that a opened begins with a header.
func (p *ProxyProtocol) Takes(a netip.Addr) bool {
	if p == nil {
		return false
	}
	a = a.Unmap().WithZone("")
	for _, from := range p.From {
		if from.Contains(a) {
			return true
		}
	}
	return false
}

// toXDS puts p into metadata: Envoy's own filter for it does not go by who connects.
func (p ProxyProtocol) toXDS(e extras) {
	var from []string
	for _, f := range p.From {
		from = append(from, f.String())
	}
	e.strs("proxy_from", from)
	e.dur("proxy_timeout", p.Timeout)
}

// proxyFromXDS is the inverse of toXDS; nil when there is none.
func proxyFromXDS(r *reader) *ProxyProtocol {
	if !r.has("proxy_from") {
		return nil
	}
	p := ProxyProtocol{Timeout: r.dur("proxy_timeout")}
	for _, word := range r.strs("proxy_from") {
		from, err := netip.ParsePrefix(word)
		if err != nil {
			r.fail("proxy_from", "%q must be a network such as 10.0.0.0/8", word)
		}
		p.From = append(p.From, from)
	}
	p = p.WithDefaults()
	return &p
}

// proxyVersion reads one from metadata.
func (r *reader) proxyVersion(key string) ProxyVersion {
	v, err := ParseProxyVersion(r.str(key))
	if err != nil {
		r.fail(key, "%v", err)
	}
	return v
}
