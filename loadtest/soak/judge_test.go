//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func run(f func(i int) sample) *samples {
	s := newSamples()
	for i := range 100 {
		v := f(i)
		v.at = time.Duration(i) * time.Second
		s.add("catalog-1-sidecar", v)
	}
	return s
}

func TestJudge(t *testing.T) {
	steady := sample{pid: 1, rss: 20 << 20, goroutines: 30, fds: 20}
	for name, c := range map[string]struct {
		f    func(i int) sample
		want string // "" is fine
	}{
		"steady": {func(int) sample { return steady }, ""},
		"warm-up is not growth": {func(i int) sample {
			v := steady
			v.rss = float64(min(i, 30)) / 30 * (20 << 20)
			return v
		}, ""},
		"memory leak":        {func(i int) sample { v := steady; v.rss += float64(i) * (300 << 10); return v }, "memory grew"},
		"goroutine leak":     {func(i int) sample { v := steady; v.goroutines += float64(i); return v }, "goroutines grew"},
		"descriptor leak":    {func(i int) sample { v := steady; v.fds += float64(i); return v }, "descriptors grew"},
		"one peak too high":  {func(i int) sample { v := steady; v.rss += float64(i / 99 * (30 << 20)); return v }, "at most 40"},
		"restarted":          {func(i int) sample { v := steady; v.pid += i / 50; return v }, "was restarted 1 times"},
		"silent admin port":  {func(int) sample { v := steady; v.goroutines = -1; return v }, "does not tell"},
		"no /proc is no bug": {func(int) sample { v := steady; v.fds = -1; return v }, ""},
	} {
		err := errors.Join(run(c.f).judge(io.Discard, []string{"catalog-1-sidecar"})...)
		if c.want == "" && err != nil || c.want != "" && !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAProcessNeverSeenIsAProblem(t *testing.T) {
	if p := newSamples().judge(io.Discard, []string{"observer"}); len(p) != 1 {
		t.Errorf("%v", p)
	}
}
