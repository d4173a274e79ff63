//go:build linux

package main

// 1 KB answers over 64 keep-alive connections, as fast as the proxy goes: before a service, and on an application's way out.

var keepAliveBars = []bar{{"envoy", 0.60}, {"envoy-traced", 0.40}}

var keepAliveIn = &workload{
	name: "1k-in", title: "1 KB, 64 keep-alive connections, inbound",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{unit: "request", job: job{Size: 1 << 10, Conns: 64}, bars: keepAliveBars})
	},
}

var keepAliveOut = &workload{
	name: "1k-out", title: "1 KB, 64 keep-alive connections, outbound",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{unit: "request", setup: setup{outbound: true}, job: job{Size: 1 << 10, Conns: 64}, bars: keepAliveBars})
	},
}
