//go:build unix

package main

import (
	"io"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	run := func(f func(i int, s *sample)) error {
		var all []sample
		for i := range 20 {
			s := sample{connections: int64(i), heap: 5 << 20, rss: 30 << 20, goroutines: 40, fds: 20}
			f(i, &s)
			all = append(all, s)
		}
		return judge(io.Discard, all)
	}
	for name, c := range map[string]struct {
		f    func(i int, s *sample)
		want string
	}{
		"steady":     {func(int, *sample) {}, ""},
		"warming up": {func(i int, s *sample) { s.rss += float64(min(i, 2)) * (8 << 20) }, ""},
		"heap":       {func(i int, s *sample) { s.heap += float64(i) * (60 << 10) }, "heap (MiB) grew"},
		"noise": {func(i int, s *sample) {
			s.goroutines += float64(i % 3)
			s.fds += float64(i % 4)
			s.rss += float64(i*7%5) * (2 << 20)
		}, ""},
		"memory":      {func(i int, s *sample) { s.rss += float64(i) * (400 << 10) }, "memory (MiB) grew"},
		"goroutines":  {func(i int, s *sample) { s.goroutines += float64(i) }, "goroutines grew"},
		"descriptors": {func(i int, s *sample) { s.fds += float64(i) }, "descriptors grew"},
	} {
		err := run(c.f)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if judge(io.Discard, make([]sample, 3)) == nil {
		t.Error("three samples were judged")
	}
}
