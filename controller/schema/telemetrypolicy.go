package schema

// telemetryPolicyFacts are of TelemetryPolicy.
var telemetryPolicyFacts = []Fact{
	{"spec.targetRefs", "", "the policy's namespace", "at most 16", "optional; of whose sidecars the policy is"},
	{"spec.targetRefs[].group", "", "the core group", "the core group, `tulle.dev`", "of the kind"},
	{"spec.targetRefs[].kind", "", "", "`MeshConfig`, `Namespace` or `Service`", "the mesh, the policy's namespace, or one of its services"},
	{"spec.targetRefs[].name", "", "none", "name of an object", "required of a Service"},
	{"spec.targetRefs[].sectionName", "", "none", "none", "is not allowed: a workload has one sidecar for all of its ports"},
	{"spec.headers", "", "none", "at most 16 names of header fields", "as `spec.telemetry.headers` of a Workload; `[]` turns off what a less special policy says"},
	{"spec.propagation.accept", "", "`[w3c, b3]`", "`w3c`, `b3`", "as of a Workload"},
	{"spec.propagation.emit", "", "`w3c`, and B3 in the form in which it came", "`w3c`, `b3`, `b3-multi`", "as of a Workload"},
}
