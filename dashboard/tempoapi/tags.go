package tempoapi

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/traceql"
)

const (
	sampleTraces = 300  // that are looked at for the scopes of names, and for values
	maxValues    = 1000 // of one field
)

// intrinsicTags are the fields that every span has, as Tempo lists them.
var intrinsicTags = []string{
	"duration", "event:name", "event:timeSinceStart", "instrumentation:name", "instrumentation:version", "kind", "name", "rootName", "rootServiceName", "span:duration", "span:kind", "span:name",
	"span:status", "span:statusMessage", "status", "statusMessage", "trace:duration", "trace:rootName", "trace:rootService", "traceDuration",
}

// scopes are names of attributes by where they are: on spans or on resources. The store knows the names; where they are is seen on the newest traces, and what none of them
// has counts as a span's.
func (a *api) scopes(r *http.Request) (span, resource []string, err error) {
	all, err := a.Spans.AttributeKeys(r.Context())
	if err != nil {
		return nil, nil, err
	}
	onSpan, onResource := map[string]bool{}, map[string]bool{}
	q, err := traceql.Parse("")
	if err != nil {
		return nil, nil, err
	}
	n := 0
	if _, err := traceql.Search(r.Context(), a.Spans, q, traceql.Options{Budget: sampleTraces / 3}, func(f traceql.Found) bool {
		for _, s := range f.Trace.Spans {
			for k := range s.Attributes().All() {
				onSpan[k] = true
			}
			for k := range s.Resource.All() {
				onResource[k] = true
			}
		}
		n++
		return n < sampleTraces/3
	}); err != nil {
		return nil, nil, err
	}
	for _, k := range all {
		if onResource[k] {
			resource = append(resource, k)
		}
		if onSpan[k] || !onResource[k] {
			span = append(span, k)
		}
	}
	if !slices.Contains(resource, "service.name") {
		resource = append(resource, "service.name")
	}
	slices.Sort(resource)
	return span, resource, nil
}

func scopeOf(r *http.Request) (string, error) {
	s := r.URL.Query().Get("scope")
	switch s {
	case "", "none", "span", "resource", "intrinsic":
		return s, nil
	case "event", "link", "instrumentation":
		return s, nil
	}
	return "", bad("scope", s, "span, resource, intrinsic, event, link or instrumentation")
}

func (a *api) tags(w http.ResponseWriter, r *http.Request) error {
	scope, err := scopeOf(r)
	if err != nil {
		return err
	}
	span, resource, err := a.scopes(r)
	if err != nil {
		return err
	}
	names := []string{}
	for s, of := range map[string][]string{"span": span, "resource": resource, "intrinsic": intrinsicTags} {
		if scope == s || s != "intrinsic" && (scope == "" || scope == "none") {
			names = append(names, of...)
		}
	}
	slices.Sort(names)
	return writeJSON(w, map[string]any{"tagNames": slices.Compact(names), "metrics": struct{}{}})
}

func (a *api) tagsV2(w http.ResponseWriter, r *http.Request) error {
	scope, err := scopeOf(r)
	if err != nil {
		return err
	}
	span, resource, err := a.scopes(r)
	if err != nil {
		return err
	}
	type one struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	out := []one{}
	for _, s := range []one{{"resource", resource}, {"span", span}, {"intrinsic", intrinsicTags}} {
		if scope == "" || scope == "none" || scope == s.Name {
			out = append(out, s)
		}
	}
	return writeJSON(w, map[string]any{"scopes": out, "metrics": struct{}{}})
}

// typed is a value with the name that Tempo has for its type.
type typed struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

var typeNames = map[traceql.Kind]string{
	traceql.Bool: "bool", traceql.Int: "int", traceql.Float: "float", traceql.Duration: "duration", traceql.String: "string", traceql.Status: "keyword", traceql.SpanKind: "keyword",
}

