package http1

import (
	"bytes"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Limits of one message head.
type Limits struct {
	HeadBytes int // start line and fields, final empty line included; at most MaxHeadBytes
	Fields    int // at most MaxFields
	Line      int // request line, without its line end
}

// MaxHeadBytes and MaxFields are what buffers are made for; Limits may only be lower.
const (
	MaxHeadBytes = 64 << 10
	MaxFields    = 128
)

// DefaultLimits apply to callers outside the mesh where nothing else is configured.
var DefaultLimits = limitsOf(policy.Limits{}.WithDefaults())

// MeshLimits apply to callers that are sidecars, and to responses. They are above everything that can be configured, with room for the fields
// that the caller's sidecar adds, so that a head which one sidecar took always becomes an exchange at the next: otherwise an attempt could be
// delivered without one. What is over the configured limits there is refused as an exchange (see conn.excess).
var MeshLimits = Limits{HeadBytes: MaxHeadBytes, Fields: MaxFields, Line: MaxHeadBytes}

// Room that a sidecar's head has above the configured limits of its peer.
const (
	meshBytes  = MaxHeadBytes - policy.MaxHeadBytes
	meshFields = MaxFields - policy.MaxHeadFields
)

// What of a head a sidecar adds by itself, at most.
const (
	ownBytes  = 1 << 10
	ownFields = 8
)

func limitsOf(l policy.Limits) Limits {
	return Limits{HeadBytes: l.HeadBytes, Fields: l.HeadFields, Line: l.RequestLine}
}

// fault is a violation of RFC 9112, with the status that a server answers it with.
type fault = exchange.Fault

var (
	faultTooLarge     = &fault{Status: 431, Text: "the head is larger than the limit; send fewer or shorter header fields"}
	faultLongLine     = &fault{Status: 414, Text: "the request line is longer than the limit; send a shorter target"}
	faultTooMany      = &fault{Status: 431, Text: "the head has more fields than the limit; send fewer header fields"}
	faultStartLine    = &fault{Status: 400, Text: "the start line is malformed (RFC 9112, section 3)"}
	faultEdited       = &fault{Status: 431, Text: "with the fields that the route's rule adds the head is larger than sidecars take; send fewer or shorter header fields"}
	faultVersion      = &fault{Status: 505, Text: "the version is not HTTP/1.0 or HTTP/1.1"}
	faultLineEnd      = &fault{Status: 400, Text: "a line does not end with CR LF (RFC 9112, section 2.2)"}
	faultTarget       = exchange.FaultTarget
	faultEscape       = exchange.FaultEscape
	faultRoot         = exchange.FaultRoot
	faultDots         = exchange.FaultDots
	faultConnect      = exchange.FaultConnect
	faultConnectBody  = &fault{Status: 400, Text: "CONNECT with Content-Length or Transfer-Encoding: it has no content (RFC 9110, section 9.3.6)"}
	faultExpect       = &fault{Status: 417, Text: "Expect is not exactly \"100-continue\" (RFC 9110, section 10.1.1)"}
	faultFieldName    = &fault{Status: 400, Text: "a field name is malformed (RFC 9112, section 5.1)"}
	faultFieldValue   = &fault{Status: 400, Text: "a field value has a forbidden byte (RFC 9110, section 5.5)"}
	faultFold         = &fault{Status: 400, Text: "a field value is folded over lines (RFC 9112, section 5.2)"}
	faultHost         = &fault{Status: 400, Text: "there must be exactly one valid Host field (RFC 9112, section 3.2)"}
	faultLength       = &fault{Status: 400, Text: "Content-Length is malformed or repeated (RFC 9112, section 6.3)"}
	faultBothFramings = &fault{Status: 400, Text: "Content-Length and Transfer-Encoding are both present (RFC 9112, section 6.3)"}
	faultCoding       = &fault{Status: 501, Text: "Transfer-Encoding is not exactly \"chunked\" (RFC 9112, section 6.1)"}
	faultOldCoding    = &fault{Status: 400, Text: "Transfer-Encoding in an HTTP/1.0 message (RFC 9112, section 6.1)"}
	faultSlowBody     = &fault{Status: 408, Text: "the body did not arrive within the request timeout; send it faster, or raise the timeout"}
	faultStalledBody  = &fault{Status: 408, Text: "no byte of the body arrived for the body timeout; send it without pauses, or raise the timeout"}
	faultChunk        = &fault{Status: 400, Text: "the chunked framing is malformed (RFC 9112, section 7.1)"}
	faultProtocol     = &fault{Status: 501, Text: "extended CONNECT is for WebSocket only where the service speaks HTTP/1.1 (RFC 8441); call it without"}
	faultTrailer      = &fault{Status: 400, Text: "a trailer field is malformed or not allowed in trailers (RFC 9110, section 6.5.1)"}
)

// fieldID names the fields that the relay acts on.
type fieldID uint8

const (
	fieldOther fieldID = iota
	fieldHost
	fieldContentLength
	fieldTransferEncoding
	fieldConnection
	fieldKeepAlive
	fieldProxyConnection
	fieldUpgrade
	fieldTE
	fieldExpect
	fieldTraceparent
	fieldTracestate
	fieldRequestID
	fieldUserAgent
	fieldTulle
	fieldB3      // b3 and x-b3-*
	fieldTimeout // exchange.TimeoutField, exchange.EnvoyTimeoutField
)

type span struct{ lo, hi uint32 }

type field struct {
	name, value span
	id          fieldID
	drop        bool // not passed on
	odd         bool // passed on with exactly one space before the value and none behind it
}

// head is one parsed message head. It refers to the bytes it was parsed from and is valid as long as they are. It is reused.
type head struct {
	buf    []byte // the whole head, final empty line included
	fields [MaxFields]field
	n      int // fields in use

	minor  int  // HTTP/1.minor
	method span // requests
	target span // its path is in normal form (exchange.NormalPath)
	path   span // of the target, without query; "*" for the asterisk form, empty for CONNECT and for an absolute form without a path
	author span // authority of the target if it has one, else of Host
	https  bool // absolute form of https
	abs    bool // absolute form: path+query begin at path.lo
	status int  // responses

	length    int64 // Content-Length; -1 when absent
	chunked   bool
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
	upgrade   bool // Connection: upgrade with an Upgrade field that may be passed on
	expect    bool // Expect: 100-continue
	connect   bool // CONNECT
	b3        bool // some fieldB3 is there
	hops      bool // some fieldTulle or fieldTimeout is there
	host      int  // index of a field, -1: absent; likewise below
	traceparent,
	requestID,
	userAgent int
}

func (h *head) bytes(s span) []byte { return h.buf[s.lo:s.hi] }

// str aliases the buffer.
func (h *head) str(s span) string {
	if s.hi <= s.lo {
		return ""
	}
	return unsafe.String(&h.buf[s.lo], int(s.hi-s.lo))
}

func (h *head) value(i int) string {
	if i < 0 {
		return ""
	}
	return h.str(h.fields[i].value)
}

// eventStream reports whether the fields say that the body is a stream of events.
func (h *head) eventStream() bool {
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.id == fieldOther && equalFold(h.bytes(f.name), "content-type") {
			v := h.bytes(f.value)
			return len(v) >= len(exchange.EventStream) && equalFold(v[:len(exchange.EventStream)], exchange.EventStream)
		}
	}
	return false
}

