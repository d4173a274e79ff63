package http1

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// capture keeps the fields of h that the workload's allow-list names, in x.Captured. A field that comes more than once is one list (RFC 9110,
// section 5.3).
func capture(x *exchange.Exchange, h *head, response bool) {
	for _, allowed := range x.Binding.Headers {
		value := x.Scratch[:0]
		came := false
		for i := range h.fields[:h.n] {
			if !equalFold(h.bytes(h.fields[i].name), allowed) {
				continue
			}
			if came {
				value = append(value, ", "...)
			}
			came = true
			v := h.bytes(h.fields[i].value)
			value = append(value, v[:min(len(v), flow.MaxHeaderValue)]...)
		}
		if came {
			x.Captured = flow.AppendHeader(x.Captured, response, allowed, value)
		}
		x.Scratch = value
	}
}
