package policy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
)

// ClientTLS is TLS that a sidecar originates towards a service outside the mesh: its application speaks plaintext. Files are of the sidecar's host; the sidecar reads
// them anew when they change. There is no way not to verify: a host whose certificate nobody else has signed is trusted by naming that certificate in CAFile.
type ClientTLS struct {
	ServerName string   // what the certificate must be for; sent as SNI unless it is an IP address; required
	CAFile     string   // trust anchors, PEM; "" is the system's
	CertFile   string   // client certificate with its chain, PEM; "" is none
	KeyFile    string   // its key, PEM
	ALPN       []string // what is offered; of relayed protocols only, for HTTP it follows from the protocol
	MinVersion uint16   // tls.VersionTLS12 (default) or tls.VersionTLS13
	// Names are what the certificate must be for in place of ServerName, which is then only sent, and a host name: one of them. Host names, "*.example.com" for any host below it, and
	// URIs.
	Names []string
}

const (
	maxALPN  = 16
	maxNames = 16
)

// IsURI reports whether a name of ClientTLS.Names is a URI, and no host name.
func IsURI(name string) bool { return strings.Contains(name, ":") }

// WithDefaults fills in MinVersion.
func (c ClientTLS) WithDefaults() ClientTLS {
	def(&c.MinVersion, tls.VersionTLS12)
	return c
}

// Check refuses what a sidecar could not act on; protocol is the service's.
func (c ClientTLS) Check(protocol flow.Protocol) error {
	c = c.WithDefaults()
	if _, err := netip.ParseAddr(c.ServerName); err != nil && !route.ValidHost(c.ServerName) {
		return fmt.Errorf("serverName %q: must be the host name, or IP address, that the certificate is for", c.ServerName)
	}
	if protocol == flow.ProtocolTLS {
		return errors.New("a service of protocol tls speaks TLS of its own; set the protocol of what is inside, or remove tls")
	}
	if len(c.Names) > maxNames {
		return fmt.Errorf("names: has %d entries, at most %d are allowed", len(c.Names), maxNames)
	}
	if len(c.Names) > 0 && !route.ValidHost(c.ServerName) {
		return fmt.Errorf("serverName %q: must be a host name beside names", c.ServerName)
	}
	for _, n := range c.Names {
		if u, err := url.Parse(n); IsURI(n) && (err != nil || u.Scheme == "") || !IsURI(n) && !route.ValidHost(strings.TrimPrefix(n, "*.")) {
			return fmt.Errorf("names: %q is neither a host name nor a URI", n)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return fmt.Errorf("certFile %q, keyFile %q: a client certificate takes both, or leave out both", c.CertFile, c.KeyFile)
	}
	for _, f := range []struct{ field, path string }{{"caFile", c.CAFile}, {"certFile", c.CertFile}, {"keyFile", c.KeyFile}} {
		if err := CheckFile(f.field, f.path); err != nil {
			return err
		}
	}
	if protocol.MayBeHTTP() && len(c.ALPN) > 0 {
		return fmt.Errorf("alpn %q: with HTTP it follows from the protocol (http1, http2, grpc); remove it", c.ALPN)
	}
	if len(c.ALPN) > maxALPN {
		return fmt.Errorf("alpn: has %d entries, at most %d are allowed", len(c.ALPN), maxALPN)
	}
	for i, p := range c.ALPN {
		if p == "" || len(p) > 255 {
			return fmt.Errorf("alpn[%d]: must have 1 to 255 bytes", i)
		}
	}
	return checkVersion(c.MinVersion)
}

// CheckFile wants an absolute path: a sidecar's working directory is nobody's business. "" is no file.
func CheckFile(field, path string) error {
	if path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
		return fmt.Errorf("%s %q: must be an absolute path, without . and .., on the host of the sidecar", field, path)
	}
	return nil
}

func checkVersion(v uint16) error {
	if v != tls.VersionTLS12 && v != tls.VersionTLS13 {
		return fmt.Errorf("minVersion %#04x: must be 1.2 or 1.3", v)
	}
	return nil
}

