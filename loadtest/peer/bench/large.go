//go:build linux

package main

// 16 KB answers over 64 keep-alive connections.

var largeBars = []bar{{"envoy", 0.75}}

var largeIn = &workload{
	name: "16k-in", title: "16 KB, 64 keep-alive connections, inbound",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{unit: "request", job: job{Size: 16 << 10, Conns: 64}, bars: largeBars})
	},
}

var largeOut = &workload{
	name: "16k-out", title: "16 KB, 64 keep-alive connections, outbound",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{unit: "request", setup: setup{outbound: true}, job: job{Size: 16 << 10, Conns: 64}, bars: largeBars})
	},
}
