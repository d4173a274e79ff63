//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/controller/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/process"
)

// A whole hop: the caller's sidecar, mTLS, the service's sidecar, and what keeps their spans, all on the proxy's core. Here the store counts too. At the
// lower rate the core suffices for all of them; at the higher one Jaeger needs longer than the requests take, and its queue is made to hold them meanwhile.

var hopSlow = &workload{
	name: "hop-2000", title: "a whole hop, 2,000 requests/s, 1 KB: two proxies with mTLS between them, and what keeps the spans",
	run: func(r *rig, w *workload) (outcome, error) { return r.hops(w, 2000) },
}

var hopFast = &workload{
	name: "hop-5000", title: "a whole hop, 5,000 requests/s, 1 KB: two proxies with mTLS between them, and what keeps the spans",
	run: func(r *rig, w *workload) (outcome, error) { return r.hops(w, 5000) },
}

// hopSettle is counted after the last span was kept: what is still done in the background then belongs to the window.
const hopSettle = 2 * time.Second

// hop is one way of doing it. Its processes stop in reverse.
type hop struct {
	name, title string
	tools       []*tool
	start       func(*rig, *hop) error

	address netip.AddrPort // where the application calls
	parts   []*running
	names   []string                               // of the parts
	cpu     [][]float64                            // of each part, µs per request
	kept    func(context.Context) (float64, error) // spans that are stored since the start; nil: no spans
	dropped []string                               // admin addresses of sidecars that say what they dropped
}

// hopTable lists them; the names are those of the bars.
func hopTable() []*hop {
	return []*hop{
		{name: subject, title: "2 Tulle sidecars, everything on, and the observer", start: startTulleHop},
		{name: "envoy", title: "2 Envoys, telemetry off", tools: []*tool{envoyTool}, start: startEnvoyHop},
		{name: "envoy-jaeger", title: "2 Envoys, log + 100 % traces, and Jaeger 1.62 with badger", tools: []*tool{envoyTool}, start: startJaegerHop},
	}
}

func (r *rig) hops(w *workload, rate float64) (_ outcome, err error) {
	out := &comparison{title: w.title, unit: "request", bars: []bar{{"envoy", 0.85}, {"envoy-jaeger", 0.35}}, rate: rate}
	var all []*hop
	defer func() {
		for _, h := range all {
			err = errors.Join(err, h.stop())
		}
	}()
	for _, h := range hopTable() {
		for _, t := range h.tools {
			if r.paths[t.name] == "" {
				return nil, fmt.Errorf("%s is not among the chosen proxies: choose envoy too", t.name)
			}
		}
		all = append(all, h)
		if err := h.start(r, h); err != nil {
			return nil, err
		}
		out.series = append(out.series, series{name: h.name, title: h.title})
	}
	for round := range r.o.rounds {
		for i := range all {
			at := (i + round) % len(all)
			if err := r.hopRound(all[at], &out.series[at], rate); err != nil {
				return nil, err
			}
		}
	}
	for i := range out.series {
		if s := &out.series[i]; len(s.cpu) > 0 {
			s.note = "of which " + all[i].shares()
			r.say("%s: %-55s %7.1f µs (best %.1f), %s %s", w.name, s.title, median(s.cpu), slices.Min(s.cpu), s.note, strings.Join(s.flags, "; "))
		}
	}
	return out, nil
}

