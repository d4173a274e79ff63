package schema

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Page is docs/reference/configuration.md with its tables written anew, each between "<!-- fields of KIND -->" and "<!-- end of fields -->". Examples are those of the section's own example.
func Page(text string) (string, error) {
	for _, k := range append([]Kind{Every}, Kinds...) {
		begin := fmt.Sprintf("<!-- fields of %s -->\n", k.title())
		before, rest, ok := strings.Cut(text, begin)
		if !ok {
			return "", fmt.Errorf("schema: the page has no line %q; add it where the table of %s is to be", strings.TrimSpace(begin), k.title())
		}
		const finish = "<!-- end of fields -->\n"
		_, after, ok := strings.Cut(rest, finish)
		if !ok {
			return "", fmt.Errorf("schema: the page has no line %q behind the table of %s", strings.TrimSpace(finish), k.title())
		}
		table, err := k.table(exampleOf(after))
		if err != nil {
			return "", err
		}
		text = before + begin + table + finish + after
	}
	return text, nil
}

// title is what the page calls a kind.
func (k Kind) title() string {
	if k.Name == "" {
		return "every kind"
	}
	return k.Name
}

var fence = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// exampleOf is the first example of the rest of a page, which is the section's.
func exampleOf(rest string) *yaml.Node {
	section, _, _ := strings.Cut(rest, "\n## ")
	m := fence.FindStringSubmatch(section)
	if m == nil {
		return nil
	}
	var n yaml.Node
	if yaml.Unmarshal([]byte(m[1]), &n) != nil || len(n.Content) == 0 {
		return nil
	}
	return n.Content[0]
}

// table is k's fields, the header's only for Every.
func (k Kind) table(example *yaml.Node) (string, error) {
	root, err := k.Shape()
	if err != nil {
		return "", err
	}
	own := map[*Fact]bool{}
	for i := range k.Facts {
		own[&k.Facts[i]] = true
	}
	var b strings.Builder
	b.WriteString("\n| field | type | unit | default | range | example | |\n|---|---|---|---|---|---|---|\n")
	root.Each(func(f *Field) {
		if f.Fact == nil || !own[f.Fact] {
			return
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s |\n", f.Path, f.kind(), f.Fact.Unit, f.Fact.Default, f.Fact.Range, f.example(example), f.Fact.Text)
	})
	b.WriteString("\n")
	return b.String(), nil
}

// kind is f's type for people.
func (f *Field) kind() string {
	if f.Type != List {
		return f.Type.String()
	}
	inner := f.Items.Type.String()
	switch f.Items.Type {
	case List:
		inner = "lists"
	case Object, Integer:
		inner += "s"
	case Text:
		inner = "texts"
	}
	return "list of " + inner
}

// example is a value that f may have: the one of the section's example, else its default, the first of its words, or the lower end of its range.
func (f *Field) example(root *yaml.Node) string {
	if n := at(root, strings.Split(f.Path, ".")); n != nil && f.Type != Object && !(f.Type == List && f.Items.Type == Object) {
		if text := flow(n); len(text) <= 60 {
			return "`" + text + "`"
		}
	}
	b := f.Fact.Bounds()
	switch {
	case f.Type == Object, f.Type == List && f.Items.Type == Object:
		return ""
	case f.Type == Bool:
		return "`true`"
	case len(b.Words) > 0 && f.Type == List:
		return "`[" + b.Words[0] + "]`"
	case len(b.Words) > 0:
		return "`" + b.Words[0] + "`"
	case strings.HasPrefix(f.Fact.Default, "`") && strings.Count(f.Fact.Default, "`") == 2 && strings.HasSuffix(f.Fact.Default, "`"):
		return f.Fact.Default
	case b.Min != "" && !b.Above:
		return "`" + b.Min + "`"
	}
	return ""
}

// at is the value at a path, in lists that of the first item that has one.
func at(n *yaml.Node, path []string) *yaml.Node {
	if n == nil || len(path) == 0 {
		return n
	}
	name, list := strings.CutSuffix(path[0], "[]")
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != name {
			continue
		}
		v := n.Content[i+1]
		if !list {
			return at(v, path[1:])
		}
		for _, item := range v.Content {
			if found := at(item, path[1:]); found != nil {
				return found
			}
		}
	}
	return nil
}

// flow is a value on one line.
func flow(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		var parts []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			parts = append(parts, n.Content[i].Value+": "+flow(n.Content[i+1]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case yaml.SequenceNode:
		var parts []string
		for _, x := range n.Content {
			parts = append(parts, flow(x))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if n.Style == yaml.DoubleQuotedStyle {
		return `"` + n.Value + `"`
	}
	return n.Value
}
