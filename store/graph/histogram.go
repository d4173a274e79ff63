package graph

import (
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/metric"
)

// hist is an exponential histogram at flow.HistogramScale: bucket i holds seconds in (2^(i/8), 2^((i+1)/8)]. The zero value is empty.
type hist struct {
	count uint64
	sum   float64
	zero  uint64
	off   int32 // index of n[0]
	n     []uint64
}

// maxBuckets bounds what one histogram may cost: durations from 1 ns to 292 years have 505 buckets at scale 3.
const maxBuckets = 640

// read takes the place of h by a data point; ok is false for one that is not ours: negative values, a coarser scale, or absurdly many buckets or far ones. A finer scale
// is merged down exactly (OpenTelemetry metrics data model, "Exponential Scale").
func (h *hist) read(p pmetric.ExponentialHistogramDataPoint) (ok bool) {
	shift := p.Scale() - flow.HistogramScale
	if shift < 0 || shift > 17 || p.Negative().BucketCounts().Len() > 0 || p.Positive().BucketCounts().Len() > maxBuckets<<shift {
		return false
	}
	if o := p.Positive().Offset() >> shift; o < -maxBuckets || o > maxBuckets {
		return false // beyond every duration; buckets far apart would need room for all between
	}
	h.reset()
	h.count, h.sum, h.zero = p.Count(), p.Sum(), p.ZeroCount()
	counts, offset := p.Positive().BucketCounts(), p.Positive().Offset()
	n := counts.Len()
	if n == 0 {
		return true
	}
	h.grow(offset>>shift, (offset+int32(n)-1)>>shift)
	for i := range n {
		h.n[((offset+int32(i))>>shift)-h.off] += counts.At(i)
	}
	return true
}

// reset empties h and keeps its room.
func (h *hist) reset() { *h = hist{n: h.n[:0]} }

// set makes h a copy of o, in its own room.
func (h *hist) set(o *hist) {
	n := append(h.n[:0], o.n...)
	*h = *o
	h.n = n
}

// bucket is the count of bucket i.
func (h *hist) bucket(i int32) uint64 {
	if i < h.off || int(i-h.off) >= len(h.n) {
		return 0
	}
	return h.n[i-h.off]
}

// grow makes room for buckets [lo, hi].
func (h *hist) grow(lo, hi int32) {
	if len(h.n) == 0 {
		h.off = lo
		if size := int(hi - lo + 1); size <= cap(h.n) {
			h.n = h.n[:size]
			clear(h.n)
		} else {
			h.n = make([]uint64, size, max(size, 4))
		}
		return
	}
	end := h.off + int32(len(h.n)) - 1
	if lo >= h.off && hi <= end {
		return
	}
	lo, hi = min(lo, h.off), max(hi, end)
	old, size, shift := len(h.n), int(hi-lo+1), int(h.off-lo)
	if size <= cap(h.n) {
		h.n = h.n[:size]
		copy(h.n[shift:], h.n[:old])
		clear(h.n[:shift])
		clear(h.n[shift+old:])
	} else {
		n := make([]uint64, size)
		copy(n[shift:], h.n)
		h.n = n
	}
	h.off = lo
}

// add merges o into h.
func (h *hist) add(o *hist) {
	h.count += o.count
	h.sum += o.sum
	h.zero += o.zero
	if len(o.n) == 0 {
		return
	}
	h.grow(o.off, o.off+int32(len(o.n))-1)
	for i, c := range o.n {
		h.n[o.off-h.off+int32(i)] += c
	}
}

// difference makes h now − prev of the same cumulative series. ok is false when prev is not an earlier state of now; h is of no use then.
func (h *hist) difference(now, prev *hist) (ok bool) {
	h.reset()
	if now.count < prev.count || now.zero < prev.zero {
		return false
	}
	h.count, h.sum, h.zero = now.count-prev.count, max(0, now.sum-prev.sum), now.zero-prev.zero
	lo, hi := int32(math.MaxInt32), int32(math.MinInt32)
	for i, c := range now.n {
		at := now.off + int32(i)
		if p := prev.bucket(at); c < p {
			return false
		} else if c > p {
			lo, hi = min(lo, at), max(hi, at)
		}
	}
	if lo <= hi {
		h.grow(lo, hi)
		for at := lo; at <= hi; at++ {
			h.n[at-lo] = now.bucket(at) - prev.bucket(at)
		}
	}
	return true
}

// quantile estimates the q-quantile, 0 ≤ q ≤ 1, in seconds; 0 for an empty histogram. It interpolates geometrically inside the bucket that
// holds the rank, so it is never further from the true sample of that rank than one bucket: a factor of 2^(1/8), that is 9.1 %, and half of that for
// samples spread through the bucket.
func (h *hist) quantile(q float64) (v float64) {
	h.quantiles([]float64{q}, &v)
	return v
}

// quantiles is quantile for several, in ascending order, in one pass.
func (h *hist) quantiles(qs []float64, out ...*float64) {
	total := h.zero
	for _, c := range h.n {
		total += c
	}
	next, seen := 0, float64(h.zero)
	for ; next < len(qs); next++ {
		if rank := qs[next] * float64(total); total > 0 && (h.zero == 0 || rank > seen) {
			break
		}
		*out[next] = 0
	}
	for i, c := range h.n {
		if c == 0 {
			continue
		}
		for ; next < len(qs); next++ {
			rank := qs[next] * float64(total)
			if seen+float64(c) < rank {
				break
			}
			*out[next] = math.Exp2((float64(h.off+int32(i)) + (rank-seen)/float64(c)) / (1 << flow.HistogramScale))
		}
		seen += float64(c)
	}
	for ; next < len(qs); next++ {
		*out[next] = math.Exp2(float64(h.off+int32(len(h.n))) / (1 << flow.HistogramScale))
	}
}

// share makes h the part of whole that falls on the k-th of parts with cumulative boundaries from and to (0 ≤ from ≤ to ≤ 1), so that the shares of
// adjoining boundaries add up to whole exactly.
func (h *hist) share(whole *hist, from, to float64) {
	h.reset()
	h.sum, h.zero = whole.sum*(to-from), portion(whole.zero, from, to)
	h.count = h.zero
	for i, c := range whole.n {
		if c = portion(c, from, to); c > 0 {
			at := whole.off + int32(i)
			h.grow(at, at)
			h.n[at-h.off] += c
			h.count += c
		}
	}
}

// portion splits a count without losing any: portions over adjoining boundaries from 0 to 1 add up to v.
func portion(v uint64, from, to float64) uint64 {
	return uint64(math.Round(float64(v)*to)) - uint64(math.Round(float64(v)*from))
}

// native makes f, in its own room, h as a Prometheus native histogram. OpenTelemetry numbers a bucket by its lower bound, Prometheus by its upper, hence the + 1.
func (h *hist) native(f *histogram.FloatHistogram) *histogram.FloatHistogram {
	return metric.Native(f, h.off, h.n, h.zero, h.count, h.sum)
}

// fromNative is the inverse of native, for a difference of two cumulative histograms; buckets below zero (a reset in between) count as empty.
func fromNative(f *histogram.FloatHistogram) hist {
	h := hist{sum: f.Sum, zero: uint64(max(0, math.Round(f.ZeroCount)))}
	h.count = h.zero
	if f.Schema != flow.HistogramScale {
		return h
	}
	it := f.PositiveBucketIterator()
	for it.Next() {
		b := it.At()
		if c := math.Round(b.Count); c > 0 {
			at := b.Index - 1
			h.grow(at, at)
			h.n[at-h.off] += uint64(c)
			h.count += uint64(c)
		}
	}
	return h
}
