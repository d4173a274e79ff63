package http2

import (
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// fieldID names the fields that the relay acts on.
type fieldID uint8

const (
	fieldOther   fieldID = iota
	fieldVarying         // like fieldOther, with a value that seldom comes twice: compression tables are not churned with it
	fieldMethod
	fieldScheme
	fieldPath
	fieldAuthority
	fieldProtocol
	fieldStatus
	fieldHost
	fieldContentLength
	fieldContentType
	fieldTE
	fieldHop // may not be in HTTP/2 at all (RFC 9113, section 8.2.2)
	fieldTraceparent
	fieldTracestate
	fieldRequestID
	fieldUserAgent
	fieldTulle
	fieldB3
	fieldExpect
	fieldGRPCTimeout
	fieldGRPCStatus
)

// field is one field of a head. Its strings are immutable and may be kept.
type field struct {
	name, value string
	id          fieldID
	drop        bool // not passed on
	sensitive   bool // never indexed (RFC 7541, section 7.1.3)
}

// identify returns fieldOther for names that are not known, well-formed or not.
func identify(name string) fieldID {
	switch name {
	case ":method":
		return fieldMethod
	case ":scheme":
		return fieldScheme
	case ":path":
		return fieldPath
	case ":authority":
		return fieldAuthority
	case ":protocol":
		return fieldProtocol
	case ":status":
		return fieldStatus
	case "host":
		return fieldHost
	case "content-length":
		return fieldContentLength
	case "content-type":
		return fieldContentType
	case "te":
		return fieldTE
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return fieldHop
	case "traceparent":
		return fieldTraceparent
	case "tracestate":
		return fieldTracestate
	case "x-request-id":
		return fieldRequestID
	case "user-agent":
		return fieldUserAgent
	case "expect":
		return fieldExpect
	case "b3":
		return fieldB3
	case "grpc-timeout":
		return fieldGRPCTimeout
	case "grpc-status":
		return fieldGRPCStatus
	case "date", "etag", "last-modified", "if-modified-since", "if-none-match", "age", "location", "set-cookie", "grpc-message", "content-range", "range":
		return fieldVarying
	}
	if len(name) > 2 && name[0] == 'x' && name[1] == '-' {
		if strings.HasPrefix(name, "x-tulle-") {
			return fieldTulle
		}
		if strings.HasPrefix(name, "x-b3-") {
			return fieldB3
		}
	}
	return fieldOther
}

// varies reports whether a field's value seldom comes twice on one connection.
func (id fieldID) varies() bool {
	switch id {
	case fieldVarying, fieldContentLength, fieldTraceparent, fieldTracestate, fieldRequestID, fieldTulle, fieldB3, fieldGRPCTimeout:
		return true
	}
	return false
}

// validName reports whether a name that is not known is a token in lower case (RFC 9113, section 8.2.1).
func validName(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if c := s[i]; exchange.Class[c]&exchange.IsToken == 0 || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return true
}

// validValue reports whether a value has no forbidden byte and no white space at its ends (RFC 9113, section 8.2.1).
func validValue(s string) bool {
	if s == "" {
		return true
	}
	if a, b := s[0], s[len(s)-1]; a == ' ' || a == '\t' || b == ' ' || b == '\t' {
		return false
	}
	for i := range len(s) {
		if exchange.Class[s[i]]&exchange.IsValue == 0 {
			return false
		}
	}
	return true
}

// parseLength reads a Content-Length (RFC 9110, section 8.6).
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// isGRPC reports whether a content type is gRPC's: application/grpc, with a suffix or parameters or without. gRPC-Web is not: it has its own framing
// of trailers.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// parseTimeout reads a grpc-timeout: at most eight digits and a unit
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). 0: none, or malformed. What is longer than a Duration can hold is cut.
func parseTimeout(s string) time.Duration {
	if len(s) < 2 || len(s) > 9 {
		return 0
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 64)
	if err != nil {
		return 0
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0
	}
	const longest = time.Duration(1<<63 - 1)
	if n > uint64(longest/unit) {
		return longest
	}
	return max(time.Duration(n)*unit, 1)
}

// appendTimeout writes d, above 0, as a grpc-timeout: in the smallest unit of which eight digits hold it, rounded up.
func appendTimeout(b []byte, d time.Duration) []byte {
	const most = 99_999_999
	unit, letter := time.Hour, byte('H')
	for _, u := range [...]struct {
		unit   time.Duration
		letter byte
	}{{time.Nanosecond, 'n'}, {time.Microsecond, 'u'}, {time.Millisecond, 'm'}, {time.Second, 'S'}, {time.Minute, 'M'}} {
		if d <= most*u.unit {
			unit, letter = u.unit, u.letter
			break
		}
	}
	n := d / unit
	if d%unit != 0 {
		n++
	}
	return append(strconv.AppendInt(b, int64(n), 10), letter)
}

// octets is s without a copy; it must not be written to.
func octets(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
