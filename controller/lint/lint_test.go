package lint

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
)

var rewrite = flag.Bool("rewrite", false, "rewrite what testdata expects")

// run lints one file. "#repeat N" before a document stands for N of it, in each of which # is its number.
func run(t *testing.T, name string, content []byte) Report {
	t.Helper()
	set, problems := resource.Resolve(resource.Decode(name, []byte(expand(string(content)))), resource.EmptySet())
	endpoints, err := discovery.FromSet(set, "tulle.local")
	if err != nil {
		t.Fatal(err)
	}
	return Run(Input{Set: set, Problems: problems, Endpoints: endpoints})
}

func expand(content string) string {
	var out []string
	for _, document := range strings.Split(content, "---\n") {
		n := 0
		if _, err := fmt.Sscanf(document, "#repeat %d\n", &n); err != nil {
			out = append(out, document)
			continue
		}
		_, document, _ = strings.Cut(document, "\n")
		for i := 1; i <= n; i++ {
			out = append(out, strings.ReplaceAll(document, "#", fmt.Sprint(i)))
		}
	}
	return strings.Join(out, "---\n")
}

// TestEveryFinding walks Table: of each code there is a configuration in which it, and nothing else, is found, and the same one mended, in which nothing is.
func TestEveryFinding(t *testing.T) {
	known := map[string]bool{}
	for _, c := range Table {
		known[c.Code+".txtar"] = true
		t.Run(c.Code, func(t *testing.T) {
			if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(c.Code) || c.Meaning == "" || c.Fix == "" || !slices.Contains([]Severity{Error, Warning, Advice}, c.Severity) {
				t.Errorf("%+v is not whole", c)
			}
			path := filepath.Join("testdata", c.Code+".txtar")
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := 0
			for i, f := range a.Files {
				switch {
				case strings.HasPrefix(f.Name, "fixed"):
					for _, found := range run(t, f.Name, f.Data).Findings {
						t.Errorf("%s: %s", path, found)
					}
				case strings.HasPrefix(f.Name, "bad"):
					report := run(t, f.Name, f.Data)
					var b strings.Builder
					for _, found := range report.Findings {
						fmt.Fprintln(&b, found)
						if found.Code != c.Code || found.Severity != c.Severity || found.Fix != c.Fix || found.File != f.Name {
							t.Errorf("%s: %+v is found, too", path, found)
						}
					}
					if len(report.Findings) == 0 {
						t.Errorf("%s: %s: nothing is found", path, f.Name)
					}
					if n := report.Errors + report.Warnings + report.Advice; n != len(report.Findings) {
						t.Errorf("%d findings are counted as %d", len(report.Findings), n)
					}
					at := slices.IndexFunc(a.Files, func(x txtar.File) bool { return x.Name == "want"+strings.TrimPrefix(f.Name, "bad") })
					switch {
					case at < 0:
						t.Fatalf("%s: no file want%s", path, strings.TrimPrefix(f.Name, "bad"))
					case *rewrite:
						a.Files[at].Data = []byte(b.String())
					case string(a.Files[at].Data) != b.String():
						t.Errorf("%s: %s:\n%s\nwant:\n%s", path, f.Name, b.String(), a.Files[at].Data)
					}
					want |= 1
				case strings.HasPrefix(f.Name, "want"):
					continue
				default:
					t.Errorf("%s: %s is none of bad, want and fixed", path, a.Files[i].Name)
				}
				if strings.HasPrefix(f.Name, "fixed") {
					want |= 2
				}
			}
			if want != 3 {
				t.Errorf("%s has not both bad.yaml and fixed.yaml", path)
			}
			if *rewrite {
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[f.Name()] {
			t.Errorf("testdata/%s is of no code of Table", f.Name())
		}
	}
}

// TestNothingIsLost: what the controller says is among the findings, once.
func TestNothingIsLost(t *testing.T) {
	problems := []resource.Problem{{Severity: resource.Warning, Message: "a"}, {Severity: resource.Refused, Message: "b", Reason: "Conflicted"}, {Severity: resource.Warning, Message: "c", Reason: "NeverHeardOf"}}
	for reason := range classified {
		problems = append(problems, resource.Problem{Severity: resource.Warning, Message: reason, Reason: reason})
	}
	r := Run(Input{Set: resource.EmptySet(), Problems: problems})
	for _, p := range problems {
		if n := len(slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Message != p.Message })); n != 1 {
			t.Errorf("%q is said %d times", p.Message, n)
		}
	}
}

// TestEmptyIsClean also holds JSON to a list.
func TestEmptyIsClean(t *testing.T) {
	if r := Run(Input{Set: resource.EmptySet()}); r.Findings == nil || len(r.Findings) > 0 {
		t.Errorf("%+v", r)
	}
}
