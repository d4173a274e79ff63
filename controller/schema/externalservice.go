package schema

// externalServiceFacts are of ExternalService.
var externalServiceFacts = []Fact{
	{"spec.host", "", "none", "text", "optional; shown: the name people know it by. Where it is a host name, it is one of `hosts`"},
	{"spec.hosts", "", "none", "host names, each once and of one ExternalService", "optional; names by which it is called, `*.example.com` for all below one. Redirected TLS connections to addresses of no service belong to it by [their name](tls.md#redirected-connections)"},
	{"spec.addresses", "", "", "addresses, each once; at least one, unless it has `hosts`", "its endpoints"},
	{"spec.protocol", "", "by `appProtocol`, else `auto`", "`http`, `http1`, `http2`, `grpc`, `tcp`, `tls`, `auto`", "what it speaks; as `spec.ports[].protocol` of a Workload"},
	{"spec.appProtocol", "", "none", "as of a Service's port in Kubernetes", "optional; as `spec.ports[].appProtocol`"},
	{"spec.opaque", "", "`false`", "`true`, `false`", "as `spec.ports[].opaque`"},
	{"spec.tls", "", "none", "", "optional; the sidecar originates TLS, the application speaks without ([TLS](tls.md#originated))"},
	{"spec.tls.serverName", "", "`spec.host`", "host name or IP address", "what the host's certificate must be for; sent as SNI"},
	{"spec.tls.caFile", "", "the system's", "absolute path", "of the trust anchors, PEM, on the sidecar's host"},
	{"spec.tls.certFile", "", "none", "absolute path", "optional; of a client certificate with its chain, PEM"},
	{"spec.tls.keyFile", "", "none", "absolute path", "of its key"},
	{"spec.tls.alpn", "", "none", "at most 16", "optional; protocols that are offered, of `tcp` only: with HTTP they follow from `protocol`"},
	{"spec.tls.minVersion", "", "`1.2`", "`1.2`, `1.3`", ""},
	{"spec.authority", "", "as it came", "host or host:port", "optional; HTTP only: what the authority (`Host`) of requests becomes, such as `api.bank.example` for an application that calls `127.0.0.1:9000`"},
	{"spec.via", "", "none", "name", "optional; service of the [edge](tls.md#egress) through which sidecars call it"},
	{"spec.proxyProtocol", "", "none", "`v1`, `v2`", "optional, protocols `tcp` and `tls`; connections to it begin with a [PROXY protocol](tcp.md#proxy-protocol) header"},
}
