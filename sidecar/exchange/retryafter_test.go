package exchange

import (
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, "-1": 0, "1.5": 0, "": 0, " 7": 0, "99999999999": 0, "soon": 0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "Friday, 02-Jan-26 03:05:05 GMT": time.Minute,
	} {
		if got := ParseRetryAfter(value, now); got != want {
			t.Errorf("Retry-After %q: %v, want %v", value, got, want)
		}
	}
	for value, want := range map[string]time.Duration{"0": 0, "250": 250 * time.Millisecond, "-1": Never, "": Never, "1s": Never, "99999999999": Never} {
		if got := ParsePushback(value); got != want {
			t.Errorf("pushback %q: %v, want %v", value, got, want)
		}
	}
}
