//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Memory of a proxy that has just started, and of connections that made one request, or sent one message there and back, and say nothing more.

const (
	plainPerConn = 8 << 10  // bar, bytes
	tlsPerConn   = 40 << 10 // aim, bytes
	idleSidecar  = 14 << 20 // bar, bytes
)

// crowd is the connections of one measurement.
type crowd struct {
	setup setup
	conns int
	each  int64    // bar, bytes of anonymous memory for one connection; 0: none
	whole int64    // bar, bytes resident with all of them; 0: none
	among []string // proxies that can do it; nil: all
}

// spareFiles is how many descriptors a process needs besides those of connections.
const spareFiles = 200

// files is how many descriptors of a proxy a connection takes.
func (c crowd) files() int {
	if c.setup.tcp {
		return 2
	}
	return 1
}

func (c crowd) workload(name, title string) *workload {
	return &workload{name: name, title: title, run: func(r *rig, w *workload) (outcome, error) { return r.remember(w, c) }}
}

var (
	memoryPlain = crowd{conns: 10_000, each: plainPerConn}.workload("memory", "memory at 10,000 idle connections, plaintext")
	memoryTLS   = crowd{conns: 10_000, each: tlsPerConn, setup: setup{tlsIn: true}}.workload("memory-tls", "memory at 10,000 idle connections, mTLS")
	memoryMany  = crowd{conns: 20_000, whole: 200 << 20, setup: setup{many: true}, among: relays}.workload(
		"memory-many", "memory at 20,000 idle keep-alive connections, plaintext")
	memoryRelays = crowd{conns: 10_000, whole: 250 << 20, setup: setup{tcp: true, many: true}, among: relays}.workload(
		"memory-tcp", "memory at 10,000 TCP relays, plaintext")
	memoryRelaysTLS = crowd{conns: 10_000, setup: setup{tcp: true, many: true, tlsIn: true}, among: relays}.workload(
		"memory-tcp-tls", "memory at 10,000 TCP relays, mTLS inbound")
)

// memory is /proc/PID/smaps_rollup, bytes: resident; resident with shared pages divided among who shares them; anonymous.
type memory struct{ rss, pss, anon int64 }

func memoryOf(pids []int) (m memory, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return m, err
		}
		one, err := parseRollup(b)
		if err != nil {
			return m, fmt.Errorf("/proc/%d/smaps_rollup: %w", pid, err)
		}
		m.rss, m.pss, m.anon = m.rss+one.rss, m.pss+one.pss, m.anon+one.anon
	}
	return m, nil
}

func parseRollup(text []byte) (m memory, err error) {
	want := map[string]*int64{"Rss": &m.rss, "Pss": &m.pss, "Anonymous": &m.anon}
	for line := range bytes.Lines(text) {
		name, rest, _ := strings.Cut(string(line), ":")
		if to := want[name]; to != nil {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return m, fmt.Errorf("%q: %w", line, err)
			}
			*to = kib << 10
			delete(want, name)
		}
	}
	if len(want) > 0 {
		return m, errors.New("it lacks Rss, Pss or Anonymous")
	}
	return m, nil
}

// remembered is the outcome.
type remembered struct {
	title        string
	conns        int   // of crowd
	limit, whole int64 // of crowd, for the subject
	rows         []kept
}

// all is the resident memory with as many connections as were meant, if this host allows fewer.
func (m *remembered) all(k kept) int64 { return k.full.rss + k.perConn().rss*int64(m.conns-k.conns) }

// kept is of one proxy.
type kept struct {
	name, title string
	idle, full  memory
	conns       int
	failure     string
}

// perConn is what n connections added.
func (k kept) perConn() memory {
	n := int64(max(k.conns, 1))
	return memory{(k.full.rss - k.idle.rss) / n, (k.full.pss - k.idle.pss) / n, (k.full.anon - k.idle.anon) / n}
}

func (r *rig) remember(w *workload, c crowd) (outcome, error) {
	out := &remembered{title: w.title, conns: c.conns, limit: c.each, whole: c.whole}
	for _, p := range r.o.proxies {
		if c.among != nil && !slices.Contains(c.among, p.name) {
			continue
		}
		k := kept{name: p.name, title: p.title, conns: min(c.conns, (r.files-spareFiles)/c.files())}
		if p.tool == haproxyTool {
			k.conns = min(k.conns, r.files/2-400) // it counts on two descriptors per connection
		}
		if err := r.rememberOne(p, c.setup, &k); err != nil {
			if r.ctx.Err() != nil {
				return nil, err
			}
			k.failure = err.Error()
		}
		one := k.perConn()
		r.say("%s: %-26s idle %.1f MiB anonymous, %.1f KiB per connection %s", w.name, p.title, mib(k.idle.anon), kib(one.anon), k.failure)
		out.rows = append(out.rows, k)
	}
	return out, nil
}

