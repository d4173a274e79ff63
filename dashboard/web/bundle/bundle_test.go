package bundle

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestCommittedBundleIsUpToDate(t *testing.T) {
	files, err := Build("..")
	if err != nil {
		t.Fatal(err)
	}
	dist := filepath.Join("..", "..", "asset", "dist")
	names, err := os.ReadDir(dist)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != len(files) {
		t.Errorf("%d files are committed, %d are built", len(names), len(files))
	}
	for _, f := range files {
		got, err := os.ReadFile(filepath.Join(dist, f.Name))
		if err != nil || !bytes.Equal(got, f.Content) {
			t.Errorf("%s is not what the sources give (%v); run: go run ./dashboard/web/build", f.Name, err)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	if _, err := Build(t.TempDir()); err == nil {
		t.Fatal("an empty folder was built")
	}
}
