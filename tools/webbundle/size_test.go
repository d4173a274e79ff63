package main

import (
	"bytes"
	"compress/gzip"
	"path/filepath"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

// TestGraphCodeIsSmall: what draws the topology takes at most 15 kB of the bundle, compressed.
func TestGraphCodeIsSmall(t *testing.T) {
	r := api.Build(api.BuildOptions{
		AbsWorkingDir: absolute(t), EntryPoints: []string{"src/graph.ts"}, Bundle: true, MinifyWhitespace: true, MinifyIdentifiers: true, MinifySyntax: true,
		Format: api.FormatESModule, Target: api.ES2020,
	})
	if len(r.Errors) > 0 || len(r.OutputFiles) != 1 {
		t.Fatal(r.Errors)
	}
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if _, err := zw.Write(r.OutputFiles[0].Contents); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", b.Len())
	if b.Len() > 15_000 {
		t.Errorf("it takes %d bytes", b.Len())
	}
}

func absolute(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../dashboard/web")
	if err != nil {
		t.Fatal(err)
	}
	return path
}
