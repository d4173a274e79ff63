package flow

// Reason is the closed vocabulary of why something did not simply succeed. A new reason is a constant and a line of reasons, both here, and a
// line of the table in docs/format/record.md, which a test compares. The zero value means success.
type Reason uint8

const (
	ReasonNone Reason = iota
	ReasonConnectRefused
	ReasonConnectTimeout
	ReasonConnectFailed
	ReasonTLSFailed
	ReasonIdentityMismatch
	ReasonUpstreamReset
	ReasonUpstreamProtocol
	ReasonRequestTimeout
	ReasonTryTimeout
	ReasonIdleTimeout
	ReasonStreamTimeout
	ReasonDownstreamReset
	ReasonBadRequest
	ReasonNoEndpoint
	ReasonNoHealthy
	ReasonNoRoute
	ReasonNoBackend
	ReasonUnknownDest
	ReasonShed
	ReasonDraining
	ReasonDenied
	ReasonPlaintextRefused
	ReasonProxyHeader
	ReasonUpstreamStatus
	ReasonRateLimited
	ReasonFaultInjected
	ReasonLimiterFailed
	ReasonReporterLost
	numReasons
)

// reasons says everything about a reason: its name on the wire, Envoy's response flag for the same thing ("" when Envoy has none;
// https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage), whether it blames nobody but the caller, and
// what it means.
var reasons = [numReasons]struct {
	name, flag string
	blameless  bool
	means      string
}{
	ReasonNone:             {"", "", true, ""},
	ReasonConnectRefused:   {"connect_refused", "UF", false, "the endpoint refused the TCP connection"},
	ReasonConnectTimeout:   {"connect_timeout", "UF", false, "TCP connect or TLS handshake did not finish in time"},
	ReasonConnectFailed:    {"connect_failed", "UF", false, "any other connect error (no route, reset while connecting)"},
	ReasonTLSFailed:        {"tls_failed", "UF", false, "the TLS handshake failed"},
	ReasonIdentityMismatch: {"identity_mismatch", "UF", false, "the peer's SPIFFE ID is not one of the destination's, or what listens at the application's Unix socket is not who `spec.attest` names"},
	ReasonUpstreamReset:    {"upstream_reset", "UC", false, "the connection was reset or closed before a complete response"},
	ReasonUpstreamProtocol: {"upstream_protocol_error", "UPE", false, "the upstream sent something that is not valid in its protocol"},
	ReasonRequestTimeout:   {"request_timeout", "UT", false, "the deadline of the whole exchange passed"},
	ReasonTryTimeout:       {"try_timeout", "UT", false, "the deadline of one try passed"},
	ReasonIdleTimeout:      {"idle_timeout", "SI", false, "no bytes for the idle limit"},
	ReasonStreamTimeout:    {"stream_timeout", "UMSDR", true, "a stream has lived for as long as policy lets it"},
	ReasonDownstreamReset:  {"downstream_reset", "DC", true, "the caller went away before the response was complete"},
	ReasonBadRequest:       {"bad_request", "DPE", true, "the caller's bytes are not a valid request, or its body did not arrive in time"},
	ReasonNoEndpoint:       {"no_endpoint", "UH", false, "the destination has no endpoint at all"},
	ReasonNoHealthy:        {"no_healthy_endpoint", "UH", false, "endpoints exist, none may be used"},
	ReasonNoRoute:          {"no_route", "NR", false, "no route matched"},
	ReasonNoBackend:        {"no_backend", "NC", false, "a rule matched that has no valid backend, or the share that it drew has none"},
	ReasonUnknownDest:      {"unknown_destination", "NC", false, "the destination is not known to the mesh"},
	ReasonShed:             {"shed", "UO", false, "a limit of this sidecar was reached"},
	ReasonDraining:         {"draining", "", false, "the sidecar is stopping"},
	ReasonDenied:           {"denied", "UAEX", true, "policy does not allow this peer, or `spec.attest` this caller by a Unix socket"},
	ReasonPlaintextRefused: {"plaintext_refused", "NR", false, "mTLS is required, plaintext arrived"},
	ReasonProxyHeader:      {"bad_proxy_header", "DPE", true, "a connection from a source of PROXY protocol did not begin with a valid header of it"},
	ReasonUpstreamStatus:   {"upstream_5xx", "", false, "the upstream answered with a 5xx status, or a gRPC status that stands for one"},
	ReasonRateLimited:      {"rate_limited", "RL", true, "a configured rate limit was reached"},
	ReasonFaultInjected:    {"fault_injected", "FI", true, "a rule asks for some of its requests to fail on purpose"},
	ReasonLimiterFailed:    {"limiter_failed", "RLSE", false, "the rate limit service did not answer in time, and its limit does not let requests pass then"},
	ReasonReporterLost:     {"reporter_lost", "", false, "the reporter vanished before it closed the record (assigned by the observer)"},
}

// flagRetried is Envoy's flag for an exchange that failed after all its tries.
const flagRetried = "URX"

// retriedFlags is the flag of each reason together with flagRetried, in the order in which Envoy writes them (its enumeration's).
var retriedFlags = func() (out [numReasons]string) {
	for r := range reasons {
		switch flag := reasons[r].flag; flag {
		case "":
			out[r] = flagRetried
		case "SI", "DPE", "UPE", "NC", "UMSDR":
			out[r] = flagRetried + "," + flag
		default:
			out[r] = flag + "," + flagRetried
		}
	}
	return out
}()

var reasonNames = func() (out [numReasons]string) {
	for r := range reasons {
		out[r] = reasons[r].name
	}
	return out
}()

// String returns the wire name, "" for success.
func (r Reason) String() string {
	if r >= numReasons {
		return "invalid"
	}
	return reasonNames[r]
}

// Failure reports whether r counts against the destination (span status, error ratios). Reasons that only say that the caller was turned
// away or left by itself do not.
func (r Reason) Failure() bool { return r >= numReasons || !reasons[r].blameless }

// Flag is Envoy's response flag for the same thing, "" when there is none.
func (r Reason) Flag() string {
	if r >= numReasons {
		return ""
	}
	return reasons[r].flag
}

// Means says what r stands for, for people.
func (r Reason) Means() string {
	if r >= numReasons {
		return ""
	}
	return reasons[r].means
}

// Flags are Envoy's response flags of the Record, joined by commas, "" when it has none: that of its reason, and URX when an exchange failed after
// more than one try.
func (r *Record) Flags() string {
	if r.Reason == ReasonNone && !r.Failed() || r.Reason >= numReasons {
		return ""
	}
	if r.Kind == KindExchange && r.Attempts > 1 && r.Failed() {
		return retriedFlags[r.Reason]
	}
	return reasons[r.Reason].flag
}

// Answered says for people that a sidecar has answered in place of its service, because of r; "" for ReasonNone.
func (r Reason) Answered() string {
	if r == ReasonNone {
		return ""
	}
	return "the far sidecar answered: " + r.String()
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
