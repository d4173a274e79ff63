package page

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/dashboard/part"
)

// TestWilson: the figures of Newcombe's paper on single proportions (Statistics in Medicine 17 (1998) 857–872, table I, method 3).
func TestWilson(t *testing.T) {
	for _, c := range []struct{ failed, n, low, high float64 }{
		{81, 263, .2553, .3662}, {15, 148, .0624, .1605}, {0, 20, 0, .1611}, {1, 29, .0061, .1718},
	} {
		low, high := wilson(c.failed, c.n)
		if math.Abs(low-c.low) > 5e-5 || math.Abs(high-c.high) > 5e-5 {
			t.Errorf("%v of %v: %.4f to %.4f, want %.4f to %.4f", c.failed, c.n, low, high, c.low, c.high)
		}
	}
	if low, high := wilson(0, 0); low != 0 || high != 1 {
		t.Errorf("of none: %v to %v", low, high)
	}
}

func row(version string, failed, n float64) *VersionRow {
	v := &VersionRow{Version: version, Requests: n, Level: part.OK}
	if n > 0 {
		v.Errors = failed / n
	}
	v.Low, v.High = wilson(failed, n)
	return v
}

func TestVersionsAreJudged(t *testing.T) {
	most := row("v1", 100, 10_000)
	for _, c := range []struct {
		failed, n float64
		want      string
		level     part.Level
	}{
		{0, 0, "not enough data: fewer", part.OK},
		{1, 12, "not enough data: fewer", part.OK},
		{1, 60, "not enough data: between", part.OK},
		{60, 1000, "fails more than v1: by", part.Warn},
		{400, 1000, "fails more than v1: by", part.Bad},
		{0, 5000, "fails less than v1: by", part.OK},
		{101, 10_000, "no difference to v1, at most", part.OK},
	} {
		v := row("v2", c.failed, c.n)
		v.judge(most)
		if !strings.HasPrefix(v.Verdict, c.want) || v.Level != c.level {
			t.Errorf("%v of %v: %q (%s), want %q (%s)", c.failed, c.n, v.Verdict, v.Level, c.want, c.level)
		}
	}
}

// TestEqualVersionsAreSeldomBlamed: of two versions that fail alike one in twenty may be told apart, for that is what 95 % means.
func TestEqualVersionsAreSeldomBlamed(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 7))
	draw := func(n int, p float64) (failed float64) {
		for range n {
			if r.Float64() < p {
				failed++
			}
		}
		return failed
	}
	const rounds = 1000
	blamed := 0
	for range rounds {
		a, b := row("v1", draw(900, .02), 900), row("v2", draw(100, .02), 100)
		if b.judge(a); strings.HasPrefix(b.Verdict, "fails") {
			blamed++
		}
	}
	if blamed > rounds*8/100 {
		t.Errorf("%d of %d equal pairs were told apart", blamed, rounds)
	}
}
