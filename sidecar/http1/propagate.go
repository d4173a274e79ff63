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
	if h.hops {
		c.adoptHops(x)
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

// adoptHops reads what hops before this one tell of time and tries.
func (c *conn) adoptHops(x *exchange.Exchange) {
	h := &c.w.req
	for i := range h.fields[:h.n] {
		switch f := &h.fields[i]; {
		case f.id == fieldTimeout:
			as := exchange.TimedHTTP
			if int(f.name.hi-f.name.lo) == len(exchange.EnvoyTimeoutField) {
				as = exchange.TimedEnvoy
			}
			f.drop = x.Head.TakeTimeout(as, h.str(f.value))
		case f.id == fieldTulle && c.mesh && equalFold(h.bytes(f.name), exchange.AttemptField):
			x.Head.Attempt = exchange.ParseAttempt(h.str(f.value))
		case f.id == fieldTulle && c.mesh && equalFold(h.bytes(f.name), exchange.MirrorField):
			x.Head.Mirror = h.str(f.value) == "1"
		}
	}
}

// adoptB3 reads B3's fields; it reports whether x.Head.Parent is still that of traceparent.
func (c *conn) adoptB3(x *exchange.Exchange, w3c bool) bool {
	h := &c.w.req
	if !x.Binding.Propagation.ReadsB3() {
		return w3c // to this sidecar they are fields like any other
	}
	var b exchange.B3Fields
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.id == fieldB3 && b.Add(h.str(f.name), h.str(f.value)) {
			f.drop = true
		}
	}
	return x.AdoptB3(&b, w3c, c.mesh)
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
