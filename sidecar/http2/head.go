package http2

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Faults of a head. Those of the first group make a message malformed (RFC 9113, section 8.1.1): its stream is reset with PROTOCOL_ERROR. The
// others, and those of a target in package exchange, are answered.
var (
	faultFieldName  = &exchange.Fault{Status: 400, Text: "a field name is empty, in upper case, or no token (RFC 9113, section 8.2.1)"}
	faultFieldValue = &exchange.Fault{Status: 400, Text: "a field value has a forbidden byte, or white space at an end (RFC 9113, section 8.2.1)"}
	faultHop        = &exchange.Fault{Status: 400, Text: "a field belongs to the connection (RFC 9113, section 8.2.2)"}
	faultTE         = &exchange.Fault{Status: 400, Text: "TE is not exactly \"trailers\" (RFC 9113, section 8.2.2)"}
	faultPseudo     = &exchange.Fault{Status: 400, Text: "a pseudo-header field is unknown, repeated, missing, or out of place (RFC 9113, section 8.3)"}
	faultScheme     = &exchange.Fault{Status: 400, Text: "the scheme is neither http nor https (RFC 9113, section 8.3.1)"}
	faultMethod     = &exchange.Fault{Status: 400, Text: "the method is no token (RFC 9110, section 9.1)"}
	faultAuthority  = &exchange.Fault{Status: 400, Text: "there must be one valid authority, and Host must be the same (RFC 9113, section 8.3.1)"}
	faultLength     = &exchange.Fault{Status: 400, Text: "Content-Length is malformed, repeated, or not what DATA frames sum up to (RFC 9113, section 8.1.1)"}
	faultTrailers   = &exchange.Fault{Status: 400, Text: "trailers have a pseudo-header field, or do not end the stream (RFC 9113, section 8.1)"}
	faultStatus     = &exchange.Fault{Status: 400, Text: "the status is not three digits from 100 to 599 (RFC 9110, section 15)"}

	faultTooLarge = &exchange.Fault{Status: 431, Text: "the head is larger than the limit; send fewer or shorter header fields"}
	faultTooMany  = &exchange.Fault{Status: 431, Text: "the head has more fields than the limit; send fewer header fields"}
	faultEdited   = &exchange.Fault{Status: 431, Text: "with the fields that the route's rule adds the head is larger than sidecars take; send fewer or shorter header fields"}
	faultLongLine = &exchange.Fault{Status: 414, Text: "method, target and authority are longer than the limit of the request line; send a shorter target"}
	faultSlowBody = &exchange.Fault{Status: 408, Text: "the body did not arrive within the request timeout; send it faster, or raise the timeout"}
	faultStalled  = &exchange.Fault{Status: 408, Text: "no byte of the body arrived for the body timeout; send it without pauses, or raise the timeout"}
	faultProtocol = &exchange.Fault{Status: 501, Text: "the service does not take extended CONNECT (RFC 8441, section 3); call it without HTTP/2, or turn it on there"}

	faultWebSocket = &exchange.Fault{Status: 501, Text: "the service does not take extended CONNECT (RFC 8441, section 3), which WebSocket needs there; turn it on, or let it be called with HTTP/1.1"}
)

// answered reports whether a request with this fault is told so; if not, its stream is reset.
func answered(f *exchange.Fault) bool {
	switch f {
	case exchange.FaultTarget, exchange.FaultEscape, exchange.FaultRoot, exchange.FaultDots, exchange.FaultConnect,
		faultTooLarge, faultTooMany, faultEdited, faultLongLine, faultSlowBody, faultStalled, faultProtocol, faultWebSocket:
		return true
	}
	return false
}

// Limits of a decoded head: each field counts with its length and 32 bytes (RFC 9113, section 10.5.1).
type headLimits struct {
	bytes  int
	fields int
}

// meshLimits apply to heads of other sidecars, and to responses. They are above everything that can be configured, with room for what a sidecar adds,
// so that a head which one sidecar took always becomes an exchange at the next.
var meshLimits = headLimits{bytes: policy.MaxHeadBytes + 4<<10, fields: policy.MaxHeadFields + 12}

