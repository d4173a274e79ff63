package http1

import "github.com/tulle-mesh/tulle/sidecar/exchange"

// adopt reads the trace context of the request into x.Head, by x.Binding.Propagation, and marks what is not passed on. Between sidecars
// traceparent always counts: their spans are linked by it.
func (c *conn) adopt(x *exchange.Exchange) {
	h := &c.w.req
	w3c := false
	if h.traceparent >= 0 && (x.Binding.Propagation.W3C || c.mesh) {
		x.Head.Parent, w3c = exchange.ParseTraceparent(h.value(h.traceparent))
	}
	x.Head.B3 = x.Binding.Propagation.Emit
	if h.b3 {
		w3c = c.adoptB3(x, w3c)
	}
	if !w3c { // tracestate means nothing without a valid traceparent
		for i := range h.fields[:h.n] {
			if h.fields[i].id == fieldTracestate {
				h.fields[i].drop = true
			}
		}
	}
}

// b3Names are X-B3-TraceId and its siblings in the order of exchange.ParseB3Multi.
var b3Names = [...]string{"x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"}

// adoptB3 reads B3's fields; it reports whether x.Head.Parent is still that of traceparent. A field that comes twice is not valid.
func (c *conn) adoptB3(x *exchange.Exchange, w3c bool) bool {
	h, p := &c.w.req, &x.Binding.Propagation
	if !p.B3 && !p.Fixed {
		return w3c // to this sidecar they are fields like any other
	}
	single, multi := -1, [len(b3Names)]int{-1, -1, -1, -1, -1}
	came, twice := exchange.B3(0), false
	for i := range h.fields[:h.n] {
		f := &h.fields[i]
		if f.id != fieldB3 {
			continue
		}
		name := h.bytes(f.name)
		if len(name) == len("b3") {
			f.drop, twice, single = true, twice || single >= 0, i
			came |= exchange.B3Single
			continue
		}
		for k, n := range b3Names {
			if equalFold(name, n) {
				f.drop, twice, multi[k] = true, twice || multi[k] >= 0, i
				came |= exchange.B3Multi
			}
		}
	}
	if !p.Fixed {
		x.Head.B3 = came
	}
	if twice || !p.B3 {
		return w3c
	}
	t, state, ok := exchange.ParseB3(h.value(single))
	if !ok {
		t, state, ok = exchange.ParseB3Multi(h.value(multi[0]), h.value(multi[1]), h.value(multi[2]), h.value(multi[3]), h.value(multi[4]))
	}
	switch {
	case !ok:
	case w3c && (!p.B3First || c.mesh || t.TraceID.IsZero()):
		x.Head.B3 |= state & exchange.B3Debug
	default:
		x.Head.Parent = t
		x.Head.B3 |= state
		w3c = false
	}
	return w3c
}

// appendB3 appends the fields of B3 that name x.Try, CR LF in front of each.
func appendB3(b []byte, x *exchange.Exchange) []byte {
	if x.Head.B3&exchange.B3Single != 0 {
		b = exchange.AppendB3Single(append(b, "\r\nb3: "...), x.Try, x.Head.B3)
	}
	if x.Head.B3&exchange.B3Multi != 0 {
		b = exchange.AppendB3Multi(b, x.Try, x.Head.B3)
	}
	return b
}