// headEnd finds the end of a head in b, searching from a position where an earlier search stopped. It returns 0 while the head is
// incomplete; a fault as soon as it cannot become one.
func headEnd(b []byte, from int) (int, *fault) {
	from = max(from-3, 0)
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, nil
		}
		i += from
		if i == 0 || b[i-1] != '\r' {
			return 0, faultLineEnd
		}
		if i >= 3 && b[i-2] == '\n' {
			return i + 1, nil
		}
		from = i + 1
	}
}

// parseRequest parses b, which is exactly one head as found by headEnd.
func (h *head) parseRequest(b []byte, lim Limits) *fault {
	h.reset(b)
	end := bytes.IndexByte(b, '\n') - 1
	if end > lim.Line {
		return faultLongLine
	}
	line := b[:end]
	sp1 := bytes.IndexByte(line, ' ')
	if sp1 <= 0 {
		return faultStartLine
	}
	for _, c := range line[:sp1] {
		if exchange.Class[c]&exchange.IsToken == 0 {
			return faultStartLine
		}
	}
	sp2 := bytes.IndexByte(line[sp1+1:], ' ')
	if sp2 <= 0 {
		return faultStartLine
	}
	sp2 += sp1 + 1
	h.method = span{0, uint32(sp1)}
	h.target = span{uint32(sp1 + 1), uint32(sp2)}
	if f := h.version(line[sp2+1:]); f != nil {
		return f
	}
	if f := h.parseTarget(); f != nil {
		return f
	}
	if f := h.parseFields(end+2, lim); f != nil {
		return f
	}
	// Exactly one Host, which an absolute-form target overrides (RFC 9112, section 3.2.2).
	if h.host < 0 {
		if h.minor > 0 {
			return faultHost
		}
	} else {
		v := h.fields[h.host].value
		if !exchange.ValidAuthority(h.bytes(v)) {
			return faultHost
		}
		if h.abs || h.connect {
			h.fields[h.host].drop = true
		} else {
			h.author = v
		}
	}
	if h.connect {
		if h.chunked || h.length >= 0 {
			return faultConnectBody
		}
		h.noUpgrade()
	}
	return nil
}