// maxConfigured are the highest limits that can be configured.
var maxConfigured = headLimits{bytes: policy.MaxHeadBytes, fields: policy.MaxHeadFields}

// ownLimits is what of a head a sidecar adds by itself, at most.
var ownLimits = headLimits{bytes: 2 << 10, fields: 8}

func limitsOf(l policy.Limits) headLimits {
	return headLimits{bytes: l.HeadBytes, fields: l.HeadFields}
}

// request is the head of a request. It is reused.
type request struct {
	fields []field
	size   int // as headLimits count

	method, scheme, authority, protocol string
	target                              string // path, in its normal form, and query; empty for CONNECT without a protocol
	path                                string // of target
	userAgent                           string
	timeout                             string // grpc-timeout
	length                              int64  // Content-Length, -1: none
	traceparent, requestID              int    // index of a field, -1: none
	connect                             bool
	b3, grpc, expect                    bool
	hops                                bool // x-tulle-* or a timeout of HTTP came
}

func (r *request) reset() {
	clear(r.fields)
	*r = request{fields: r.fields[:0], length: -1, traceparent: -1, requestID: -1}
}

func (r *request) value(i int) string {
	if i < 0 {
		return ""
	}
	return r.fields[i].value
}

// parse reads the fields, which were checked one by one.
func (r *request) parse() *exchange.Fault {
	r.length, r.traceparent, r.requestID = -1, -1, -1
	host, asked := -1, uint(0)
	n := 0
	for n < len(r.fields) {
		f := &r.fields[n]
		if f.id < fieldMethod || f.id > fieldStatus {
			break
		}
		bit := uint(1) << f.id
		if asked&bit != 0 || f.id == fieldStatus {
			return faultPseudo
		}
		asked |= bit
		switch f.id {
		case fieldMethod:
			r.method = f.value
		case fieldScheme:
			r.scheme = f.value
		case fieldPath:
			r.target = f.value
		case fieldAuthority:
			r.authority = f.value
		case fieldProtocol:
			r.protocol = f.value
		}
		n++
	}
	for i := n; i < len(r.fields); i++ {
		f := &r.fields[i]
		switch f.id {
		case fieldOther, fieldVarying, fieldGRPCStatus:
		case fieldMethod, fieldScheme, fieldPath, fieldAuthority, fieldProtocol, fieldStatus:
			return faultPseudo
		case fieldHost:
			if host >= 0 && r.fields[host].value != f.value {
				return faultAuthority
			}
			host, f.drop = i, true
		case fieldContentLength:
			v, ok := exchange.ParseLength(f.value)
			if !ok || r.length >= 0 {
				return faultLength
			}
			r.length = v
		case fieldContentType:
			r.grpc = r.grpc || isGRPC(f.value)
		case fieldTE:
			if f.value != "trailers" {
				return faultTE
			}
		case fieldHop:
			return faultHop
		case fieldTraceparent:
			f.drop = true
			if r.traceparent != -1 {
				r.traceparent = -2 // more than one: none is valid (W3C trace context, section 3.2)
			} else {
				r.traceparent = i
			}
		case fieldRequestID:
			if r.requestID < 0 && f.value != "" {
				r.requestID = i
			} else {
				f.drop = true
			}
		case fieldUserAgent:
			r.userAgent = f.value
		case fieldTulle:
			r.hops, f.drop = true, true
		case fieldTimeout:
			r.hops = true
		case fieldB3:
			r.b3 = true
		case fieldExpect:
			r.expect = true
		case fieldGRPCTimeout:
			r.timeout = f.value
		}
	}
	return r.check(asked, host)
}

