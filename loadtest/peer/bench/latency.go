//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What a proxy adds to the latency of a fixed rate: each of its windows is paired with one straight to the backend just before. Reported, without a bar.
var latency = &workload{
	name: "latency", title: "latency added at a fixed rate, 1 KB",
	run: func(r *rig, w *workload) (outcome, error) { return r.lag(w) },
}

// latencyRates are tried; one at which the machine alone needs 1 ms or more at the 99th percentile says nothing of a proxy.
var latencyRates = []float64{1000, 3000, 6000}

const directLimit = time.Millisecond

// lags is the outcome: rows by rate, then proxy.
type lags struct {
	title string
	rows  []lag
}

type lag struct {
	rate     float64
	title    string
	direct   [2][]float64 // µs at p50 and p99 of the windows straight to the backend
	added    [2][]float64 // µs that the window after it had more
	unusable bool         // the direct p99 was too high
	failure  string
}

func (r *rig) lag(w *workload) (_ outcome, err error) {
	out := &lags{title: w.title}
	var all []*running
	defer func() {
		for _, p := range all {
			if serr := p.stop(); err == nil && serr != nil {
				err = serr
			}
		}
	}()
	for _, p := range r.o.proxies {
		run, err := p.start(r, p, setup{})
		if err != nil {
			return nil, err
		}
		all = append(all, run)
	}
	for _, rate := range latencyRates {
		rows := make([]lag, len(all))
		for i, p := range all {
			rows[i] = lag{rate: rate, title: p.title}
		}
		for round := range r.o.rounds {
			for i := range all {
				at := (i + round) % len(all)
				if err := r.pair(all[at], &rows[at]); err != nil {
					return nil, err
				}
			}
		}
		for _, l := range rows {
			if l.failure == "" {
				l.unusable = median(l.direct[1]) >= us(directLimit)
				r.say("%s: %-26s %.0f/s: added %.0f µs at p50, %.0f µs at p99 (direct %.0f and %.0f)", w.name, l.title, rate, median(l.added[0]), median(l.added[1]),
					median(l.direct[0]), median(l.direct[1]))
			}
			out.rows = append(out.rows, l)
		}
	}
	return out, nil
}

func us(d time.Duration) float64 { return d.Seconds() * 1e6 }

// pair measures straight to the backend, then through the proxy.
func (r *rig) pair(p *running, l *lag) error {
	if l.failure != "" {
		return nil
	}
	j := job{Address: r.plain, Size: 1 << 10, Conns: 64, Rate: l.rate, Warmup: r.o.warmup, Window: r.o.window}
	direct, err := r.do(j)
	if err != nil {
		return err
	}
	if direct.Errors > 0 {
		return fmt.Errorf("the backend itself gave %d wrong answers, the first: %s", direct.Errors, direct.Failure)
	}
	e, err := r.before(p)
	if err != nil {
		return err
	}
	j.Address = p.address
	through, err := r.do(j)
	if err != nil {
		l.failure = err.Error()
		return r.ctx.Err()
	}
	if through.Errors > 0 {
		l.failure = fmt.Sprintf("%d wrong answers, the first: %s", through.Errors, through.Failure)
		return nil
	}
	if _, err := r.after(p, e, through.Total); err != nil {
		return err
	}
	for i, q := range [][2]time.Duration{{direct.P50, through.P50}, {direct.P99, through.P99}} {
		l.direct[i] = append(l.direct[i], us(q[0]))
		l.added[i] = append(l.added[i], us(q[1]-q[0]))
	}
	return nil
}

func (l *lags) problems() (out []string) {
	for _, row := range l.rows {
		if row.failure != "" {
			out = append(out, fmt.Sprintf("%s: %s is disqualified: %s", l.title, row.title, row.failure))
		}
	}
	return slices.Compact(out)
}

func (l *lags) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n| requests/s | | added µs, p50 | added µs, p99 | without proxy µs, p50 | p99 |\n|---|---|---|---|---|---|\n", l.title)
	for _, row := range l.rows {
		switch {
		case row.failure != "":
			fmt.Fprintf(&b, "| %.0f | %s | disqualified: %s | | | |\n", row.rate, row.title, row.failure)
		case row.unusable:
			fmt.Fprintf(&b, "| %.0f | %s | the machine alone needs 1 ms or more | | %.0f | %.0f |\n", row.rate, row.title, median(row.direct[0]), median(row.direct[1]))
		default:
			fmt.Fprintf(&b, "| %.0f | %s | %.0f | %.0f | %.0f | %.0f |\n", row.rate, row.title, median(row.added[0]), median(row.added[1]),
				median(row.direct[0]), median(row.direct[1]))
		}
	}
	return b.String()
}
