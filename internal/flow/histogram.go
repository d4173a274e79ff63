package flow

import (
	"math/big"
	"math/bits"
	"time"
)

// Histogram is an exponential histogram of durations at HistogramScale, in the shape OTLP and Prometheus' native histograms share: bucket i
// holds seconds in (2^(i/8), 2^((i+1)/8)]. The zero value is empty and ready. Not safe for concurrent use.
//
// Indexing is exact integer arithmetic on nanoseconds: a duration is an integer, so d ≤ 2^((i+1)/8) s holds exactly when d is at most the
// bound's whole nanoseconds. Two sidecars, and a sidecar and its reader, can never disagree about a bucket.
type Histogram struct {
	Count   uint64
	Sum     time.Duration // of all observations
	Zero    uint64        // observations ≤ 0
	Offset  int32         // index of Buckets[0]
	Buckets []uint64      // at most NumBuckets
}

// Bucket indexes that a positive time.Duration can have: 1 ns is in minBucket, the longest Duration (292 years) in maxBucket.
const (
	minBucket  = -240
	maxBucket  = 264
	NumBuckets = maxBucket - minBucket + 1
)

// bounds[i-minBucket] is the largest whole number of nanoseconds in bucket i. starts[k], k being a duration's highest bit and the four
// below it, is the first bucket that such a duration can be in; the right one is at most two further on.
var bounds, starts = func() (b [NumBuckets]uint64, s [63 * 16]uint16) {
	const precision = 256
	second := new(big.Float).SetPrec(precision).SetInt64(int64(time.Second))
	root := new(big.Float).SetPrec(precision).SetInt64(2) // becomes 2^(1/8)
	for range HistogramScale {
		root.Sqrt(root)
	}
	step := new(big.Float).SetPrec(precision).Copy(second) // second × 2^(k/8)
	for k := range 1 << HistogramScale {
		for i := minBucket; i <= maxBucket; i++ {
			exp := i + 1
			if mod(exp) != k {
				continue
			}
			v := new(big.Float).SetPrec(precision).SetMantExp(step, (exp-k)>>HistogramScale)
			whole, _ := v.Int(nil)
			if whole.IsUint64() {
				b[i-minBucket] = whole.Uint64()
			} else {
				b[i-minBucket] = 1<<64 - 1
			}
		}
		step.Mul(step, root)
	}
	at := 0
	for k := range s {
		lowest := lowestWith(k)
		for b[at] < lowest {
			at++
		}
		s[k] = uint16(at)
	}
	return b, s
}()

func mod(i int) int { return i & (1<<HistogramScale - 1) }

// keyOf is the position of the highest bit of d > 0, times 16, plus the four bits below it.
func keyOf(d uint64) int {
	top := bits.Len64(d) - 1
	if top >= 4 {
		return top<<4 | int(d>>(top-4)&15)
	}
	return top<<4 | int(d<<(4-top)&15)
}

// lowestWith is the smallest number whose keyOf is k, or the number itself rounded down where there is none.
func lowestWith(k int) uint64 {
	top, frac := k>>4, uint64(k&15)
	if top >= 4 {
		return 1<<top | frac<<(top-4)
	}
	return 1<<top | frac>>(4-top)
}

// BucketIndex is the index of the bucket that d > 0 is in.
func BucketIndex(d time.Duration) int32 {
	i := int(starts[keyOf(uint64(d))])
	for bounds[i] < uint64(d) {
		i++
	}
	return int32(i + minBucket)
}

// BucketBound is the upper bound of bucket i in seconds, 2^((i+1)/8), as whole nanoseconds rounded down; inclusive. i outside what a
// Duration can have is clamped.
func BucketBound(i int32) time.Duration {
	i = max(minBucket, min(maxBucket, i))
	return time.Duration(min(bounds[i-minBucket], 1<<63-1))
}

// Observe adds one duration.
func (h *Histogram) Observe(d time.Duration) {
	h.Count++
	if d <= 0 {
		h.Zero++
		return
	}
	h.Sum += d
	i := BucketIndex(d)
	switch n := int32(len(h.Buckets)); {
	case n == 0:
		h.Offset = i
		h.Buckets = append(h.Buckets, 0)
	case i < h.Offset:
		grown := make([]uint64, int(h.Offset-i)+int(n), max(int(h.Offset-i)+int(n), cap(h.Buckets)))
		copy(grown[h.Offset-i:], h.Buckets)
		h.Offset, h.Buckets = i, grown
	case i >= h.Offset+n:
		h.Buckets = append(h.Buckets, make([]uint64, i-h.Offset-n+1)...)
	}
	h.Buckets[i-h.Offset]++
}

// Merge adds what o has observed.
func (h *Histogram) Merge(o *Histogram) {
	h.Count += o.Count
	h.Sum += o.Sum
	h.Zero += o.Zero
	if len(o.Buckets) == 0 {
		return
	}
	if len(h.Buckets) == 0 {
		h.Offset, h.Buckets = o.Offset, append([]uint64(nil), o.Buckets...)
		return
	}
	from, to := min(h.Offset, o.Offset), max(h.Offset+int32(len(h.Buckets)), o.Offset+int32(len(o.Buckets)))
	if from != h.Offset || int(to-from) != len(h.Buckets) {
		grown := make([]uint64, to-from)
		copy(grown[h.Offset-from:], h.Buckets)
		h.Offset, h.Buckets = from, grown
	}
	for i, n := range o.Buckets {
		h.Buckets[o.Offset-h.Offset+int32(i)] += n
	}
}

// AtMost counts the observations ≤ BucketBound(i): exact, because i is a bucket's own bound.
func (h *Histogram) AtMost(i int32) uint64 {
	n := h.Zero
	for k, c := range h.Buckets {
		if h.Offset+int32(k) > i {
			break
		}
		n += c
	}
	return n
}

// Clone is a copy that shares nothing.
func (h *Histogram) Clone() Histogram {
	c := *h
	c.Buckets = append([]uint64(nil), h.Buckets...)
	return c
}