// ParseTLSVersion reads "1.2" or "1.3"; "" is 0, the default.
func ParseTLSVersion(s string) (uint16, error) {
	switch s {
	case "":
		return 0, nil
	case "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("%q: must be 1.2 or 1.3", s)
}

var versions = map[uint16]tlsv3.TlsParameters_TlsProtocol{tls.VersionTLS12: tlsv3.TlsParameters_TLSv1_2, tls.VersionTLS13: tlsv3.TlsParameters_TLSv1_3}

func versionToXDS(v uint16) *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{TlsMinimumProtocolVersion: versions[v]}
}

func versionFromXDS(x *tlsv3.TlsParameters) uint16 {
	for v, p := range versions {
		if p == x.GetTlsMinimumProtocolVersion() {
			return v
		}
	}
	return 0
}

const (
	alpnHTTP1 = "http/1.1" // RFC 7301, section 6
	alpnHTTP2 = "h2"       // RFC 9113, section 3.2
)

// Offers is what c offers by ALPN to a service of a protocol.
func (c ClientTLS) Offers(protocol flow.Protocol) []string {
	switch protocol {
	case flow.ProtocolHTTP, flow.ProtocolAuto:
		return []string{alpnHTTP2, alpnHTTP1}
	case flow.ProtocolHTTP1:
		return []string{alpnHTTP1}
	case flow.ProtocolHTTP2, flow.ProtocolGRPC:
		return []string{alpnHTTP2}
	}
	return c.ALPN
}

func dataFile(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

const tlsSocket = "envoy.transport_sockets.tls"

func (c ClientTLS) toXDS(protocol flow.Protocol) (*corev3.TransportSocket, error) {
	kind := tlsv3.SubjectAltNameMatcher_DNS
	sni := c.ServerName
	if _, err := netip.ParseAddr(sni); err == nil {
		kind, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, ""
	}
	validation := &tlsv3.CertificateValidationContext{}
	match := func(kind tlsv3.SubjectAltNameMatcher_SanType, name string) {
		validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames, &tlsv3.SubjectAltNameMatcher{
			SanType: kind, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
		})
	}
	for _, n := range c.Names {
		if kind = tlsv3.SubjectAltNameMatcher_DNS; IsURI(n) {
			kind = tlsv3.SubjectAltNameMatcher_URI
		}
		match(kind, n)
	}
	if len(c.Names) == 0 {
		match(kind, c.ServerName)
	}
	if c.CAFile == "" {
		validation.SystemRootCerts = &tlsv3.CertificateValidationContext_SystemRootCerts{}
	} else {
		validation.TrustedCa = dataFile(c.CAFile)
	}
	common := &tlsv3.CommonTlsContext{
		TlsParams: versionToXDS(c.MinVersion), AlpnProtocols: c.Offers(protocol),
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: validation},
	}
	if c.CertFile != "" {
		common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: dataFile(c.CertFile), PrivateKey: dataFile(c.KeyFile)}}
	}
	config, err := pack(&tlsv3.UpstreamTlsContext{CommonTlsContext: common, Sni: sni})
	return &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}, err
}

func clientTLSFromXDS(x *corev3.TransportSocket, protocol flow.Protocol) (*ClientTLS, error) {
	if x == nil {
		return nil, nil
	}
	up := &tlsv3.UpstreamTlsContext{}
	if err := x.GetTypedConfig().UnmarshalTo(up); err != nil {
		return nil, fmt.Errorf("transport_socket: not known to this sidecar; use an UpstreamTlsContext: %w", err)
	}
	common := up.GetCommonTlsContext()
	validation := common.GetValidationContext()
	c := &ClientTLS{ServerName: up.GetSni(), CAFile: validation.GetTrustedCa().GetFilename(), MinVersion: versionFromXDS(common.GetTlsParams())}
	var names []string
	for _, n := range validation.GetMatchTypedSubjectAltNames() {
		names = append(names, n.GetMatcher().GetExact())
	}
	switch {
	case c.ServerName == "" && len(names) == 1: // an IP address, which is not sent
		c.ServerName = names[0]
	case len(names) != 1 || names[0] != c.ServerName:
		c.Names = names
	}
	if certs := common.GetTlsCertificates(); len(certs) > 0 {
		c.CertFile, c.KeyFile = certs[0].GetCertificateChain().GetFilename(), certs[0].GetPrivateKey().GetFilename()
	}
	if !protocol.MayBeHTTP() {
		c.ALPN = slices.Clone(common.GetAlpnProtocols())
	}
	return c, nil
}