// ownHost reports whether the Host that is passed on is made of author: the target has an authority, which overrides the field (RFC 9112,
// section 3.2.2), or HTTP/1.0 did without.
func (h *head) ownHost() bool { return h.abs || h.connect || h.host < 0 }

// pathString is the path that is decided on and that the service sees: "*" for OPTIONS of a whole server (RFC 9112, section 3.2.4), empty
// for CONNECT.
func (h *head) pathString() string {
	switch {
	case h.path.lo < h.path.hi:
		return h.str(h.path)
	case h.connect:
		return ""
	case h.path.hi == h.target.hi && string(h.bytes(h.method)) == "OPTIONS":
		return "*"
	}
	return "/"
}

// appendTarget appends the target in the form for an origin server (RFC 9112, section 3.2.1), or for CONNECT in the authority form.
func (h *head) appendTarget(dst []byte) []byte {
	if !h.abs {
		return append(dst, h.bytes(h.target)...)
	}
	dst = append(dst, h.pathString()...)
	return append(dst, h.buf[h.path.hi:h.target.hi]...)
}

// appendSent is appendTarget with the path that x has in place of the one that came.
func (h *head) appendSent(dst []byte, x *exchange.Exchange) []byte {
	if x.Path == "" || h.connect {
		return h.appendTarget(dst)
	}
	return append(append(dst, x.Path...), h.buf[h.path.hi:h.target.hi]...)
}

// omit marks the fields that e leaves out. Those on which framing, routing, identity or traces rest are not its to change.
func (h *head) omit(e *exchange.Edits) {
	for _, name := range e.Drop {
		for i := range h.fields[:h.n] {
			if f := &h.fields[i]; (f.id == fieldOther || f.id == fieldUserAgent) && equalFold(h.bytes(f.name), name) {
				f.drop = true
			}
		}
	}
}

// parseResponse parses b, which is exactly one head as found by headEnd.
func (h *head) parseResponse(b []byte, lim Limits) *fault {
	h.reset(b)
	end := bytes.IndexByte(b, '\n') - 1
	line := b[:end]
	if len(line) < 12 || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') {
		return faultStartLine
	}
	if f := h.version(line[:8]); f != nil {
		return f
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return faultStartLine
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || h.status > 599 {
		return faultStartLine
	}
	for _, c := range line[12:] {
		if exchange.Class[c]&exchange.IsValue == 0 {
			return faultStartLine
		}
	}
	return h.parseFields(end+2, lim)
}

