package resource

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// ProxyProtocol says whose connections begin with a header of the PROXY protocol.
type ProxyProtocol struct {
	From    []string `yaml:"from,omitempty"`    // networks; default none
	Timeout Duration `yaml:"timeout,omitempty"` // default 5s
}

// Policy is p as sidecars are told; nil: no connection does. p is checked.
func (p ProxyProtocol) Policy() *policy.ProxyProtocol {
	if len(p.From) == 0 {
		return nil
	}
	out := policy.ProxyProtocol{Timeout: time.Duration(p.Timeout)}
	for _, from := range p.From {
		n, _ := netip.ParsePrefix(from)
		out.From = append(out.From, n)
	}
	out = out.WithDefaults()
	return &out
}

func (p ProxyProtocol) check(field string) error {
	for i, from := range p.From {
		n, err := netip.ParsePrefix(from)
		if err != nil {
			return fmt.Errorf("%s.from[%d]: %q is no network; write one such as 10.0.0.0/8, or 10.0.0.5/32 for one address", field, i, from)
		}
		if n != n.Masked() {
			return fmt.Errorf("%s.from[%d]: %s has bits behind its prefix; write %s", field, i, from, n.Masked())
		}
	}
	if len(p.From) == 0 {
		if p.Timeout != 0 {
			return fmt.Errorf("%s.timeout: without from no connection has a header; remove it, or say from where connections with one come", field)
		}
		return nil
	}
	if p.Timeout < 0 {
		return fmt.Errorf("%s.timeout: cannot be off: a connection without a header would wait for ever", field)
	}
	if err := p.Policy().Check(); err != nil {
		return fmt.Errorf("%s.%w", field, err)
	}
	return nil
}

// ProxyVersion reads a checked version.
func ProxyVersion(word string) policy.ProxyVersion {
	v, _ := policy.ParseProxyVersion(word)
	return v
}

func checkProxyVersion(field, word, protocol string) error {
	if _, err := policy.ParseProxyVersion(word); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	if word != "" && protocol != "tcp" && protocol != "tls" {
		return fmt.Errorf("%s: %s: a connection of protocol %s carries the requests of many callers; only tcp and tls have it", field, word, protocol)
	}
	return nil
}
