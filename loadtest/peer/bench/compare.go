//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// outcome is what a workload found.
type outcome interface {
	markdown() string
	problems() []string
}

// workload is one thing that is measured.
type workload struct {
	name  string // on the command line
	title string
	run   func(*rig, *workload) (outcome, error)
}

// workloads is the table of them, in the order of the report.
func workloads() []*workload {
	return []*workload{
		keepAliveIn, keepAliveOut, largeIn, largeOut, mtlsIn, mtlsOut, newConnections, lowLoad, handshakesFull, handshakesResumed, handshakesHybrid,
		grpcUnary, grpcSparse, grpcMTLS, grpcStream, twoSpeeds, abuse, tcpEcho, tcpBulk, tcpEchoTLS, tcpBulkTLS,
		memoryPlain, memoryTLS, memoryMany, memoryRelays, memoryRelaysTLS, latency, unixHop, unixRelay, telemetryCost, hopSlow, hopFast,
	}
}

// contest is a workload that compares CPU time.
type contest struct {
	setup setup
	job   job // Address, TLS, Warmup, Window, PIDs are filled in
	unit  string
	bars  []bar
	among []string // proxies that can do it; nil: all
}

// compare lets all chosen proxies run side by side and gives each a window in turn, in another order every round, so that whatever disturbs the
// machine disturbs all of them.
func (r *rig) compare(w *workload, c contest) (_ outcome, err error) {
	out := &comparison{title: w.title, unit: c.unit, bars: c.bars, rate: c.job.Rate}
	var all []*running
	defer func() {
		for _, p := range all {
			if serr := p.stop(); err == nil && serr != nil {
				err = serr
			}
		}
	}()
	for _, p := range r.o.proxies {
		if c.among != nil && !slices.Contains(c.among, p.name) {
			continue
		}
		run, err := p.start(r, p, c.setup)
		if err != nil {
			return nil, err
		}
		all = append(all, run)
		out.series = append(out.series, series{name: p.name, title: p.title})
	}
	for round := range r.o.rounds {
		for i := range all {
			at := (i + round) % len(all)
			if err := r.round(all[at], &out.series[at], c); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range out.series {
		if len(s.cpu) > 0 {
			r.say("%s: %-26s %7.1f µs (best %.1f), %.0f/s %s", w.name, s.title, median(s.cpu), slices.Min(s.cpu), median(s.rate), s.failure)
		} else {
			r.say("%s: %-26s %s", w.name, s.title, s.failure)
		}
	}
	return out, nil
}

// round measures one window of one proxy.
func (r *rig) round(p *running, s *series, c contest) error {
	if s.failure != "" {
		return nil
	}
	j := c.job
	if c.setup.tlsIn {
		j.TLS = &r.pki
	}
	j.Address, j.PIDs, j.Warmup, j.Window = p.address, p.pids(), r.o.warmup, r.o.window
	e, err := r.before(p)
	if err != nil {
		return err
	}
	res, err := r.do(j)
	if err != nil {
		s.failure = err.Error()
		return r.ctx.Err()
	}
	if res.Errors > 0 {
		s.failure = fmt.Sprintf("%d wrong answers, the first: %s", res.Errors, res.Failure)
		return nil
	}
	flags, err := r.after(p, e, res.exchanges())
	if err != nil {
		return err
	}
	for _, f := range flags {
		if !slices.Contains(s.flags, f) {
			s.flags = append(s.flags, f)
		}
	}
	if res.Requests == 0 {
		s.failure = "no answer came in the window"
		return nil
	}
	var cpu time.Duration
	for _, t := range res.CPU {
		cpu += t
	}
	s.cpu = append(s.cpu, cpu.Seconds()*1e6/float64(res.Requests))
	s.rate = append(s.rate, float64(res.Requests)/res.Elapsed.Seconds())
	s.busy = append(s.busy, cpu.Seconds()/res.Elapsed.Seconds())
	return nil
}
