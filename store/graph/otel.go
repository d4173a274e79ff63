package graph

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/metric"
)

// OpenTelemetry's HTTP metrics (semantic conventions 1.43, http/http-metrics) by their names in Prometheus: of the service that answered, and of the one that called. The status
// stands for its class, as in Istio's; error_type is there for what the mesh calls a failing class.
var otelViews = []metric.Derived{
	{
		Name: "http_server_request_duration_seconds", Of: SeriesDuration, Scale: 1, Where: where("side", flow.SideServer.String()), Keep: []string{"protocol", "code_class"},
		Labels: append(otelHTTP[:len(otelHTTP):len(otelHTTP)], metric.DerivedLabel{Name: "job", From: "destination"}, metric.DerivedLabel{Name: "service_name", From: "destination"}, metric.DerivedLabel{Name: "client_service_name", From: "source"}),
		Help:   "Duration of requests that a service answered, as OpenTelemetry names it; http_response_status_code stands for its class.",
	},
	{
		Name: "http_client_request_duration_seconds", Of: SeriesDuration, Scale: 1, Where: where("side", flow.SideClient.String()), Keep: []string{"protocol", "code_class"},
		Labels: append(otelHTTP[:len(otelHTTP):len(otelHTTP)], metric.DerivedLabel{Name: "job", From: "source"}, metric.DerivedLabel{Name: "service_name", From: "source"}, metric.DerivedLabel{Name: "server_address", From: "destination"}),
		Help:   "Duration of requests that a service made, as OpenTelemetry names it; http_response_status_code stands for its class.",
	},
}

var otelHTTP = []metric.DerivedLabel{
	{Name: "http_response_status_code", From: "code_class", Map: classStatus},
	{Name: "error_type", From: "code_class", Map: func(class string) string {
		if s := classStatus(class); s == "500" {
			return s
		}
		return ""
	}},
	{Name: "network_protocol_name", From: "protocol", Map: func(p string) string {
		switch p {
		case "http/1.1", "h2", "grpc":
			return "http"
		}
		return p
	}},
	{Name: "network_protocol_version", From: "protocol", Map: func(p string) string {
		switch p {
		case "http/1.1":
			return "1.1"
		case "h2", "grpc":
			return "2"
		}
		return ""
	}},
}
