package exchange

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// B3 is what is known of Zipkin's trace context (https://github.com/openzipkin/b3-propagation) of a request: the forms in which it goes
// on, and what flow.Trace has no place for. The zero value: none.
type B3 uint8

const (
	B3Single B3 = 1 << iota // one field, b3
	B3Multi                 // X-B3-TraceId and its siblings
	B3Debug                 // "d", or X-B3-Flags: 1: sampled whatever anybody thinks
	B3Deny                  // a decision not to sample, without ids
)

// Forms are the fields to write.
func (b B3) Forms() B3 { return b & (B3Single | B3Multi) }

// Propagation is policy.Telemetry's part on trace context, made for reading at every request.
type Propagation struct {
	W3C, B3 bool // accepted
	B3First bool // B3 wins over a valid traceparent
	Fixed   bool // Emit is written, whatever came; else B3 goes on as it came
	Emit    B3   // forms
}

// NewPropagation reads t, which was checked.
func NewPropagation(t policy.Telemetry) Propagation {
	p := Propagation{W3C: true, B3: true, Fixed: len(t.Emit) > 0}
	if len(t.Accept) > 0 {
		p.W3C, p.B3 = slices.Contains(t.Accept, policy.PropagateW3C), slices.Contains(t.Accept, policy.PropagateB3)
		p.B3First = t.Accept[0] == policy.PropagateB3
	}
	for _, e := range t.Emit {
		switch e {
		case policy.PropagateB3:
			p.Emit |= B3Single
		case policy.PropagateB3Multi:
			p.Emit |= B3Multi
		}
	}
	return p
}

// ParseB3 reads the single field: {trace}-{span}[-{state}[-{parent}]], or a state alone. Ids are lower-case hex and not zero, a trace id has 16 or 32
// digits, a state is 0, 1 or d. SpanID of t is the arriving span's; t is zero when there are no ids. An absent state counts as sampled: the
// decision is left to whoever receives.
func ParseB3(s string) (t flow.Trace, b B3, ok bool) {
	if len(s) == 1 {
		return parseState(t, s)
	}
	digits := 16
	if len(s) > 16 && s[16] != '-' {
		digits = 32
	}
	if len(s) < digits+17 || s[digits] != '-' || !b3Trace(&t, s[:digits]) || !unhex(t.SpanID[:], s[digits+1:digits+17]) || t.SpanID.IsZero() {
		return flow.Trace{}, 0, false
	}
	t.Flags = 1
	if s = s[digits+17:]; s == "" {
		return t, 0, true
	}
	var parent flow.SpanID
	if s[0] != '-' || len(s) != 2 && (len(s) != 19 || s[2] != '-' || !unhex(parent[:], s[3:])) {
		return flow.Trace{}, 0, false
	}
	return parseState(t, s[1:2])
}

// ParseB3Multi reads the values of X-B3-TraceId, X-B3-SpanId, X-B3-ParentSpanId, X-B3-Sampled and X-B3-Flags, "" where absent, by the rules of ParseB3.
// Sampled may also be true or false, as old tracers write it.
func ParseB3Multi(trace, span, parent, sampled, flags string) (t flow.Trace, b B3, ok bool) {
	if trace != "" || span != "" {
		if !b3Trace(&t, trace) || len(span) != 16 || !unhex(t.SpanID[:], span) || t.SpanID.IsZero() {
			return flow.Trace{}, 0, false
		}
		t.Flags = 1
	}
	var ignored flow.SpanID
	if parent != "" && (len(parent) != 16 || !unhex(ignored[:], parent)) {
		return flow.Trace{}, 0, false
	}
	switch flags {
	case "1":
		return parseState(t, "d")
	case "", "0":
	default:
		return flow.Trace{}, 0, false
	}
	switch sampled {
	case "":
		return t, 0, !t.TraceID.IsZero()
	case "true":
		sampled = "1"
	case "false":
		sampled = "0"
	}
	return parseState(t, sampled)
}

func parseState(t flow.Trace, s string) (flow.Trace, B3, bool) {
	switch s {
	case "0":
		t.Flags = 0
		if t.TraceID.IsZero() {
			return t, B3Deny, true
		}
		return t, 0, true
	case "1", "d":
		if !t.TraceID.IsZero() {
			t.Flags = 1
		}
		if s == "d" {
			return t, B3Debug, true
		}
		return t, 0, true
	}
	return flow.Trace{}, 0, false
}

// b3Trace reads a trace id of 16 or 32 digits; a short one is the lower half.
func b3Trace(t *flow.Trace, s string) bool {
	switch len(s) {
	case 16:
		return unhex(t.TraceID[8:], s) && !t.TraceID.IsZero()
	case 32:
		return unhex(t.TraceID[:], s) && !t.TraceID.IsZero()
	}
	return false
}

