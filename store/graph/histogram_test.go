package graph

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// observe adds n samples of v seconds; the sidecars have their own, exact, indexing, this one is for tests.
func (h *hist) observe(v float64, n uint64) {
	h.count += n
	h.sum += v * float64(n)
	if v <= 0 {
		h.zero += n
		return
	}
	at := int32(math.Ceil(math.Log2(v)*(1<<flow.HistogramScale))) - 1
	h.grow(at, at)
	h.n[at-h.off] += n
}

func TestQuantileIsWithinOneBucket(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	bound := math.Exp2(1.0/(1<<flow.HistogramScale)) + 1e-9
	for name, draw := range map[string]func() float64{
		"exponential": func() float64 { return rnd.ExpFloat64() * 0.02 },
		"log-normal":  func() float64 { return math.Exp(rnd.NormFloat64()*1.5 - 5) },
		"two humps":   func() float64 { return []float64{0.003, 0.9}[rnd.IntN(2)] * (1 + rnd.Float64()/10) },
		"constant":    func() float64 { return 0.0123 },
	} {
		t.Run(name, func(t *testing.T) {
			var whole, a, b hist
			var samples []float64
			for i := range 5000 {
				v := draw()
				samples = append(samples, v)
				whole.observe(v, 1)
				if i%3 == 0 {
					a.observe(v, 1)
				} else {
					b.observe(v, 1)
				}
			}
			a.add(&b)
			slices.Sort(samples)
			for _, q := range []float64{0.01, 0.5, 0.9, 0.95, 0.99, 1} {
				exact := samples[min(len(samples)-1, int(math.Ceil(q*float64(len(samples))))-1)]
				got := a.quantile(q)
				if got != whole.quantile(q) {
					t.Errorf("q%v: merged %v, whole %v", q, got, whole.quantile(q))
				}
				if got > exact*bound || got < exact/bound {
					t.Errorf("q%v is %v, exact %v: off by %.1f %%", q, got, exact, 100*(got/exact-1))
				}
			}
		})
	}
	var empty hist
	if v := empty.quantile(0.5); v != 0 {
		t.Errorf("empty: %v", v)
	}
}

func TestSharesAddUp(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var h hist
	for range 1000 {
		h.observe(rnd.ExpFloat64(), uint64(rnd.IntN(4)))
	}
	var back hist
	for _, c := range [][2]float64{{0, 0.13}, {0.13, 0.5}, {0.5, 0.9}, {0.9, 1}} {
		var s hist
		s.share(&h, c[0], c[1])
		back.add(&s)
	}
	if back.count != h.count || back.quantile(0.7) != h.quantile(0.7) {
		t.Fatalf("%d of %d samples", back.count, h.count)
	}
	var d hist
	if !d.difference(&h, &back) || d.count != 0 {
		t.Fatalf("left over: %+v", d)
	}
}

func TestHistogramsReadAndWritten(t *testing.T) {
	var h hist
	for _, v := range []float64{0, 0.001, 0.01, 0.0101, 1, 1.5, 200} {
		h.observe(v, 2)
	}
	n := h.native(&histogram.FloatHistogram{})
	if err := n.Validate(); err != nil {
		t.Fatal(err)
	}
	back := fromNative(n)
	var d hist
	if !d.difference(&h, &back) || d.count != 0 {
		t.Fatalf("round trip through a native histogram: %+v left", d)
	}
	it := n.PositiveBucketIterator()
	if !it.Next() || it.At().Lower >= 0.001 || it.At().Upper < 0.001 {
		t.Fatalf("first native bucket is %v, the sample 0.001 is not in it", it.At())
	}

	// A finer scale is merged exactly.
	fine := pmetric.NewExponentialHistogramDataPoint()
	fine.SetScale(5)
	fine.SetCount(6)
	fine.Positive().SetOffset(-9)
	fine.Positive().BucketCounts().FromRaw([]uint64{1, 0, 2, 0, 0, 3})
	var got hist
	ok := got.read(fine)
	if !ok || got.off != -3 || !slices.Equal(got.n, []uint64{1, 2, 3}) {
		t.Fatalf("downscaled to %+v %v", got, ok)
	}
	fine.SetScale(2)
	far := pmetric.NewExponentialHistogramDataPoint()
	far.SetScale(3)
	far.SetCount(1)
	far.Positive().SetOffset(1 << 30)
	far.Positive().BucketCounts().FromRaw([]uint64{1})
	if got.read(far) {
		t.Error("a bucket beyond every duration was read: added to another, it takes gigabytes")
	}
	if got.read(fine) {
		t.Fatal("a coarser scale was accepted")
	}
}