// known are the values of fields of which the store or the language has a list.
func (a *api) known(r *http.Request, field string) (out []typed, ok bool, err error) {
	var list []string
	kind := "string"
	switch field {
	case "resource.service.name", ".service.name", "rootServiceName", "trace:rootService":
		list, err = a.Spans.Services(r.Context())
	case "name", "span:name", "rootName", "trace:rootName":
		var ops []store.Operation
		ops, err = a.Spans.Operations(r.Context(), "")
		for _, o := range ops {
			list = append(list, o.Name)
		}
	case "status", "span:status":
		list, kind = []string{"error", "ok", "unset"}, "keyword"
	case "kind", "span:kind":
		list, kind = []string{"client", "consumer", "internal", "producer", "server", "unspecified"}, "keyword"
	default:
		return nil, false, nil
	}
	slices.Sort(list)
	for _, s := range slices.Compact(list) {
		out = append(out, typed{kind, s})
	}
	return out, true, err
}

// fieldValues are the values of a field: all of those that are listed somewhere, of others those of the newest traces that the query means.
func (a *api) fieldValues(r *http.Request, field string) ([]typed, error) {
	v := r.URL.Query()
	limit, err := number(v, "limit", maxValues, maxValues)
	if err != nil {
		return nil, err
	}
	query := strings.TrimSpace(v.Get("q"))
	if query == "" || query == "{}" {
		if out, ok, err := a.known(r, field); ok {
			return out[:min(len(out), limit)], err
		}
		query = "{ " + field + " != nil }"
	}
	o := traceql.Options{Budget: sampleTraces}
	if o.Start, err = instant(v, "start", time.Time{}); err != nil {
		return nil, err
	}
	if o.End, err = instant(v, "end", a.Clock()); err != nil {
		return nil, err
	}
	q, err := traceql.Parse(query)
	if err != nil { // what somebody is still writing: everything
		if q, err = traceql.Parse(""); err != nil {
			return nil, err
		}
	}
	of, err := traceql.Field(field)
	if err != nil {
		return nil, err
	}
	seen := map[typed]bool{}
	if _, err := traceql.Search(r.Context(), a.Spans, q, o, func(f traceql.Found) bool {
		for _, set := range f.Sets {
			for _, s := range set.Spans {
				for _, x := range of(s) {
					if len(seen) < limit {
						seen[typed{typeNames[x.Kind], x.String()}] = true
					}
				}
			}
		}
		return len(seen) < limit
	}); err != nil {
		return nil, err
	}
	out := make([]typed, 0, len(seen))
	for t := range seen {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b typed) int {
		x, err1 := strconv.ParseFloat(a.Value, 64)
		y, err2 := strconv.ParseFloat(b.Value, 64)
		if err1 == nil && err2 == nil && x != y {
			return int(max(-1, min(1, (x-y)*1e9)))
		}
		return strings.Compare(a.Value, b.Value)
	})
	return out, nil
}

// fieldOf is the field that a path names: of version 1 without a scope.
func fieldOf(tag string) string {
	if f, ok := byTags[tag]; ok {
		return f
	}
	if _, err := traceql.Field(tag); err == nil {
		return tag
	}
	return `."` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(tag) + `"`
}

func (a *api) values(w http.ResponseWriter, r *http.Request) error {
	vs, err := a.fieldValues(r, fieldOf(r.PathValue("tag")))
	if err != nil {
		return err
	}
	out := []string{}
	for _, v := range vs {
		out = append(out, v.Value)
	}
	return writeJSON(w, map[string]any{"tagValues": out, "metrics": struct{}{}})
}

func (a *api) valuesV2(w http.ResponseWriter, r *http.Request) error {
	tag := r.PathValue("tag")
	if _, err := traceql.Field(tag); err != nil {
		return errors.Join(err, bad("tag", tag, "a field with its scope, such as span.http.route or .tenant"))
	}
	vs, err := a.fieldValues(r, tag)
	if err != nil {
		return err
	}
	if vs == nil {
		vs = []typed{}
	}
	return writeJSON(w, map[string]any{"tagValues": vs, "metrics": struct{}{}})
}
