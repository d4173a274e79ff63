package resource

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/reference/gateway-api.md")

// leaves are the fields of a type of Kubernetes as they are written: those that have no fields of their own.
func leaves(t reflect.Type, at string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && !readsItself(t) {
		if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct {
			at += "[]"
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || readsItself(t) {
		return []string{at}
	}
	var out []string
	for i := range t.NumField() {
		name, inline := fieldName(t.Field(i))
		path := at
		if !inline {
			path = strings.TrimPrefix(at+"."+name, ".")
		}
		out = append(out, leaves(t.Field(i).Type, path)...)
	}
	return out
}

// uncovered are paths that no row speaks for, and rows that speak for no path.
func uncovered(fields []Field, paths []string) (missing, idle []string) {
	used := map[string]bool{}
	for _, p := range paths {
		best := ""
		for _, f := range fields {
			if (p == f.Path || strings.HasPrefix(p, f.Path+".") || strings.HasPrefix(p, f.Path+"[")) && len(f.Path) > len(best) {
				best = f.Path
			}
		}
		exact := best == p
		i := slices.IndexFunc(fields, func(f Field) bool { return f.Path == best })
		if best == "" || !exact && fields[i].Unsupported == "" && best != "metadata" && best != "status" { // a row of what is honoured speaks for one field
			missing = append(missing, p)
			continue
		}
		used[best] = true
	}
	seen := map[string]bool{}
	for _, f := range fields {
		if !used[f.Path] || seen[f.Path] {
			idle = append(idle, f.Path)
		}
		seen[f.Path] = true
	}
	return missing, idle
}

// TestEveryFieldIsHonouredOrReported fails when the Gateway API gets a field that nobody has thought about.
func TestEveryFieldIsHonouredOrReported(t *testing.T) {
	for _, k := range GatewayKinds {
		paths := leaves(reflect.TypeOf(k.New()).Elem(), "")
		if len(paths) < 10 {
			t.Fatalf("%s has only the fields %v: the test looks at the wrong thing", k.Name, paths)
		}
		missing, idle := uncovered(GatewayFields[k.Name], paths)
		for _, p := range missing {
			t.Errorf("%s: what becomes of %s? Add a row to its table in fields.go: honoured, or unsupported with the reason", k.Name, p)
		}
		for _, p := range idle {
			t.Errorf("%s: the row of %s speaks for no field, or twice", k.Name, p)
		}
	}
	missing, idle := uncovered([]Field{{Path: "spec.a"}, {Path: "spec.b", Unsupported: "no"}, {Path: "spec.x"}}, []string{"spec.a", "spec.a.new", "spec.b.c", "spec.d"})
	if !slices.Equal(missing, []string{"spec.a.new", "spec.d"}) || !slices.Equal(idle, []string{"spec.x"}) {
		t.Errorf("the test cannot fail: missing %v, idle %v", missing, idle)
	}
}

// TestGatewayReference holds the tables of the page to the code.
func TestGatewayReference(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "reference", "gateway-api.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, k := range GatewayKinds {
		begin, end := fmt.Sprintf("<!-- fields of %s -->\n", k.Name), "<!-- end -->\n"
		i := strings.Index(page, begin)
		if i < 0 {
			t.Errorf("%s: no table of %s; write the two lines %q and %q", path, k.Name, begin, end)
			continue
		}
		i += len(begin)
		n := strings.Index(page[i:], end)
		want := fieldTable(GatewayFields[k.Name])
		if n < 0 || page[i:i+n] != want {
			if *update && n >= 0 {
				page = page[:i] + want + page[i+n:]
				continue
			}
			t.Errorf("%s: the table of %s is not that of fields.go; run go test ./controller/resource -run TestGatewayReference -update", path, k.Name)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGatewayReferenceExamples reads what the page shows, each block by itself.
func TestGatewayReferenceExamples(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "gateway-api.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := example.FindAllStringSubmatch(string(b), -1)
	if len(blocks) < 2 {
		t.Fatalf("the page has %d examples", len(blocks))
	}
	for _, m := range blocks {
		_, problems := Resolve(Decode("gateway-api.md", []byte(m[1])), EmptySet())
		for _, p := range problems {
			if p.Severity == Refused {
				t.Errorf("%s\n%s", p, m[1])
			}
		}
	}
}

func fieldTable(fields []Field) string {
	var b strings.Builder
	b.WriteString("\n| field | | |\n|---|---|---|\n")
	for _, f := range fields {
		state, text := "honoured", f.Note
		if f.Unsupported != "" {
			state, text = "**unsupported**", f.Unsupported
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Path, state, text)
	}
	b.WriteString("\n")
	return b.String()
}
