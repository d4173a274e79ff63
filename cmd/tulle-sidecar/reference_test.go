package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestReferenceNamesEveryFlag(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n## `tulle-sidecar`\n")
	if !ok {
		t.Fatal("docs/reference/cli.md has no section for tulle-sidecar")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var help bytes.Buffer
	if _, err := parse([]string{"--help"}, func(string) (string, bool) { return "", false }, &help); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`(?m)^  -([a-z-]+)\b`).FindAllStringSubmatch(help.String(), -1)
	if len(flags) < 15 {
		t.Fatalf("only %d flags in\n%s", len(flags), help.String())
	}
	known := map[string]bool{}
	for _, m := range flags {
		known[m[1]] = true
		if !strings.Contains(section, "\n| `--"+m[1]+"` |") {
			t.Errorf("docs/reference/cli.md: tulle-sidecar: no row for --%s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		if !known[m[1]] {
			t.Errorf("docs/reference/cli.md: tulle-sidecar has no flag --%s", m[1])
		}
	}
}
