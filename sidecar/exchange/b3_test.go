package exchange

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/policy"
)

const (
	b3Long  = "80f198ee56343ba864fe8b2a57d3eff7"
	b3Short = "64fe8b2a57d3eff7"
	b3Span  = "e457b5a2e4d86bd1"
	b3Par   = "05e3ac9a4f6e3b90"
)

func TestB3Single(t *testing.T) {
	for _, c := range []struct {
		in    string
		ok    bool
		out   string // as it goes on, from the same ids
		flags byte
		state B3
	}{
		{b3Long + "-" + b3Span + "-1-" + b3Par, true, b3Long + "-" + b3Span + "-1", 1, 0},
		{b3Long + "-" + b3Span + "-1", true, b3Long + "-" + b3Span + "-1", 1, 0},
		{b3Short + "-" + b3Span + "-0", true, b3Short + "-" + b3Span + "-0", 0, 0},
		{b3Short + "-" + b3Span + "-d", true, b3Short + "-" + b3Span + "-d", 1, B3Debug},
		{b3Long + "-" + b3Span, true, b3Long + "-" + b3Span + "-1", 1, 0},
		{"0", true, "", 0, B3Deny},
		{"1", true, "", 0, 0},
		{"d", true, "", 0, B3Debug},
		{"", false, "", 0, 0},
		{"2", false, "", 0, 0},
		{b3Long, false, "", 0, 0},
		{b3Long + "-" + b3Span + "-", false, "", 0, 0},
		{b3Long + "-" + b3Span + "-2", false, "", 0, 0},
		{b3Long + "-" + b3Span + "-1-", false, "", 0, 0},
		{b3Long + "-" + b3Span + "-1-" + b3Par + "0", false, "", 0, 0},
		{b3Long + "-" + b3Span + "-1-" + b3Par[:15] + "g", false, "", 0, 0},
		{b3Long + "-" + b3Span + "-" + b3Par, false, "", 0, 0},
		{strings.ToUpper(b3Long) + "-" + b3Span, false, "", 0, 0},
		{b3Long[:31] + "-" + b3Span, false, "", 0, 0},
		{strings.Repeat("0", 32) + "-" + b3Span, false, "", 0, 0},
		{strings.Repeat("0", 16) + "-" + b3Span, false, "", 0, 0},
		{b3Long + "-" + strings.Repeat("0", 16), false, "", 0, 0},
	} {
		tr, state, ok := ParseB3(c.in)
		if ok != c.ok || state != c.state || tr.Flags != c.flags {
			t.Errorf("ParseB3(%q) = %+v %d %v", c.in, tr, state, ok)
		}
		if ok && c.out != "" {
			if got := string(AppendB3Single(nil, tr, state)); got != c.out {
				t.Errorf("%q goes on as %q, want %q", c.in, got, c.out)
			}
		}
	}
}

func TestB3Multi(t *testing.T) {
	for _, c := range []struct {
		trace, span, parent, sampled, flags string
		ok                                  bool
		out                                 string
		state                               B3
	}{
		{b3Long, b3Span, b3Par, "1", "", true, "\r\nx-b3-traceid: " + b3Long + "\r\nx-b3-spanid: " + b3Span + "\r\nx-b3-sampled: 1", 0},
		{b3Short, b3Span, "", "", "", true, "\r\nx-b3-traceid: " + b3Short + "\r\nx-b3-spanid: " + b3Span + "\r\nx-b3-sampled: 1", 0},
		{b3Short, b3Span, "", "false", "0", true, "\r\nx-b3-traceid: " + b3Short + "\r\nx-b3-spanid: " + b3Span + "\r\nx-b3-sampled: 0", 0},
		{b3Short, b3Span, "", "true", "", true, "\r\nx-b3-traceid: " + b3Short + "\r\nx-b3-spanid: " + b3Span + "\r\nx-b3-sampled: 1", 0},
		{b3Long, b3Span, "", "0", "1", true, "\r\nx-b3-traceid: " + b3Long + "\r\nx-b3-spanid: " + b3Span + "\r\nx-b3-flags: 1", B3Debug},
		{"", "", "", "0", "", true, "", B3Deny},
		{"", "", "", "1", "", true, "", 0},
		{"", "", "", "", "", false, "", 0},
		{b3Long, "", "", "1", "", false, "", 0},
		{"", b3Span, "", "1", "", false, "", 0},
		{b3Long, b3Span, "x", "1", "", false, "", 0},
		{b3Long, b3Span, "", "yes", "", false, "", 0},
		{b3Long, b3Span, "", "1", "2", false, "", 0},
		{b3Long, b3Span + "0", "", "1", "", false, "", 0},
	} {
		tr, state, ok := ParseB3Multi(c.trace, c.span, c.parent, c.sampled, c.flags)
		if ok != c.ok || state != c.state {
			t.Errorf("%+v: got %+v %d %v", c, tr, state, ok)
		}
		if ok && c.out != "" {
			if got := string(AppendB3Multi(nil, tr, state)); got != c.out {
				t.Errorf("%+v goes on as %q", c, got)
			}
		}
	}
}

func TestPropagation(t *testing.T) {
	for _, c := range []struct {
		t    policy.Telemetry
		want Propagation
	}{
		{policy.Telemetry{}, Propagation{W3C: true, B3: true}},
		{policy.Telemetry{Accept: []string{"w3c"}}, Propagation{W3C: true}},
		{policy.Telemetry{Accept: []string{"b3", "w3c"}}, Propagation{W3C: true, B3: true, B3First: true}},
		{policy.Telemetry{Emit: []string{"w3c"}}, Propagation{W3C: true, B3: true, Fixed: true}},
		{policy.Telemetry{Emit: []string{"w3c", "b3", "b3-multi"}}, Propagation{W3C: true, B3: true, Fixed: true, Emit: B3Single | B3Multi}},
	} {
		if got := NewPropagation(c.t); got != c.want {
			t.Errorf("%+v: got %+v, want %+v", c.t, got, c.want)
		}
	}
}

// FuzzB3: what is accepted goes on, is accepted again, and says the same; nothing panics, nothing allocates.
func FuzzB3(f *testing.F) {
	f.Add(b3Long+"-"+b3Span+"-1-"+b3Par, "", "", "", "")
	f.Add(b3Short, b3Span, b3Par, "1", "0")
	f.Add("0", "", "", "d", "1")
	f.Fuzz(func(t *testing.T, a, b, c, d, e string) {
		if tr, state, ok := ParseB3(a); ok && !tr.TraceID.IsZero() {
			again, st, ok := ParseB3(string(AppendB3Single(nil, tr, state)))
			if !ok || again != tr || st != state {
				t.Errorf("%q: %+v %d became %+v %d %v", a, tr, state, again, st, ok)
			}
		}
		if tr, state, ok := ParseB3Multi(a, b, c, d, e); ok && !tr.TraceID.IsZero() {
			again, st, ok := ParseB3(string(AppendB3Single(nil, tr, state)))
			if !ok || again != tr || st != state {
				t.Errorf("%q %q: %+v %d became %+v %d %v", a, b, tr, state, again, st, ok)
			}
		}
		if tr, ok := ParseTraceparent(a); ok && (tr.TraceID.IsZero() || tr.SpanID.IsZero()) {
			t.Errorf("%q gave a zero id", a)
		}
	})
}
