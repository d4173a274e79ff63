//go:build linux

package main

// 1 KB answers over 64 keep-alive connections with TLS 1.3 and certificates at both ends: from the caller to the proxy, and from the proxy on.

var mtlsIn = &workload{
	name: "mtls-in", title: "1 KB over mTLS, inbound",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "request", setup: setup{tlsIn: true}, job: job{Size: 1 << 10, Conns: 64},
			bars: []bar{{"envoy", 0.60}, {"envoy-traced", 0.40}},
		})
	},
}

var mtlsOut = &workload{
	name: "mtls-out", title: "1 KB over mTLS, outbound",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "request", setup: setup{outbound: true, tlsOut: true}, job: job{Size: 1 << 10, Conns: 64},
			bars: []bar{{"envoy", 0.60}},
		})
	},
}
