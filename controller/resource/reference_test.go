package resource

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// reference is docs/reference/configuration.md: the text of each section, by its heading.
func reference(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for i, part := range strings.Split(string(b), "\n## ") {
		if i > 0 {
			name, body, _ := strings.Cut(part, "\n")
			sections[name] = body
		}
	}
	return sections
}

// paths are the fields of a type as they are written: "spec.ports[].listen". A struct's own name is not among them, a list's and a map's is.
func paths(t reflect.Type, at string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			out = append(out, paths(f.Type, at)...)
			continue
		}
		path := strings.TrimPrefix(at+"."+name, ".")
		ft := f.Type
		if ft.Kind() == reflect.Pointer && ft.Elem().Kind() == reflect.Struct { // that may be left out as a whole
			out = append(out, path)
			ft = ft.Elem()
		}
		switch {
		case ft.Kind() == reflect.Struct:
			out = append(out, paths(ft, path)...)
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			out = append(out, path)
			out = append(out, paths(ft.Elem(), path+"[]")...)
		default:
			out = append(out, path)
		}
	}
	return out
}

var fieldRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// differ says which fields a section lacks, and which it has that do not exist.
func differ(section string, fields []string) (lacks, invents []string) {
	var named []string
	for _, m := range fieldRow.FindAllStringSubmatch(section, -1) {
		named = append(named, m[1])
	}
	for _, f := range fields {
		if !slices.Contains(named, f) {
			lacks = append(lacks, f)
		}
	}
	for _, n := range named {
		if !slices.Contains(fields, n) {
			invents = append(invents, n)
		}
	}
	return lacks, invents
}

func TestReferenceNamesEveryField(t *testing.T) {
	page := reference(t)
	header := paths(reflect.TypeFor[Header](), "")
	check := func(section string, fields []string) {
		body, ok := page[section]
		if !ok {
			t.Errorf("docs/reference/configuration.md: no section %q", section)
			return
		}
		lacks, invents := differ(body, fields)
		for _, f := range lacks {
			t.Errorf("docs/reference/configuration.md: %s: no row for %s", section, f)
		}
		for _, f := range invents {
			t.Errorf("docs/reference/configuration.md: %s: there is no field %s", section, f)
		}
	}
	check("Every kind", header)
	for _, k := range Kinds {
		own := slices.DeleteFunc(paths(reflect.TypeOf(k.New()).Elem(), ""), func(p string) bool { return slices.Contains(header, p) })
		if len(own) == 0 {
			t.Fatalf("%s has no field", k.Name)
		}
		check(k.Name, own)
	}
	if len(page) != len(Kinds)+1 {
		t.Errorf("docs/reference/configuration.md has %d sections, want one for each of %d kinds and one for all", len(page), len(Kinds))
	}
}

func TestReferenceDifferencesAreFound(t *testing.T) {
	lacks, invents := differ("| `spec.a` | x |\n| `spec.c` | x |\n", []string{"spec.a", "spec.b"})
	if !slices.Equal(lacks, []string{"spec.b"}) || !slices.Equal(invents, []string{"spec.c"}) {
		t.Errorf("lacks %v, invents %v", lacks, invents)
	}
}

var example = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestReferenceExamplesAreAccepted also holds the page to one example of each kind.
func TestReferenceExamplesAreAccepted(t *testing.T) {
	var documents []Document
	for section, body := range reference(t) {
		if section == "Every kind" {
			continue
		}
		m := example.FindStringSubmatch(body)
		if m == nil {
			t.Errorf("docs/reference/configuration.md: %s: no example", section)
			continue
		}
		got := Decode(section, []byte(m[1]))
		if len(got) != 1 || got[0].Key.Kind != section {
			t.Errorf("docs/reference/configuration.md: %s: the example is %+v", section, got)
		}
		documents = append(documents, got...)
	}
	_, problems := Resolve(documents, EmptySet())
	for _, p := range problems {
		if p.Severity == Refused {
			t.Errorf("docs/reference/configuration.md: %s", p)
		}
	}
}
