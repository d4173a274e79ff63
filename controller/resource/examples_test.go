package resource

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// examples are the documents of the Gateway API's module below a folder that are of kinds that are read, by file. Secrets and the like are not Tulle's.
func examples(t *testing.T, folder string) map[string][]Document {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files := map[string][]Document{}
	err = filepath.WalkDir(filepath.Join(strings.TrimSpace(string(out)), folder), func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		content, err := os.ReadFile(path)
		for _, doc := range Decode(filepath.Base(path), content) {
			if doc.Err == nil || !strings.HasPrefix(doc.Err.Error(), "kind: ") {
				files[path] = append(files[path], doc)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestExamplesOfTheGatewayAPI reads what the Gateway API publishes as examples: all are taken.
func TestExamplesOfTheGatewayAPI(t *testing.T) {
	read := 0
	for _, documents := range examples(t, "examples") {
		_, problems := Resolve(documents, EmptySet())
		for _, p := range problems {
			if p.Severity == Refused {
				t.Errorf("%s", p)
			}
		}
		read += len(documents)
	}
	if read < 100 {
		t.Errorf("only %d documents were read", read)
	}
}

// leftAlone are examples of what an API server refuses and files may have, and why.
var leftAlone = map[string]string{
	"httproute-portless-backend.yaml":                "without a port it is the service's first",
	"httproute-portless-service.yaml":                "without a port it is the service's first",
	"invalid-filter-externalauth-no-protocol.yaml":   "the filter is unsupported as a whole, and its rule answers 500",
	"invalid-filter-externalauth-bad-http-path.yaml": "the filter is unsupported as a whole, and its rule answers 500",
}

// TestInvalidExamplesOfTheGatewayAPI reads what it publishes as examples of what an API server refuses: all are refused but those that are left alone.
func TestInvalidExamplesOfTheGatewayAPI(t *testing.T) {
	files := examples(t, "hack/invalid-examples")
	for path, documents := range files {
		_, problems := Resolve(documents, EmptySet())
		refused := 0
		for _, p := range problems {
			if p.Severity == Refused {
				refused++
			}
		}
		if name := filepath.Base(path); (refused == 0) != (leftAlone[name] != "") {
			t.Errorf("%s: %d documents are refused (%s)", name, refused, leftAlone[name])
		}
	}
	if len(files) < 20 {
		t.Errorf("only %d files were read", len(files))
	}
}
