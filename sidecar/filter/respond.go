package filter

import (
	"cmp"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// plainText is the type of a body that says none.
const plainText = "text/plain; charset=utf-8"

// respond answers.
func (*Filters) respond(x *exchange.Exchange) bool {
	a := x.Decision.Action
	r := &exchange.Reply{Status: a.Respond.Status, Fields: added(a)}
	if !exchange.Bodiless(r.Status) {
		if r.Body = a.Respond.Body; r.Body != "" || a.Respond.Type != "" {
			r.Type = cmp.Or(a.Respond.Type, plainText)
		}
	}
	reply(x, r)
	return false
}
