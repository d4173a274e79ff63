//go:build linux

package main

// A connection with a TLS 1.3 handshake and certificates at both ends for each request, 32 at a time: full, and resumed by session ticket.

var handshakesFull = &workload{
	name: "tls-full", title: "full mTLS handshake, 1 KB, per connection",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "connection", setup: setup{tlsIn: true}, job: job{Kind: jobFull, Size: 1 << 10, Conns: 32, TLS: &r.pki},
			bars: []bar{{"envoy", 1.10}},
		})
	},
}

var handshakesResumed = &workload{
	name: "tls-resumed", title: "resumed mTLS handshake, 1 KB, per connection",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "connection", setup: setup{tlsIn: true}, job: job{Kind: jobResumed, Size: 1 << 10, Conns: 32, TLS: &r.pki},
			bars: []bar{{"envoy", 1.15}},
		})
	},
}
