package schema

// accessPolicyFacts are of AccessPolicy.
var accessPolicyFacts = []Fact{
	{"spec.targetRefs", "", "the policy's namespace", "at most 16", "optional; of whose callers the policy is"},
	{"spec.targetRefs[].group", "", "the core group", "the core group, `tulle.dev`", "of the kind"},
	{"spec.targetRefs[].kind", "", "", "`MeshConfig`, `Namespace` or `Service`", "the mesh, the policy's namespace, or one of its services"},
	{"spec.targetRefs[].name", "", "none", "name of an object", "required of a Service"},
	{"spec.targetRefs[].sectionName", "", "all ports", "name of a port", "of a service one of its ports"},
	{"spec.action", "", "`allow`", "`allow`, `deny`", "what the policy does with what its rules are about"},
	{"spec.mode", "", "`enforce`", "`enforce`, `audit`", "a policy in audit decides nothing, and Records say what it would have denied"},
	{"spec.rules", "", "none", "at most 64", "optional; any one of them is about a request; an `allow` without rules lets nobody pass"},
	{"spec.rules[].name", "", "its place in the list", "name", "that Records have"},
	{"spec.rules[].from", "", "everybody", "a list", "optional; callers, of each of which all that is said must be true"},
	{"spec.rules[].from[].serviceAccounts", "", "any", "`NAME` of the policy's namespace, or `NAMESPACE/NAME`", "of the caller's identity"},
	{"spec.rules[].from[].namespaces", "", "any", "names of namespaces", "of the caller's identity"},
	{"spec.rules[].from[].identities", "", "any", "SPIFFE IDs; a `*` at the end stands for any rest", "of the caller, as mTLS proves it"},
	{"spec.rules[].from[].cidrs", "", "any", "networks", "of the caller's address, which proves less than an identity"},
	{"spec.rules[].to", "", "everything", "a list, with at most 256 combinations of methods and paths in an entry", "optional; requests, of each of which all that is said must be true; [of bytes](access.md#how-it-is-judged) nothing is known to be"},
	{"spec.rules[].to[].methods", "", "any", "methods of HTTP", "as sent: case counts"},
	{"spec.rules[].to[].paths", "", "any", "a list", "optional; any one of them"},
	{"spec.rules[].to[].paths[].type", "", "`PathPrefix`", "`PathPrefix`, `Exact`, `RegularExpression`", "how the path is compared, in its [one form](http1.md); expressions are RE2 and of the whole path"},
	{"spec.rules[].to[].paths[].value", "", "", "a path, or an expression", "with what it is compared"},
	{"spec.rules[].to[].headers", "", "any", "a list", "optional; header fields, all of them"},
	{"spec.rules[].to[].headers[].name", "", "", "a name of a header field", "that is looked at"},
	{"spec.rules[].to[].headers[].type", "", "`Exact`", "`Exact`, `RegularExpression`, `Present`", "how its value is compared; expressions are RE2 and of the whole value"},
	{"spec.rules[].to[].headers[].value", "", "none", "text; none with `Present`", "with what it is compared"},
}
