package schema

// everyFacts are of what every kind begins with.
var everyFacts = []Fact{
	{"apiVersion", "", "", "`tulle.dev/v1alpha1`", ""},
	{"kind", "", "", "one of the kinds below", ""},
	{"metadata.name", "", "", "name", "with kind and namespace, names the resource"},
	{"metadata.namespace", "", "`default`", "name", ""},
	{"metadata.labels", "", "none", "keys of 1 to 317 of letters, digits and `. _ - /`, values of up to 63 without `/`; at most 64", "optional; of a Workload they form subsets (`loadBalancer.subsets`). `version`, `region` and `zone` are those of `spec`"},
}