func (h *head) reset(b []byte) {
	h.buf, h.n = b, 0
	h.minor, h.status = 0, 0
	h.method, h.target, h.path, h.author = span{}, span{}, span{}, span{}
	h.length = -1
	h.abs, h.chunked, h.close, h.keepAlive, h.upgrade, h.expect, h.connect = false, false, false, false, false, false, false
	h.b3, h.hops, h.https = false, false, false
	h.host, h.traceparent, h.requestID, h.userAgent = -1, -1, -1, -1
}

func (h *head) version(b []byte) *fault {
	if len(b) != 8 || string(b[:5]) != "HTTP/" || b[6] != '.' || b[5] < '0' || b[5] > '9' || b[7] < '0' || b[7] > '9' {
		return faultStartLine
	}
	if b[5] != '1' || b[7] > '1' {
		return faultVersion
	}
	h.minor = int(b[7] - '0')
	return nil
}

func (h *head) parseTarget() *fault {
	t := h.bytes(h.target)
	lo := h.target.lo
	switch {
	case string(h.bytes(h.method)) == "CONNECT": // in any form: what follows its answer is no HTTP
		h.connect = true
		h.path, h.author = span{h.target.hi, h.target.hi}, h.target
		if host, port := exchange.SplitAuthority(t); len(host) == 0 || len(port) == 0 || !exchange.ValidAuthority(t) {
			return faultConnect
		}
		return nil
	case t[0] == '/':
	case len(t) == 1 && t[0] == '*' && string(h.bytes(h.method)) == "OPTIONS":
		h.path = h.target
		return nil
	default:
		var scheme int
		if hasPrefixFold(t, "http://") {
			scheme = len("http://")
		} else if hasPrefixFold(t, "https://") {
			scheme = len("https://")
			h.https = true
		} else {
			return faultTarget
		}
		end := bytes.IndexAny(t[scheme:], "/?")
		if end < 0 {
			end = len(t) - scheme
		}
		h.abs = true
		h.author = span{lo + uint32(scheme), lo + uint32(scheme+end)}
		host, _ := exchange.SplitAuthority(h.bytes(h.author))
		if len(host) == 0 || !exchange.ValidAuthority(h.bytes(h.author)) {
			return faultTarget
		}
		lo += uint32(scheme + end)
	}
	b := h.buf[lo:h.target.hi]
	end, odd, f := exchange.ScanTarget(b)
	if f != nil {
		return f
	}
	h.path = span{lo, lo + uint32(end)} // empty for "http://host" and "http://host?query"
	if !odd || end == 0 {
		return nil
	}
	n, f := exchange.NormalPath(b[:end])
	if f != nil {
		return f
	}
	h.path.hi = lo + uint32(n)
	h.target.hi = h.path.hi + uint32(copy(b[n:], b[end:]))
	return nil
}

