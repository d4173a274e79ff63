package schema

// callersFacts are of Callers.
var callersFacts = []Fact{
	{"spec.from", "", "", "1 to 16", "workloads, of each entry those of which all that is said is true"},
	{"spec.from[].services", "", "any", "names of services", "whose instances they are"},
	{"spec.from[].serviceAccounts", "", "any", "`NAME` of the Callers' namespace, or `NAMESPACE/NAME`", "as which they run"},
	{"spec.from[].namespaces", "", "any", "names of namespaces", "in which they are"},
	{"spec.from[].identities", "", "any", "SPIFFE IDs; a `*` at the end stands for any rest", "that they have"},
	{"spec.from[].labels", "", "any", "labels", "that they have, all of them; `version`, `region` and `zone` are those of the Workload's `spec`"},
}
