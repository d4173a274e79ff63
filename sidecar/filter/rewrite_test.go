package filter

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/route"
)

// The first lines are the table of the Gateway API's HTTPPathModifier.
func TestRewrite(t *testing.T) {
	prefix := func(p string) *route.Match { return &route.Match{Path: route.Path{Kind: route.PathPrefix, Value: p}} }
	for _, c := range []struct {
		path string
		m    *route.Match
		edit string
		full bool
		want string
	}{
		{"/foo/bar", prefix("/foo"), "/xyz", false, "/xyz/bar"},
		{"/foo/bar", prefix("/foo"), "/xyz/", false, "/xyz/bar"},
		{"/foo/bar", prefix("/foo/"), "/xyz", false, "/xyz/bar"},
		{"/foo/bar", prefix("/foo/"), "/xyz/", false, "/xyz/bar"},
		{"/foo", prefix("/foo"), "/xyz", false, "/xyz"},
		{"/foo/", prefix("/foo"), "/xyz", false, "/xyz/"},
		{"/foo/", prefix("/foo"), "/", false, "/"},
		{"/foo", prefix("/foo"), "/", false, "/"},
		{"/foo/bar", prefix("/foo"), "/", false, "/bar"},
		{"/bar", prefix("/"), "/xyz", false, "/xyz/bar"},
		{"/bar", nil, "/xyz", false, "/xyz/bar"},
		{"/", nil, "/xyz", false, "/xyz/"},
		{"/bar", &route.Match{Method: "GET"}, "/xyz", false, "/xyz/bar"},
		{"/foo/bar", prefix("/foo"), "/xyz", true, "/xyz"},
		{"*", nil, "/xyz", true, ""},
		{"", nil, "/xyz", true, ""},
	} {
		x := asking(&route.Action{Rewrite: route.Rewrite{Authority: "new.example", Path: route.PathEdit{Prefix: !c.full, Value: c.edit, Set: true}}}, nil)
		x.Head.Path, x.Decision.Match = c.path, c.m
		if !passes(New(nil), x) || x.Path != c.want || (x.Authority == "new.example") != (c.path != "") || x.Head.Path != c.path {
			t.Errorf("%+v: %q, %q", c, x.Path, x.Authority)
		}
	}
	x := asking(&route.Action{Rewrite: route.Rewrite{Authority: "new.example"}}, nil)
	if x.Head.Method, x.Head.Path = "CONNECT", ""; !passes(New(nil), x) || x.Path != "" || x.Authority != "" {
		t.Errorf("a CONNECT was rewritten to %q, %q", x.Path, x.Authority)
	}
}
