//go:build unix

package main

import (
	"fmt"
	"strconv"
	"time"
)

// instant is the value of a flag that names a time: 2026-11-20T14:30:00Z, a time of today (14:30, 14:30:05), unix seconds, or how long ago (10m). The zero value is no time.
type instant struct {
	time.Time
	text string
}

func (i *instant) String() string { return i.text }
func (*instant) Type() string     { return "time" }

func (i *instant) Set(text string) error {
	now := time.Now()
	t, err := parseInstant(text, now)
	if err == nil && t.After(now) {
		err = fmt.Errorf("%q is not over yet", text)
	}
	if err != nil {
		return err
	}
	i.Time, i.text = t, text
	return nil
}

func parseInstant(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && f > 0 && f < 1e11 {
		return time.Unix(0, int64(f*1e9)), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", time.DateTime, "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 10m (ago), 14:30, 2026-11-20T14:30:00Z or unix seconds", text)
}
