package telemetry

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// leBounds are the finite bounds of a histogram on /metrics; one bucket more has none (+Inf).
const leBounds = maxExponent - minExponent + 1

// leIndex is the bucket on /metrics that d is in: bucket k has the bound 2^(k+minExponent) seconds.
func leIndex(d time.Duration) int {
	if d <= 0 {
		return 0
	}
	return min(max(int(flow.BucketIndex(d)+1<<flow.HistogramScale)>>flow.HistogramScale-minExponent, 0), leBounds)
}

// buckets are exemplars by bucket: of each the slowest of a second, kept until one of a later second comes. The whole of a second's work per
// observation is a comparison.
type buckets [leBounds + 1]kept

type kept struct {
	at    int64 // end of the observation, unix ns; 0: none yet
	value time.Duration
	trace flow.TraceID
	span  flow.SpanID
}

// exemplarAge is how long an exemplar stands against faster ones.
const exemplarAge = int64(time.Second)

func (b *buckets) offer(x *flow.Exemplar) {
	k := &b[leIndex(x.Value)]
	at := x.Time.UnixNano()
	if k.at != 0 && x.Value <= k.value && at-k.at < exemplarAge || x.Trace.IsZero() {
		return
	}
	*k = kept{at, x.Value, x.Trace, x.Span}
}

func (b *buckets) all() []flow.Exemplar {
	var out []flow.Exemplar
	for i := range b {
		if k := &b[i]; k.at != 0 {
			out = append(out, flow.Exemplar{Time: time.Unix(0, k.at), Value: k.value, Trace: k.trace, Span: k.span})
		}
	}
	return out
}
