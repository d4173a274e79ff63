package http1

import (
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// x-tulle-timing is what a sidecar tells the sidecar that called it, over mTLS only, about its own part in an exchange:
//
//	x-tulle-timing: h=12;q=15;s=60;f=480
//
// Whole microseconds from the first byte of the request: head parsed, connection to the application granted, request sent, first byte of the
// response read. s is left out when the response began before the request was sent. The numbers never decrease, and f is at least 1.
// It is the last field of the head, so that it is added and taken off in place: see (*try).spliced.
const (
	timingField = "x-tulle-timing: "
	timingMax   = len(timingField) + len("h=;q=;s=;f=") + 4*timingDigits + len("\r\n")
	// timingDigits bounds each number: 10¹⁰ µs are two hours and three quarters; what takes longer is not told.
	timingDigits = 10
)

// tells reports whether x's caller is to be told.
func tells(x *exchange.Exchange) bool { return x.Side == flow.SideServer && x.Peer.Identity != "" }

// appendTiming appends the whole line for l, or nothing when l cannot be told.
func appendTiming(dst []byte, l *flow.Legs) []byte {
	first := max(l.FirstByte.Microseconds(), 1)
	if l.HeadParsed < 0 || l.Queued < l.HeadParsed || l.FirstByte < l.Queued || l.FirstByte >= 1e10*time.Microsecond {
		return dst
	}
	dst = append(dst, timingField+"h="...)
	dst = strconv.AppendInt(dst, l.HeadParsed.Microseconds(), 10)
	dst = strconv.AppendInt(append(dst, ";q="...), l.Queued.Microseconds(), 10)
	if l.Sent >= l.Queued && l.Sent <= l.FirstByte {
		dst = strconv.AppendInt(append(dst, ";s="...), l.Sent.Microseconds(), 10)
	}
	dst = strconv.AppendInt(append(dst, ";f="...), first, 10)
	return append(dst, "\r\n"...)
}

// parseTiming reads a value that appendTiming wrote; anything else is nothing.
func parseTiming(v []byte) (f flow.Far, ok bool) {
	f.Sent = flow.Unset
	h, v, ok1 := timingNumber(v, 'h')
	q, v, ok2 := timingNumber(v, 'q')
	if !ok1 || !ok2 || q < h {
		return flow.Far{}, false
	}
	from := q
	if s, rest, ok := timingNumber(v, 's'); ok {
		f.Sent, v = s, rest
		from = s
	}
	last, v, ok3 := timingNumber(v, 'f')
	if !ok3 || len(v) > 0 || f.Sent >= 0 && f.Sent < q || last < from || last == 0 {
		return flow.Far{}, false
	}
	f.HeadParsed, f.Queued, f.FirstByte = h, q, last
	return f, true
}

// timingNumber reads "KEY=123" and the semicolon behind it, if there is one.
func timingNumber(v []byte, key byte) (d time.Duration, rest []byte, ok bool) {
	if len(v) < 3 || v[0] != key || v[1] != '=' {
		return 0, v, false
	}
	i, n := 2, int64(0)
	for ; i < len(v) && v[i] >= '0' && v[i] <= '9'; i++ {
		n = n*10 + int64(v[i]-'0')
		if i-1 > timingDigits {
			return 0, v, false
		}
	}
	if i == 2 || i > 3 && v[2] == '0' {
		return 0, v, false
	}
	switch {
	case i == len(v):
	case v[i] == ';' && key != 'f' && i+1 < len(v):
		i++
	default:
		return 0, v, false
	}
	return time.Duration(n) * time.Microsecond, v[i:], true
}

// hear takes x-tulle-timing of a mesh response into x.Far. What is malformed or comes twice counts for nothing.
func (t *try) hear(f *field) {
	if h := &t.w.resp; equalFold(h.bytes(f.name), timingField[:len(timingField)-2]) {
		f.drop = true
		if far, ok := parseTiming(h.bytes(f.value)); ok && !t.told {
			t.x.Far = far
		} else {
			t.x.Far = flow.Far{}
		}
		t.told = true
	}
}

// spliced returns the response's head, without its last field when that is dropped and with x-tulle-timing when the caller is to be told, followed
// by take bytes of body; nil when this cannot be done in place: another field is dropped or changed, or there is no room in front of the head. The
// body stays where it is, the head moves by the difference. The spans of w.resp mean nothing afterwards.
func (t *try) spliced(take int) []byte {
	h, u := &t.w.resp, &t.w.up
	lo := u.r - len(h.buf)
	kept := len(h.buf) - 2 // the final empty line stays
	for i := range h.fields[:h.n] {
		f := &h.fields[i]
		if !f.drop && !f.odd {
			continue
		}
		if !f.drop || i < h.n-1 {
			return nil
		}
		kept = int(f.name.lo)
	}
	var line [timingMax]byte
	add := line[:0]
	if tells(t.x) {
		add = appendTiming(add, &t.x.Legs)
	}
	at := u.r - 2 - len(add) - kept
	if at < 0 {
		return nil
	}
	if at != lo {
		copy(u.b[at:], u.b[lo:lo+kept])
	}
	copy(u.b[at+kept:], add)
	return u.b[at : u.r+take]
}
