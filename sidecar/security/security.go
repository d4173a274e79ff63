// Package security finishes the handshakes of inbound connections and guards exchanges.
//
// Unwrap is a connection wrapper: bytes in, a connection with a proven peer out. Guard is the step that judges an exchange by its peer.
package security

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// HandshakeTimeout bounds an inbound TLS handshake, from the accept to its end.
const HandshakeTimeout = 10 * time.Second

// Unwrapper finishes inbound handshakes. Safe for concurrent use.
type Unwrapper struct {
	tls  *tls.Config // offers no protocol
	http *tls.Config // offers what a sidecar can be told (exchange.ALPNBytes)
}

// NewUnwrapper presents and verifies by h.
func NewUnwrapper(h *identity.Holder) *Unwrapper {
	u := &Unwrapper{tls: h.ServerTLS(), http: h.ServerTLS()}
	u.http.NextProtos = []string{exchange.ALPNHTTP2, exchange.ALPNHTTP1, exchange.ALPNBytes, exchange.ALPNTLS}
	return u
}

// Unwrapped is a connection whose peer is known.
type Unwrapped struct {
	Conn       net.Conn
	Buffered   []byte // plaintext bytes that were read to detect the protocol
	Peer       identity.ID
	ALPN       string // what TLS has agreed on; "" for nothing
	Silent     bool   // nothing came in time: the caller is taken to speak plaintext, some time
	Ended      bool   // nothing will come: the caller of a permissive listener that is not HTTP has ended its half
	ServerName string // that the caller has named by SNI
}

// Refusal is why a connection was not accepted.
type Refusal struct {
	Reason flow.Reason
	Plain  bool   // the caller speaks plaintext and can be told so
	First  []byte // of Plain: what it has said
	err    error
}

func (r *Refusal) Error() string { return r.err.Error() }

// Unwrap reads the first byte of conn: 0x16 begins a TLS handshake, which is finished; anything else is plaintext, which only ModePermissive
// takes. A caller that is silent for wait counts as plaintext with a listener of ModePermissive. A nil refusal with a nil Conn means that the caller left without a byte.
func (u *Unwrapper) Unwrap(conn net.Conn, mode policy.ListenerMode, protocol flow.Protocol, wait time.Duration) (Unwrapped, *Refusal) {
	start := time.Now()
	first := make([]byte, 1024)
	n, waited, err := begin(conn, first, start.Add(wait))
	if n == 0 {
		switch {
		case mode == policy.ModePermissive && errors.Is(err, os.ErrDeadlineExceeded):
			_ = conn.SetReadDeadline(time.Time{})
			return Unwrapped{Conn: conn, Silent: true}, nil
		case mode == policy.ModePermissive && !protocol.HTTP() && errors.Is(err, io.EOF):
			_ = conn.SetReadDeadline(time.Time{})
			return Unwrapped{Conn: conn, Ended: true}, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return Unwrapped{}, &Refusal{Reason: flow.ReasonTLSFailed, err: fmt.Errorf("the caller began no TLS handshake in %s", wait)}
		}
		return Unwrapped{}, nil
	}
	first = first[:n]
	if first[0] != recordHandshake {
		if mode == policy.ModePermissive {
			if waited {
				_ = conn.SetReadDeadline(time.Time{})
			}
			return Unwrapped{Conn: conn, Buffered: first}, nil
		}
		return Unwrapped{}, &Refusal{Reason: flow.ReasonPlaintextRefused, Plain: true, First: first, err: errors.New("the listener takes mTLS only and the caller sent plaintext")}
	}
	config := u.http
	if protocol.Relayed() {
		config = u.tls
	}
	tc, refusal := handshake(conn, first, config, start)
	if refusal != nil {
		return Unwrapped{}, refusal
	}
	state := tc.ConnectionState()
	return Unwrapped{Conn: tc, Peer: identity.PeerID(state), ALPN: state.NegotiatedProtocol, ServerName: state.ServerName}, nil
}

// handshake finishes that of a caller who began it with first, in time from start on.
func handshake(conn net.Conn, first []byte, config *tls.Config, start time.Time) (*tls.Conn, *Refusal) {
	tc := tls.Server(&prefixed{Conn: conn, prefix: first}, config)
	_ = conn.SetDeadline(start.Add(HandshakeTimeout))
	if err := tc.Handshake(); err != nil {
		return nil, &Refusal{Reason: flow.ReasonTLSFailed, err: err}
	}
	_ = conn.SetDeadline(time.Time{})
	return tc, nil
}

// begin reads the first bytes. A caller often sends them with its connection; only one that does not is given a deadline, for a timer costs more
// than a look.
func begin(conn net.Conn, p []byte, by time.Time) (n int, waited bool, err error) {
	if s, ok := conn.(*exchange.Socket); ok {
		if n, ready, err := s.ReadReady(p); ready {
			return n, false, err
		}
	}
	_ = conn.SetReadDeadline(by)
	n, err = conn.Read(p)
	return n, true, err
}

// recordHandshake is the first byte of a TLS ClientHello (RFC 8446, section 5.1).
const recordHandshake = 0x16

// prefixed reads prefix before the connection.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		if p.prefix = p.prefix[n:]; len(p.prefix) == 0 {
			p.prefix = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// NetConn is the connection below.
func (p *prefixed) NetConn() net.Conn { return p.Conn }
