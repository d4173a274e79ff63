//go:build linux

package main

// Bytes before a service whose protocol the proxy does not know: small messages that go there and back, and large ones that go one way. What is carried is
// the conversation of the other workloads, so that every byte is verified.

// relays are the proxies that are compared: the others would need another configuration.
var relays = []string{subject, "envoy"}

func relayed(s setup, j job, unit string, bars ...bar) func(*rig, *workload) (outcome, error) {
	s.tcp, j.Relayed = true, true
	return func(r *rig, w *workload) (outcome, error) {
		return r.compare(w, contest{unit: unit, setup: s, job: j, bars: bars, among: relays})
	}
}

var tcpEcho = &workload{
	name: "tcp-echo", title: "TCP, 64 connections, a small message there and back",
	run: relayed(setup{}, job{Size: 64, Conns: 64}, "message", bar{"envoy", 0.95}),
}

var tcpEchoTLS = &workload{
	name: "tcp-mtls-in", title: "TCP over mTLS, inbound, 64 connections, a small message there and back",
	run: relayed(setup{tlsIn: true}, job{Size: 64, Conns: 64}, "message", bar{"envoy", 0.95}),
}

var tcpBulk = &workload{
	name: "tcp-bulk", title: "TCP, 4 connections, 1 MB at a time",
	run: relayed(setup{}, job{Size: 1 << 20, Conns: 4}, "MB", bar{"envoy", 0.90}),
}

var tcpBulkTLS = &workload{
	name: "tcp-mtls-bulk", title: "TCP over mTLS, inbound, 4 connections, 1 MB at a time",
	run: relayed(setup{tlsIn: true}, job{Size: 1 << 20, Conns: 4}, "MB"),
}
