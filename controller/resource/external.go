package resource

import (
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// ClientTLS is TLS that is originated towards a host outside the mesh. Meanings, defaults and ranges are those of policy.ClientTLS.
type ClientTLS struct {
	ServerName string   `yaml:"serverName,omitempty"` // default: spec.host
	CAFile     string   `yaml:"caFile,omitempty"`
	CertFile   string   `yaml:"certFile,omitempty"`
	KeyFile    string   `yaml:"keyFile,omitempty"`
	ALPN       []string `yaml:"alpn,omitempty"`
	MinVersion string   `yaml:"minVersion,omitempty"` // 1.2 (default) or 1.3
}

// Policy is c as sidecars are told. c is checked.
func (c *ClientTLS) Policy() *policy.ClientTLS {
	if c == nil {
		return nil
	}
	v, _ := policy.ParseTLSVersion(c.MinVersion)
	p := policy.ClientTLS{ServerName: route.Canonical(c.ServerName), CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ALPN: c.ALPN, MinVersion: v}.WithDefaults()
	return &p
}

func (s *ExternalServiceSpec) checkTLS() error {
	protocol, _ := policy.ParseProtocol(s.Protocol)
	if s.Authority != "" {
		if !protocol.MayBeHTTP() {
			return fmt.Errorf("spec.authority: only services of HTTP have one, this is %s; remove it", s.Protocol)
		}
		if err := policy.CheckAuthority(s.Authority); err != nil {
			return fmt.Errorf("spec.authority: %w", err)
		}
	}
	if s.Via != "" {
		if err := checkLabel("spec.via", s.Via); err != nil {
			return err
		}
	}
	if s.TLS == nil {
		return nil
	}
	if s.TLS.ServerName == "" {
		s.TLS.ServerName = s.Host
	}
	if _, err := policy.ParseTLSVersion(s.TLS.MinVersion); err != nil {
		return fmt.Errorf("spec.tls.minVersion: %w", err)
	}
	if err := s.TLS.Policy().Check(protocol); err != nil {
		return fmt.Errorf("spec.tls: %w", err)
	}
	return nil
}

// Names are the host names by which it is called, each once: Hosts, and Host where it is one.
func (s ExternalServiceSpec) Names() []string {
	names := make([]string, 0, len(s.Hosts)+1)
	for _, h := range s.Hosts {
		names = append(names, route.Canonical(h))
	}
	if h := route.Canonical(s.Host); h != "*" && route.CheckHost(h) == nil && !slices.Contains(names, h) {
		names = append(names, h)
	}
	return names
}

func (s ExternalServiceSpec) checkHosts() error {
	for i, h := range s.Hosts {
		if h == "*" || route.CheckHost(route.Canonical(h)) != nil {
			return fmt.Errorf("spec.hosts[%d]: %q is no host name; write one such as api.example.com, or *.example.com for all below it", i, h)
		}
		if slices.ContainsFunc(s.Hosts[:i], func(o string) bool { return route.Canonical(o) == route.Canonical(h) }) {
			return fmt.Errorf("spec.hosts[%d]: %s is listed twice; remove one", i, h)
		}
	}
	return nil
}
