package metric

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Against a sum that is made while writing: counters that begin late, restart, end, and ranges that begin anywhere.
func TestIncreasesAreThoseOfTheCounters(t *testing.T) {
	for seed := range uint64(3) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		d := open(t, t.TempDir(), Config{})
		const step, rounds, n = 10 * time.Second, 2900, 5 // eight hours: 24 chunks, in blocks of two hours but for the newest
		var (
			values [n]float64
			grown  [n][]float64 // by round
		)
		w := d.NewWriter()
		for r := range rounds {
			restart := rnd.IntN(300) == 0
			err := w.Write(t.Context(), t0.Add(time.Duration(r)*step), func(b *Batch) {
				for i := range n {
					add := float64(rnd.IntN(20))
					if restart {
						values[i] = 0
						add = float64(rnd.IntN(2)) // so that it does not pass its old value within a chunk
					}
					if r < i*100 || i == 4 && r > 900 { // not begun yet, or ended
						grown[i] = append(grown[i], 0)
						continue
					}
					values[i] += add
					grown[i] = append(grown[i], add)
					b.Counter("calls_total", values[i], "source", fmt.Sprint("s", i%3), "n", fmt.Sprint(i))
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if seed%3 != 0 {
			if err := d.TSDB().Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(d.TSDB().Blocks()) < 2 {
				t.Fatalf("%d blocks", len(d.TSDB().Blocks()))
			}
		}
		for range 40 {
			a := rnd.IntN(rounds - 1)
			z := a + 1 + rnd.IntN(rounds-a-1)
			want := map[string]float64{}
			for i := range n {
				for r := a + 1; r <= z; r++ {
					want[fmt.Sprint("s", i%3)] += grown[i][r]
				}
			}
			got, err := d.Increases(t.Context(), t0.Add(time.Duration(a)*step), t0.Add(time.Duration(z)*step), []string{"source"}, labels.MustNewMatcher(labels.MatchEqual, "__name__", "calls_total"))
			if err != nil {
				t.Fatal(err)
			}
			again, err := d.Increases(t.Context(), t0.Add(time.Duration(a)*step), t0.Add(time.Duration(z)*step), []string{"source"}, labels.MustNewMatcher(labels.MatchEqual, "__name__", "calls_total"))
			if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
				t.Errorf("seed %d: %v, asked again %v (%v)", seed, got, again, err)
			}
			merged, err := d.grownMerged(t.Context(), t0.Add(time.Duration(a)*step).UnixMilli(), t0.Add(time.Duration(z)*step).UnixMilli(),
				[]*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "calls_total")})
			if err != nil {
				t.Fatal(err)
			}
			all := map[string]float64{}
			for _, g := range merged.byHash {
				all[g.labels.Get("source")] += g.sum
			}
			apart, err := d.Increases(t.Context(), t0.Add(time.Duration(a)*step), t0.Add(time.Duration(z)*step), []string{"source", "n"}, labels.MustNewMatcher(labels.MatchEqual, "__name__", "calls_total"))
			if err != nil {
				t.Fatal(err)
			}
			together := map[string]float64{}
			for _, x := range apart {
				together[x.Labels.Get("source")] += x.Value
			}
			if len(apart) < len(got) || z > 1000 && a < 800 && len(apart) != n {
				t.Errorf("%d series apart: %v", len(apart), apart)
			}
			for _, x := range got {
				if together[x.Labels.Get("source")] != x.Value {
					t.Errorf("%v apart, %v together", together, x)
				}
				if all[x.Labels.Get("source")] > x.Value {
					t.Errorf("seed %d, rounds %d to %d: %v merged, %v by blocks", seed, a, z, all, x.Value)
				}
				if s := x.Labels.Get("source"); x.Value != want[s] {
					// A restart that is passed within its chunk loses at most what that chunk counted.
					if lost := want[s] - x.Value; lost < 0 || lost > 2*120*20 {
						t.Errorf("seed %d, rounds %d to %d: %s grew by %v, want %v", seed, a, z, s, x.Value, want[s])
					}
				}
			}
		}
	}
}

// BenchmarkIncreases is a day of a mesh of 100 edges, four series each, a sample every 5 s, by source and destination, asked for the first time and
// again; beside PromQL's increase(). The bar is 20 ms. Beside the time it says the CPU time of the whole process.
func BenchmarkIncreases(b *testing.B) {
	d, err := Open(b.TempDir(), Config{QueryMaxSamples: 50_000_000})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	w := d.NewWriter()
	const day = 24 * 3600 / 5
	for r := range day {
		err := w.Write(b.Context(), t0.Add(time.Duration(r)*5*time.Second), func(batch *Batch) {
			for e := range 100 {
				for k := range 4 {
					batch.Counter("tulle_requests_total", float64(r*(e+k)), "source", fmt.Sprint("s", e%10), "destination", fmt.Sprint("d", e/10), "side", "client", "reason", fmt.Sprint(k))
				}
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		if r%1440 == 0 {
			if err := d.TSDB().Compact(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	end := t0.Add(day * 5 * time.Second)
	measure := func(b *testing.B, f func() error) {
		var before, after syscall.Rusage
		n := 0
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
		for b.Loop() {
			n++
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
		b.ReportMetric(float64(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano())/1e6/float64(n), "cpu-ms/op")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e6/float64(n), "ms/op")
		b.ReportMetric(0, "ns/op")
	}
	increases := func(b *testing.B, first bool) {
		measure(b, func() error {
			if first {
				d.within = withins{}
			}
			got, err := d.Increases(b.Context(), end.Add(-24*time.Hour), end, []string{"source", "destination"}, labels.MustNewMatcher(labels.MatchEqual, "__name__", "tulle_requests_total"),
				labels.MustNewMatcher(labels.MatchEqual, "side", "client"))
			if err == nil && len(got) != 100 {
				err = fmt.Errorf("%d edges", len(got))
			}
			return err
		})
	}
	b.Run("increases", func(b *testing.B) { increases(b, true) })
	b.Run("again", func(b *testing.B) { increases(b, false) })
	b.Run("promql", func(b *testing.B) {
		measure(b, func() error {
			_, err := d.Query(b.Context(), `sum by (source, destination) (increase(tulle_requests_total{side="client"}[24h]))`, end)
			return err
		})
	})
}
