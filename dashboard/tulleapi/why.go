package tulleapi

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
)

// lookedAt bounds how many spans are looked at for an id that no store finds by itself.
const lookedAt = 500_000

// why explains what became of a request: by trace id (and ?span=), span id, or x-request-id.
func (a *api) why(r *http.Request) (any, error) {
	ctx, id := r.Context(), r.PathValue("id")
	trace, span, err := a.named(ctx, id, r.URL.Query().Get("span"))
	if err != nil {
		return nil, err
	}
	td, err := a.Spans.Trace(ctx, trace)
	if err != nil {
		return nil, err
	}
	e, ok := a.Sources.Why(ctx, td, span)
	if !ok {
		return nil, fmt.Errorf("trace %s: %w: it has no Record of a sidecar%s", trace, store.ErrNotFound, of(span))
	}
	return e, nil
}

func of(span flow.SpanID) string {
	if span.IsZero() {
		return ""
	}
	return " with span " + span.String()
}

// named finds the trace that is meant by an id, and which of its spans.
func (a *api) named(ctx context.Context, id, within string) (trace flow.TraceID, span flow.SpanID, err error) {
	if within != "" {
		b, err := hex.DecodeString(within)
		if err != nil || len(b) != len(span) {
			return trace, span, bad("span", within, "16 hex digits")
		}
		span = flow.SpanID(b)
	}
	b, err := hex.DecodeString(id)
	isHex := err == nil
	if isHex && len(b) == len(trace) {
		return flow.TraceID(b), span, nil
	}
	expr, q, budget := match.Expr{}, store.TraceQuery{}, lookedAt
	switch {
	case isHex && len(b) == len(span):
		if expr, err = match.Parse("span=" + flow.SpanID(b).String()); err != nil {
			return trace, span, err
		}
	case len(id) > 256:
		return trace, span, bad("id", id[:32]+"…", "a trace id, a span id or an x-request-id")
	default:
		q.Attributes = []store.AttributeMatch{{Key: flow.AttrRequestID, Value: id, Op: "="}}
		budget = 100
	}
	found := false
	res, err := match.Search(ctx, a.Spans, q, expr, budget, func(s *store.Span) bool {
		// Of a request id the oldest span, which is that of the first hop; it comes last.
		trace, span, found = s.TraceID, s.SpanID, true
		return !isHex
	})
	switch {
	case err != nil:
		return trace, span, err
	case !found && res.Partial:
		return trace, span, fmt.Errorf("span %s: %w among the newest %d spans; say which trace it is of", id, store.ErrNotFound, res.Looked)
	case !found:
		return trace, span, fmt.Errorf("%s: %w: no stored span has it as trace id, span id or x-request-id", id, store.ErrNotFound)
	}
	return trace, span, nil
}