func (r *request) check(asked uint, host int) *exchange.Fault {
	has := func(id fieldID) bool { return asked&(1<<id) != 0 }
	if r.method == "" {
		return faultPseudo
	}
	for i := range len(r.method) {
		if exchange.Class[r.method[i]]&exchange.IsToken == 0 {
			return faultMethod
		}
	}
	if host >= 0 {
		switch v := r.fields[host].value; {
		case !has(fieldAuthority):
			r.authority = v
		case v != r.authority:
			return faultAuthority
		}
	}
	r.connect = r.method == "CONNECT"
	if r.connect && !has(fieldProtocol) {
		if has(fieldScheme) || has(fieldPath) || r.authority == "" {
			return faultPseudo
		}
		b := octets(r.authority)
		if h, port := exchange.SplitAuthority(b); len(h) == 0 || len(port) == 0 || !exchange.ValidAuthority(b) {
			return exchange.FaultConnect
		}
		return nil
	}
	if has(fieldProtocol) && (!r.connect || r.protocol == "") || !has(fieldScheme) || r.target == "" {
		return faultPseudo
	}
	if r.scheme != "http" && r.scheme != "https" {
		return faultScheme
	}
	if r.authority == "" || !exchange.ValidAuthority(octets(r.authority)) {
		return faultAuthority
	}
	if r.target[0] != '/' {
		if r.target == "*" && r.method == "OPTIONS" {
			r.path = r.target
			return nil
		}
		return exchange.FaultTarget
	}
	end, odd, f := exchange.ScanTarget(octets(r.target))
	if f != nil {
		return f
	}
	if odd {
		b := []byte(r.target)
		n, f := exchange.NormalPath(b[:end])
		if f != nil {
			return f
		}
		r.target = string(append(b[:n], b[end:]...))
		end = n
	}
	r.path = r.target[:end]
	return nil
}

// response is the head of a response. It is reused.
type response struct {
	status     int
	length     int64 // Content-Length, -1: none
	grpcStatus string
	tulle      bool // x-tulle-* came
}

// parseResponse reads the fields of a response, which were checked one by one.
func parseResponse(fields []field) (r response, fault *exchange.Fault) {
	r.length = -1
	if len(fields) == 0 || fields[0].id != fieldStatus {
		return r, faultPseudo
	}
	v := fields[0].value
	if len(v) != 3 {
		return r, faultStatus
	}
	for i := range 3 {
		if v[i] < '0' || v[i] > '9' {
			return r, faultStatus
		}
		r.status = r.status*10 + int(v[i]-'0')
	}
	if r.status < 100 || r.status > 599 {
		return r, faultStatus
	}
	for i := 1; i < len(fields); i++ {
		f := &fields[i]
		switch f.id {
		case fieldOther, fieldVarying:
		case fieldMethod, fieldScheme, fieldPath, fieldAuthority, fieldProtocol, fieldStatus:
			return r, faultPseudo
		case fieldHop:
			return r, faultHop
		case fieldContentLength:
			n, ok := exchange.ParseLength(f.value)
			if !ok || r.length >= 0 {
				return r, faultLength
			}
			r.length = n
		case fieldGRPCStatus:
			r.grpcStatus = f.value
		case fieldTulle:
			r.tulle = true
		}
	}
	return r, nil
}

// checkTrailers refuses what may not be in trailers; it finds grpc-status.
func checkTrailers(fields []field) (grpcStatus string, fault *exchange.Fault) {
	for i := range fields {
		switch f := &fields[i]; {
		case f.id >= fieldMethod && f.id <= fieldStatus:
			return "", faultTrailers
		case f.id == fieldHop:
			return "", faultHop
		case f.id == fieldTulle, f.id == fieldContentLength, f.id == fieldHost, f.id == fieldTE, f.id == fieldTraceparent, f.id == fieldTracestate, f.id == fieldB3:
			f.drop = true // fields on which framing, routing, identity or traces rest are not for trailers (RFC 9110, section 6.5.1)
		case f.id == fieldGRPCStatus:
			grpcStatus = f.value
		case strings.EqualFold(f.name, "trailer"):
			f.drop = true
		}
	}
	return grpcStatus, nil
}
