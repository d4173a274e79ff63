package metric

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
)

// latencies writes a native histogram of random observations for each of edges every 5 s, rounds times from t0 on.
func latencies(t *testing.T, d *DB, edges, rounds int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	counts := make([]map[int32]float64, edges)
	w := d.NewWriter()
	for r := range rounds {
		err := w.Write(t.Context(), t0.Add(time.Duration(r)*5*time.Second), func(b *Batch) {
			for e := range edges {
				if counts[e] == nil {
					counts[e] = map[int32]float64{}
				}
				h := &histogram.FloatHistogram{Schema: 3, ZeroThreshold: 1e-9, ZeroCount: float64(r)}
				for range 20 {
					counts[e][int32(rnd.IntN(150)-110)]++
				}
				last := int32(math.MinInt32)
				for _, i := range sortedKeys(counts[e]) {
					switch {
					case len(h.PositiveSpans) == 0:
						h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: i, Length: 1})
					case i == last+1:
						h.PositiveSpans[len(h.PositiveSpans)-1].Length++
					default:
						h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: i - last - 1, Length: 1})
					}
					last = i
					h.PositiveBuckets = append(h.PositiveBuckets, counts[e][i])
					h.Count += counts[e][i]
					h.Sum += counts[e][i] * math.Exp2(float64(i)/8)
				}
				h.Count += h.ZeroCount
				b.Histogram("latency_seconds", h, "source", fmt.Sprint("s", e), "zone", "z")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func sortedKeys(m map[int32]float64) []int32 {
	var out []int32
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Every view says exactly what the native histogram says.
func TestClassicViewsAgreeWithTheNativeHistogram(t *testing.T) {
	d := open(t, t.TempDir(), Config{})
	latencies(t, d, 3, 30)
	at := t0.Add(29 * 5 * time.Second)
	for i, le := range classicTexts[:len(classicTexts)-1] {
		if i%4 > 0 {
			continue
		}
		bound := fmt.Sprintf("%.17g", classicBounds[i])
		for native, view := range map[string]string{
			`histogram_fraction(-Inf, ` + bound + `, latency_seconds) * histogram_count(latency_seconds)`:                                   `latency_seconds_bucket{le="` + le + `"}`,
			`histogram_fraction(-Inf, ` + bound + `, sum(rate(latency_seconds[1m]))) * histogram_count(sum(rate(latency_seconds[1m])))`:     `sum(rate(latency_seconds_bucket{le="` + le + `"}[1m]))`,
			`histogram_fraction(-Inf, ` + bound + `, increase(latency_seconds[90s])) * histogram_count(increase(latency_seconds[90s]))`:     `increase(latency_seconds_bucket{le="` + le + `"}[90s])`,
			`histogram_fraction(-Inf, ` + bound + `, latency_seconds offset 1m) * histogram_count(latency_seconds offset 1m)`:               `latency_seconds_bucket{le="` + le + `"} offset 1m`,
			`histogram_fraction(-Inf, ` + bound + `, latency_seconds{source=~"s[01]"}) * histogram_count(latency_seconds{source=~"s[01]"})`: `latency_seconds_bucket{le=~"` + strings.ReplaceAll(le, ".", "[.]") + `",source=~"s[01]"}`,
			`histogram_count(latency_seconds)`:                                      `latency_seconds_count`,
			`histogram_sum(latency_seconds)`:                                        `latency_seconds_sum`,
			`histogram_count(latency_seconds) + 0 * histogram_sum(latency_seconds)`: `latency_seconds_bucket{le="+Inf"}`,
			`histogram_sum(sum by (source) (rate(latency_seconds[1m])))`:            `sum by (source) (rate(latency_seconds_sum[1m]))`,
			`histogram_count(sum by (source) (increase(latency_seconds[1m])))`:      `sum by (source) (increase(latency_seconds_count[1m]))`,
		} {
			// ignoring(le), and the answer must have a line for each line of the other.
			want, err := d.Query(t.Context(), native, at)
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.Query(t.Context(), view, at)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) || len(got) == 0 {
				t.Fatalf("%s has %d series, %s has %d", view, len(got), native, len(want))
			}
			for _, w := range want {
				i := slices.IndexFunc(got, func(g promql.Sample) bool { return g.Metric.Get("source") == w.Metric.Get("source") })
				if i < 0 || math.Abs(got[i].F-w.F) > 1e-6*math.Abs(w.F)+1e-6 {
					t.Errorf("%s = %v, but %s = %v", view, got, native, w)
				}
			}
		}
	}
	if got := result(t, d, `count(latency_seconds_bucket)`, at); got != "63" {
		t.Errorf("%s series, want 63", got)
	}
	native, err := d.Query(t.Context(), `histogram_quantile(0.9, sum(rate(latency_seconds[1m])))`, at)
	if err != nil {
		t.Fatal(err)
	}
	view, err := d.Query(t.Context(), `histogram_quantile(0.9, sum by (le) (rate(latency_seconds_bucket[1m])))`, at)
	if err != nil {
		t.Fatal(err)
	}
	if r := view[0].F / native[0].F; r < 0.5 || r > 2 {
		t.Errorf("quantile %v, of the native histogram %v", view[0].F, native[0].F)
	}
	// A range query reads the same as instant ones, step by step.
	q, err := d.Engine().NewRangeQuery(t.Context(), d, nil, `sum by (le) (rate(latency_seconds_bucket[1m]))`, t0.Add(time.Minute), at, 15*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	m, err := q.Exec(t.Context()).Matrix()
	if err != nil || len(m) != len(classicBounds) {
		t.Fatalf("%d series, %v", len(m), err)
	}
	for _, series := range m {
		for _, p := range series.Floats {
			one, err := d.Query(t.Context(), `sum(rate(latency_seconds_bucket{le="`+series.Metric.Get("le")+`"}[1m]))`, time.UnixMilli(p.T))
			if err != nil || len(one) != 1 || math.Abs(one[0].F-p.F) > 1e-9 {
				t.Errorf("%s at %d: %v in a range, %v at an instant (%v)", series.Metric, p.T, p.F, one, err)
			}
		}
	}
}

func TestClassicViewsEndWithTheirHistogram(t *testing.T) {
	d := open(t, t.TempDir(), Config{})
	w := d.NewWriter()
	h := &histogram.FloatHistogram{Schema: 3, Count: 1, Sum: 1, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []float64{1}}
	for i := range 3 {
		err := w.Write(t.Context(), t0.Add(time.Duration(i)*5*time.Second), func(b *Batch) {
			if i < 2 {
				b.Histogram("gone_seconds", h, "source", "a")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"gone_seconds_bucket", "gone_seconds_count", "gone_seconds_sum"} {
		if got := result(t, d, name, t0.Add(6*time.Second)); got == "none" {
			t.Errorf("%s is not there", name)
		}
		if got := result(t, d, name, t0.Add(12*time.Second)); got != "none" {
			t.Errorf("%s is still seen: %s", name, got)
		}
	}
}

// What others store under the name of a view is read as it is, once, and nothing is made of what is no histogram.
func TestClassicViewsLeaveStoredSeriesAlone(t *testing.T) {
	d := open(t, t.TempDir(), Config{})
	latencies(t, d, 1, 1)
	app := d.Outside().Appender(t.Context())
	for _, l := range []labels.Labels{
		labels.FromStrings("__name__", "http_seconds_bucket", "job", "x", "le", "0.5"),
		labels.FromStrings("__name__", "http_seconds", "job", "x"), // a gauge
		labels.FromStrings("__name__", "latency_seconds_count", "job", "x"),
	} {
		if _, err := app.Append(0, l, t0.UnixMilli(), 7); err != nil {
			t.Fatal(err)
		}
	}
	both := labels.FromStrings("__name__", "both", "job", "x")
	if _, err := app.AppendHistogram(0, both, t0.UnixMilli(), nil, &histogram.FloatHistogram{Schema: 0, Count: 5}); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Append(0, labels.FromStrings("__name__", "both_count", "job", "x"), t0.UnixMilli(), 9); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		`count(http_seconds_bucket)`: "1", `http_seconds_bucket`: "7", `http_seconds_count`: "none", `count(latency_seconds_count)`: "2", `count(both_count)`: "1", `both_count`: "9", `both_sum`: "0",
	} {
		if got := result(t, d, query, t0); got != want {
			t.Errorf("%s = %s, want %s", query, got, want)
		}
	}
}

func TestClassicViewsAreFound(t *testing.T) {
	d := open(t, t.TempDir(), Config{})
	latencies(t, d, 2, 2)
	q, err := d.Querier(t0.UnixMilli(), t0.Add(time.Minute).UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	name := func(s string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchEqual, "__name__", s) }
	for _, c := range []struct {
		label string
		ms    []*labels.Matcher
		want  string
	}{
		{"__name__", nil, "latency_seconds latency_seconds_bucket latency_seconds_count latency_seconds_sum"},
		{"__name__", []*labels.Matcher{name("latency_seconds_bucket")}, "latency_seconds_bucket"},
		{"__name__", []*labels.Matcher{name("nothing_bucket")}, ""},
		{"source", []*labels.Matcher{name("latency_seconds_bucket")}, "s0 s1"},
		{"le", []*labels.Matcher{name("latency_seconds_bucket")}, strings.Join(slices.Sorted(slices.Values(classicTexts)), " ")},
		{"le", []*labels.Matcher{name("latency_seconds_bucket"), labels.MustNewMatcher(labels.MatchRegexp, "le", "1.*")}, "1.0 16.0 128.0"},
		{"le", []*labels.Matcher{name("latency_seconds_count")}, ""},
		{"le", []*labels.Matcher{name("nothing_bucket")}, ""},
	} {
		got, _, err := q.LabelValues(t.Context(), c.label, nil, c.ms...)
		want := strings.Fields(c.want)
		slices.Sort(want)
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("values of %s for %v: %v %v, want %v", c.label, c.ms, got, err, want)
		}
	}
	for suffix, want := range map[string]string{"_bucket": "__name__ le source zone", "_sum": "__name__ source zone"} {
		if got, _, err := q.LabelNames(t.Context(), nil, name("latency_seconds"+suffix)); err != nil || strings.Join(got, " ") != want {
			t.Errorf("names of %s: %v %v", suffix, got, err)
		}
	}
	// As /api/v1/series asks, which wants them in order.
	set := q.Select(t.Context(), true, &storage.SelectHints{Start: t0.UnixMilli(), End: t0.Add(time.Minute).UnixMilli(), Func: "series"}, name("latency_seconds_bucket"))
	var last labels.Labels
	n := 0
	for ; set.Next(); n++ {
		if l := set.At().Labels(); n > 0 && labels.Compare(last, l) >= 0 {
			t.Errorf("%s comes after %s", l, last)
		} else {
			last = l
		}
	}
	if set.Err() != nil || n != 2*len(classicBounds) {
		t.Errorf("%d series, %v", n, set.Err())
	}
	// The exemplars of a histogram are those of its views.
	app := d.Appender(t.Context())
	l := labels.FromStrings("__name__", "latency_seconds", "source", "s0", "zone", "z")
	if _, err := app.AppendExemplar(0, l, exemplar.Exemplar{Labels: labels.FromStrings("trace_id", "x"), Value: 1, Ts: t0.UnixMilli(), HasTs: true}); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	eq, err := d.ExemplarQuerier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := eq.Select(t0.UnixMilli(), t0.UnixMilli(), []*labels.Matcher{name("latency_seconds_bucket")}); err != nil || len(got) != 1 {
		t.Errorf("exemplars %v %v", got, err)
	}
}
