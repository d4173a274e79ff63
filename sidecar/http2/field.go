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
	fieldTimeout // exchange.TimeoutField, exchange.EnvoyTimeoutField
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
	case exchange.TimeoutField, exchange.EnvoyTimeoutField:
		return fieldTimeout
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
	case fieldVarying, fieldContentLength, fieldTraceparent, fieldTracestate, fieldRequestID, fieldTulle, fieldB3, fieldGRPCTimeout, fieldTimeout:
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

// isGRPC reports whether a content type is gRPC's: application/grpc, with a suffix or parameters or without. gRPC-Web is not: it has its own framing
// of trailers.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// timeoutUnits are those of grpc-timeout, the finest first.
var timeoutUnits = [...]struct {
	name byte
	d    time.Duration
}{{'n', time.Nanosecond}, {'u', time.Microsecond}, {'m', time.Millisecond}, {'S', time.Second}, {'M', time.Minute}, {'H', time.Hour}}

// maxTimeoutDigits is how many digits a grpc-timeout has at most (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
const maxTimeoutDigits = 8

// parseTimeout reads a grpc-timeout: digits and a unit. 0: none, or malformed. What is longer than a Duration can hold is cut.
func parseTimeout(s string) time.Duration {
	if len(s) < 2 || len(s) > maxTimeoutDigits+1 {
		return 0
	}
	n, ok := exchange.ParseLength(s[:len(s)-1])
	if !ok {
		return 0
	}
	for _, u := range timeoutUnits {
		if u.name == s[len(s)-1] {
			const longest = time.Duration(1<<63 - 1)
			if n > int64(longest/u.d) {
				return longest
			}
			return max(time.Duration(n)*u.d, 1)
		}
	}
	return 0
}

// appendTimeout appends d > 0 as a grpc-timeout, as exactly as its digits allow, rounded up.
func appendTimeout(dst []byte, d time.Duration) []byte {
	for _, u := range timeoutUnits {
		n := d / u.d
		if d%u.d > 0 {
			n++
		}
		if n < 1e8 {
			return append(strconv.AppendInt(dst, int64(n), 10), u.name)
		}
	}
	return append(dst, "99999999H"...)
}

// octets is s without a copy; it must not be written to.
func octets(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
