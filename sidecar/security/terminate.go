package security

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Terminate finishes the handshake of a caller outside the mesh by config. A nil refusal with a nil connection means that the caller left without a byte.
func Terminate(conn net.Conn, config *tls.Config) (*tls.Conn, *Refusal) {
	start := time.Now()
	first := make([]byte, 1024)
	n, _, err := begin(conn, first, start.Add(HandshakeTimeout))
	if n == 0 {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, &Refusal{Reason: flow.ReasonTLSFailed, err: fmt.Errorf("the caller began no TLS handshake in %s", HandshakeTimeout)}
		}
		return nil, nil
	}
	if first[0] != recordHandshake {
		return nil, &Refusal{Reason: flow.ReasonBadRequest, Plain: true, First: first[:n], err: errors.New("the listener takes TLS and the caller sent plaintext; call it by https")}
	}
	return handshake(conn, first[:n], config, start)
}