func (h *head) parseFields(pos int, lim Limits) *fault {
	b := h.buf
	var lengths, codings int
	last := len(b) - 2 // of the final empty line
	for pos < last {
		if h.n >= lim.Fields || h.n >= MaxFields {
			return faultTooMany
		}
		lo := pos
		for exchange.Class[b[pos]]&exchange.IsToken != 0 {
			pos++
		}
		if b[pos] != ':' || pos == lo {
			if c := b[lo]; c == ' ' || c == '\t' {
				return faultFold
			}
			return faultFieldName
		}
		f := &h.fields[h.n]
		f.name = span{uint32(lo), uint32(pos)}
		pos++
		for b[pos] == ' ' || b[pos] == '\t' {
			pos++
		}
		vlo := pos
		for exchange.Class[b[pos]]&exchange.IsValue != 0 {
			pos++
		}
		if b[pos] != '\r' || b[pos+1] != '\n' {
			return faultFieldValue
		}
		vhi := pos
		for vhi > vlo && (b[vhi-1] == ' ' || b[vhi-1] == '\t') {
			vhi--
		}
		f.value = span{uint32(vlo), uint32(vhi)}
		f.drop, f.odd = false, false
		f.id = identify(b[f.name.lo:f.name.hi])
		pos += 2
		i := h.n
		h.n++
		if f.id == fieldOther {
			continue
		}
		v := b[vlo:vhi]
		switch f.id {
		case fieldHost:
			if h.host >= 0 {
				return faultHost
			}
			h.host = i
			f.odd = oddSpace(b, f)
		case fieldContentLength:
			lengths++
			n, ok := exchange.ParseLength(v)
			if !ok || lengths > 1 {
				return faultLength
			}
			h.length = n
			f.odd = oddSpace(b, f)
		case fieldTransferEncoding:
			if h.minor == 0 {
				return faultOldCoding
			}
			codings++
			if codings > 1 || !equalFold(v, "chunked") {
				return faultCoding
			}
			h.chunked = true
			f.odd = oddSpace(b, f)
		case fieldTraceparent:
			f.drop = true
			if h.traceparent != -1 {
				h.traceparent = -2 // more than one: none is valid (W3C trace context, section 3.2)
			} else {
				h.traceparent = i
			}
		case fieldRequestID:
			if h.requestID < 0 && vhi > vlo {
				h.requestID = i
			} else {
				f.drop = true
			}
		case fieldUserAgent:
			h.userAgent = i
		case fieldB3:
			h.b3 = true
		case fieldTimeout:
			h.hops = true
		case fieldExpect:
			if h.expect || !equalFold(v, "100-continue") {
				return faultExpect
			}
			h.expect = true
		case fieldTulle:
			h.hops, f.drop = true, true
		case fieldConnection, fieldKeepAlive, fieldProxyConnection, fieldTE, fieldUpgrade:
			f.drop = true
		}
	}
	if h.chunked && h.length >= 0 {
		return faultBothFramings
	}
	h.connection()
	return nil
}

// oddSpace reports whether the line of f has other white space around its value than one space before it, or none. It is legal, but peers
// differ in what they strip, so the fields on which framing and routing rest are passed on without it.
func oddSpace(b []byte, f *field) bool {
	space := f.value.lo - f.name.hi - 1
	return space > 1 || space == 1 && b[f.value.lo-1] != ' ' || b[f.value.hi] != '\r'
}

// noUpgrade makes an Upgrade that was asked for, if any, one that is not passed on.
func (h *head) noUpgrade() {
	h.upgrade = false
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.id == fieldUpgrade {
			f.drop = true
		}
	}
}

// connection applies the Connection fields: options, and the fields they name, which are not passed on. A token that names a field on which
// framing, routing or identity rests is ignored.
func (h *head) connection() {
	upgrade := false
	for i := range h.fields[:h.n] {
		if h.fields[i].id != fieldConnection {
			continue
		}
		rest := h.bytes(h.fields[i].value)
		for len(rest) > 0 {
			var tok []byte
			if j := bytes.IndexByte(rest, ','); j >= 0 {
				tok, rest = rest[:j], rest[j+1:]
			} else {
				tok, rest = rest, nil
			}
			tok = bytes.Trim(tok, " \t")
			switch {
			case len(tok) == 0:
			case equalFold(tok, "close"):
				h.close = true
			case equalFold(tok, "keep-alive"):
				h.keepAlive = true
			case equalFold(tok, "upgrade"):
				upgrade = true
			default:
				if identify(tok) != fieldOther {
					continue
				}
				for k := range h.fields[:h.n] {
					if f := &h.fields[k]; f.id == fieldOther && equalFoldBytes(h.bytes(f.name), tok) {
						f.drop = true
					}
				}
			}
		}
	}
	if !upgrade || h.minor == 0 {
		return
	}
	// HTTP/2 is not passed on, wherever it stands in the list: what followed would be exchanges that nobody here has judged.
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.id == fieldUpgrade && !offersHTTP2(h.bytes(f.value)) && f.value.hi > f.value.lo {
			f.drop = false
			h.upgrade = true
		}
	}
}

