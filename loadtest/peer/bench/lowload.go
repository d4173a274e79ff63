//go:build linux

package main

// 1,500 requests per second, evenly spaced, over 64 keep-alive connections, whatever the answers do: what a proxy costs that mostly sleeps.
var lowLoad = &workload{
	name: "low", title: "1,500 requests/s, 1 KB",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "request", job: job{Size: 1 << 10, Conns: 64, Rate: 1500},
			bars: []bar{{"envoy", 0.85}, {"envoy-traced", 0.70}},
		})
	},
}
