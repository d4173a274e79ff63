package resource

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Decode reads a file of YAML documents separated by "---" lines. Each document stands and falls by itself. Unknown fields are errors.
func Decode(file string, content []byte) []Document {
	var out []Document
	for _, part := range split(content) {
		if d, ok := decodeOne(file, part); ok {
			out = append(out, d)
		}
	}
	return out
}

type part struct {
	line int // of its first line in the file, from 1
	text []byte
}

// split cuts at lines that begin a document, so that a syntax error in one does not hide the next.
func split(content []byte) []part {
	var parts []part
	current := part{line: 1}
	line := 0
	for len(content) > 0 {
		line++
		end := bytes.IndexByte(content, '\n') + 1
		if end == 0 {
			end = len(content)
		}
		text := content[:end]
		content = content[end:]
		if bytes.HasPrefix(text, []byte("---")) && len(bytes.TrimSpace(text)) == 3 {
			parts = append(parts, current)
			current = part{line: line + 1}
			continue
		}
		current.text = append(current.text, text...)
	}
	return append(parts, current)
}

// decodeOne is ok = false for a document without content.
func decodeOne(file string, p part) (Document, bool) {
	d := Document{Position: Position{File: file, Line: p.line}}
	fail := func(line int, err error) (Document, bool) {
		d.Position.Line = line
		d.Err = err
		d.Hold = d.Key.Kind == "" || d.Key.Name == ""
		return d, true
	}
	var node yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(p.text)).Decode(&node)
	if errors.Is(err, io.EOF) {
		return Document{}, false
	}
	if err != nil {
		line, message := lineOf(err, p.line)
		return fail(line, fmt.Errorf("not valid YAML: %s", message))
	}
	root := node.Content[0]
	if root.Tag == "!!null" {
		return Document{}, false
	}
	d.Position.Line = p.line + root.Line - 1
	if root.Kind != yaml.MappingNode {
		return fail(d.Position.Line, errors.New("must be a mapping with apiVersion, kind, metadata and spec"))
	}
	version, kind := scalar(root, "apiVersion"), scalar(root, "kind")
	meta := child(root, "metadata")
	d.Key = Key{Kind: kind, Namespace: cmp.Or(scalar(meta, "namespace"), "default"), Name: scalar(meta, "name")}
	if i := slices.IndexFunc(GatewayKinds, func(k GatewayKind) bool { return k.Name == kind }); i >= 0 {
		if GatewayKinds[i].Cluster {
			d.Key.Namespace = ""
		}
		object, line, err := GatewayKinds[i].decode(root, version)
		if err != nil {
			return fail(p.line+max(line, root.Line)-1, err)
		}
		object.SetNamespace(d.Key.Namespace)
		d.Object = object
		return d, true
	}
	i := slices.IndexFunc(Kinds, func(k struct {
		Name string
		New  func() Object
	},
	) bool {
		return k.Name == kind
	})
	if i < 0 {
		var names []string
		for _, k := range Kinds {
			names = append(names, k.Name)
		}
		for _, k := range GatewayKinds {
			names = append(names, k.Name)
		}
		return fail(d.Position.Line, fmt.Errorf("kind: %q is not one of %s", kind, strings.Join(names, ", ")))
	}
	if version != APIVersion {
		return fail(d.Position.Line, fmt.Errorf("apiVersion: %q must be %s", version, APIVersion))
	}
	object := Kinds[i].New()
	if line, err := (&walk{}).known(root, reflect.TypeOf(object).Elem(), ""); err != nil {
		return fail(p.line+line-1, err)
	}
	if err := root.Decode(object); err != nil {
		line, message := lineOf(err, p.line)
		return fail(line, errors.New(message))
	}
	reflect.ValueOf(object).Elem().FieldByName("Header").Addr().Interface().(*Header).Metadata.Namespace = d.Key.Namespace
	d.Object = object
	if kind == "TrafficPolicy" || kind == "MeshConfig" {
		d.Lines = fieldLines(root, p.line)
	}
	return d, true
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(n *yaml.Node, key string) string {
	if c := child(n, key); c != nil && c.Kind == yaml.ScalarNode {
		return c.Value
	}
	return ""
}

// walk compares nodes with types. The zero value is for Tulle's own.
type walk struct {
	json bool // what Kubernetes reads as JSON: a number is no text, and a type that reads itself does
}

