package flow

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"time"
)

// AppendJSON appends the Record as one line of JSON with a newline: the access log view. Names are the attribute names of
// docs/format/record.md; in front stand "time" (RFC 3339, the end), "duration_ns", "trace_id", "span_id" and "parent_span_id".
func (r *Record) AppendJSON(dst []byte) []byte {
	w := jsonLine{dst: append(dst, '{')}
	w.key("time")
	w.dst = append(w.dst, '"')
	w.dst = r.Start.Add(max(r.Duration, 0)).UTC().AppendFormat(w.dst, time.RFC3339Nano)
	w.dst = append(w.dst, '"')
	w.number("duration_ns", int64(r.Duration))
	if !r.Trace.TraceID.IsZero() {
		w.hex("trace_id", r.Trace.TraceID[:])
	}
	if !r.Trace.SpanID.IsZero() {
		w.hex("span_id", r.Trace.SpanID[:])
	}
	if !r.Trace.ParentID.IsZero() {
		w.hex("parent_span_id", r.Trace.ParentID[:])
	}
	r.visit(&w)
	return append(w.dst, '}', '\n')
}

type jsonLine struct {
	dst  []byte
	more bool
}

func (w *jsonLine) key(k string) {
	if w.more {
		w.dst = append(w.dst, ',')
	}
	w.more = true
	w.dst = append(append(append(w.dst, '"'), k...), '"', ':') // attribute names have nothing to escape
}

func (w *jsonLine) text(k, v string) {
	w.key(k)
	w.dst = appendJSONString(w.dst, v)
}

func (w *jsonLine) hex(k string, v []byte) {
	w.key(k)
	w.dst = append(hex.AppendEncode(append(w.dst, '"'), v), '"')
}

func (w *jsonLine) number(k string, v int64) {
	w.key(k)
	w.dst = strconv.AppendInt(w.dst, v, 10)
}

func (w *jsonLine) flag(k string, v bool) {
	w.key(k)
	w.dst = strconv.AppendBool(w.dst, v)
}

func (w *jsonLine) addr(k string, v netip.AddrPort) {
	w.key(k)
	w.dst = append(v.AppendTo(append(w.dst, '"')), '"')
}

// appendJSONString quotes valid UTF-8 (RFC 8259 §7): quotes, backslashes and control characters are escaped, and so is DEL, which
// terminals act upon.
func appendJSONString(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0 // up to here s is written
	for i := range len(s) {
		if plainJSON[s[i]] {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20 || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"')
}

// plainJSON are the bytes that stand for themselves in a JSON string.
var plainJSON = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 0x20 && c != '"' && c != '\\' && c != 0x7f
	}
	return t
}()

// AppendText appends the Record as one line in the manner of Envoy's default access log, with a newline: [start] "METHOD path
// protocol" status reason bytes-in bytes-out duration-ms first-byte-ms "source" "user agent" "request id" "authority" "endpoint". "-" stands for
// unknown. Everything that came from outside is quoted, so a line is one Record whatever a caller sends.
func (r *Record) AppendText(dst []byte) []byte {
	dst = append(dst, '[')
	dst = r.Start.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	dst = append(dst, "] "...)
	request := dash(clean(r.Method, maxName)) + " " + dash(clean(withoutQuery(r.Path), maxPath)) + " " + dash(r.Protocol.String())
	dst = strconv.AppendQuote(dst, request)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, dash(r.Reason.String())...)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, r.BytesIn, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, r.BytesOut, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, r.Duration.Milliseconds(), 10)
	dst = append(dst, ' ')
	if r.Legs.FirstByte >= 0 {
		dst = strconv.AppendInt(dst, r.Legs.FirstByte.Milliseconds(), 10)
	} else {
		dst = append(dst, '-')
	}
	endpoint := "-"
	if r.Endpoint.IsValid() {
		endpoint = r.Endpoint.String()
	}
	for _, s := range [...]string{r.Source.Service, r.UserAgent, r.RequestID, withoutUser(r.Authority), endpoint} {
		dst = strconv.AppendQuote(append(dst, ' '), dash(clean(s, maxName)))
	}
	return append(dst, '\n')
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
