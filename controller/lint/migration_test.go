package lint

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var fence = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// foreign reports whether a document is of somebody else's mesh, or of Kubernetes' own kinds.
func foreign(t *testing.T, text string) bool {
	t.Helper()
	var theirs, ours int
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var o struct {
			APIVersion string `yaml:"apiVersion"`
		}
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		group, _, _ := strings.Cut(o.APIVersion, "/")
		if group == "tulle.dev" || group == "gateway.networking.k8s.io" {
			ours++
		} else {
			theirs++
		}
	}
	if theirs > 0 && ours > 0 {
		t.Errorf("an example is half theirs and half ours:\n%s", text)
	}
	return theirs > 0
}

// TestMigrationExamplesAreClean: on every page below docs/migration what is ours is taken, with the Workloads of the page's first example, and nothing is found in it. What is theirs stands before it.
func TestMigrationExamplesAreClean(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "migration", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("%v, %v", pages, err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		examples := fence.FindAllStringSubmatch(string(text), -1)
		if len(examples) < 5 {
			t.Errorf("%s has %d examples", page, len(examples))
		}
		before := 0
		for i, m := range examples {
			if foreign(t, m[1]) {
				before++
				continue
			}
			if i > 0 && before == 0 {
				t.Errorf("%s: no example of theirs stands before\n%s", page, m[1])
			}
			before = 0
			whole := m[1]
			if i > 0 {
				whole = examples[0][1] + "---\n" + m[1]
			}
			for _, f := range run(t, filepath.Base(page), []byte(whole)).Findings {
				t.Errorf("%s: example %d: %s", page, i, f)
			}
		}
	}
}
