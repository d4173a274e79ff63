package filter

import (
	"reflect"
	"testing"

	"github.com/tulle-mesh/tulle/internal/route"
)

// The rule's edits come before the backend's, in both directions.
func TestHeaders(t *testing.T) {
	f := func(name, value string) route.Field { return route.Field{Name: name, Value: value} }
	x := asking(&route.Action{
		Request:  route.Edits{Set: []route.Field{f("x-a", "rule"), f("x-b", "rule")}, Add: []route.Field{f("x-c", "rule")}},
		Response: route.Edits{Set: []route.Field{f("x-d", "rule")}, Remove: []string{"x-e"}},
	}, nil)
	x.Decision.Backend = &route.Backend{
		Request:  route.Edits{Set: []route.Field{f("x-b", "backend")}, Remove: []string{"x-c"}},
		Response: route.Edits{Add: []route.Field{f("x-e", "backend")}},
	}
	if !passes(New(nil), x) {
		t.Fatal("it did not go on")
	}
	if !reflect.DeepEqual(x.Sent.Append, []route.Field{f("x-a", "rule"), f("x-b", "backend")}) || !reflect.DeepEqual(x.Sent.Drop, []string{"x-a", "x-b", "x-c"}) {
		t.Errorf("%+v", x.Sent)
	}
	if !reflect.DeepEqual(x.Passed.Append, []route.Field{f("x-d", "rule"), f("x-e", "backend")}) || !reflect.DeepEqual(x.Passed.Drop, []string{"x-d", "x-e"}) {
		t.Errorf("%+v", x.Passed)
	}
}
