package flow

// Attribute names, shared by spans, metrics and logs. Where an OpenTelemetry semantic convention exists it is used.
const (
	AttrServiceName      = "service.name"            // resource
	AttrServiceNamespace = "service.namespace"       // resource
	AttrServiceVersion   = "service.version"         // resource
	AttrServiceInstance  = "service.instance.id"     // resource
	AttrBootID           = "tulle.boot.id"           // resource: 16 lower-case hex digits, new at every start of a sidecar
	AttrPredecessor      = "tulle.boot.predecessor"  // resource: boot id of the process that handed over to this one while it went on, else absent
	AttrSequence         = "tulle.sequence"          // resource, int: 1, 2, 3 … per (boot id, signal)
	AttrClock            = "tulle.clock"             // resource, int: sidecar wall clock in unix ns when the batch was sent
	AttrReporterIdentity = "tulle.reporter.identity" // resource: stamped by the collector from the TLS peer, overwriting
	AttrGoodbye          = "tulle.goodbye"           // resource, bool: true on the last metrics export of a clean stop, else absent

	AttrKind       = "tulle.kind"  // exchange | attempt | connection
	AttrPhase      = "tulle.phase" // close | progress
	AttrSide       = "tulle.side"  // client | server
	AttrProtocol   = "network.protocol.name"
	AttrReason     = "tulle.reason"
	AttrCodeClass  = "tulle.code_class" // 1xx 2xx 3xx 4xx 5xx, or none
	AttrDirection  = "tulle.direction"  // metrics only: in | out, as BytesIn and BytesOut
	AttrState      = "tulle.state"      // metrics only: busy | idle
	AttrWhy        = "tulle.why"        // metrics only: of an ejection by the sidecar itself
	AttrLimit      = "tulle.limit"      // metrics only: max_requests | max_connections
	AttrFamily     = "tulle.family"     // metrics only: name of a metric
	AttrPort       = "server.port"      // metrics only, decimal: of a detection, the port that was called; else of the reporter's ports, on the server side
	AttrOutcome    = "tulle.outcome"    // metrics only: told | timeout | remembered | left
	AttrDelivered  = "tulle.delivered"
	AttrAnswered   = "tulle.answered"
	AttrProbe      = "tulle.probe"
	AttrMirror     = "tulle.mirror"
	AttrAttempt    = "tulle.attempt"
	AttrAttempts   = "tulle.attempts"
	AttrRevision   = "tulle.policy.revision"
	AttrOverride   = "tulle.override.id"
	AttrRoute      = "http.route"
	AttrEndpoint   = "tulle.endpoint" // ip:port, or unix:PATH of an application's Unix socket
	AttrRequestID  = "http.request.header.x-request-id"
	AttrTraceBegun = "tulle.trace.started"

	AttrApplicationPID = "tulle.application.pid" // int; of the application at the other end of a Unix socket, as the kernel says
	AttrApplicationUID = "tulle.application.uid" // int
	AttrApplicationGID = "tulle.application.gid" // int

	AttrSourceService   = "tulle.source.service"
	AttrSourceNamespace = "tulle.source.namespace"
	AttrSourceVersion   = "tulle.source.version"
	AttrSourceInstance  = "tulle.source.instance"
	AttrSourceIdentity  = "tulle.source.identity"
	AttrSourceAddress   = "client.address" // ip:port
	AttrDestService     = "tulle.destination.service"
	AttrDestNamespace   = "tulle.destination.namespace"
	AttrDestVersion     = "tulle.destination.version"
	AttrDestInstance    = "tulle.destination.instance"
	AttrDestIdentity    = "tulle.destination.identity"
	AttrDestAddress     = "server.address" // ip:port
	AttrMethod          = "http.request.method"
	AttrPath            = "url.path"
	AttrAuthority       = "tulle.authority"
	AttrServerName      = "tls.client.server_name"
	AttrUserAgent       = "user_agent.original"
	AttrStatus          = "http.response.status_code"
	AttrRPCSystem       = "rpc.system.name"          // "grpc"; OpenTelemetry semantic conventions 1.43
	AttrRPCMethod       = "rpc.method"               // "package.Service/Method"
	AttrGRPC            = "rpc.response.status_code" // name of the gRPC status: "OK", "UNAVAILABLE"
	AttrMessagesIn      = "tulle.messages.in"        // int; the conventions have no count of messages any more
	AttrMessagesOut     = "tulle.messages.out"
	AttrBytesIn         = "http.request.body.size"
	AttrBytesOut        = "http.response.body.size"
	AttrDetail          = "error.message"
	AttrLegHeadParsed   = "tulle.leg.head_parsed" // legs: int, ns since start
	AttrLegQueued       = "tulle.leg.queued"
	AttrLegConnected    = "tulle.leg.connected"
	AttrLegSecured      = "tulle.leg.secured"
	AttrLegSent         = "tulle.leg.sent"
	AttrLegFirstByte    = "tulle.leg.first_byte"
	AttrLegLastByte     = "tulle.leg.last_byte"
	AttrFarHeadParsed   = "tulle.far.head_parsed" // the far sidecar's own legs: int, ns since the first byte of the request reached it
	AttrFarQueued       = "tulle.far.queued"
	AttrFarSent         = "tulle.far.sent"
	AttrFarFirstByte    = "tulle.far.first_byte"
	AttrFlags           = "response_flags" // Envoy's name for it, and Envoy's flags, comma separated

	// UnixPrefix begins an endpoint that is a Unix socket; its path follows.
	UnixPrefix = "unix:"

	AttrEnded      = "tulle.ended"          // downstream_fin | upstream_fin | downstream_reset | upstream_reset | idle | drained | error
	AttrVia        = "network.peer.address" // ip:port
	AttrTLSVersion = "tls.protocol.version" // "1.3"
	AttrTLSCipher  = "tls.cipher"
	AttrTLSResumed = "tls.resumed"
	AttrTLSALPN    = "tls.next_protocol"

	// AttrNear begins the names of those of TLS of the connection on the reporter's own side.
	AttrNear = "tulle.near."

	// AttrRequestHeader and AttrResponseHeader begin the names of header fields kept by allow-list; the field's name in lower case follows.
	AttrRequestHeader  = "http.request.header."
	AttrResponseHeader = "http.response.header."
)

