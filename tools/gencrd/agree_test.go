package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	kyaml "sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/schema"
)

// server is what an API server does with a document of one kind.
type server struct {
	schema    *structural.Structural
	validator validation.SchemaValidator
	cel       *cel.Validator
}

func newServer(t *testing.T, k schema.Kind) *server {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "charts", "tulle", "crds", k.Plural+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var v1 apiextensionsv1.CustomResourceDefinition
	if err := kyaml.UnmarshalStrict(text, &v1); err != nil {
		t.Fatal(err)
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&v1)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&v1.Spec)
	var crd apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&v1, &crd, nil); err != nil {
		t.Fatal(err)
	}
	crd.Status.StoredVersions = []string{"v1alpha1"}
	for _, e := range crdvalidation.ValidateCustomResourceDefinition(context.Background(), &crd) {
		t.Errorf("%s: an API server refuses the CustomResourceDefinition: %v", k.Name, e)
	}
	props := crd.Spec.Validation
	if props == nil {
		props = crd.Spec.Versions[0].Schema
	}
	s := &server{}
	if s.schema, err = structural.NewStructural(props.OpenAPIV3Schema); err != nil {
		t.Fatal(err)
	}
	if s.validator, _, err = validation.NewSchemaValidator(props.OpenAPIV3Schema); err != nil {
		t.Fatal(err)
	}
	s.cel = cel.NewValidator(s.schema, true, celconfig.PerCallLimit)
	return s
}

