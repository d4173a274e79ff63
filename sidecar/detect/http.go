package detect

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Spoken is what a caller's first bytes say.
type Spoken uint8

const (
	// Bytes: not HTTP.
	Bytes Spoken = iota
	// HTTP1 is a request line of HTTP/1.
	HTTP1
	// Prefaced is HTTP/2, by its preface.
	Prefaced
	// Silence: nothing came in time; the server may be the one that speaks first.
	Silence
	// Left: the caller is gone without a byte, or the session is draining.
	Left
	// Ended: the caller has ended its half without a byte, or closed; only HTTP tells it from Left.
	Ended
	// TLS is a ClientHello. Only Hello looks for one.
	TLS
)

// HTTP reads until the caller's first bytes tell whether they are HTTP, and leaves them in sess.Buffered. A caller that sends nothing within wait is Silence; one that
// stops within what may become a request is what doubt says, Bytes or HTTP1. late reports that wait has passed. While nothing has come, the session is idle.
func HTTP(sess *exchange.Session, wait time.Duration, doubt Spoken) (spoken Spoken, late bool) {
	b := make([]byte, readSize)
	n := copy(b, sess.Buffered)
	spoken, decided := classify(b[:n])
	if decided {
		return spoken, false
	}
	var err error
	if s, ok := sess.Conn.(*exchange.Socket); ok && n < len(b) { // a caller often sends its first bytes with its connection, and a timer costs more than a look
		var m int
		if m, _, err = s.ReadReady(b[n:]); m > 0 {
			n += m
			if spoken, decided = classify(b[:n]); decided {
				sess.Buffered = b[:n]
				return spoken, false
			}
		}
	}
	_ = sess.Conn.SetReadDeadline(time.Now().Add(wait))
	if n == 0 && !sess.SetIdle() { // not before: a drain moves the deadline of an idle session
		return Left, false
	}
	begun := n > 0
	for !decided && err == nil && n < len(b) { // a Read into nothing returns at once, for ever
		var m int
		m, err = sess.Conn.Read(b[n:])
		if n += m; n > 0 && !begun {
			begun = true
			if sess.SetBusy() {
				_ = sess.Conn.SetReadDeadline(time.Now().Add(wait))
			}
		}
		spoken, decided = classify(b[:n])
	}
	if !begun {
		if sess.SetBusy() {
			return Left, false
		}
	}
	_ = sess.Conn.SetReadDeadline(time.Time{})
	late = timedOut(err)
	switch {
	case n > 0:
		sess.Buffered = b[:n]
		if !decided { // stopped within what may become a request
			return doubt, late
		}
		return spoken, late
	case late:
		return Silence, true
	case errors.Is(err, io.EOF):
		return Ended, false
	}
	return Left, false
}

// MayBeHTTP reports whether what begins with b may be HTTP: with more of it HTTP says for sure.
func MayBeHTTP(b []byte) bool {
	spoken, decided := classify(b)
	return !decided || spoken != Bytes
}

// classify says what b begins with; undecided while it may become either and is shorter than readSize.
func classify(b []byte) (s Spoken, decided bool) {
	if len(b) == 0 {
		return Silence, false
	}
	if matches(b) {
		return Prefaced, len(b) >= len(preface)
	}
	full := len(b) >= readSize // no more will be seen
	// A request line (RFC 9112, section 3): method SP target SP HTTP-version CRLF. Empty lines may come before it.
	line := bytes.TrimLeft(b, "\r\n")
	if len(line) == 0 {
		return HTTP1, full
	}
	method := 0
	for method < len(line) && exchange.Class[line[method]]&exchange.IsToken != 0 {
		method++
	}
	switch {
	case method > longestMethod, method < len(line) && (method == 0 || line[method] != ' '):
		return Bytes, true
	case method == len(line):
		return HTTP1, full
	}
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		return HTTP1, full // a target that is longer than we look
	}
	line = bytes.TrimSuffix(line[:end], []byte("\r"))
	at := bytes.LastIndexByte(line, ' ')
	if version := line[at+1:]; at > method && len(version) == len("HTTP/1.1") && bytes.HasPrefix(version, []byte("HTTP/1.")) {
		return HTTP1, true
	}
	return Bytes, true
}

// longestMethod is well above any that is registered (RFC 9110, section 16.1.1; the longest has 16).
const longestMethod = 32
