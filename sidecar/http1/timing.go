package http1

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	timingField = exchange.TimingField + ": "
	timingMax   = len(timingField) + exchange.TimingMax + len("\r\n")
)

// appendTiming appends the whole line for l, or nothing when l cannot be told.
func appendTiming(dst []byte, l *flow.Legs) []byte {
	n := len(dst)
	dst = append(dst, timingField...)
	m := len(dst)
	if dst = exchange.AppendTiming(dst, l); len(dst) == m {
		return dst[:n]
	}
	return append(dst, "\r\n"...)
}

// hear takes x-tulle-timing of a mesh response into x.Far. What is malformed or comes twice counts for nothing.
func (t *try) hear(f *field) {
	if h := &t.w.resp; equalFold(h.bytes(f.name), exchange.TimingField) {
		f.drop = true
		if far, ok := exchange.ParseTiming(h.bytes(f.value)); ok && !t.told {
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
	if t.x.Tells() {
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