// refuses says why, "" when it takes the document. What would be pruned is an error, as kubectl has it.
func (s *server) refuses(t *testing.T, text []byte) string {
	t.Helper()
	raw, err := toJSON(text)
	if err != nil {
		return err.Error()
	}
	var object map[string]any
	if err := json.Unmarshal(raw, &object); err != nil {
		return err.Error()
	}
	unknown := pruning.PruneWithOptions(object, s.schema, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	if len(unknown) > 0 {
		return "unknown " + strings.Join(unknown, ", ")
	}
	list := validation.ValidateCustomResource(nil, object, s.validator)
	if len(list) == 0 && s.cel != nil {
		list, _ = s.cel.Validate(context.Background(), nil, s.schema, object, nil, math.MaxInt64)
	}
	if len(list) > 0 {
		return list.ToAggregate().Error()
	}
	return ""
}

// toJSON reads YAML as the decoder does.
func toJSON(text []byte) ([]byte, error) {
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// decoderRefuses says why the controller does, "" when it does not.
func decoderRefuses(text []byte) string {
	_, problems := resource.Resolve(resource.Decode("d.yaml", text), resource.EmptySet())
	for _, p := range problems {
		if p.Severity == resource.Refused {
			return p.Message
		}
	}
	return ""
}

var fence = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func examples(t *testing.T, kind string) map[string]any {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n<!-- fields of "+kind+" -->")
	out := map[string]any{}
	if err := yaml.Unmarshal([]byte(fence.FindStringSubmatch(section)[1]), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// set puts a value at a path; false where the document has nothing above it. A nil value removes.
func set(at any, path []string, v any) bool {
	name, list := strings.CutSuffix(path[0], "[]")
	m, ok := at.(map[string]any)
	switch {
	case !ok:
		return false
	case len(path) > 1 && list:
		items, _ := m[name].([]any)
		return len(items) > 0 && set(items[0], path[1:], v)
	case len(path) > 1:
		if m[name] == nil {
			m[name] = map[string]any{}
		}
		return set(m[name], path[1:], v)
	case v == nil:
		_, there := m[name]
		delete(m, name)
		return there
	}
	m[name] = v
	return true
}

// value is one for f: inside its range, or outside of it, so that it is wrong by itself. False: there is none to tell.
func value(r *rand.Rand, f *schema.Field, wrong bool) (any, bool) {
	b := f.Fact.Bounds()
	bound := func(text string, steps int) any {
		switch f.Type {
		case schema.Duration:
			d, _ := time.ParseDuration(text)
			return (d + time.Duration(steps)).String()
		case schema.Number:
			v, _ := strconv.ParseFloat(text, 64)
			return v + float64(steps)/1000
		}
		v, _ := strconv.ParseInt(text, 10, 64)
		return v + int64(steps)
	}
	if wrong && r.IntN(3) == 0 { // another shape
		switch f.Type {
		case schema.Object, schema.Map:
			return "text", true
		case schema.List:
			return map[string]any{"a": "b"}, true
		}
		return map[string]any{"a": 1}, true
	}
	switch f.Type {
	case schema.Bool:
		return map[bool]any{false: r.IntN(2) == 0, true: "maybe"}[wrong], true
	case schema.Text:
		switch {
		case len(b.Words) > 0 && wrong:
			return "no-such-word", true
		case len(b.Words) > 0:
			return b.Words[r.IntN(len(b.Words))], true
		case b.Pattern != "" && wrong:
			return "Not One!", true
		case b.Pattern != "" && regexp.MustCompile(b.Pattern).MatchString("a-name"):
			return "a-name", true
		case b.Pattern != "":
			for _, s := range []string{"10.9.8.7:" + fmt.Sprint(1024+r.IntN(60000)), "/a/b"} {
				if regexp.MustCompile(b.Pattern).MatchString(s) {
					return s, true
				}
			}
		}
		return nil, false
	case schema.Integer, schema.Number, schema.Duration:
		switch {
		case wrong && r.IntN(2) == 0 && b.Max != "":
			return bound(b.Max, 1), true
		case wrong && b.Min != "" && !b.Above && bound(b.Min, -1) != int64(0):
			return bound(b.Min, -1), true
		case wrong && f.Type == schema.Duration:
			return []string{"0s", "-1s", "soon", "5"}[r.IntN(4)], true
		case wrong:
			return -1, true
		case b.Max != "" && r.IntN(2) == 0:
			return bound(b.Max, 0), true
		case b.Min != "" && !b.Above:
			return bound(b.Min, 0), true
		case f.Type == schema.Duration:
			return "1500ms", true
		}
		return 0, true
	}
	return nil, false
}

// TestSchemasAgreeWithDecoder: over generated documents, an API server takes everything that the controller takes; and what is wrong by itself in one field, both refuse.
func TestSchemasAgreeWithDecoder(t *testing.T) {
	taken, wrong := 0, 0
	for n, k := range schema.Kinds {
		s := newServer(t, k)
		root, err := k.Shape()
		if err != nil {
			t.Fatal(err)
		}
		var all []*schema.Field
		root.Each(func(f *schema.Field) {
			if f.Fact != nil && strings.HasPrefix(f.Path, "spec.") {
				all = append(all, f)
			}
		})
		for seed := range uint64(800) {
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			d := examples(t, k.Name)
			did := ""
			for range r.IntN(4) { // what is in range, and may be at odds with other fields
				f := all[r.IntN(len(all))]
				if v, ok := value(r, f, false); ok && set(d, strings.Split(f.Path, "."), v) {
					did += fmt.Sprintf("%s = %v; ", f.Path, v)
				}
			}
			bad := r.IntN(2) == 0
			if bad {
				f := all[r.IntN(len(all))]
				path := strings.Split(f.Path, ".")
				switch v, ok := value(r, f, true); {
				case f.Required && r.IntN(2) == 0:
					bad = set(d, path, nil)
					did += f.Path + " is removed"
				case r.IntN(6) == 0:
					path[len(path)-1] = "unheardOf"
					bad = set(d, path, "x")
					did += "unheardOf beside " + f.Path
				default:
					bad = ok && set(d, path, v)
					did += fmt.Sprintf("wrong: %s = %v", f.Path, v)
				}
			}
			text, err := yaml.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			controller, api := decoderRefuses(text), s.refuses(t, text)
			switch {
			case controller == "" && api != "":
				t.Errorf("%s, seed %d: %s: the controller takes it, an API server does not: %s", k.Name, seed, did, api)
			case bad && controller == "":
				t.Errorf("%s, seed %d: %s: the controller takes it", k.Name, seed, did)
			case bad && api == "":
				t.Errorf("%s, seed %d: %s: an API server takes it, the controller says %s", k.Name, seed, did, controller)
			}
			if controller == "" {
				taken++
			}
			if bad {
				wrong++
			}
		}
	}
	if taken < 500 || wrong < 500 {
		t.Errorf("%d documents were taken and %d wrong by one field: what is generated tests too little", taken, wrong)
	}
}
