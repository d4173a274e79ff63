package source

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/why"
)

const (
	// whyBefore is how long before a request what happened to endpoints may matter for it: ejections end sooner.
	whyBefore = time.Hour
	// whyRecent is how old the live graph may be to stand for the time of a request.
	whyRecent = 15 * time.Second
	// whyEvents bounds how many events are looked at.
	whyEvents = 10_000
)

// Why explains what became of the request that span is of, the zero span: of the whole trace; with what was known of endpoints at that time. ok is
// false when no sidecar has a Record in td.
func (s *Sources) Why(ctx context.Context, td ptrace.Traces, span flow.SpanID) (e why.Explanation, ok bool) {
	in := why.Input{Trace: td, Span: span}
	if e, ok = why.Explain(in); !ok { // first without what was known then, for its time
		return e, false
	}
	end := e.Start.Add(e.Duration)
	if s.Events != nil {
		// Without events the rest still holds: their store may be damaged when it is needed most.
		in.Events, _, _ = s.Events.Query(ctx, event.Query{Start: e.Start.Add(-whyBefore), End: end.Add(time.Second), Limit: whyEvents})
	}
	if live := s.Graph.Live(); live != nil && s.Clock().Sub(end) < whyRecent {
		in.Graph = live
	} else if past, err := s.Graph.At(ctx, end); err == nil {
		in.Graph = past
	}
	return why.Explain(in)
}
