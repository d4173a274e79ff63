package flow

// Reason is the closed vocabulary of why something did not simply succeed. New reasons are added here, in
// docs/format/record.md and in reasonNames, nowhere else. The zero value means success.
type Reason uint8

const (
	ReasonNone             Reason = iota
	ReasonConnectRefused          // TCP connect refused by the endpoint
	ReasonConnectTimeout          // TCP connect or TLS handshake did not finish in time
	ReasonConnectFailed           // any other connect error (no route, reset while connecting)
	ReasonTLSFailed               // TLS handshake failed
	ReasonIdentityMismatch        // peer's SPIFFE ID is not one of the destination's
	ReasonUpstreamReset           // connection reset or closed before a complete response
	ReasonUpstreamProtocol        // upstream sent something that is not valid in its protocol
	ReasonRequestTimeout          // total deadline elapsed
	ReasonTryTimeout              // per-try deadline elapsed
	ReasonIdleTimeout             // no bytes for the idle limit
	ReasonDownstreamReset         // the caller went away before the response was complete
	ReasonBadRequest              // the caller's bytes are not a valid request, or its body did not arrive in time
	ReasonNoEndpoint              // the destination has no endpoint at all
	ReasonNoHealthy               // endpoints exist, none may be used
	ReasonNoRoute                 // nothing matched
	ReasonUnknownDest             // destination is not known to the mesh
	ReasonShed                    // a limit of this sidecar was reached
	ReasonDraining                // sidecar is stopping
	ReasonDenied                  // policy does not allow this peer
	ReasonPlaintextRefused        // mTLS required, plaintext arrived
	ReasonUpstreamStatus          // upstream answered with a 5xx status
	ReasonRateLimited             // a configured rate limit was reached
	ReasonReporterLost            // reporter vanished before it closed the record (assigned by the observer)
	numReasons
)

var reasonNames = [numReasons]string{
	"", "connect_refused", "connect_timeout", "connect_failed", "tls_failed", "identity_mismatch",
	"upstream_reset", "upstream_protocol_error", "request_timeout", "try_timeout", "idle_timeout", "downstream_reset", "bad_request",
	"no_endpoint", "no_healthy_endpoint", "no_route", "unknown_destination", "shed", "draining", "denied", "plaintext_refused",
	"upstream_5xx", "rate_limited", "reporter_lost",
}

// String returns the wire name, "" for success.
func (r Reason) String() string {
	if r >= numReasons {
		return "invalid"
	}
	return reasonNames[r]
}

// ParseReason is the inverse of String; ok is false for a name outside the vocabulary.
func ParseReason(s string) (r Reason, ok bool) {
	for i, n := range reasonNames {
		if n == s {
			return Reason(i), true
		}
	}
	return ReasonNone, false
}

// Reasons returns every reason but ReasonNone, in wire order.
func Reasons() []Reason {
	out := make([]Reason, 0, numReasons-1)
	for r := ReasonNone + 1; r < numReasons; r++ {
		out = append(out, r)
	}
	return out
}
