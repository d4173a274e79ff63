package flow

// Recorder takes what a sidecar saw. Implemented by sidecar/telemetry; the data path knows only this. All methods are safe for
// concurrent use, never block on I/O, and never fail: what cannot be kept is dropped and counted.
type Recorder interface {
	// Record hands over one Record. The Recorder copies what it keeps before returning, so the caller may reuse r. Of r's strings, those that come
	// from a request (Method, Path, Authority, UserAgent, RequestID, Headers) and Detail may alias buffers that are overwritten after the return; all
	// others must be immutable.
	Record(r *Record)
	// Active adds delta to the number of live exchanges or connections of an edge as seen from one side.
	Active(key ActiveKey, delta int64)
	// TraceContext notes that an outbound exchange carried a valid traceparent (kept), or that it carried none though its workload had an inbound
	// exchange in flight (not kept). One without either is no sign of anything and is not noted.
	TraceContext(kept bool)
	// Detected counts the detection of one connection's protocol.
	Detected(d Detection)
}

// ActiveKey names what Active counts.
type ActiveKey struct {
	Side                Side
	Kind                Kind
	Protocol            Protocol
	Source, Destination string // service names
}
