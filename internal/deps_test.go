package internal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tulle-mesh/tulle"

// mayImport says which parts the packages of a part may import directly, besides the part itself. A part is the first folder below the module;
// cmd/NAME is a part of its own. It is DESIGN's picture of the data's way, as a table.
var mayImport = map[string][]string{
	"internal":          {},
	"sidecar":           {"internal"},
	"store":             {"internal"},
	"collector":         {"store", "internal"},
	"dashboard":         {"store", "internal"},
	"alert":             {"store", "internal"},
	"controller":        {"internal"},
	"observer":          {"collector", "store", "alert", "dashboard", "internal"},
	"client":            {"store", "internal"},
	"loadtest":          {"client", "store", "controller", "internal"}, // the demo hands out join tokens as the controller's operator would
	"tools":             {"internal"},
	"cmd/tulle":         {"internal", "sidecar", "store", "collector", "dashboard", "alert", "controller", "observer", "client", "loadtest"},
	"cmd/tulle-sidecar": {"internal", "sidecar"},
}

// dataPlane must not reach any of forbidden, however far away: the sidecar stays small, and a bug in memory's half cannot be in it.
var (
	dataPlane = []string{"sidecar", "cmd/tulle-sidecar"}
	forbidden = []string{
		module + "/store", module + "/collector", module + "/dashboard", module + "/alert", module + "/controller", module + "/observer",
		"go.opentelemetry.io/collector", "github.com/prometheus", "k8s.io", "sigs.k8s.io",
		"github.com/google/nftables", "github.com/mdlayher/netlink", "github.com/vishvananda/netlink", // rules are installed by another program, which has the privileges
	}
)

// testsOnly may import anything and be imported by tests only.
const testsOnly = module + "/internal/testmesh"

type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	Doc        string
	Standard   bool
	GoFiles    []string
	Imports    []string
}

type graph map[string]pkg

// touch looks at every Go file, so that the go command knows what this test depends on: a subprocess' reads are invisible to it, and it would give
// a cached "ok" after a forbidden import was added.
func touch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T) graph {
	t.Helper()
	touch(t)
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Name,Dir,Doc,Standard,GoFiles,Imports", "./...")
	cmd.Dir = ".."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	g := graph{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return g
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		g[p.ImportPath] = p
	}
}

func within(importPath, prefix string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}

// partOf is "sidecar" for …/sidecar/http1, "cmd/tulle" for …/cmd/tulle, "" outside the module.
func partOf(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	first, rest, _ := strings.Cut(rest, "/")
	if first == "cmd" {
		second, _, _ := strings.Cut(rest, "/")
		return first + "/" + second
	}
	return first
}

// step is "sidecar/http1" for …/sidecar/http1/anything, "" for the assembly package and outside the sidecar.
func step(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/sidecar/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return "sidecar/" + name
}

