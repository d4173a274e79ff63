package asset

import (
	"strings"
	"testing"
)

// What is built from a source is in the bundle once: two changes that are joined without building again leave two, and which is served would be chance.
func TestEachFileOnce(t *testing.T) {
	s, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app.js", "app.css", "boot.js", "icon.svg"} {
		if url, err := s.URL(name); err != nil || !strings.HasPrefix(url, Prefix) {
			t.Errorf("%s: %q, %v", name, url, err)
		}
	}
	twice := &Set{files: map[string]file{"app-A.js": {}, "app-B.js": {}}}
	if _, err := twice.URL("app.js"); err == nil || !strings.Contains(err.Error(), "app-A.js and app-B.js") {
		t.Errorf("two of one file: %v", err)
	}
	if _, err := twice.URL("app.css"); err == nil {
		t.Error("a file that is not there has an address")
	}
}
