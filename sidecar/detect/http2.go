// Package detect tells which protocol a caller speaks from its first bytes, without consuming them.
package detect

import (
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// preface is how a connection that speaks HTTP/2 begins (RFC 9113, section 3.4). No request of HTTP/1.1 begins with "PRI *".
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// readSize is how much is read at most.
const readSize = 1 << 10

// HTTP2 reads until the caller's bytes can only be the preface of HTTP/2, or cannot be, and reports which. What it has read is in sess.Buffered. A caller
// that sends nothing more within wait, or leaves, speaks something else: its speaker meets the same and knows what to make of it. While nothing has
// come, the session is idle; when it drains, HTTP2 returns.
func HTTP2(sess *exchange.Session, wait time.Duration) bool {
	if b := sess.Buffered; len(b) >= len(preface) || len(b) > 0 && string(b) != preface[:len(b)] {
		return matches(b)
	}
	b := make([]byte, readSize)
	n := copy(b, sess.Buffered)
	waits := false
	for n < len(preface) && matches(b[:n]) {
		m, ready := 0, false
		var err error
		if s, ok := sess.Conn.(*exchange.Socket); ok && !waits {
			m, ready, err = s.ReadReady(b[n:])
		}
		if !ready {
			if !waits {
				waits = true
				_ = sess.Conn.SetReadDeadline(time.Now().Add(wait))
			}
			if n == 0 && !sess.SetIdle() {
				return false
			}
			m, err = sess.Conn.Read(b[n:])
			if n == 0 {
				sess.SetBusy()
			}
		}
		if n += m; m == 0 && err != nil {
			break
		}
	}
	if waits {
		_ = sess.Conn.SetReadDeadline(time.Time{})
	}
	if n > 0 {
		sess.Buffered = b[:n]
	}
	return n >= len(preface) && matches(b[:n])
}

func matches(b []byte) bool {
	n := min(len(b), len(preface))
	return string(b[:n]) == preface[:n]
}
