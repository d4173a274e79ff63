package flow

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the Record as one line of JSON with a newline: the access log view. Names are the attribute names of
// docs/format/record.md; in front stand "time" (RFC 3339, the end), "duration_ns", "trace_id", "span_id" and "parent_span_id".
func (r *Record) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"time":"`...)
	dst = appendTime(dst, r.Start.Add(max(r.Duration, 0)))
	dst = append(dst, `","duration_ns":`...)
	dst = strconv.AppendInt(dst, int64(r.Duration), 10)
	if !r.Trace.TraceID.IsZero() {
		dst = hex.AppendEncode(append(dst, `,"trace_id":"`...), r.Trace.TraceID[:])
		dst = append(dst, '"')
	}
	if !r.Trace.SpanID.IsZero() {
		dst = hex.AppendEncode(append(dst, `,"span_id":"`...), r.Trace.SpanID[:])
		dst = append(dst, '"')
	}
	if !r.Trace.ParentID.IsZero() {
		dst = hex.AppendEncode(append(dst, `,"parent_span_id":"`...), r.Trace.ParentID[:])
		dst = append(dst, '"')
	}
	w := jsonLines.Get().(*jsonLine)
	w.dst = dst
	r.visit(w)
	dst, w.dst = w.dst, nil
	jsonLines.Put(w)
	return append(dst, '}', '\n')
}

// jsonLine is the sink of AppendJSON; reused, because what is behind an interface is not on the stack.
type jsonLine struct {
	dst  []byte
	memo memo
}

var jsonLines = sync.Pool{New: func() any { return new(jsonLine) }}

func (w *jsonLine) key(k *key) { w.dst = append(append(w.dst, ','), k.json...) }

func (w *jsonLine) text(k *key, v string) {
	w.key(k)
	w.dst = appendJSONString(w.dst, v)
}

func (w *jsonLine) number(k *key, v int64) {
	w.key(k)
	w.dst = strconv.AppendInt(w.dst, v, 10)
}

func (w *jsonLine) flag(k *key, v bool) {
	w.key(k)
	w.dst = strconv.AppendBool(w.dst, v)
}

func (w *jsonLine) addr(k *key, v netip.AddrPort) {
	w.key(k)
	w.dst = append(append(append(w.dst, '"'), w.memo.addr(v)...), '"')
}

func (w *jsonLine) list(k *key, v string) {
	w.key(k)
	w.dst = append(appendJSONString(append(w.dst, '['), v), ']')
}

func (w *jsonLine) shape(r *Record) {
	e, b := w.memo.of(r)
	if b != nil {
		w.dst = append(w.dst, b...)
		return
	}
	n := len(w.dst)
	r.visitShape(w)
	e.keep(w.dst[n:])
}

