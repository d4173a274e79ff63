package metric

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// What is written by Refs and into room that is used again reads as what is written by names, through growing and changing buckets, series that pause, a
// budget that folds, and a clock that is set back.
func TestWritingAgainIsWriting(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		cfg := Config{}
		if seed%3 == 2 {
			cfg.ActiveSeriesBudget = 6
		}
		again, plain := open(t, t.TempDir(), cfg), open(t, t.TempDir(), cfg)
		wa, wp := again.NewWriter(), plain.NewWriter()
		const n = 6
		var (
			counts  [n]float64
			buckets [n][]float64
			refs    [2 * n]Ref
		)
		at := t0
		order := []int64{0}
		for range 150 {
			switch at = at.Add(5 * time.Second); rnd.IntN(20) {
			case 0:
				at = at.Add(-37013 * time.Millisecond)
			case 1:
				at = at.Add(90 * time.Second)
			}
			order = append(order, at.UnixMilli())
			var paused [n]bool
			for i := range n {
				paused[i] = rnd.IntN(15) == 0
				counts[i] += float64(rnd.IntN(3))
				if rnd.IntN(8) == 0 {
					buckets[i] = append(buckets[i], 0)
				}
				for k := range buckets[i] {
					buckets[i][k] += float64(rnd.IntN(3))
				}
			}
			fill := func(h *histogram.FloatHistogram, i int) *histogram.FloatHistogram {
				*h = histogram.FloatHistogram{Schema: 3, ZeroThreshold: 1e-9, PositiveSpans: h.PositiveSpans[:0], PositiveBuckets: h.PositiveBuckets[:0]}
				for k, c := range buckets[i] {
					if c == 0 {
						continue
					}
					h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: int32(k), Length: 1})
					if last := len(h.PositiveSpans) - 1; last > 0 {
						previous := -1
						for j := k - 1; j >= 0; j-- {
							if buckets[i][j] > 0 {
								previous = j
								break
							}
						}
						h.PositiveSpans[last].Offset = int32(k - previous - 1)
					}
					h.PositiveBuckets = append(h.PositiveBuckets, c)
					h.Count += c
				}
				return h
			}
			name := func(i int) []string { return []string{"source", fmt.Sprint("s", i)} }
			errA := wa.Write(t.Context(), at, func(b *Batch) {
				for i := range n {
					if paused[i] {
						continue
					}
					if !b.CounterAgain(refs[i], counts[i]) {
						refs[i] = b.Counter("calls_total", counts[i], name(i)...)
					}
					if h := fill(b.Room(refs[n+i]), i); !b.HistogramAgain(refs[n+i], h) {
						refs[n+i] = b.Histogram("seconds", h, name(i)...)
					}
				}
			})
			errP := wp.Write(t.Context(), at, func(b *Batch) {
				for i := range n {
					if paused[i] {
						continue
					}
					b.Counter("calls_total", counts[i], name(i)...)
					b.Histogram("seconds", fill(&histogram.FloatHistogram{}, i), name(i)...)
				}
			})
			if errA != nil || errP != nil {
				t.Fatal(errA, errP)
			}
		}
		a, p := dump(t, again), dump(t, plain)
		for series, want := range p {
			got := a[series]
			for i, ts := range order {
				v, written := want[ts]
				g, ok := got[ts]
				switch {
				case ok && g == v, !ok && !written:
				case !ok && i > 0 && strings.HasPrefix(series, "{__name__=\"calls_total\"") && v == want[order[i-1]] && v == got[order[i-1]]: // it stood still
				default:
					t.Fatalf("seed %d, %s at %d: %q, want %q", seed, series, ts, g, v)
				}
			}
			for ts := range got {
				if !slices.Contains(order, ts) {
					t.Fatalf("seed %d, %s has a sample besides at %d", seed, series, ts)
				}
			}
			delete(a, series)
		}
		if len(a) > 0 {
			t.Fatalf("seed %d: series besides: %v", seed, a)
		}
	}
}

// dump is every sample of every series, by the time in ms.
func dump(t *testing.T, d *DB) map[string]map[int64]string {
	t.Helper()
	q, err := d.TSDB().Querier(0, t0.Add(time.Hour).UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	out := map[string]map[int64]string{}
	set := q.Select(t.Context(), false, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		samples := map[int64]string{}
		it := set.At().Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			if vt == chunkenc.ValFloat {
				ts, v := it.At()
				if samples[ts] = fmt.Sprint(v); value.IsStaleNaN(v) {
					samples[ts] = "stale"
				}
				continue
			}
			ts, h := it.AtFloatHistogram(nil)
			if samples[ts] = h.Compact(0).String(); value.IsStaleNaN(h.Sum) {
				samples[ts] = "stale"
			}
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		out[set.At().Labels().String()] = samples
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}
