package http1

import (
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

var _ exchange.Fields = (*conn)(nil)

// Field implements exchange.Fields.
func (c *conn) Field(name string, i int) (string, bool) { return c.w.req.lookup(name, i) }

// Query implements exchange.Fields.
func (c *conn) Query() string {
	h := &c.w.req
	if h.path.hi >= h.target.hi || h.buf[h.path.hi] != '?' {
		return ""
	}
	return h.str(span{h.path.hi + 1, h.target.hi})
}

// lookup is the value of the i-th field with a name in lower case.
func (h *head) lookup(name string, i int) (string, bool) {
	for k := range h.fields[:h.n] {
		if f := &h.fields[k]; equalFold(h.bytes(f.name), name) {
			if i == 0 {
				return h.str(f.value), true
			}
			i--
		}
	}
	return "", false
}

// retryAfter notes when an endpoint that turns a request away wants to be asked again.
func (h *head) retryAfter(x *exchange.Exchange) {
	if h.status != 503 && h.status != 429 {
		return
	}
	if v, ok := h.lookup("retry-after", 0); ok {
		x.Outcome.RetryAfter = exchange.ParseRetryAfter(v, time.Now())
	}
}

// appendCookie appends the field that sets x.SetCookie, if there is one.
func appendCookie(b []byte, x *exchange.Exchange) []byte {
	if x.SetCookie == "" {
		return b
	}
	return append(append(append(b, "set-cookie: "...), x.SetCookie...), "\r\n"...)
}