// offersHTTP2 reports whether an Upgrade list (RFC 9110, section 7.8) names HTTP/2 in any way.
func offersHTTP2(list []byte) bool {
	for tok := range bytes.SplitSeq(list, []byte(",")) {
		if tok = bytes.Trim(tok, " \t"); hasPrefixFold(tok, "h2") || hasPrefixFold(tok, "http/2") {
			return true
		}
	}
	return false
}

// appendFields appends every field that is passed on, in order, copying runs of lines at once.
func (h *head) appendFields(dst []byte) []byte {
	run := -1 // start of the current run of lines
	for i := range h.fields[:h.n] {
		f := &h.fields[i]
		lo := int(f.name.lo)
		if f.drop || f.odd {
			if run >= 0 {
				dst = append(dst, h.buf[run:lo]...)
				run = -1
			}
			if !f.drop {
				dst = append(dst, h.bytes(f.name)...)
				dst = append(dst, ": "...)
				dst = append(dst, h.bytes(f.value)...)
				dst = append(dst, "\r\n"...)
			}
		} else if run < 0 {
			run = lo
		}
	}
	if run >= 0 {
		dst = append(dst, h.buf[run:len(h.buf)-2]...)
	}
	return dst
}

func identify(name []byte) fieldID {
	switch len(name) {
	case 2:
		if equalFold(name, "te") {
			return fieldTE
		}
		if equalFold(name, "b3") {
			return fieldB3
		}
	case 4:
		if equalFold(name, "host") {
			return fieldHost
		}
	case 6:
		if equalFold(name, "expect") {
			return fieldExpect
		}
	case 7:
		if equalFold(name, "upgrade") {
			return fieldUpgrade
		}
	case 10:
		switch name[0] | 0x20 {
		case 'c':
			if equalFold(name, "connection") {
				return fieldConnection
			}
		case 'k':
			if equalFold(name, "keep-alive") {
				return fieldKeepAlive
			}
		case 't':
			if equalFold(name, "tracestate") {
				return fieldTracestate
			}
		case 'u':
			if equalFold(name, "user-agent") {
				return fieldUserAgent
			}
		}
	case 11:
		if equalFold(name, "traceparent") {
			return fieldTraceparent
		}
	case 12:
		if equalFold(name, "x-request-id") {
			return fieldRequestID
		}
	case 14:
		if equalFold(name, "content-length") {
			return fieldContentLength
		}
	case 16:
		if equalFold(name, "proxy-connection") {
			return fieldProxyConnection
		}
	case 17:
		if equalFold(name, "transfer-encoding") {
			return fieldTransferEncoding
		}
	}
	if (len(name) == len(exchange.TimeoutField) || len(name) == len(exchange.EnvoyTimeoutField)) && (equalFold(name, exchange.TimeoutField) || equalFold(name, exchange.EnvoyTimeoutField)) {
		return fieldTimeout
	}
	if len(name) >= 8 && hasPrefixFold(name, "x-tulle-") {
		return fieldTulle
	}
	if len(name) >= 10 && hasPrefixFold(name, "x-b3-") {
		return fieldB3
	}
	return fieldOther
}

// equalFold compares ASCII without case; lower must be lower case.
func equalFold(b []byte, lower string) bool {
	return len(b) == len(lower) && hasPrefixFold(b, lower)
}

func hasPrefixFold(b []byte, lower string) bool {
	if len(b) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func equalFoldBytes(a, b []byte) bool { return len(a) == len(b) && bytes.EqualFold(a, b) }
