package schema

// meshConfigFacts are of MeshConfig.
var meshConfigFacts = []Fact{
	{"spec.trustDomain", "", "the controller's", "1 to 255 of `a-z`, `0-9`, `-`, `.`, `_`", "must be the controller's `--trust-domain`: a check against mixing up folders"},
	{"spec.access", "", "`allow`", "`allow`, `deny`", "what becomes of requests and connections that no [AccessPolicy](#accesspolicy) is about"},
	{"spec.mode", "", "`strict`", "`strict`, `permissive`", "default of `spec.ports[].mode` of all workloads"},
	{"spec.ejection.enabled", "", "`true`", "`true`, `false`", "default of `spec.ejection.enabled` of all services"},
}
