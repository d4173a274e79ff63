package exchange

import (
	"crypto/tls"
	"net"
	"strings"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Secured is what the handshake of c agreed on; nil: c is no TLS connection.
func Secured(c net.Conn) *flow.TLS {
	secure, ok := c.(*tls.Conn)
	if !ok {
		return nil
	}
	s := secure.ConnectionState()
	return &flow.TLS{
		Version: strings.TrimPrefix(tls.VersionName(s.Version), "TLS "), Cipher: tls.CipherSuiteName(s.CipherSuite), Resumed: s.DidResume,
		ALPN: s.NegotiatedProtocol,
	}
}
