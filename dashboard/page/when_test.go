package page

import (
	"testing"
	"time"
)

// However long the time, there are few bars, they cover it, and begin where people count from.
func TestStepsOver(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 34, 56, 789, time.UTC)
	for _, length := range []time.Duration{time.Microsecond, 300 * time.Millisecond, 7 * time.Second, time.Minute, 59 * time.Minute, 25 * time.Hour, 15 * 24 * time.Hour, 400 * 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
		s := stepsOver(at, at.Add(length))
		if err := s.Validate(); err != nil {
			t.Fatalf("%s: %v", length, err)
		}
		if s.From.After(at) || !s.End().After(at.Add(length)) || !s.From.Equal(s.From.Truncate(s.Step)) {
			t.Errorf("%s: %d of %s from %s on", length, s.N, s.Step, s.From)
		}
		if s.N > whenBars+1 && length < 400*24*time.Hour {
			t.Errorf("%s: %d bars", length, s.N)
		}
	}
}
