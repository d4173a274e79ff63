package graph

// Family is one family of series that the graph writes.
type Family struct {
	Name string
	Kind string // counter | gauge | histogram: a native one
	Help string // one sentence
}

// Families lists all that the graph writes, for clients that complete queries and for docs/format/series.md, whose table says the labels.
var Families = []Family{
	{SeriesRequests, "counter", "Exchanges, by code class and reason."},
	{SeriesFailures, "counter", "Exchanges that failed: code class 5xx or a failing reason, without probes."},
	{SeriesDuration, "histogram", "Duration of exchanges in seconds."},
	{SeriesUnanswered, "counter", "Exchanges without a complete response, by reason."},
	{SeriesEdgeAttempts, "counter", "Attempts of an edge, by whether they were delivered and why not."},
	{SeriesAttempts, "counter", "Attempts at an endpoint, as all callers saw it."},
	{SeriesAttemptFailures, "counter", "Attempts at an endpoint that failed, without probes."},
	{SeriesAttemptDuration, "histogram", "Duration of attempts at an endpoint in seconds."},
	{SeriesRouteDuration, "histogram", "Duration of exchanges of a route in seconds."},
	{SeriesVersions, "counter", "Exchanges with a version of the destination."},
	{SeriesBytes, "counter", "Body bytes, by direction."},
	{SeriesMessages, "counter", "Messages of gRPC, by direction."},
	{SeriesConnections, "counter", "Connections, by the reason of their end."},
	{SeriesActive, "gauge", "Exchanges or connections that are open now."},
	{SeriesTraces, "counter", "Outgoing requests made while a traced one was handled, by whether they carried the trace on."},
	{SeriesRecordsDropped, "counter", "Records that sidecars could not keep or send."},
	{SeriesSidecarFolded, "counter", "New series that sidecars counted under other."},
	{SeriesInFlight, "gauge", "Requests and connections carried towards a destination now."},
	{SeriesLimit, "gauge", "How many may be carried towards a destination; absent without a limit."},
	{SeriesPool, "gauge", "Upstream connections, busy or idle."},
	{SeriesShed, "counter", "Requests and connections that were turned away because of a limit."},
	{SeriesPoolWait, "histogram", "How long attempts waited for a new connection, in seconds."},
	{SeriesDetections, "counter", "Connections whose protocol was detected, by outcome."},
	{SeriesDetectionTime, "histogram", "How long the first bytes of detected connections were awaited, in seconds."},
	{SeriesReporterUp, "gauge", "1 while a sidecar reports, 0 while it is missing."},
	{SeriesClockOffset, "gauge", "Seconds to add to a sidecar's clock to get the observer's."},
	{SeriesEdgeMissing, "gauge", "1 while an edge rests on one side because a reporter is missing."},
	{SeriesEndpointEjected, "gauge", "1 while an endpoint is ejected."},
	{SeriesEndpointWeight, "gauge", "Share of its configured weight that an endpoint has, 0 to 1."},
	{SeriesEndpoints, "gauge", "Registered endpoints of a service."},
	{SeriesEndpointsUsable, "gauge", "Endpoints of a service that are not ejected."},
	{SeriesServiceGraph, "counter", "Exchanges between two services, for Grafana's service graph."},
	{SeriesServiceGraphFailed, "counter", "Exchanges between two services that failed, for Grafana's service graph."},
	{SeriesServiceGraphServer, "histogram", "Duration of exchanges between two services in seconds, as the server saw it, for Grafana's service graph."},
	{SeriesServiceGraphClient, "histogram", "Duration of exchanges between two services in seconds, as the client saw it, for Grafana's service graph."},
}