// known walks n beside type t and refuses the first field that t does not have, and duplicate keys.
func (w *walk) known(n *yaml.Node, t reflect.Type, path string) (line int, err error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if w.json && readsItself(t) {
		if wrong := unreadable(n, t); wrong != "" {
			return n.Line, fmt.Errorf("%s: %s", path, wrong)
		}
		return 0, nil
	}
	if wrong := w.mismatch(n, t); wrong != "" {
		return n.Line, fmt.Errorf("%s: %s", path, wrong)
	}
	switch {
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, item := range n.Content {
			if line, err := w.known(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return line, err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		fields := map[string]reflect.Type{}
		collect(t, fields)
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			at := strings.TrimPrefix(path+"."+key.Value, ".")
			ft, ok := fields[key.Value]
			if !ok {
				names := make([]string, 0, len(fields))
				for name := range fields {
					names = append(names, name)
				}
				slices.Sort(names)
				hint := "known here are " + strings.Join(names, ", ")
				if s := nearest(key.Value, names); s != "" {
					hint = fmt.Sprintf("did you mean %q?", s)
				}
				return key.Line, fmt.Errorf("%s: unknown field; %s", at, hint)
			}
			if seen[key.Value] {
				return key.Line, fmt.Errorf("%s: is given twice; remove one", at)
			}
			seen[key.Value] = true
			if line, err := w.known(value, ft, at); err != nil {
				return line, err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map && w.json:
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			at := fmt.Sprintf("%s[%s]", path, key.Value)
			if seen[key.Value] {
				return key.Line, fmt.Errorf("%s: is given twice; remove one", at)
			}
			seen[key.Value] = true
			if line, err := w.known(value, t.Elem(), at); err != nil {
				return line, err
			}
		}
	}
	return 0, nil
}

// mismatch says what is wrong with a value whose shape or type is not t's; "" when it fits.
func (w *walk) mismatch(n *yaml.Node, t reflect.Type) string {
	want := map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
	kind := yaml.ScalarNode
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		kind = yaml.MappingNode
	case reflect.Slice:
		kind = yaml.SequenceNode
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return ""
	}
	if n.Kind != kind {
		return fmt.Sprintf("must be %s, is %s", want[kind], want[n.Kind])
	}
	if w.json && t.Kind() == reflect.String && n.Tag != "!!str" {
		return fmt.Sprintf("%s must be text; write it in quotes", n.Value)
	}
	if kind != yaml.ScalarNode || n.Decode(reflect.New(t).Interface()) == nil {
		return ""
	}
	switch {
	case t == reflect.TypeFor[Duration]():
		return fmt.Sprintf("%q is not a duration; write for example 250ms, 15s, or off", n.Value)
	case t == reflect.TypeFor[SocketMode]():
		return fmt.Sprintf("%q is not the permissions of a file; write for example \"0660\"", n.Value)
	case t.Kind() == reflect.Uint32:
		return fmt.Sprintf("%q is not the number of a user or a group", n.Value)
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int32, t.Kind() == reflect.Int64, t.Kind() == reflect.Uint16:
		return fmt.Sprintf("%q is not a whole number", n.Value)
	case t.Kind() == reflect.Float64:
		return fmt.Sprintf("%q is not a number", n.Value)
	case t.Kind() == reflect.Bool:
		return fmt.Sprintf("%q must be true or false", n.Value)
	}
	return fmt.Sprintf("%q is not a %s", n.Value, t.Kind())
}

func collect(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		if name, inline := fieldName(f); inline {
			collect(f.Type, into)
		} else {
			into[name] = f.Type
		}
	}
}

// fieldName is how a field is written, of Tulle's kinds and of Kubernetes'; inline: its own fields stand in its place.
func fieldName(f reflect.StructField) (name string, inline bool) {
	if tag, ok := f.Tag.Lookup("yaml"); ok {
		name, options, _ := strings.Cut(tag, ",")
		return name, options == "inline"
	}
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	return name, f.Anonymous && name == ""
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\n\s*)?line (\d+): ([^\n]*)`)

// lineOf takes the line out of a YAML error and makes it the file's.
func lineOf(err error, base int) (int, string) {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return base, strings.TrimPrefix(err.Error(), "yaml: ")
	}
	n, _ := strconv.Atoi(m[1])
	return base + n - 1, m[2]
}

// nearest is the name at most two edits away, "" if none.
func nearest(name string, names []string) string {
	best, at := "", 3
	slices.Sort(names)
	for _, n := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(n)); d < at && d < len(n) {
			best, at = n, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
