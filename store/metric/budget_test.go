//go:build budget

package metric

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/histogram"
)

// TestBudgetOfActiveSeries fills the whole budget as a mesh does, a quarter of it native histograms of twenty buckets, all of them changing at each write,
// for BUDGET_MINUTES minutes of the mesh's time with a write every 10 s; then a further thousand come. It fails when the process needs more than 1.2 GiB,
// and prints what a series costs. `make series-budget` runs it.
func TestBudgetOfActiveSeries(t *testing.T) {
	const series, limit = 200_000, 1.2 * (1 << 30)
	minutes := 150 // past the two hours after which the TSDB writes its first block
	if s := os.Getenv("BUDGET_MINUTES"); s != "" {
		if _, err := fmt.Sscan(s, &minutes); err != nil {
			t.Fatal(err)
		}
	}
	reg := prometheus.NewRegistry()
	dir := t.TempDir()
	d := open(t, dir, Config{Registerer: reg})
	w := d.NewWriter()
	h := &histogram.FloatHistogram{Schema: 3, ZeroThreshold: 1e-9, PositiveSpans: []histogram.Span{{Offset: -50, Length: 20}}, PositiveBuckets: make([]float64, 20)}
	names := make([][2]string, series)
	for i := range names {
		names[i] = [2]string{fmt.Sprintf("service-%04d", i/50), fmt.Sprintf("service-%04d", (i*7)%2000)}
	}
	reasons := []string{"", "upstream_5xx", "timeout", "reset"}
	var (
		peak   int64
		writes int
	)
	before := cpu(t)
	for round := range minutes * 6 {
		writes++
		err := w.Write(t.Context(), t0.Add(time.Duration(round)*10*time.Second), func(b *Batch) {
			for i, n := range names {
				x := float64(round*(1+i%50) + i%97)
				if i%4 == 0 {
					h.Count, h.Sum = 0, x*.03
					for k := range h.PositiveBuckets {
						h.PositiveBuckets[k] = x * float64(1+(i+k)%5)
						h.Count += h.PositiveBuckets[k]
					}
					b.Histogram("tulle_request_duration_seconds", h.Copy(), "source", n[0], "destination", n[1], "side", "client", "protocol", "http/1.1", "code_class", fmt.Sprint(i%50/10+1, "xx"), "reason", fmt.Sprint(i%50))
				} else {
					b.Counter("tulle_requests_total", x, "source", n[0], "destination", n[1], "side", "client", "protocol", "http/1.1", "code_class", fmt.Sprint(i%50/10+1, "xx"), "reason", reasons[i%4]+fmt.Sprint(i%50))
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		peak = max(peak, resident(t))
	}
	spent := cpu(t) - before
	if got := d.Stats().ActiveSeries; got != series {
		t.Fatalf("%d active series, want %d", got, series)
	}
	err := w.Write(t.Context(), t0.Add(time.Duration(minutes*6)*10*time.Second), func(b *Batch) {
		for i := range 1000 {
			b.Counter("tulle_requests_total", 1, "source", fmt.Sprint("late-", i), "destination", "x")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	folded := testutil.ToFloat64(d.folded.WithLabelValues("tulle_requests_total"))
	if folded != 1000 {
		t.Errorf("%v series over the budget were counted as folded, want 1000", folded)
	}
	if got := result(t, d, `tulle_requests_total{source="other"}`, t0.Add(time.Duration(minutes*6)*10*time.Second)); got != "1000" {
		t.Errorf("other has %s, want 1000", got)
	}
	st := d.Stats()
	t.Logf("%d series, %d min, a write every 10 s: %d MiB at most, %.1f KiB a series; %.0f ms of CPU a write (%.2f %% of a core); blocks %d MiB on disk, oldest %s, newest %s", series, minutes, peak>>20,
		float64(peak)/1024/series, spent.Seconds()*1000/float64(writes), 10*spent.Seconds()/float64(writes), st.Bytes>>20, st.Oldest.Format(time.TimeOnly), st.Newest.Format(time.TimeOnly))
	if float64(peak) > limit {
		t.Errorf("%d MiB, more than 1.2 GiB", peak>>20)
	}
	runtime.KeepAlive(names)
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the process's memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatalf("%v: memory is measured on Linux only", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kib int64
			if _, err := fmt.Sscanf(rest, "%d kB", &kib); err == nil {
				return kib << 10
			}
		}
	}
	t.Fatal("/proc/self/status has no VmRSS")
	return 0
}
