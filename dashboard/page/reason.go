package page

// reasonTexts explains the closed vocabulary of docs/format/record.md in plain words. A test walks flow.Reasons.
var reasonTexts = map[string]string{
	"connect_refused":         "The endpoint refused the TCP connection: nothing listens there.",
	"connect_timeout":         "The endpoint did not finish the TCP or TLS handshake in time.",
	"connect_failed":          "Connecting failed for another reason: no route, or reset while connecting.",
	"tls_failed":              "The TLS handshake failed.",
	"identity_mismatch":       "The peer's identity is not one of the destination's; the request was not sent.",
	"upstream_reset":          "The endpoint closed the connection before its response was complete.",
	"upstream_protocol_error": "The endpoint answered something that is not valid in its protocol.",
	"request_timeout":         "The whole request took longer than its deadline.",
	"try_timeout":             "One try took longer than its deadline.",
	"idle_timeout":            "No bytes moved for as long as the idle limit.",
	"stream_timeout":          "A stream was ended because it had lived for as long as policy lets it.",
	"downstream_reset":        "The caller went away before the response was complete.",
	"bad_request":             "The caller's bytes are not a valid request.",
	"no_endpoint":             "The destination has no endpoint at all.",
	"no_healthy_endpoint":     "The destination has endpoints, but none that may be used.",
	"no_route":                "No route matched.",
	"no_backend":              "A rule matched that has no valid backend to send to.",
	"unknown_destination":     "The mesh does not know the destination.",
	"shed":                    "The sidecar was at one of its limits and turned the request away.",
	"draining":                "The sidecar was stopping.",
	"denied":                  "Policy does not allow this caller.",
	"bad_proxy_header":        "A load balancer's connection did not begin with a valid PROXY protocol header.",
	"plaintext_refused":       "Mutual TLS is required and plaintext arrived.",
	"upstream_5xx":            "The endpoint answered with a 5xx status, or a gRPC status that stands for one.",
	"rate_limited":            "A configured rate limit was reached.",
	"fault_injected":          "A route's rule lets some requests fail on purpose, and this was one.",
	"limiter_failed":          "The rate limit service did not answer in time, and the limit does not let requests pass then.",
	"reporter_lost":           "The sidecar vanished before it could finish its report.",
}

// ReasonText says what a reason means, "" for one that is not in the vocabulary.
func ReasonText(name string) string { return reasonTexts[name] }
