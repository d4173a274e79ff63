package filter

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// edited reports whether the rule, or the backend that was chosen, edits header fields.
func edited(d *route.Decision) bool {
	a, b := d.Action, d.Backend
	return !a.Request.IsZero() || !a.Response.IsZero() || b != nil && (!b.Request.IsZero() || !b.Response.IsZero())
}

// headers edits the fields of what goes on, and of the service's answer: the rule's edits, then the backend's.
func (*Filters) headers(x *exchange.Exchange) bool {
	a := x.Decision.Action
	x.Sent.Apply(&a.Request)
	x.Passed.Apply(&a.Response)
	if b := x.Decision.Backend; b != nil {
		x.Sent.Apply(&b.Request)
		x.Passed.Apply(&b.Response)
	}
	return true
}

// added are the fields that an answer of the rule's own has: what the edits of its responses add to nothing.
func added(a *route.Action, first ...route.Field) []route.Field {
	if a.Response.IsZero() {
		return first
	}
	e := exchange.Edits{Append: first}
	e.Apply(&a.Response)
	return slices.DeleteFunc(e.Append, func(f route.Field) bool { return f.Name == "content-type" }) // it has one of its body
}
