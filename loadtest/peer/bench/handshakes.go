//go:build linux

package main

import "crypto/tls"

// A connection with a TLS 1.3 handshake and certificates at both ends for each request, 32 at a time: full, and resumed by session ticket. The
// callers offer one key exchange, X25519, which every proxy here has, so that all of them do the same work. What the hybrid with ML-KEM-768
// costs, which Go prefers and Envoy is configured to take, is measured apart: OpenSSL below 3.5, and with it HAProxy and nginx of Debian 12, does not
// have it and answers with X25519.

var (
	classical = []tls.CurveID{tls.X25519}
	hybrid    = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
)

var handshakesFull = &workload{
	name: "tls-full", title: "full mTLS handshake with X25519, 1 KB, per connection",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "connection", setup: setup{tlsIn: true}, job: job{Kind: jobFull, Size: 1 << 10, Conns: 32, Groups: classical},
			bars: []bar{{"envoy", 1.10}},
		})
	},
}

var handshakesResumed = &workload{
	name: "tls-resumed", title: "resumed mTLS handshake with X25519, 1 KB, per connection",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "connection", setup: setup{tlsIn: true}, job: job{Kind: jobResumed, Size: 1 << 10, Conns: 32, Groups: classical},
			bars: []bar{{"envoy", 1.15}},
		})
	},
}

var handshakesHybrid = &workload{
	name: "tls-hybrid", title: "full mTLS handshake with X25519MLKEM768 where there is one, 1 KB, per connection",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{
			unit: "connection", setup: setup{tlsIn: true}, job: job{Kind: jobFull, Size: 1 << 10, Conns: 32, Groups: hybrid},
		})
	},
}
