package exchange

import "github.com/tulle-mesh/tulle/internal/flow"

// AnswerStatus is the HTTP status of the sidecar's own answer for a reason.
func AnswerStatus(r flow.Reason) int {
	switch r {
	case flow.ReasonBadRequest:
		return 400
	case flow.ReasonDenied, flow.ReasonPlaintextRefused:
		return 403
	case flow.ReasonNoRoute:
		return 404
	case flow.ReasonRateLimited:
		return 429
	case flow.ReasonNoBackend: // as the Gateway API says
		return 500
	case flow.ReasonUpstreamReset, flow.ReasonUpstreamProtocol, flow.ReasonUnknownDest:
		return 502
	case flow.ReasonRequestTimeout, flow.ReasonTryTimeout, flow.ReasonIdleTimeout, flow.ReasonStreamTimeout:
		return 504
	}
	return 503
}

// AnswerText says to a person what failed and what to do.
func AnswerText(r flow.Reason) string {
	switch r {
	case flow.ReasonConnectRefused:
		return "nothing listens at the endpoint; check that the service is running and that its port is right"
	case flow.ReasonConnectTimeout:
		return "the endpoint did not accept a connection in time; check that its host is up and reachable, or raise the connect timeout"
	case flow.ReasonConnectFailed:
		return "the endpoint could not be reached; check the network and the endpoint's address"
	case flow.ReasonTLSFailed:
		return "the TLS handshake with the endpoint failed; a host outside the mesh needs a certificate that spec.tls of its ExternalService accepts, two sidecars certificates of one trust domain that have not expired"
	case flow.ReasonIdentityMismatch:
		return "the endpoint proved an identity that this service may not have; check which workload runs at that address, or which process listens at the application's Unix socket"
	case flow.ReasonUpstreamReset:
		return "the connection closed before a complete response; look at the service's log for a crash or a restart"
	case flow.ReasonUpstreamProtocol:
		return "the service sent bytes that are not a valid response; check the port's protocol and the service's framing"
	case flow.ReasonRequestTimeout:
		return "the request took longer than the request timeout; look at the trace for the slow part, or raise the timeout"
	case flow.ReasonTryTimeout:
		return "the try took longer than the try timeout; look at the trace for the slow part, or raise the timeout"
	case flow.ReasonIdleTimeout:
		return "no bytes arrived for the idle timeout; send something more often, or raise the timeout"
	case flow.ReasonStreamTimeout:
		return "the stream took longer than the stream timeout; begin another one, or raise the timeout"
	case flow.ReasonBadRequest:
		return "the request is not valid HTTP, or its body did not arrive in time; fix the client"
	case flow.ReasonNoEndpoint:
		return "the service has no endpoint; start an instance, or check that its endpoints are registered"
	case flow.ReasonNoHealthy:
		return "no endpoint of the service may be used now; look at its events to see why they were ejected"
	case flow.ReasonNoRoute:
		return "no route matches the request; check the path and the routes of the service"
	case flow.ReasonNoBackend:
		return "the rule that matches the request has no valid backend; look at the status of its route"
	case flow.ReasonUnknownDest:
		return "the destination is not known to the mesh; check the service's name in the configuration"
	case flow.ReasonShed:
		return "a limit of this sidecar was reached; send less at a time, add instances, or raise the limit"
	case flow.ReasonDraining:
		return "the sidecar is stopping; send the request again to reach another instance"
	case flow.ReasonDenied:
		return "policy does not allow this caller; ask the service's owner to allow it"
	case flow.ReasonPlaintextRefused:
		return "this port accepts mTLS only; call the service through its mesh address"
	case flow.ReasonRateLimited:
		return "the rate limit was reached; wait before you send more"
	case flow.ReasonLimiterFailed:
		return "the rate limit service did not answer in time; look at its Records, or set failOpen of the limit"
	case flow.ReasonFaultInjected:
		return "the route's rule lets some requests fail on purpose; take the fault out of it when the experiment is over"
	}
	return "the request failed; look at the sidecar's log"
}

// AppendAnswerText appends what the sidecar's own answer says, as one line without its end. text is AnswerText's, or more exact; detail may be empty.
func AppendAnswerText(dst []byte, r flow.Reason, text, detail string) []byte {
	dst = append(append(append(append(dst, "tulle: "...), r.String()...), ": "...), text...)
	if detail != "" {
		dst = append(dst, " ("...)
		for _, c := range []byte(detail) { // one line, whatever an error says
			if c < 0x20 {
				c = ' '
			}
			dst = append(dst, c)
		}
		dst = append(dst, ')')
	}
	return dst
}
