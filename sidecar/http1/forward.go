package http1

import "github.com/tulle-mesh/tulle/sidecar/exchange"

// forward makes the fields by which an edge says who called it, and marks what callers said of it that does not go on.
func (c *conn) forward(x *exchange.Exchange) {
	if !x.Forward() {
		return
	}
	h := &c.w.req
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.id == fieldOther && x.Forwards(h.str(f.name), h.str(f.value)) {
			f.drop = true
		}
	}
	x.Forwarding()
}

// appendForwarded appends them.
func appendForwarded(b []byte, x *exchange.Exchange) []byte {
	if len(x.Forwarded) == 0 {
		return b
	}
	b = append(append(b, exchange.ForwardedForField+": "...), x.Forwarded...)
	b = append(append(b, "\r\n"+exchange.ForwardedProtoField+": "...), x.ForwardedProto...)
	return append(b, "\r\n"...)
}
