package http1

import "github.com/tulle-mesh/tulle/sidecar/exchange"

// forward makes the fields by which an edge says who called it, and marks what callers said of it that does not go on.
func (c *conn) forward(x *exchange.Exchange) {
	h := &c.w.req
	if x.Binding.Listener.Proxy != nil { // what it is told is not for the origin (RFC 9110, section 11.7.2)
		for i := range h.fields[:h.n] {
			if f := &h.fields[i]; f.id == fieldOther && equalFold(h.bytes(f.name), "proxy-authorization") {
				f.drop = true
			}
		}
	}
	if !x.Forward() {
		return
	}
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
	if !x.Sent.Drops(exchange.ForwardedForField) {
		b = append(append(append(b, exchange.ForwardedForField+": "...), x.Forwarded...), "\r\n"...)
	}
	if !x.Sent.Drops(exchange.ForwardedProtoField) {
		b = append(append(append(b, exchange.ForwardedProtoField+": "...), x.ForwardedProto...), "\r\n"...)
	}
	return b
}