// chain is the shortest way of imports from a package to one that match accepts; nil when there is none.
func (g graph) chain(from string, match func(string) bool) []string {
	before := map[string]string{from: ""}
	queue := []string{from}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if at != from && match(at) {
			var way []string
			for p := at; p != ""; p = before[p] {
				way = append(way, p)
			}
			slices.Reverse(way)
			return way
		}
		for _, next := range g[at].Imports {
			if _, seen := before[next]; !seen {
				before[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// violations are what is wrong with a graph, one message each: the rule, the offender, the way.
func (g graph) violations() (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	var names []string
	for name := range g {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := g[name]
		part := partOf(name)
		if part == "" || within(name, testsOnly) {
			continue
		}
		allowed, known := mayImport[part]
		if !known {
			say("%s: the folder %q is no part of the design; add it to mayImport in internal/deps_test.go with what it may import, and to docs/ARCHITECTURE.md", name, part)
			continue
		}
		for _, imported := range p.Imports {
			target := partOf(imported)
			switch {
			case target == "":
			case within(imported, testsOnly):
				say("%s → %s\n\trule: internal/testmesh is for tests only", name, imported)
			case strings.HasPrefix(target, "cmd/"):
				say("%s → %s\n\trule: nothing imports cmd/", name, imported)
			case target != part && !slices.Contains(allowed, target):
				say("%s → %s\n\trule: %s imports only itself and %v: what both need is a noun and belongs to internal/", name, imported, part, allowed)
			case step(name) != "" && imported == module+"/sidecar":
				say("%s → %s\n\trule: a step does not know its assembly: sidecar/sidecar.go imports the steps, never the other way", name, imported)
			case step(name) != "" && step(imported) != "" && step(imported) != step(name) && step(imported) != "sidecar/exchange":
				say("%s → %s\n\trule: steps never import each other: put the contract into sidecar/exchange and let sidecar/sidecar.go join them", name, imported)
			}
		}
		if slices.Contains(dataPlane, part) {
			for _, f := range forbidden {
				if way := g.chain(name, func(p string) bool { return within(p, f) }); way != nil {
					say("%s\n\trule: the data plane must not contain %s", strings.Join(way, "\n\t→ "), f)
				}
			}
		}
		if len(p.GoFiles) == 0 {
			continue
		}
		switch base := path.Base(name); base {
		case "util", "utils", "common", "types", "helpers", "pkg":
			say("%s: rule: no package is named %s: name it after the noun it holds", name, base)
		}
		generated := strings.HasPrefix(name, module+"/internal/gen/")
		if strings.HasPrefix(p.Doc, "templ: version") { // the comment of a generated page, which stands before the package's own file
			p.Doc = handWrittenDoc(p)
		}
		if start := "Package " + p.Name + " "; !generated && (p.Doc == "" || p.Name != "main" && !strings.HasPrefix(p.Doc, start)) {
			say("%s: rule: every package says in one sentence what it is: a comment that begins with %q above its package clause", name, start)
		}
	}
	return out
}

// handWrittenDoc is the package comment of the files that templ did not write.
func handWrittenDoc(p pkg) string {
	for _, name := range p.GoFiles {
		if strings.HasSuffix(name, "_templ.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err == nil && f.Doc != nil {
			return f.Doc.Text()
		}
	}
	return ""
}

// TestDependencies holds the lines of the design: which part may import which, what the data plane must never contain, and that every package
// says what it is.
func TestDependencies(t *testing.T) {
	g := load(t)
	if _, ok := g[module+"/internal/flow"]; !ok {
		t.Fatal("go list did not find internal/flow: the test looks at the wrong place")
	}
	for _, v := range g.violations() {
		t.Error(v)
	}
}

// The rules themselves can fail.
func TestRules(t *testing.T) {
	one := func(name string, imports ...string) graph {
		g := graph{}
		add := func(short string, imports []string) {
			p := pkg{ImportPath: short, Name: path.Base(short), GoFiles: []string{"x.go"}}
			if partOf(module+"/"+short) != "" && !strings.Contains(short, ".") {
				p.ImportPath = module + "/" + short
			}
			p.Doc = "Package " + p.Name + " is."
			for _, i := range imports {
				if !strings.Contains(i, ".") {
					i = module + "/" + i
				}
				p.Imports = append(p.Imports, i)
			}
			g[p.ImportPath] = p
		}
		add(name, imports)
		add("internal/flow/otlpin", []string{"go.opentelemetry.io/collector/pdata/ptrace"})
		add("internal/flow", nil)
		return g
	}
	for _, c := range []struct {
		g    graph
		want string // part of the one message, "" for none
	}{
		{one("sidecar/http1", "sidecar/exchange", "internal/flow", "net.http"), ""},
		{one("sidecar", "sidecar/http1", "sidecar/balance"), ""},
		{one("observer", "collector", "store/graph", "alert", "dashboard/live"), ""},
		{one("internal/policy", "internal/flow"), ""},
		{one("sidecar/http1", "sidecar/balance"), "steps never import each other"},
		{one("sidecar/http1", "sidecar"), "does not know its assembly"},
		{one("internal/flow/x", "sidecar/exchange"), "internal imports only itself"},
		{one("store/graph", "collector"), "store imports only itself and [internal]"},
		{one("dashboard/page", "alert"), "dashboard imports only"},
		{one("controller/brain", "store/graph"), "controller imports only"},
		{one("observer", "cmd/tulle"), "nothing imports cmd/"},
		{one("store/graph", "internal/testmesh"), "for tests only"},
		{one("sidecar/telemetry", "internal/flow/otlpin"), "internal/flow/otlpin\n\t→ go.opentelemetry.io/collector/pdata/ptrace"},
		{one("cmd/tulle-sidecar", "k8s.io/api/core/v1"), "must not contain k8s.io"},
		{one("sidecar/watch", "github.com/prometheus/common/model"), "must not contain github.com/prometheus"},
		{one("store/util"), "no package is named util"},
		{one("gadgets"), "no part of the design"},
	} {
		got := c.g.violations()
		switch {
		case c.want == "" && len(got) != 0:
			t.Errorf("unwanted: %q", got)
		case c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)):
			t.Errorf("want one message with %q, got %q", c.want, got)
		}
	}
	g := one("alert")
	g[module+"/alert"] = pkg{ImportPath: module + "/alert", Name: "alert", GoFiles: []string{"x.go"}}
	if got := g.violations(); len(got) != 1 || !strings.Contains(got[0], "every package says") {
		t.Errorf("a package without doc gave %q", got)
	}
}
