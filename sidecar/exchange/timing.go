package exchange

import (
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// TimingField is what a sidecar tells the sidecar that called it, over mTLS only, about its own part in an exchange:
//
//	x-tulle-timing: h=12;q=15;s=60;f=480
//
// Whole microseconds from the first byte of the request: head parsed, connection to the application granted, request sent, first byte of the
// response read. s is left out when the response began before the request was sent. The numbers never decrease, and f is at least 1.
// It is the last field of the head, so that HTTP/1.1 adds it and takes it off in place.
const (
	TimingField = "x-tulle-timing"
	// TimingMax is the length of the longest value.
	TimingMax = len("h=;q=;s=;f=") + 4*timingDigits
	// timingDigits bounds each number: 10¹⁰ µs are two hours and three quarters; what takes longer is not told.
	timingDigits = 10
)

// Tells reports whether x's caller is to be told.
func (x *Exchange) Tells() bool { return x.Peer != nil && x.Peer.Identity != "" }

// AppendTiming appends the value for l, or nothing when l cannot be told.
func AppendTiming(dst []byte, l *flow.Legs) []byte {
	first := max(l.FirstByte.Microseconds(), 1)
	if l.HeadParsed < 0 || l.Queued < l.HeadParsed || l.FirstByte < l.Queued || l.FirstByte >= 1e10*time.Microsecond {
		return dst
	}
	dst = append(dst, "h="...)
	dst = strconv.AppendInt(dst, l.HeadParsed.Microseconds(), 10)
	dst = strconv.AppendInt(append(dst, ";q="...), l.Queued.Microseconds(), 10)
	if l.Sent >= l.Queued && l.Sent <= l.FirstByte {
		dst = strconv.AppendInt(append(dst, ";s="...), l.Sent.Microseconds(), 10)
	}
	return strconv.AppendInt(append(dst, ";f="...), first, 10)
}

// ParseTiming reads a value that AppendTiming wrote; anything else is nothing.
func ParseTiming(v []byte) (f flow.Far, ok bool) {
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
