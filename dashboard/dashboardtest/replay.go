package dashboardtest

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/tap"
)

// kept has another name than Spans, which is a method of it.
type kept interface{ store.Spans }

// forgetful keeps nothing that is written.
type forgetful struct{ kept }

func (forgetful) Write(context.Context, ptrace.Traces) error { return nil }

// Replay shows the traces of a store again, in turn and as if they were of now, one at each tick, until ctx is done. They are not stored again.
func Replay(ctx context.Context, spans *Spans, ticks <-chan time.Time) *tap.Spans {
	t := tap.New(forgetful{spans})
	page, err := spans.Summaries(ctx, store.TraceQuery{Limit: 500})
	if err != nil || len(page.Traces) == 0 {
		return t
	}
	go func() {
		for i := 0; ; i++ {
			var now time.Time
			select {
			case now = <-ticks:
			case <-ctx.Done():
				return
			}
			again := page.Traces[i%len(page.Traces)]
			td, err := spans.Trace(ctx, again.TraceID)
			if err != nil {
				continue
			}
			shift := pcommon.Timestamp(now.Sub(again.Start))
			for _, rs := range td.ResourceSpans().All() {
				for _, ss := range rs.ScopeSpans().All() {
					for _, s := range ss.Spans().All() {
						s.SetStartTimestamp(s.StartTimestamp() + shift)
						s.SetEndTimestamp(s.EndTimestamp() + shift)
					}
				}
			}
			_ = t.Write(ctx, td) // it keeps nothing, so nothing can fail
		}
	}()
	return t
}
