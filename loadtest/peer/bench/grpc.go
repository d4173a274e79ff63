//go:build linux

package main

// gRPC before a service: unary calls with an answer of 1 KB, many at a time on each of four connections and one at a time, in plaintext and over mTLS; and
// messages of 1 KB that go there and back on streams that stay open.

// speakTwo are the proxies that are compared: HAProxy and nginx are left out, whose configuration for gRPC would be another one.
var speakTwo = []string{subject, "envoy", "envoy-traced"}

func calls(s setup, j job, unit string, bars ...bar) func(*rig, *workload) (outcome, error) {
	s.two = true
	return func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{unit: unit, setup: s, job: j, bars: bars, among: speakTwo})
	}
}

var grpcUnary = &workload{
	name: "grpc", title: "gRPC, 1 KB, 4 connections with 25 calls at a time",
	run: calls(setup{}, job{Kind: jobCalls, Size: 1 << 10, Conns: 4, Streams: 25}, "call", bar{"envoy", 0.45}, bar{"envoy-traced", 0.30}),
}

var grpcSparse = &workload{
	name: "grpc-sparse", title: "gRPC, 1 KB, 4 connections with one call at a time",
	run: calls(setup{}, job{Kind: jobCalls, Size: 1 << 10, Conns: 4, Streams: 1}, "call", bar{"envoy", 0.70}, bar{"envoy-traced", 0.50}),
}

var grpcMTLS = &workload{
	name: "grpc-mtls-in", title: "gRPC over mTLS, inbound, 1 KB, 4 connections with 25 calls at a time",
	run: calls(setup{tlsIn: true}, job{Kind: jobCalls, Size: 1 << 10, Conns: 4, Streams: 25}, "call", bar{"envoy", 0.60}, bar{"envoy-traced", 0.40}),
}

var grpcStream = &workload{
	name: "grpc-stream", title: "gRPC, 100 streams on 4 connections, messages of 1 KB there and back",
	run: calls(setup{}, job{Kind: jobStreams, Size: 1 << 10, Conns: 4, Streams: 25}, "message", bar{"envoy", 0.60}),
}
