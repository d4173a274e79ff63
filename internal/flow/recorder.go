package flow

// Recorder takes what a sidecar saw. Implemented by sidecar/telemetry; the data path knows only this. All methods are safe for
// concurrent use, never block on I/O, and never fail: what cannot be kept is dropped and counted.
type Recorder interface {
	// Record hands over one Record. The Recorder copies what it keeps before returning, so the caller may reuse r. That includes strings:
	// Method, Path, Authority, UserAgent and RequestID alias a connection's buffer, so a kept one is cloned (strings.Clone).
	Record(r *Record)
	// Active adds delta to the number of live exchanges or connections of an edge as seen from one side.
	Active(key ActiveKey, delta int64)
	// TraceContext notes whether an outbound exchange carried a valid traceparent while its workload had an inbound exchange in flight.
	TraceContext(kept bool)
}

// ActiveKey names what Active counts.
type ActiveKey struct {
	Side                Side
	Kind                Kind
	Protocol            Protocol
	Source, Destination string // service names
}
