package graph

import (
	"os"
	"regexp"
	"testing"
)

// Everything that is written is in the table of families, once, and is described for people.
func TestEveryFamilyIsListedAndDescribed(t *testing.T) {
	page, err := os.ReadFile("../../docs/format/series.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("series.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, f := range Families {
		if listed[f.Name] {
			t.Errorf("%s is listed twice", f.Name)
		}
		listed[f.Name] = true
		if f.Kind != "counter" && f.Kind != "gauge" && f.Kind != "histogram" || f.Help == "" {
			t.Errorf("%+v", f)
		}
		if !regexp.MustCompile("`" + f.Name + "`").Match(page) {
			t.Errorf("docs/format/series.md does not have %s", f.Name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\tSeries\w+ += "(\w+)"`).FindAllSubmatch(source, -1) {
		if !listed[string(m[1])] {
			t.Errorf("Families does not have %s", m[1])
		}
	}
	for name := range seriesLabels {
		if !listed[name] {
			t.Errorf("Families does not have %s", name)
		}
	}
}
