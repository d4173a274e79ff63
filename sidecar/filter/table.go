// Package filter does what rules ask for with a request besides sending it somewhere: answer it, turn it away, change it. Each filter is one file and a line of a table below;
// docs/reference/filters.md says what each does.
//
// A filter is asked once for each exchange, before the first try: tries send the same. It leaves what it wants in the Exchange (Sent, Passed, Path, Authority, Answer, Reply),
// where senders and speakers find it, so that it works alike in every version of HTTP and across bridges.
//
// What must stay true: an exchange whose rule asks for nothing costs one look at a pointer, and no allocation.
package filter

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// filter is one of the things that a rule can ask for.
type filter struct {
	name string
	// asked reports whether the rule that matched asks for it.
	asked func(d *route.Decision) bool
	// do does it, and reports whether the exchange goes on. If not, x is answered, or its Outcome says why it failed.
	do func(f *Filters, x *exchange.Exchange) bool
}

// admission is what stands before the question whether there is a service, in order.
var admission = []filter{
	{"cors", func(d *route.Decision) bool { return d.Action.CORS != nil }, (*Filters).cors},
	{"limits", func(d *route.Decision) bool { return len(d.Action.Limits) > 0 }, (*Filters).limits},
	{"redirect", func(d *route.Decision) bool { return d.Action.Redirect != nil }, (*Filters).redirect},
	{"respond", func(d *route.Decision) bool { return d.Action.Respond != nil }, (*Filters).respond},
}

// shaping is what stands before the first try, in order. Its deadline is set.
var shaping = []filter{
	{"faults", func(d *route.Decision) bool { return len(d.Action.Faults) > 0 }, (*Filters).faults},
	{"headers", edited, (*Filters).headers},
	{"rewrite", func(d *route.Decision) bool { return d.Action.Rewrite != route.Rewrite{} }, (*Filters).rewrite},
	{"mirrors", func(d *route.Decision) bool { return len(d.Action.Mirrors) > 0 }, (*Filters).mirrors}, // copies what the others have made of it
}

// Filters is the steps of one sidecar. Safe for concurrent use.
type Filters struct {
	errand      exchange.Handler // of exchanges that filters make
	expressions expressions
	buckets     buckets
	copies      errands
}

// New makes the filters of a sidecar. errand carries exchanges that filters make: their Destination, Decision and Downstream (an exchange.Errand) are set. Close must be called when
// no exchange is under way any more.
func New(errand exchange.Handler) *Filters { return &Filters{errand: errand, buckets: newBuckets()} }

// Close ends the exchanges that filters have made, and waits for that.
func (f *Filters) Close() { f.copies.close() }

// Admit is the step of what is answered, or turned away, before anything else is asked.
func (f *Filters) Admit(next exchange.Handler) exchange.Handler { return f.step(admission, next) }

// Shape is the step of what is changed on the way.
func (f *Filters) Shape(next exchange.Handler) exchange.Handler { return f.step(shaping, next) }

func (f *Filters) step(table []filter, next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Decision.Action != nil && x.Kind == flow.KindExchange && !f.each(table, x) {
			return
		}
		next.Handle(x)
		if x.After != nil {
			x.After(x)
			x.After = nil
		}
	})
}

// each asks the filters of a table. False: x has ended.
func (f *Filters) each(table []filter, x *exchange.Exchange) bool {
	for i := range table {
		if table[i].asked(&x.Decision) && !table[i].do(f, x) {
			return false
		}
	}
	return true
}

// reply answers x in the service's place.
func reply(x *exchange.Exchange, r *exchange.Reply) {
	x.Reply = r
	x.Outcome.Status = r.Status
	if x.Outcome.Answered = x.Downstream.Answer(x); !x.Outcome.Answered && x.Outcome.Reason == flow.ReasonNone {
		x.Outcome.Fail(flow.ReasonDownstreamReset, "the caller left before its answer")
	}
}
