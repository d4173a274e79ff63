//go:build linux

package main

// Each request on a connection of its own, 64 at a time.
var newConnections = &workload{
	name: "connections", title: "a new connection per request, 1 KB",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{unit: "request", job: job{Size: 1 << 10, Conns: 64, Close: true}, bars: []bar{{"envoy", 0.60}}})
	},
}
