//go:build linux

package main

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// figures are what one cell showed.
type figures struct {
	Requests  int            `json:"requests"`
	Success   float64        `json:"success"`   // part of the requests that were answered right before their deadline
	P50       float64        `json:"p50ms"`     // of all requests, failed ones too
	P99       float64        `json:"p99ms"`     //
	Attempts  float64        `json:"attempts"`  // that the endpoints counted, per request
	Recovered float64        `json:"recovered"` // seconds from the window's begin to the last slice that was bad; 0: none was
	Never     bool           `json:"never"`     // it was bad to the end
	Failures  map[string]int `json:"failures,omitempty"`
}

// A slice is bad when fewer than good of its requests succeeded; it is long enough for one stray failure not to make it so at the usual rate.
const (
	slice = 250 * time.Millisecond
	good  = 0.98
)

// judge turns the samples of a window into figures. Pure.
func judge(samples []sample, attempts int64, window time.Duration) figures {
	f := figures{Requests: len(samples), Failures: map[string]int{}}
	if len(samples) == 0 {
		f.Never = true
		return f
	}
	type count struct{ all, ok int }
	bins := make([]count, max(1, int(window/slice)))
	took := make([]float64, 0, len(samples))
	right := 0
	for _, v := range samples {
		c := &bins[min(int(v.at/slice), len(bins)-1)]
		c.all++
		if v.fail == "" {
			right++
			c.ok++
		} else {
			f.Failures[v.fail]++
		}
		took = append(took, float64(v.took)/float64(time.Millisecond))
	}
	slices.Sort(took)
	f.Success = float64(right) / float64(len(samples))
	f.P50, f.P99 = quantile(took, 0.5), quantile(took, 0.99)
	f.Attempts = float64(attempts) / float64(len(samples))
	for i, c := range bins {
		if c.all > 0 && float64(c.ok) < good*float64(c.all) {
			f.Recovered = (time.Duration(i+1) * slice).Seconds()
			f.Never = i >= len(bins)-2
		}
	}
	return f
}

// quantile of sorted values, by the nearest rank.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// middle is the median of each figure over rounds; what failed is that of the round in the middle by success.
func middle(rounds []figures) figures {
	if len(rounds) == 0 {
		return figures{}
	}
	by := slices.SortedFunc(slices.Values(rounds), func(a, b figures) int { return cmp.Compare(a.Success, b.Success) })
	m := by[len(by)/2]
	of := func(get func(figures) float64) float64 {
		var v []float64
		for _, r := range rounds {
			v = append(v, get(r))
		}
		slices.Sort(v)
		if n := len(v); n%2 == 0 {
			return (v[n/2-1] + v[n/2]) / 2
		}
		return v[len(v)/2]
	}
	m.Success, m.P50, m.P99 = of(func(f figures) float64 { return f.Success }), of(func(f figures) float64 { return f.P50 }), of(func(f figures) float64 { return f.P99 })
	m.Attempts = of(func(f figures) float64 { return f.Attempts })
	m.Recovered = of(func(f figures) float64 {
		if f.Never {
			return math.Inf(1)
		}
		return f.Recovered
	})
	m.Never = math.IsInf(m.Recovered, 1)
	if m.Never {
		m.Recovered = 0
	}
	return m
}

// What is as good as equal: the tables call several contenders best then.
const (
	sameSuccess  = 0.01
	sameAttempts = 0.05
	sameLatency  = 1.5 // times the best p99, and
	alikeMs      = 25. // so many ms
)

// verdict says which contenders are best or as good.
type verdict struct{ success, attempts, p99 []string }

// compare finds the best of a scenario. Pure. Attempts below one per request are no merit (a request that reaches no endpoint is none), so they count as one; nor
// is a quick failure, so p99 is compared among those that are best on success.
func compare(of map[string]figures) (v verdict) {
	success, attempts, p99 := 0.0, math.Inf(1), math.Inf(1)
	for _, f := range of {
		success, attempts = max(success, f.Success), min(attempts, max(1, f.Attempts))
	}
	names := slices.Sorted(maps.Keys(of))
	for _, name := range names {
		f := of[name]
		if f.Success >= success-sameSuccess {
			v.success = append(v.success, name)
			p99 = min(p99, f.P99)
		}
		if max(1, f.Attempts) <= attempts+sameAttempts {
			v.attempts = append(v.attempts, name)
		}
	}
	for _, name := range v.success {
		if of[name].P99 <= max(p99*sameLatency, p99+alikeMs) {
			v.p99 = append(v.p99, name)
		}
	}
	return v
}
