package page

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestPeriod(t *testing.T) {
	now := time.Date(2026, 11, 20, 14, 30, 7, 0, time.UTC)
	for _, c := range []struct {
		query string
		long  time.Duration
		step  time.Duration
		title string
		wrong string
	}{
		{"", 15 * time.Minute, 10 * time.Second, "Last 15 min", ""},
		{"last=1h", time.Hour, 20 * time.Second, "Last 1 h", ""},
		{"last=24h", 24 * time.Hour, 10 * time.Minute, "Last 24 h", ""},
		{"last=7d", 7 * 24 * time.Hour, time.Hour, "Last 7 days", ""},
		{"start=2026-11-20T14:00:00Z&end=2026-11-20T14:05:00Z", 5 * time.Minute, 10 * time.Second, "20 Nov 2026 14:00:00 – 14:05:00 UTC", ""},
		{"start=2026-11-20T14:00:00Z&end=2026-11-20T14:00:02Z", time.Minute, 10 * time.Second, "20 Nov 2026 13:59:30 – 14:00:30 UTC", ""},
		{"start=2026-11-19T23:00:00Z&end=2026-11-20T01:00:00Z", 2 * time.Hour, 30 * time.Second, "19 Nov 2026 23:00 – 20 Nov 2026 01:00 UTC", ""},
		{"start=2026-11-20T14:29:00Z&end=2027-01-01T00:00:00Z", 70 * time.Second, 10 * time.Second, "20 Nov 2026 14:28:50 – 14:30:00 UTC", ""},
		{"last=2h", 15 * time.Minute, 10 * time.Second, "Last 15 min", "last"},
		{"start=noon", 15 * time.Minute, 10 * time.Second, "Last 15 min", "start"},
		{"start=2026-11-20T14:05:00Z&end=2026-11-20T14:00:00Z", 15 * time.Minute, 10 * time.Second, "Last 15 min", "before"},
		{"start=2027-11-20T14:05:00Z", 15 * time.Minute, 10 * time.Second, "Last 15 min", "before"},
		{"start=2020-11-20T14:05:00Z", 15 * time.Minute, 10 * time.Second, "Last 15 min", "31 days"},
	} {
		p := parsePeriod(&url.URL{Path: "/service/x", RawQuery: c.query}, now)
		if got := p.End.Sub(p.Start); got != c.long || p.Step != c.step || p.Title() != c.title || (p.Wrong != "") != (c.wrong != "") || !strings.Contains(p.Wrong, c.wrong) {
			t.Errorf("%q: %v by %v, %q, %q; want %v by %v, %q, %q", c.query, got, p.Step, p.Title(), p.Wrong, c.long, c.step, c.title, c.wrong)
		}
		if p.points() > mostPoints+1 {
			t.Errorf("%q: %d points", c.query, p.points())
		}
	}
	u := &url.URL{Path: "/edge", RawQuery: "source=a&destination=b&start=2026-11-20T14:00:00Z&end=2026-11-20T14:05:00Z&from=x"}
	p := parsePeriod(u, now)
	if h := p.Choices[1].Href; h != "/edge?destination=b&last=1h&source=a" {
		t.Errorf("the choice leads to %s", h)
	}
	if wide := parsePeriod(must(url.Parse(p.Wider)), now); wide.Wrong != "" || wide.End.Sub(wide.Start) != 15*time.Minute {
		t.Errorf("wider is %s to %s (%s)", wide.Start, wide.End, p.Wider)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
