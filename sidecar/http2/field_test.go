package http2

import (
	"testing"
	"time"
)

func TestTimeout(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"1S": time.Second, "250m": 250 * time.Millisecond, "7u": 7 * time.Microsecond, "99999999n": 99999999, "2M": 2 * time.Minute, "3H": 3 * time.Hour,
		"0n": 1, "99999999H": 1<<63 - 1,
		"": 0, "S": 0, "1": 0, "1s": 0, "-1S": 0, "+1S": 0, "1.5S": 0, "100000000n": 0, "1 S": 0,
	} {
		if got := parseTimeout(in); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		1: "1n", 99999999: "99999999n", 100000000: "100000u", 100000001: "100001u", time.Second: "1000000u", 15*time.Second + 1: "15000001u",
		200 * time.Second: "200000m", 1<<63 - 1: "2562048H",
	} {
		got := string(appendTimeout(nil, d))
		if got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
		if back := parseTimeout(got); back < d {
			t.Errorf("%v is sent on as %s, which is shorter", d, got)
		}
	}
}
