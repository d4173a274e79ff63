//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
)

// What Tulle's telemetry costs: the same sidecar with less and less of it. The last one is built with the tag norecorder: nothing is counted, and only the
// time stamps and fields of the Record are still filled in.
var telemetryCost = &workload{
	name: "telemetry", title: "Tulle with less and less telemetry, 1 KB, 64 keep-alive connections, inbound",
	run: func(r *rig, w *workload) (outcome, error) {
		bare := filepath.Join(r.dir, "tulle-sidecar-norecorder")
		build := exec.CommandContext(r.ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "norecorder", "-o", bare, "./cmd/tulle-sidecar")
		build.Env = append(build.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building a sidecar without recorder: %w: %s", err, lastLines(text, 3))
		}
		variant := func(name, title, binary string, flags ...string) *proxy {
			return &proxy{name: name, title: title, start: func(r *rig, p *proxy, s setup) (*running, error) {
				return startSidecar(r, p, s, binary, "", flags...)
			}}
		}
		all := proxies()
		full := all[slices.IndexFunc(all, func(p *proxy) bool { return p.name == subject })]
		spans := variant("tulle-spans", "RED metrics and spans", "tulle-sidecar", "--otlp", r.sinkSecure.String())
		o := r.o
		defer func() { r.o = o }()
		r.o.proxies = []*proxy{
			full, spans,
			variant("tulle-red", "RED metrics", "tulle-sidecar", "--otlp", "off"),
			variant("tulle-none", "no recorder", bare, "--otlp", "off"),
		}
		found, err := r.compare(w, contest{unit: "request", job: job{Size: 1 << 10, Conns: 64}})
		if err != nil {
			return nil, err
		}
		return &costs{found.(*comparison)}, nil
	},
}

// telemetryLimit is the bar, µs per request for all of it.
const telemetryLimit = 2.5

// costs is a comparison that is about differences.
type costs struct{ *comparison }

// all is what everything together costs, µs per request, on medians and on the best rounds; ok is false when that was not measured.
func (c *costs) all() (medians, best float64, ok bool) {
	full, none := c.find(subject), c.find("tulle-none")
	if full == nil || none == nil || len(full.cpu) == 0 || len(none.cpu) == 0 {
		return 0, 0, false
	}
	return median(full.cpu) - median(none.cpu), slices.Min(full.cpu) - slices.Min(none.cpu), true
}

func (c *costs) problems() []string {
	out := c.comparison.problems()
	m, best, ok := c.all()
	switch {
	case !ok:
		out = append(out, c.title+": the cost of all telemetry is unknown")
	case m > telemetryLimit || best > telemetryLimit:
		out = append(out, fmt.Sprintf("%s: all telemetry costs %.1f µs on medians, %.1f µs on the best rounds; the bar is %.1f", c.title, m, best, telemetryLimit))
	}
	return out
}

func (c *costs) markdown() string {
	text := c.comparison.markdown()
	if m, best, ok := c.all(); ok {
		text += fmt.Sprintf("\nAll telemetry together: %.1f µs per request on medians, %.1f µs on the best rounds (bar: %.1f).\n", m, best, telemetryLimit)
	}
	return text
}