// plain marks the bytes that stand for themselves in a JSON string and in a quoted text: printable ASCII but quote and backslash.
var plain = func() (t [256]bool) {
	for c := byte(0x20); c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// special is the index of the first byte of s that is not plain, len(s) when there is none.
func special(s string) int {
	for i := range len(s) {
		if !plain[s[i]] {
			return i
		}
	}
	return len(s)
}

// appendJSONString quotes valid UTF-8 (RFC 8259 §7): quotes, backslashes and control characters are escaped, and so is DEL, which
// terminals act upon.
func appendJSONString(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	n := special(s)
	dst = append(dst, s[:n]...)
	for ; n < len(s); n++ {
		switch c := s[n]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20 || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// AppendText appends the Record as one line in Envoy's default access log format, with a newline:
//
//	[%START_TIME%] "%METHOD% %PATH% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION%
//	%X-ENVOY-UPSTREAM-SERVICE-TIME% "%X-FORWARDED-FOR%" "%USER-AGENT%" "%X-REQUEST-ID%" "%:AUTHORITY%" "%UPSTREAM_HOST%"
//
// as one line, so that what reads Envoy's log reads this one
// (https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#default-format-string). "-" stands for unknown, as there.
// Three things differ on purpose: the path never has its query; x-forwarded-for is shown only when the allow-list has it; and what came
// from outside is escaped like a Go string where a quote, a backslash or a control character is in it, so that a line is one Record
// whatever a caller sends.
func (r *Record) AppendText(dst []byte) []byte {
	dst = append(dst, '[')
	dst = r.Start.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	dst = append(dst, `] "`...)
	dst = appendInside(dst, clean(r.Method, maxName))
	dst = append(dst, ' ')
	dst = appendInside(dst, clean(withoutQuery(r.Path), maxPath))
	dst = append(dst, ' ')
	dst = append(dst, envoyProtocol(r.Protocol)...)
	dst = append(dst, `" `...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, dash(r.Flags())...)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, r.BytesIn, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, r.BytesOut, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, r.Duration.Milliseconds(), 10)
	dst = append(dst, ' ')
	if l := &r.Legs; l.Sent >= 0 && l.FirstByte >= l.Sent {
		dst = strconv.AppendInt(dst, (l.FirstByte - l.Sent).Milliseconds(), 10)
	} else {
		dst = append(dst, '-')
	}
	for _, s := range [...]string{withoutQueries(r.Headers.Get(false, "x-forwarded-for")), r.UserAgent, r.RequestID, withoutUser(r.Authority)} {
		dst = append(dst, ` "`...)
		dst = appendInside(dst, clean(s, maxName))
		dst = append(dst, '"')
	}
	dst = append(dst, ` "`...)
	switch {
	case r.Endpoint.IsValid():
		dst = r.Endpoint.AppendTo(dst)
	case r.Application.Socket != "": // Envoy writes the path of a pipe
		dst = appendInside(dst, clean(r.Application.Socket, maxName))
	default:
		dst = append(dst, '-')
	}
	return append(dst, '"', '\n')
}

// appendInside appends valid UTF-8 that stands between quotes; "-" for nothing.
func appendInside(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, '-')
	}
	n := special(s)
	dst = append(dst, s[:n]...)
	for s = s[n:]; s != ""; {
		c, size := utf8.DecodeRuneInString(s)
		if c != '"' && c != '\\' && strconv.IsPrint(c) {
			dst = append(dst, s[:size]...)
		} else {
			quoted := strconv.AppendQuoteRune(nil, c)
			if c == '"' {
				quoted = []byte(`'\"'`)
			}
			dst = append(dst, quoted[1:len(quoted)-1]...)
		}
		s = s[size:]
	}
	return dst
}

// envoyProtocol is the protocol as Envoy writes it; TCP has none.
func envoyProtocol(p Protocol) string {
	switch p {
	case ProtocolHTTP1:
		return "HTTP/1.1"
	case ProtocolHTTP2, ProtocolGRPC:
		return "HTTP/2"
	}
	return "-"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// appendTime appends t in UTC as time.RFC3339Nano does, at a third of the cost. Years outside 1970 to 9999 go the long way.
func appendTime(dst []byte, t time.Time) []byte {
	const day = 24 * 60 * 60
	sec := t.Unix()
	if sec < 0 || sec >= 253402300800 {
		return t.UTC().AppendFormat(dst, time.RFC3339Nano)
	}
	// Days to year, month and day: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
	z := sec/day + 719468
	era := z / 146097
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d := doy - (153*mp+2)/5 + 1
	m := mp + 3
	if m > 12 {
		m -= 12
	}
	y := yoe + era*400
	if m <= 2 {
		y++
	}
	s := sec % day
	dst = append(dst,
		byte('0'+y/1000), byte('0'+y/100%10), byte('0'+y/10%10), byte('0'+y%10), '-', byte('0'+m/10), byte('0'+m%10), '-', byte('0'+d/10), byte('0'+d%10), 'T',
		byte('0'+s/36000), byte('0'+s/3600%10), ':', byte('0'+s/600%6), byte('0'+s/60%10), ':', byte('0'+s/10%6), byte('0'+s%10))
	if ns := t.Nanosecond(); ns > 0 {
		at := len(dst)
		dst = append(dst, ".000000000"...)
		for i := 9; ns > 0; i-- {
			dst[at+i] = byte('0' + ns%10)
			ns /= 10
		}
		for dst[len(dst)-1] == '0' {
			dst = dst[:len(dst)-1]
		}
	}
	return append(dst, 'Z')
}
