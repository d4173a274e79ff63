//go:build unix

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var (
	heading = regexp.MustCompile("(?m)^## `(tulle[^`]*)`$")
	flagRow = regexp.MustCompile("(?m)^\\| (?:`-[a-z]`, )?`--([a-z-]+)` \\|([^|]*)\\|")
)

// reference is docs/reference/cli.md: the text of each command's section, by the command's path.
func reference(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	at := heading.FindAllSubmatchIndex(b, -1)
	for i, m := range at {
		end := len(b)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		sections[string(b[m[2]:m[3]])] = string(b[m[1]:end])
	}
	return sections
}

// compare says how the page and the commands differ: commands and flags missing from it, other defaults, and what is only on the page.
func compare(root *cobra.Command, page map[string]string) []string {
	var wrong []string
	known := map[string]bool{"tulle-sidecar": true} // cmd/tulle-sidecar compares that one
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" {
				walk(sub)
			}
		}
		if c == root {
			return
		}
		path := c.CommandPath()
		known[path] = true
		section, ok := page[path]
		if !ok {
			wrong = append(wrong, "no section for "+path)
			return
		}
		if !strings.Contains(section, "\n    "+path) && !strings.Contains(section, "$("+path) {
			wrong = append(wrong, path+": no example")
		}
		rows := map[string]string{}
		for _, m := range flagRow.FindAllStringSubmatch(section, -1) {
			rows[m[1]] = strings.TrimSpace(m[2])
		}
		check := func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			shown, ok := rows[f.Name]
			delete(rows, f.Name)
			if !ok {
				wrong = append(wrong, path+": no row for --"+f.Name)
			} else if d := plain(f); d != "" && shown != "`"+d+"`" {
				wrong = append(wrong, path+": --"+f.Name+": default "+shown+", it is `"+d+"`")
			}
		}
		c.NonInheritedFlags().VisitAll(check)
		for name := range rows {
			wrong = append(wrong, path+": there is no flag --"+name)
		}
	}
	walk(root)
	for path := range page {
		if !known[path] {
			wrong = append(wrong, "there is no command "+path)
		}
	}
	return wrong
}

// plain is a flag's default as people write it; "" when it is empty, zero or off.
func plain(f *pflag.Flag) string {
	d := f.DefValue
	if f.Value.Type() == "duration" {
		d = strings.TrimSuffix(d, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(d, "m0s")]
		d = strings.TrimSuffix(d, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(d, "h0m")]
	}
	if t := f.Value.Type(); t == "stringSlice" || t == "stringArray" {
		d = strings.Trim(d, "[]")
	}
	switch d {
	case "false", "0", "0s":
		return ""
	}
	return d
}

func TestReferenceNamesEveryCommandAndFlag(t *testing.T) {
	t.Setenv("TULLE_OBSERVER", "")
	t.Setenv("COLUMNS", "")
	for _, w := range compare(newRoot(), reference(t)) {
		t.Errorf("docs/reference/cli.md: %s", w)
	}
}

func TestReferenceDifferencesAreFound(t *testing.T) {
	root := &cobra.Command{Use: "tulle"}
	c := &cobra.Command{Use: "weave", Run: func(*cobra.Command, []string) {}}
	c.Flags().String("warp", "silk", "")
	c.Flags().String("weft", "", "")
	root.AddCommand(c, &cobra.Command{Use: "spin", Run: func(*cobra.Command, []string) {}})
	got := compare(root, map[string]string{"tulle weave": "\n| `--warp` | `wool` | x |\n| `--felt` | | x |\n\n    tulle weave\n", "tulle knit": ""})
	if len(got) != 5 {
		t.Errorf("%q", got)
	}
}
