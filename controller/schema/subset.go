package schema

// subsetFacts are of Subset.
var subsetFacts = []Fact{
	{"spec.service", "", "", "name", "whose endpoints"},
	{"spec.labels", "", "", "1 to 4 labels", "that they have, all of them; `version`, `region` and `zone` are those of the Workload's `spec`"},
}
