package exchange

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// certificateAlerts are the words of the alerts by which a peer says that it does not take a certificate, or wants one (RFC 8446, section 6.2): crypto/tls gives those of a
// peer a type that it does not export.
var certificateAlerts = func() map[string]bool {
	out := map[string]bool{tls.AlertError(116).Error(): true} // certificate_required
	for alert := tls.AlertError(42); alert <= 49; alert++ {   // bad_certificate to access_denied
		out[alert.Error()] = true
	}
	return out
}()

// CertificateRefused reports whether err, of a connection to x.Choice.Endpoint on which the peer has said nothing yet, is its refusal of our certificate, and says so for
// people: with TLS 1.3 that comes after our side of the handshake has finished, and nothing that was sent behind it was looked at.
func (x *Exchange) CertificateRefused(err error) (detail string, ok bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || !certificateAlerts[op.Err.Error()] {
		return "", false
	}
	if own := x.Destination.Service.TLS; own != nil {
		return fmt.Sprintf("%s at %s refused the client's certificate, or wants one: %v; give one that it takes as spec.tls.certFile", own.ServerName, x.Choice.Endpoint.Address, err), true
	}
	return "the peer refused this sidecar's certificate: " + err.Error(), true
}
