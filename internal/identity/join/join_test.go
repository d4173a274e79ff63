package join

import (
	"crypto/x509"
	"testing"
	"time"
)

func TestRenewal(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	leaf := func(before, after time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: now.Add(-before), NotAfter: now.Add(after)}
	}
	for _, c := range []struct {
		name     string
		advice   time.Duration
		leaf     *x509.Certificate
		min, max time.Duration
	}{
		{"advice", time.Hour, leaf(0, 2*time.Hour), time.Hour, time.Hour},
		{"advice in the past", -time.Hour, leaf(0, 2*time.Hour), time.Hour, 84 * time.Minute},
		{"advice after the end", 3 * time.Hour, leaf(0, 2*time.Hour), time.Hour, 84 * time.Minute},
		{"a clock far ahead", -time.Hour, leaf(9*time.Hour, time.Hour), maxBackoff, maxBackoff},
		{"and hardly any life left", -time.Hour, leaf(9*time.Hour, 10*time.Second), 5 * time.Second, 5 * time.Second},
	} {
		if got := renewal(now.Add(c.advice), c.leaf, now).Sub(now); got < c.min || got > c.max {
			t.Errorf("%s: in %s, want %s to %s", c.name, got, c.min, c.max)
		}
	}
}
