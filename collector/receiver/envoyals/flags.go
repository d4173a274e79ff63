package envoyals

import (
	"cmp"

	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// responseFlags are Envoy's, in the order in which Envoy writes them: their text, and the reason of docs/format/record.md for the same thing, ReasonNone where there is none
// or the flag alone does not say that something failed.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage
var responseFlags = []struct {
	text   string
	reason flow.Reason
	set    func(f *data.ResponseFlags) bool
}{
	{"LH", flow.ReasonNoHealthy, (*data.ResponseFlags).GetFailedLocalHealthcheck},
	{"UH", flow.ReasonNoHealthy, (*data.ResponseFlags).GetNoHealthyUpstream},
	{"UT", flow.ReasonRequestTimeout, (*data.ResponseFlags).GetUpstreamRequestTimeout},
	{"LR", flow.ReasonUpstreamReset, (*data.ResponseFlags).GetLocalReset},
	{"UR", flow.ReasonUpstreamReset, (*data.ResponseFlags).GetUpstreamRemoteReset},
	{"UF", flow.ReasonConnectFailed, (*data.ResponseFlags).GetUpstreamConnectionFailure},
	{"UC", flow.ReasonUpstreamReset, (*data.ResponseFlags).GetUpstreamConnectionTermination},
	{"UO", flow.ReasonShed, (*data.ResponseFlags).GetUpstreamOverflow},
	{"NR", flow.ReasonNoRoute, (*data.ResponseFlags).GetNoRouteFound},
	{"DI", flow.ReasonNone, (*data.ResponseFlags).GetDelayInjected},
	{"FI", flow.ReasonFaultInjected, (*data.ResponseFlags).GetFaultInjected},
	{"RL", flow.ReasonRateLimited, (*data.ResponseFlags).GetRateLimited},
	{"UAEX", flow.ReasonDenied, func(f *data.ResponseFlags) bool { return f.GetUnauthorizedDetails() != nil }},
	{"RLSE", flow.ReasonLimiterFailed, (*data.ResponseFlags).GetRateLimitServiceError},
	{"DC", flow.ReasonDownstreamReset, (*data.ResponseFlags).GetDownstreamConnectionTermination},
	{"URX", flow.ReasonNone, (*data.ResponseFlags).GetUpstreamRetryLimitExceeded},
	{"SI", flow.ReasonIdleTimeout, (*data.ResponseFlags).GetStreamIdleTimeout},
	{"IH", flow.ReasonBadRequest, (*data.ResponseFlags).GetInvalidEnvoyRequestHeaders},
	{"DPE", flow.ReasonBadRequest, (*data.ResponseFlags).GetDownstreamProtocolError},
	{"UMSDR", flow.ReasonStreamTimeout, (*data.ResponseFlags).GetUpstreamMaxStreamDurationReached},
	{"RFCF", flow.ReasonNone, (*data.ResponseFlags).GetResponseFromCacheFilter},
	{"NFCF", flow.ReasonNoRoute, (*data.ResponseFlags).GetNoFilterConfigFound},
	{"DT", flow.ReasonRequestTimeout, (*data.ResponseFlags).GetDurationTimeout},
	{"UPE", flow.ReasonUpstreamProtocol, (*data.ResponseFlags).GetUpstreamProtocolError},
	{"NC", flow.ReasonNoBackend, (*data.ResponseFlags).GetNoClusterFound},
	{"OM", flow.ReasonShed, (*data.ResponseFlags).GetOverloadManager},
	{"DF", flow.ReasonConnectFailed, (*data.ResponseFlags).GetDnsResolutionFailure},
	{"DR", flow.ReasonDownstreamReset, (*data.ResponseFlags).GetDownstreamRemoteReset},
}

func flags(f *data.ResponseFlags) (out []string) {
	if f == nil {
		return nil
	}
	for _, x := range responseFlags {
		if x.set(f) {
			out = append(out, x.text)
		}
	}
	return out
}

// outcome judges as the mesh judges its own: by the reason, and by the code's class; why is the reason's name.
func outcome(r *flow.Record, c *data.AccessLogCommon) (failed bool, why string) {
	if f := c.GetResponseFlags(); f != nil {
		for _, x := range responseFlags {
			if x.reason != flow.ReasonNone && x.set(f) {
				r.Reason = cmp.Or(r.Reason, x.reason)
			}
		}
	}
	if r.Reason == flow.ReasonNone && r.Class() == 5 {
		r.Reason = flow.ReasonUpstreamStatus
	}
	return r.Failed(), r.Reason.String()
}
