package lint

import "github.com/tulle-mesh/tulle/controller/resource"

// Check is one kind of finding.
type Check struct {
	Code     string // a word of the closed vocabulary; docs/reference/cli.md lists them
	Severity Severity
	Meaning  string // one line
	Fix      string // one line: what to do
	look     look
}

// Table lists every kind of finding, what the controller says itself first.
var Table = []Check{
	{"refused", Error, "the controller refuses the document: it is not in force", "correct the document as the message says", refused},
	{"missing_backend", Error, "a route sends to what is not there; that share of the requests is answered with 500", "add the Workload, ExternalService or Subset, or correct the reference", conditions("BackendNotFound", "InvalidKind")},
	{"not_permitted", Error, "a route refers to another namespace, which does not allow it", "add a ReferenceGrant in the namespace that is referred to", conditions("RefNotPermitted")},
	{"missing_parent", Error, "a route is for a service that is not there: it does nothing", "correct spec.parentRefs, or add the service", conditions("NoMatchingParent")},
	{"conflicting_routes", Error, "routes of two kinds are for one port, and of one of them nothing counts", "use one kind of route for the port", conditions("Conflicted")},
	{"unsupported", Warning, "a field of the Gateway API that Tulle does not have, or not with this value", "remove the field, or do as the message says", conditions("UnsupportedValue", "UnsupportedProtocol", "PartiallyInvalid", "Accepted", "ResolvedRefs")},
	{"warning", Warning, "the controller warns of it", "do as the message says", warned},

	{"shadowed_rule", Warning, "a rule, or one of its matches, never decides: another that counts before it takes all of its requests", "remove it, make it say more than the other, or put it first", shadowedRule},
	{"no_weight", Error, "all backends of a rule have weight 0: every request is answered with 500", "give one of them a weight, or remove the rule", noWeight},
	{"zero_weight", Advice, "a backend of weight 0 beside others gets no request", "give it a weight, or remove it", zeroWeight},
	{"no_endpoints", Warning, "requests are sent to a service of which no workload has the port", "add spec.ports to its Workloads, or addresses to the ExternalService", noEndpoints},
	{"empty_subset", Warning, "no endpoint has the labels of a Subset", "correct spec.labels, or label the Workloads", emptySubset},
	{"unused_subset", Advice, "no route sends to a Subset", "name it in a route's backendRefs, or remove it", unusedSubset},
	{"missing_callers", Error, "a rule is for Callers that are not there: what it matches is answered with 500, whoever sends it", "add the Callers to the route's namespace, or correct the filter", conditions(resource.ReasonCallersNotFound)},
	{"empty_callers", Warning, "an entry of Callers is true of no workload", "correct spec.from, or label the Workloads", emptyCallers},
	{"unused_callers", Advice, "no rule of a route is for Callers", "name them in an extensionRef of a rule's filters, or remove them", unusedCallers},
	{"unused_grant", Advice, "nothing makes use of a ReferenceGrant", "remove it: what is not needed should not be allowed", unusedGrant},
	{"conflicting_policies", Warning, "two policies of one level set the same field for a service, or what one sets does not go with what counts more: it is left out", "set it in one of them, or so that both can hold", conflictingPolicies},
	{"unused_policy", Warning, "a TrafficPolicy or a TelemetryPolicy sets nothing", "set what it is for, or remove it", unusedPolicy},
	{"unsafe_retry", Warning, "requests are tried again after an answer that does not say that nothing was done, and the methods are not only those that may be repeated", "match GET and the like only, or keep to 429 and 503, and in gRPC to UNAVAILABLE and RESOURCE_EXHAUSTED", unsafeRetry},
	{"try_timeout", Warning, "one try may take longer than the whole request, so the limit of a try ends nothing", "lower the limit of a try, or raise that of the request", tryTimeout},
	{"timeout_beyond_caller", Advice, "a service waits for another longer than its own callers wait for it", "raise the timeout of the caller's service, or lower that of the called one", timeoutBeyondCaller},
	{"route_circle", Advice, "rules of services send to each other in a circle; they count once, but who reads them cannot tell who serves", "let each service have a rule that sends to itself, or remove one of the rules", routeCircle},
	{"mirror_to_itself", Warning, "a rule mirrors requests to where it sends them, which doubles the load of the same endpoints", "mirror to another service or Subset", mirrorToItself},
	{"maglev_table", Advice, "the table of Maglev is small for so many endpoints: their shares differ by more than a few percent", "set spec.loadBalancer.tableSize to 655373 above 100 endpoints, to 5000011 above 300", maglevTable},
	{"unknown_locality", Warning, "failover names a region or zone in which no workload runs", "correct spec.loadBalancer.locality.failover", unknownLocality},
	{"contradictory_protocol", Warning, "what is said of a port does not agree", "keep one of them: opaque or protocol before appProtocol, appProtocol before the name", contradictoryProtocol},
	{"opaque_http", Warning, "redirected connections to a port of HTTP are relayed unread: no route, retry or limit of requests applies", "remove the port from spec.intercept.outbound.opaquePorts", opaqueHTTP},
	{"plaintext_external", Warning, "requests to a host outside go over the network unencrypted", "set spec.tls, or protocol tls where the application encrypts itself", plaintextExternal},
	{"permissive_mesh", Advice, "sidecars take plaintext from anybody", "set spec.mode of the MeshConfig to strict, and mode permissive on the ports that need it", permissiveMesh},
}
