package part

import (
	"math"
	"testing"
	"time"
	"unicode/utf8"
)

func TestFigures(t *testing.T) {
	for got, want := range map[string]string{
		Rate(0): "0/s", Rate(0.5): "0.5/s", Rate(9.96): "10/s", Rate(62.17): "62.2/s", Rate(182.4): "182/s", Rate(1425): "1425/s", Rate(12_345): "12.3k/s",
		Rate(0.004): "<0.01/s", Rate(2.5e6): "2.5M/s", Number(math.NaN()): Dash,
		Percent(0): "0%", Percent(0.0004): "<0.1%", Percent(0.004): "0.4%", Percent(0.0996): "10%", Percent(1): "100%", Percent(math.NaN()): Dash,
		Seconds(0): Dash, Seconds(0.00034): "340 µs", Seconds(0.0034): "3.4 ms", Seconds(0.034): "34 ms", Seconds(0.99951): "1.00 s", Seconds(1.234): "1.23 s",
		Seconds(12.34): "12.3 s", Seconds(150): "2 min", Seconds(7200): "2.0 h", Seconds(math.Inf(1)): Dash,
		Span(0): "0 µs", Span(-3 * time.Millisecond): "−3 ms", Span(800): "800 ns",
		Bytes(0): "0 B", Bytes(999): "999 B", Bytes(1500): "1.5 kB", Bytes(39_200_000): "39.2 MB",
		Count(999): "999", Count(1234): "1\u202f234", Count(-12345): "-12\u202f345", Count(uint64(1_284_000)): "1.3M",
		Offset(2 * time.Millisecond): "+2 ms", Plural(1, "span", "spans"): "1 span", Plural(2, "span", "spans"): "2 spans",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", time.Second: "just now", 45 * time.Second: "45 s ago", 3 * time.Minute: "3 min ago", 5 * time.Hour: "5 h ago", 72 * time.Hour: "3 days ago",
	} {
		if got := Ago(now, now.Add(-d)); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	if Ago(now, time.Time{}) != Dash {
		t.Error("no time is not long ago")
	}
}

func TestEllipsisKeepsRunesWhole(t *testing.T) {
	for _, s := range []string{"short", "a-service-with-a-long-name", "サービスの名前がとても長い", "👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦", "шесть слов в одном имени", ""} {
		for w := 1; w < 30; w++ {
			if got := Ellipsis(s, w); !utf8.ValidString(got) || utf8.RuneCountInString(got) > w+1 && got != s {
				t.Errorf("%q in %d columns: %q", s, w, got)
			}
		}
	}
	if got := Ellipsis("bank.example.com", 16); got != "bank.example.com" {
		t.Errorf("an exact fit was cut: %q", got)
	}
}

func TestChartScalesAndGaps(t *testing.T) {
	c := &Chart{Unit: UnitRate, Step: time.Second, Series: []Series{{Values: []float64{1, math.NaN(), 290, 3}}}}
	if c.top() != 300 {
		t.Errorf("top is %v", c.top())
	}
	if got := c.Line(c.Series[0]); got != "M4 131.6M318.7 16L476 130.8" {
		t.Errorf("line %s", got)
	}
	if c.Last(c.Series[0]) != "3/s" || c.Empty() {
		t.Error("last value")
	}
	empty := &Chart{Unit: UnitRate, Series: []Series{{Values: []float64{math.NaN()}}}}
	if !empty.Empty() || empty.Ticks() != nil || empty.MarkX(Mark{}) != "" {
		t.Error("a chart of nothing is not empty")
	}
}