// AppendB3Single appends the value of the field b3 that names t.SpanID, child of t.ParentID.
func AppendB3Single(dst []byte, t flow.Trace, b B3) []byte {
	dst = append(appendB3Trace(dst, t), '-')
	dst = append(appendHex(dst, t.SpanID[:]), '-', b3State(t, b))
	if !t.ParentID.IsZero() {
		dst = appendHex(append(dst, '-'), t.ParentID[:])
	}
	return dst
}

// AppendB3Multi appends whole lines, CR LF in front of each.
func AppendB3Multi(dst []byte, t flow.Trace, b B3) []byte {
	dst = appendB3Trace(append(dst, "\r\nx-b3-traceid: "...), t)
	dst = appendHex(append(dst, "\r\nx-b3-spanid: "...), t.SpanID[:])
	if !t.ParentID.IsZero() {
		dst = appendHex(append(dst, "\r\nx-b3-parentspanid: "...), t.ParentID[:])
	}
	if b&B3Debug != 0 {
		return append(dst, "\r\nx-b3-flags: 1"...)
	}
	return append(append(dst, "\r\nx-b3-sampled: "...), b3State(t, b))
}

// appendB3Trace keeps a trace id of 64 bits as short as it came.
func appendB3Trace(dst []byte, t flow.Trace) []byte {
	if [8]byte(t.TraceID[:8]) == [8]byte{} {
		return appendHex(dst, t.TraceID[8:])
	}
	return appendHex(dst, t.TraceID[:])
}

func b3State(t flow.Trace, b B3) byte {
	switch {
	case b&B3Debug != 0:
		return 'd'
	case t.Flags&1 != 0:
		return '1'
	}
	return '0'
}

// ReadsB3 reports whether B3's fields mean anything by p; if not, they are fields like any other.
func (p *Propagation) ReadsB3() bool { return p.B3 || p.Fixed }

// B3Fields are the fields of B3 that came with a request. The zero value: none.
type B3Fields struct {
	single string
	multi  [len(b3Names)]string
	came   B3
	seen   uint8 // a bit for each name
	twice  bool  // one came twice: none is valid
}

// b3Names are X-B3-TraceId and its siblings in the order of ParseB3Multi.
var b3Names = [...]string{"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"}

// Add takes one field, in any case; false: it is none of B3. It keeps value for as long as b is used.
func (b *B3Fields) Add(name, value string) bool {
	if len(name) == len("b3") && strings.EqualFold(name, "b3") {
		b.twice, b.single = b.twice || b.came&B3Single != 0, value
		b.came |= B3Single
		return true
	}
	for k, n := range b3Names {
		if len(name) == len(n) && strings.EqualFold(name, n) {
			b.twice, b.multi[k] = b.twice || b.seen&(1<<k) != 0, value
			b.seen |= 1 << k
			b.came |= B3Multi
			return true
		}
	}
	return false
}

// AdoptB3 takes b into x.Head, by x.Binding.Propagation. w3c says that x.Head.Parent is that of a valid traceparent; AdoptB3 reports whether it still
// is. Between sidecars (mesh) traceparent always wins: their spans are linked by it.
func (x *Exchange) AdoptB3(b *B3Fields, w3c, mesh bool) bool {
	p := &x.Binding.Propagation
	if !p.Fixed {
		x.Head.B3 = b.came
	}
	if b.twice || !p.B3 {
		return w3c
	}
	t, state, ok := ParseB3(b.single)
	if !ok {
		t, state, ok = ParseB3Multi(b.multi[0], b.multi[1], b.multi[2], b.multi[3], b.multi[4])
	}
	switch {
	case !ok:
	case w3c && (!p.B3First || mesh || t.TraceID.IsZero()):
		x.Head.B3 |= state & B3Debug
	default:
		x.Head.Parent = t
		x.Head.B3 |= state
		w3c = false
	}
	return w3c
}

// EachB3 calls yield with the fields of B3 that name x.Try, as x.Head.B3 says; names are in lower case.
func (x *Exchange) EachB3(yield func(name, value string)) {
	b, t := x.Head.B3, x.Try
	if b&B3Single != 0 {
		yield("b3", string(AppendB3Single(nil, t, b)))
	}
	if b&B3Multi == 0 {
		return
	}
	yield(b3Names[0], string(appendB3Trace(nil, t)))
	yield(b3Names[1], t.SpanID.String())
	if !t.ParentID.IsZero() {
		yield(b3Names[2], t.ParentID.String())
	}
	if b&B3Debug != 0 {
		yield(b3Names[4], "1")
	} else {
		yield(b3Names[3], string(b3State(t, b)))
	}
}
