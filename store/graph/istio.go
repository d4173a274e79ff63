package graph

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/metric"
)

// Istio's standard metrics (https://istio.io/latest/docs/reference/config/metrics/), as Kiali and Istio's boards ask for them. A workload is a service of ours, and namespaces are
// "unknown", as Istio writes it. The response code stands for its class, because counts know the class only: 500 is any 5xx.
var istioViews = []metric.Derived{
	{
		Name: "istio_requests_total", Of: SeriesRequests, Keep: []string{"protocol", "reason", "probe"}, Help: "Requests, as Istio counts them; response_code stands for its class.",
		Labels: append(istioEdge[:len(istioEdge):len(istioEdge)],
			metric.DerivedLabel{Name: "response_code", From: "code_class", Map: istioCode},
			metric.DerivedLabel{Name: "grpc_response_status", From: "grpc_response_status", Map: grpcCode},
			metric.DerivedLabel{Name: "response_flags", From: "reason", Map: istioFlags},
		),
	},
	{
		Name: "istio_request_duration_milliseconds", Of: SeriesDuration, Scale: 1000, Keep: []string{"protocol"}, Help: "Duration of requests in milliseconds, as Istio names it; response_code stands for its class.",
		Labels: append(istioEdge[:len(istioEdge):len(istioEdge)], metric.DerivedLabel{Name: "response_code", From: "code_class", Map: istioCode}),
	},
	{Name: "istio_tcp_sent_bytes_total", Of: SeriesBytes, Where: append(where("direction", "out"), istioTCP), Keep: []string{"protocol"}, Labels: istioEdge, Help: "Bytes of TCP connections to who opened them, as Istio names it."},
	{Name: "istio_tcp_received_bytes_total", Of: SeriesBytes, Where: append(where("direction", "in"), istioTCP), Keep: []string{"protocol"}, Labels: istioEdge, Help: "Bytes of TCP connections from who opened them, as Istio names it."},
	{Name: "istio_tcp_connections_closed_total", Of: SeriesConnections, Where: []*labels.Matcher{istioTCP}, Keep: []string{"protocol", "reason"}, Labels: append(istioEdge[:len(istioEdge):len(istioEdge)],
		metric.DerivedLabel{Name: "response_flags", From: "reason", Map: istioFlags}), Help: "TCP connections that ended, as Istio names it."},
	{Name: "istio_request_messages_total", Of: SeriesMessages, Where: where("direction", "in"), Keep: []string{"protocol"}, Labels: istioEdge, Help: "Messages of gRPC calls from the caller, as Istio names it."},
	{Name: "istio_response_messages_total", Of: SeriesMessages, Where: where("direction", "out"), Keep: []string{"protocol"}, Labels: istioEdge, Help: "Messages of gRPC calls to the caller, as Istio names it."},
}

var istioTCP = labels.MustNewMatcher(labels.MatchRegexp, "protocol", "tcp|tls")

var istioEdge = []metric.DerivedLabel{
	{Name: "reporter", From: "side", Map: func(side string) string {
		if side == flow.SideServer.String() {
			return "destination"
		}
		return "source"
	}},
	{Name: "request_protocol", From: "protocol", Map: func(p string) string {
		switch p {
		case "http/1.1", "h2":
			return "http"
		}
		return p
	}},
	{Name: "source_workload", From: "source"},
	{Name: "source_app", From: "source"},
	{Name: "source_canonical_service", From: "source"},
	{Name: "source_workload_namespace", Fixed: "unknown"},
	{Name: "destination_workload", From: "destination"},
	{Name: "destination_app", From: "destination"},
	{Name: "destination_canonical_service", From: "destination"},
	{Name: "destination_service", From: "destination"},
	{Name: "destination_service_name", From: "destination"},
	{Name: "destination_workload_namespace", Fixed: "unknown"},
	{Name: "destination_service_namespace", Fixed: "unknown"},
}

// istioCode is "0" where no response began, as Istio writes it.
func istioCode(class string) string {
	if s := classStatus(class); s != "" {
		return s
	}
	return "0"
}

// istioFlags are Envoy's for a reason, "-" for none.
func istioFlags(reason string) string {
	if r, ok := flow.ParseReason(reason); ok && r.Flag() != "" {
		return r.Flag()
	}
	return "-"
}
