//go:build linux

package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets less than 2 % wide: 64 per power of two. The zero value is empty.
type histogram struct {
	counts [60 * 64]uint32
	n      uint64
}

func (h *histogram) add(ns int64) {
	h.counts[bucket(max(ns, 0))]++
	h.n++
}

// bucket: up to 63 exactly, then the 6 bits below the highest one.
func bucket(ns int64) int {
	v := uint64(ns)
	if v < 64 {
		return int(v)
	}
	shift := bits.Len64(v) - 7
	return (shift+1)*64 + int(v>>shift)&63
}

// lowest is the smallest value of a bucket.
func lowest(b int) int64 {
	if b < 64 {
		return int64(b)
	}
	return int64(64+b%64) << (b/64 - 1)
}

// quantile is 0 for an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := uint64(q * float64(h.n))
	for b, c := range h.counts {
		if uint64(c) > rank {
			return time.Duration(lowest(b)+lowest(b+1)) / 2
		}
		rank -= uint64(c)
	}
	return 0
}