// hopRound counts the CPU time of all parts from the first request until the last span is kept, and a little longer.
func (r *rig) hopRound(h *hop, s *series, rate float64) error {
	if s.failure != "" {
		return nil
	}
	var pids, owner []int
	for i, p := range h.parts {
		for _, pid := range p.pids() {
			pids, owner = append(pids, pid), append(owner, i)
		}
	}
	kept, lost, err := h.state(r.ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	before, err := cpuTimes(pids)
	if err != nil {
		return err
	}
	res, err := r.do(job{Address: h.address, Size: 1 << 10, Conns: 64, Rate: rate, Window: r.o.warmup + r.o.window})
	if err != nil {
		s.failure = err.Error()
		return r.ctx.Err()
	}
	if res.Errors > 0 {
		s.failure = fmt.Sprintf("%d wrong answers, the first: %s", res.Errors, res.Failure)
		return nil
	}
	flag := func(format string, args ...any) {
		if f := fmt.Sprintf(format, args...); !slices.Contains(s.flags, f) {
			s.flags = append(s.flags, f)
		}
	}
	if h.kept != nil {
		var now float64
		limited, cancel := context.WithTimeout(r.ctx, 6*patience)
		werr := process.Await(limited, func(ctx context.Context) error {
			if now, err = h.kept(ctx); err == nil && now-kept < float64(2*res.Total) {
				return errors.New("not yet")
			}
			return err
		})
		cancel()
		if werr != nil {
			flag("of %d requests only %.0f spans were kept, %d were expected", res.Total, now-kept, 2*res.Total)
		}
	}
	select {
	case <-time.After(hopSettle):
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	after, err := cpuTimes(pids)
	if err != nil {
		return err
	}
	elapsed := time.Since(begin)
	if _, now, err := h.state(r.ctx); err != nil {
		return err
	} else if now > lost {
		flag("%.0f records dropped", now-lost)
	}
	var cpu time.Duration
	each := make([]float64, len(h.parts))
	for i := range after {
		cpu += after[i] - before[i]
		each[owner[i]] += us(after[i]-before[i]) / float64(res.Total)
	}
	h.cpu = append(h.cpu, each)
	s.cpu = append(s.cpu, us(cpu)/float64(res.Total))
	s.rate = append(s.rate, float64(res.Requests)/res.Elapsed.Seconds())
	s.busy = append(s.busy, cpu.Seconds()/elapsed.Seconds())
	for _, p := range h.parts {
		if p.log == "" {
			continue
		}
		lines, err := countLines(p.log)
		if err != nil {
			return err
		}
		if lines < res.Total {
			flag("%d log lines of %d requests", lines, res.Total)
		}
		if err := os.Truncate(p.log, 0); err != nil {
			return err
		}
	}
	return nil
}

// shares says what each part costs.
func (h *hop) shares() string {
	var out []string
	for i, name := range h.names {
		var of []float64
		for _, round := range h.cpu {
			of = append(of, round[i])
		}
		out = append(out, fmt.Sprintf("%s %.1f", name, median(of)))
	}
	return strings.Join(out, ", ")
}

// state is how many spans are kept and how many records were dropped so far.
func (h *hop) state(ctx context.Context) (kept, lost float64, err error) {
	if h.kept != nil {
		if kept, err = h.kept(ctx); err != nil {
			return 0, 0, err
		}
	}
	for _, a := range h.dropped {
		n, err := dropped(ctx, a)
		if err != nil {
			return 0, 0, err
		}
		lost += n
	}
	return kept, lost, nil
}

func (h *hop) add(name string, p *running) {
	h.parts, h.names = append(h.parts, p), append(h.names, name)
}

func (h *hop) stop() error {
	var errs []error
	for _, p := range slices.Backward(h.parts) {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

func startTulleHop(r *rig, h *hop) error {
	var addresses [3]netip.AddrPort // HTTP, OTLP, the other sidecar
	for i := range addresses {
		var err error
		if addresses[i], err = r.ports.free(); err != nil {
			return err
		}
	}
	web, otlp := addresses[0], addresses[1]
	data := filepath.Join(r.dir, "observer")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	token, err := ca.IssueToken(r.mesh.data, identity.SystemNamespace, "observer", time.Now(), time.Hour)
	if err != nil {
		return err
	}
	tokenFile := filepath.Join(r.dir, "observer-token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		return err
	}
	proc, err := r.launch("observer", filepath.Join(r.o.bin, "tulle"), []string{
		"observer", "--data-dir", data, "--controller", r.mesh.grpc.String(), "--trust-domain", trustDomain, "--bundle", r.pki.anchors(), "--token-file", tokenFile,
		"--http", web.String(), "--otlp-grpc", otlp.String(), "--otlp-http", "off", "--log-level", "warn",
	}, func(ctx context.Context) error {
		if _, err := page(ctx, web.String(), "/metrics"); err != nil {
			return err
		}
		return accepts(otlp)(ctx)
	})
	if err != nil {
		return err
	}
	h.add("observer", &running{proc: proc})
	h.kept = func(ctx context.Context) (float64, error) {
		return sum(ctx, web.String(), "tulle_collector_spans_accepted_total", "")
	}
	var server string
	for _, s := range []struct {
		name  string
		setup setup
	}{
		{"server", setup{tlsIn: true}},
		{"client", setup{outbound: true, tlsOut: true}},
	} {
		if s.setup.outbound {
			s.setup.service = server
		}
		log := filepath.Join(r.logs, "tulle-"+s.name+".log")
		run, err := startSidecar(r, &proxy{name: "tulle-" + s.name}, s.setup, "tulle-sidecar", log, "--otlp", otlp.String(), "--access-log", "json", "--access-log-file", log)
		if err != nil {
			return err
		}
		server, h.address = run.service, run.address
		h.add(s.name, run)
		h.dropped = append(h.dropped, run.admin)
	}
	return nil
}

func startEnvoyHop(r *rig, h *hop) error { return envoyHop(r, h, netip.AddrPort{}) }

// envoyHop starts two Envoys; with an address for spans they log and trace.
func envoyHop(r *rig, h *hop, spans netip.AddrPort) error {
	p := &proxy{name: h.name, tool: envoyTool, traced: spans.IsValid(), start: startEnvoy}
	return r.chain(h, p, setup{spans: spans})
}

func startJaegerHop(r *rig, h *hop) error {
	path := filepath.Join(r.o.bin, "jaeger-all-in-one")
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s is missing: 'make bench-peers' builds it, from loadtest/peer/jaegerallinone", path)
	}
	args := []string{
		"--badger.ephemeral=false", "--badger.directory-key", filepath.Join(r.dir, "badger-keys"), "--badger.directory-value", filepath.Join(r.dir, "badger-values"),
		"--collector.queue-size", "100000", // its default of 2,000 spans drops some here
		"--log-level", "error",
	}
	var spans, admin netip.AddrPort
	for _, f := range []string{
		"collector.otlp.grpc.host-port", "admin.http.host-port", "collector.otlp.http.host-port", "collector.grpc-server.host-port", "collector.http-server.host-port",
		"query.http-server.host-port", "query.grpc-server.host-port", "http-server.host-port", "processor.jaeger-binary.server-host-port",
		"processor.jaeger-compact.server-host-port", "processor.zipkin-compact.server-host-port",
	} {
		at, err := r.ports.free()
		if err != nil {
			return err
		}
		switch f {
		case "collector.otlp.grpc.host-port":
			spans = at
		case "admin.http.host-port":
			admin = at
		}
		args = append(args, "--"+f, at.String())
	}
	for _, d := range []string{"badger-keys", "badger-values"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o700); err != nil {
			return err
		}
	}
	proc, err := r.launch("jaeger", path, args, func(ctx context.Context) error {
		_, err := page(ctx, admin.String(), "/")
		return err
	}, "SPAN_STORAGE_TYPE=badger")
	if err != nil {
		return err
	}
	h.add("Jaeger", &running{proc: proc})
	h.kept = func(ctx context.Context) (float64, error) {
		return sum(ctx, admin.String(), "jaeger_collector_spans_saved_by_svc_total", `result="ok"`)
	}
	return envoyHop(r, h, spans)
}
