//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Callers that abuse HTTP/2, one after the other, at a fresh proxy each: what that costs the proxy in CPU time and memory, how it ended the connection, and
// whether it still serves.
var abuse = &workload{
	name: "abuse", title: "callers that abuse HTTP/2",
	run: func(r *rig, w *workload) (outcome, error) { return r.abuse(w) },
}

const (
	abuseGrowth  = 48 << 20  // bar: bytes of memory that an attack may cost
	stalledLimit = 320 << 20 // and 1,000 stalled streams, each of which may hold its window
)

// abused is the outcome, a row per attack and proxy.
type abused struct {
	title string
	rows  []abusedRow
}

type abusedRow struct {
	attack      *attack
	name, title string // of the proxy
	report      attackReport
	cpu         time.Duration
	grown       int64  // bytes, resident, at most
	failure     string // it does not serve any more
}

func (r *rig) abuse(w *workload) (_ outcome, err error) {
	attacker, err := startChild("attack", r.loadCore)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, attacker.stop()) }()
	out := &abused{title: w.title}
	for _, k := range attacks() {
		for _, p := range r.o.proxies {
			if p.name != subject && p.name != "envoy" {
				continue
			}
			row := abusedRow{attack: k, name: p.name, title: p.title}
			if err := r.abuseOne(attacker, p, &row); err != nil {
				return nil, err
			}
			r.say("%s: %-26s %-20s %6d turns, %s, CPU %.0f ms, +%.1f MiB %s", w.name, row.title, k.name, row.report.Turns, row.end(), row.cpu.Seconds()*1e3, mib(row.grown), row.failure)
			out.rows = append(out.rows, row)
		}
	}
	return out, nil
}

// abuseOne attacks a new proxy once.
func (r *rig) abuseOne(attacker *child, p *proxy, row *abusedRow) (err error) {
	run, err := p.start(r, p, setup{two: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.stop()) }()
	good := job{Kind: jobCalls, Address: run.address, Size: 1 << 10, Conns: 1, Streams: 1, Window: 100 * time.Millisecond}
	serves := func() error {
		res, err := r.do(good)
		if err == nil && res.Errors > 0 {
			err = errors.New(res.Failure)
		}
		return err
	}
	if err := serves(); err != nil {
		row.failure = "it did not serve before: " + err.Error()
		return r.ctx.Err()
	}
	before, err := memoryOf(run.pids())
	if err != nil {
		return err
	}
	used, err := cpuTimes(run.pids())
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- attacker.ask(attackOrder{row.attack.name, run.address}, &row.report) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			over = true
		case <-tick.C:
		}
		now, err := memoryOf(run.pids())
		if err != nil { // it may have died, which serves finds
			break
		}
		row.grown = max(row.grown, now.rss-before.rss)
	}
	if after, err := cpuTimes(run.pids()); err == nil {
		for i := range after {
			row.cpu += after[i] - used[i]
		}
	}
	if row.report.Err != "" {
		return fmt.Errorf("%s at %s: %s", row.attack.name, row.title, row.report.Err)
	}
	if err := serves(); err != nil {
		row.failure = "then it does not serve any more: " + err.Error()
	}
	return r.ctx.Err()
}

// end says how the connections ended.
func (a abusedRow) end() string { return strings.Join(a.report.Ended, "; ") }

func (a abusedRow) limit() int64 {
	if a.attack.name == "stalled" {
		return stalledLimit
	}
	return abuseGrowth
}

func (a *abused) problems() (out []string) {
	for _, row := range a.rows {
		say := func(format string, args ...any) {
			out = append(out, fmt.Sprintf("%s: %s, %s: %s", a.title, row.title, row.attack.name, fmt.Sprintf(format, args...)))
		}
		if row.failure != "" {
			say("%s", row.failure)
			continue
		}
		if row.name != subject {
			continue
		}
		if row.attack.ends && row.report.Open > 0 {
			say("%d turns, and the connection was left open", row.report.Turns)
		}
		if row.grown > row.limit() {
			say("%.0f MiB more memory; the bar is %.0f", mib(row.grown), mib(row.limit()))
		}
	}
	return out
}

func (a *abused) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\nA turn is what one opens, sends and provokes once.\n\n", a.title)
	b.WriteString("| attack | | turns | connection | RST_STREAM | CPU, ms | µs per turn | memory, MiB more |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range a.rows {
		if row.failure != "" {
			fmt.Fprintf(&b, "| %s | %s | failed: %s | | | | | |\n", row.attack.title, row.title, row.failure)
			continue
		}
		turns := max(1, row.report.Turns)
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %d | %.0f | %.1f | %.1f |\n", row.attack.title, row.title, row.report.Turns, row.end(), row.report.Resets,
			row.cpu.Seconds()*1e3, us(row.cpu)/float64(turns), mib(row.grown))
	}
	fmt.Fprintf(&b, "\nTulle's bars: at most %.0f MiB (%.0f for the stalled streams), the connection ended where the attack is none that a caller may do at length, and it still serves.\n",
		mib(abuseGrowth), mib(stalledLimit))
	return b.String()
}