func (r *rig) rememberOne(p *proxy, s setup, k *kept) (err error) {
	var tls *pki
	if s.tlsIn {
		tls = &r.pki
	}
	run, err := p.start(r, p, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.stop()) }()
	if k.idle, err = r.settled(run); err != nil {
		return err
	}
	j := job{Kind: jobIdle, Address: run.address, Size: 1 << 10, Conns: k.conns, TLS: tls}
	_, err = r.do(j)
	if err == nil {
		k.full, err = r.settled(run)
	}
	still, cerr := r.do(job{Kind: jobIdleClose, Address: run.address})
	if err == nil && cerr == nil && still.Total < k.conns {
		err = fmt.Errorf("it closed %d of %d idle connections", k.conns-still.Total, k.conns)
	}
	return errors.Join(err, cerr)
}

// settled is the memory once it has not changed by more than 1 % for 3 s, or after 20 s.
func (r *rig) settled(p *running) (memory, error) {
	const calm, most = 3 * time.Second, 20 * time.Second
	begin := time.Now()
	since, last := begin, memory{}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := memoryOf(p.pids())
		if err != nil {
			return m, err
		}
		if d := m.anon - last.anon; d > last.anon/100 || -d > last.anon/100 {
			last, since = m, time.Now()
		}
		if time.Since(since) >= calm || time.Since(begin) >= most {
			return m, nil
		}
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return m, r.ctx.Err()
		}
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
func kib(n int64) float64 { return float64(n) / (1 << 10) }

func (m *remembered) problems() (out []string) {
	for _, k := range m.rows {
		switch {
		case k.failure != "":
			out = append(out, fmt.Sprintf("%s: %s: %s", m.title, k.title, k.failure))
		case k.name != subject:
		default:
			if one := k.perConn().anon; m.limit > 0 && one > m.limit {
				out = append(out, fmt.Sprintf("%s: %.1f KiB per connection; the bar is %.0f", m.title, kib(one), kib(m.limit)))
			}
			if m.whole > 0 && m.all(k) > m.whole {
				out = append(out, fmt.Sprintf("%s: %.1f MiB resident; the bar is %.0f", m.title, mib(m.all(k)), mib(m.whole)))
			}
			if k.idle.anon > idleSidecar {
				out = append(out, fmt.Sprintf("%s: %.1f MiB anonymous when idle; the bar is %.0f", m.title, mib(k.idle.anon), mib(idleSidecar)))
			}
		}
	}
	return out
}

func (m *remembered) markdown() string {
	var b strings.Builder
	few := false
	fmt.Fprintf(&b, "### %s\n\n| | just started, MiB: anonymous | PSS | RSS | connections | KiB per connection: anonymous | PSS | RSS | in all, MiB: RSS |\n|---|---|---|---|---|---|---|---|---|\n",
		m.title)
	for _, k := range m.rows {
		if k.failure != "" {
			fmt.Fprintf(&b, "| %s | failed: %s | | | | | | | |\n", k.title, k.failure)
			continue
		}
		one := k.perConn()
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %d | %.1f | %.1f | %.1f | %.1f |\n", k.title, mib(k.idle.anon), mib(k.idle.pss), mib(k.idle.rss), k.conns,
			kib(one.anon), kib(one.pss), kib(one.rss), mib(m.all(k)))
		few = few || k.conns < m.conns
	}
	fmt.Fprintf(&b, "\nTulle's bars: %.0f MiB just started, anonymous", mib(idleSidecar))
	if m.limit > 0 {
		fmt.Fprintf(&b, "; %.0f KiB per connection, anonymous", kib(m.limit))
	}
	if m.whole > 0 {
		fmt.Fprintf(&b, "; %.0f MiB resident with all connections", mib(m.whole))
	}
	b.WriteString(".\n")
	if few {
		fmt.Fprintf(&b, "\nWhere this host's limit of open files, or the proxy's way with it, allowed fewer than %d connections, the last column is what each added, for all of them.\n", m.conns)
	}
	return b.String()
}
