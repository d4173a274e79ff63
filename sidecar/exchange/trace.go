package exchange

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// TraceparentLen is the length of a version 00 traceparent.
const TraceparentLen = 55

// ParseTraceparent reads a traceparent (https://www.w3.org/TR/trace-context/, section 3.2): lower-case hex only, no zero ids, version ff
// refused, and a version above 00 may be longer only after another dash. SpanID of the result is the arriving parent-id.
func ParseTraceparent(s string) (t flow.Trace, ok bool) {
	if len(s) < TraceparentLen || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return flow.Trace{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], s[:2]) || version[0] == 0xff || !unhex(t.TraceID[:], s[3:35]) || !unhex(t.SpanID[:], s[36:52]) || !unhex(flags[:], s[53:55]) {
		return flow.Trace{}, false
	}
	if len(s) > TraceparentLen && (version[0] == 0 || s[TraceparentLen] != '-') {
		return flow.Trace{}, false
	}
	if t.TraceID.IsZero() || t.SpanID.IsZero() {
		return flow.Trace{}, false
	}
	t.Flags = flags[0]
	if version[0] > 0 {
		t.Flags &= 1 // section 3.2.4: of an unknown version only the sampled flag is known
	}
	return t, true
}

// AppendTraceparent appends the traceparent that names t.SpanID as the parent.
func AppendTraceparent(b []byte, t flow.Trace) []byte {
	b = append(b, '0', '0', '-')
	b = appendHex(b, t.TraceID[:])
	b = append(b, '-')
	b = appendHex(b, t.SpanID[:])
	b = append(b, '-')
	return appendHex(b, []byte{t.Flags})
}

// NewTraceID is random and not zero. The source is the runtime's per-thread ChaCha8 generator, seeded by the operating system.
func NewTraceID() (id flow.TraceID) {
	for id.IsZero() {
		binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
		binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

// NewSpanID is random and not zero.
func NewSpanID() (id flow.SpanID) {
	for id.IsZero() {
		binary.LittleEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

// AppendRequestID appends a random UUID (RFC 9562, version 4).
func AppendRequestID(b []byte) []byte {
	var u [16]byte
	binary.LittleEndian.PutUint64(u[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(u[8:], rand.Uint64())
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = appendHex(b, part)
	}
	return b
}

const hexDigits = "0123456789abcdef"

func appendHex(b, src []byte) []byte {
	for _, c := range src {
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

func unhex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := nibble(s[2*i]), nibble(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}
