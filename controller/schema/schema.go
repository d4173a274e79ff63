// Package schema says what Tulle's own kinds look like, from the Go types of package resource and one line of Fact for each of their fields: as CustomResourceDefinitions
// (charts/tulle/crds) and as the tables of docs/reference/configuration.md. `make generate` writes both; nothing is typed twice.
//
// A field of resource without a Fact, and a Fact without a field, is an error that says what to add. Defaults and ranges are held to what the decoder and the translation do: the tests
// give every field the ends of its range, what is beyond them, and its default in so many words.
package schema

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/controller/resource"
)

// Fact is what a Go type does not say of a field, in the words of the reference.
type Fact struct {
	Path    string // "spec.ports[].listen"
	Unit    string // of numbers: "bytes", "percent"
	Default string // "`15s`", "none", "the mesh's"; "": the field is required, unless Text begins with optional
	Range   string // bounds.go reads it
	Text    string // what it is for; a field that may be missing as a whole begins with "optional"
}

// Kind is one of resource.Kinds.
type Kind struct {
	Name, Plural string
	Cluster      bool   // there is one for the mesh: in Kubernetes it is in no namespace
	Text         string // one sentence
	Facts        []Fact
}

// Kinds lists them in the order of resource.Kinds.
var Kinds = []Kind{
	{"Workload", "workloads", false, "One running instance of a service, and what its sidecar listens on.", workloadFacts},
	{"ExternalService", "externalservices", false, "A host outside the mesh, by the name under which its services call it.", externalServiceFacts},
	{"TrafficPolicy", "trafficpolicies", false, "How callers' sidecars treat services, and what becomes of the requests of routes.", trafficPolicyFacts},
	{"AccessPolicy", "accesspolicies", false, "Who may use what of a service, judged by the sidecar of the workload that is called.", accessPolicyFacts},
	{"TelemetryPolicy", "telemetrypolicies", false, "What the sidecars of many Workloads may write down, and how they pass trace context on.", telemetryPolicyFacts},
	{"Subset", "subsets", false, "The endpoints of a service that have certain labels, as a backend of routes.", subsetFacts},
	{"Callers", "callers", false, "Workloads whose requests rules of routes can be for, and nobody else's.", callersFacts},
	{"TLSFiles", "tlsfiles", false, "Files of TLS on a sidecar's host, in place of a Secret.", tlsFilesFacts},
	{"MeshConfig", "meshconfigs", true, "What holds for the whole mesh.", meshConfigFacts},
}

// Every is what every kind begins with, as a Kind without a name.
var Every = Kind{Facts: everyFacts}

// Type is how a value is written.
type Type uint8

const (
	// Text is a string.
	Text Type = iota
	// Integer is a whole number.
	Integer
	// Number is any number.
	Number
	// Bool is true or false.
	Bool
	// Duration is 250ms, 15s, and, where it may be, off.
	Duration
	// Octal is permissions of a file, "0660".
	Octal
	// Object has fields.
	Object
	// Map is text by text.
	Map
	// List has Items.
	List
)

var typeNames = [...]string{"text", "integer", "number", "boolean", "duration", "octal", "object", "map", "list"}

func (t Type) String() string { return typeNames[t] }

// Field is a field of a kind, and those below it.
type Field struct {
	Name     string // as it is written
	Path     string // of its Fact; "" of an item
	Type     Type
	Items    *Field   // of a List
	Fields   []*Field // of an Object
	Required bool
	Fact     *Fact // nil of an object that is nothing by itself
}

// Shape is k's type with its facts; the error lists every field that has none, and every fact that is of no field.
func (k Kind) Shape() (*Field, error) {
	t := reflect.TypeFor[resource.Header]()
	if k.Name != "" {
		i := slices.IndexFunc(resource.Kinds, func(r struct {
			Name string
			New  func() resource.Object
		},
		) bool {
			return r.Name == k.Name
		})
		if i < 0 {
			return nil, fmt.Errorf("schema: there is no kind %s in package resource; remove its line from Kinds", k.Name)
		}
		t = reflect.TypeOf(resource.Kinds[i].New()).Elem()
	}
	facts := map[string]*Fact{}
	for _, list := range [][]Fact{everyFacts, k.Facts} {
		for i := range list {
			facts[list[i].Path] = &list[i]
		}
	}
	used := map[string]bool{}
	var missing []string
	root := shape(t, "", "", facts, used, &missing)
	for _, f := range k.Facts {
		if !used[f.Path] {
			missing = append(missing, f.Path+" is no field: remove its Fact")
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("schema: %s: %s", k.Name, strings.Join(missing, "; "))
	}
	return root, nil
}

// shape is a type at a path.
func shape(t reflect.Type, name, path string, facts map[string]*Fact, used map[string]bool, missing *[]string) *Field {
	f := &Field{Name: name, Path: path, Fact: facts[path]}
	used[path] = true
	pointer := t.Kind() == reflect.Pointer
	if pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[resource.Duration]():
		f.Type = Duration
	case t == reflect.TypeFor[resource.SocketMode]():
		f.Type = Octal
	case t.Kind() == reflect.Struct:
		f.Type = Object
		f.Fields = fields(t, path, facts, used, missing)
	case t.Kind() == reflect.Slice:
		f.Type = List
		f.Items = shape(t.Elem(), "", path+"[]", facts, used, missing)
	case t.Kind() == reflect.Map:
		f.Type = Map
	case t.Kind() == reflect.Bool:
		f.Type = Bool
	case t.Kind() == reflect.Float64:
		f.Type = Number
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		f.Type = Integer
	}
	if alone := f.Type != Object || pointer; f.Fact == nil && alone && path != "" && !strings.HasSuffix(path, "[]") {
		*missing = append(*missing, path+" has no Fact: add a line to controller/schema")
	}
	return f
}

func fields(t reflect.Type, path string, facts map[string]*Fact, used map[string]bool, missing *[]string) (out []*Field) {
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if options == "inline" {
			out = append(out, fields(t.Field(i).Type, path, facts, used, missing)...)
			continue
		}
		f := shape(t.Field(i).Type, name, strings.TrimPrefix(path+"."+name, "."), facts, used, missing)
		f.Required = options != "omitempty"
		out = append(out, f)
	}
	return out
}

// Each calls do for f and every field below it, the outer first.
func (f *Field) Each(do func(*Field)) {
	do(f)
	if f.Items != nil {
		f.Items.Each(do)
	}
	for _, x := range f.Fields {
		x.Each(do)
	}
}