// Metric names on the wire from sidecar to collector. All Sums are cumulative and monotonic since the boot; histograms are
// cumulative exponential histograms in seconds, scale 3. Their attribute sets are fixed (docs/format/record.md) and never crossed.
const (
	// MetricExchanges: Sum {side, source service, destination service, protocol, code_class, gRPC status, reason, answered, probe; server side: port}.
	MetricExchanges = "tulle.exchanges"
	// MetricAttempts: Sum, client side only {source, destination, protocol, endpoint, code_class, gRPC status, reason, delivered, probe}; exemplars carry trace ids.
	MetricAttempts = "tulle.attempts"
	// MetricExchangeDuration: exponential histogram {side, source, destination, protocol, code_class; server side: port}.
	MetricExchangeDuration = "tulle.exchange.duration"
	// MetricAttemptDuration: exponential histogram, client side {destination, endpoint}.
	MetricAttemptDuration = "tulle.attempt.duration"
	// MetricRouteDuration: exponential histogram, server side {destination, route}.
	MetricRouteDuration = "tulle.route.duration"
	// MetricVersions: Sum {side, source, destination, destination version, code_class}.
	MetricVersions = "tulle.version.exchanges"
	// MetricMirrors: Sum of mirrors' copies, which no other family counts {side, source, destination, code_class}.
	MetricMirrors = "tulle.mirrors"
	// MetricBytes: Sum in bytes {side, source, destination, protocol, direction=in|out}.
	MetricBytes = "tulle.bytes"
	// MetricMessages: Sum of gRPC messages {side, source, destination, protocol, direction=in|out}.
	MetricMessages = "tulle.messages"
	// MetricConnections: Sum {side, source, destination, protocol, reason}.
	MetricConnections = "tulle.connections"
	// MetricActive: Gauge {side, source, destination, protocol, kind=exchange|connection}.
	MetricActive = "tulle.active"
	// MetricTraceBreaks: Sum, client side {source}: outbound exchanges that carried no traceparent while the same workload had
	// inbound exchanges with one in flight. MetricTraceKept counts those that did carry it. Together they give propagation coverage.
	MetricTraceBreaks = "tulle.trace.breaks"
	MetricTraceKept   = "tulle.trace.kept"
	// MetricRecordsDropped: Sum {reason}: records the sidecar could not keep or send.
	MetricRecordsDropped = "tulle.records.dropped"
	// MetricInFlight: Gauge {side, destination}: what the sidecar carries towards a destination; MetricLimit is how much it may be, absent without limit.
	MetricInFlight = "tulle.destination.in_flight"
	MetricLimit    = "tulle.destination.limit"
	// MetricPool: Gauge {side, destination, state=busy|idle}: upstream connections.
	MetricPool = "tulle.destination.connections"
	// MetricShed: Sum {side, destination, limit=max_requests|max_connections}: what was turned away because of the limit.
	MetricShed = "tulle.destination.shed"
	// MetricEjected: Gauge, client side {side, destination}: endpoints that the sidecar has out by itself. MetricEjections: Sum {side, destination, why=unreachable|errors|failing|slow|spared}: how
	// often it did so, and how often the cap has spared one.
	// MetricEjection: Gauge in unix milliseconds, client side {side, destination, endpoint, why}: until when an endpoint is out by the sidecar's own decision; the observer makes
	// an event of it.
	MetricEjected   = "tulle.destination.ejected"
	MetricEjection  = "tulle.destination.ejection"
	MetricEjections = "tulle.destination.ejections"
	// MetricPoolWait: exponential histogram, client side {destination}: how long tries that found no idle connection waited for a new one.
	MetricPoolWait = "tulle.destination.wait"
	// MetricSeriesFolded: Sum {family}: new series that did not fit the budget and were counted under other.
	MetricSeriesFolded = "tulle.series.folded"
	// MetricDetections: Sum {side, destination service, port, protocol, outcome}: connections whose protocol was to be told from their first bytes; protocol "" where
	// nobody said anything.
	MetricDetections = "tulle.detections"
	// MetricDetectionDuration: exponential histogram {side, destination service, port}: how long the first bytes were awaited.
	MetricDetectionDuration = "tulle.detection.duration"
	// MetricCertificate: Gauge {}: end of the sidecar's certificate in force, unix seconds by its clock; absent before the first.
	MetricCertificate = "tulle.certificate.expiry"
	// MetricMemory: Gauge {}: bytes of memory that the sidecar's process has resident.
	MetricMemory = "tulle.sidecar.memory"
	// MetricBackoff and other sidecar self-metrics are on the sidecar's /metrics only.
)

// HistogramScale is the scale of all exponential histograms: 8 buckets per doubling, relative error ≤ 4.5 %.
const HistogramScale = 3
