package metric

import (
	"math"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Native makes f, whose memory it uses, the native histogram of an exponential one at flow.HistogramScale: counts of buckets from the first on, of which bucket i holds seconds in
// (2^(i/8), 2^((i+1)/8)]. OpenTelemetry numbers a bucket by its lower bound, Prometheus by its upper, hence the + 1.
func Native(f *histogram.FloatHistogram, first int32, buckets []uint64, zero, count uint64, sum float64) *histogram.FloatHistogram {
	*f = histogram.FloatHistogram{
		Schema: flow.HistogramScale, ZeroThreshold: 1e-9, ZeroCount: float64(zero), Count: float64(count), Sum: sum,
		PositiveSpans: f.PositiveSpans[:0], PositiveBuckets: f.PositiveBuckets[:0],
	}
	next := int32(math.MinInt32)
	for i, c := range buckets {
		if c == 0 {
			continue
		}
		at := first + int32(i) + 1
		if at == next {
			f.PositiveSpans[len(f.PositiveSpans)-1].Length++
		} else {
			gap := at
			if len(f.PositiveSpans) > 0 {
				gap = at - next
			}
			f.PositiveSpans = append(f.PositiveSpans, histogram.Span{Offset: gap, Length: 1})
		}
		f.PositiveBuckets = append(f.PositiveBuckets, float64(c))
		next = at + 1
	}
	return f
}
