// Command gencrd writes what follows from the Go types of Tulle's kinds: charts/tulle/crds, and the tables of docs/reference/configuration.md.
//
// Run it from the folder tools: `go run ./gencrd`.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tulle-mesh/tulle/controller/schema"
)

func main() {
	root := flag.String("root", "..", "root of the repository")
	flag.Parse()
	if err := run(*root); err != nil {
		fmt.Fprintln(os.Stderr, "gencrd:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	dir := filepath.Join(root, "charts", "tulle", "crds")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, k := range schema.Kinds {
		content, err := schema.CRD(k)
		if err != nil {
			return err
		}
		name := k.Plural + ".yaml"
		wanted[name] = true
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !wanted[e.Name()] && strings.HasSuffix(e.Name(), ".yaml") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	page := filepath.Join(root, "docs", "reference", "configuration.md")
	before, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	after, err := schema.Page(string(before))
	if err != nil {
		return err
	}
	if after == string(before) {
		return nil
	}
	return os.WriteFile(page, []byte(after), 0o644)
}
