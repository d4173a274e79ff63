package filter

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
)

// The port follows the rules of the Gateway API's HTTPRequestRedirectFilter.
func TestRedirect(t *testing.T) {
	for _, c := range []struct {
		authority string
		secure    bool
		r         route.Redirect
		want      string
	}{
		{"a.example:8080", false, route.Redirect{}, "http://a.example:8080/a/b?q"},
		{"a.example", false, route.Redirect{}, "http://a.example/a/b?q"},
		{"a.example", true, route.Redirect{}, "https://a.example/a/b?q"},
		{"a.example:8080", false, route.Redirect{Scheme: "https"}, "https://a.example/a/b?q"},
		{"a.example:8080", false, route.Redirect{Scheme: "https", Port: 8443}, "https://a.example:8443/a/b?q"},
		{"a.example:8080", true, route.Redirect{Scheme: "http", Port: 80}, "http://a.example/a/b?q"},
		{"a.example:8443", true, route.Redirect{Port: 443}, "https://a.example/a/b?q"},
		{"[::1]:8080", false, route.Redirect{Port: 443}, "http://[::1]:443/a/b?q"},
		{"[::1]", false, route.Redirect{Authority: "b.example"}, "http://b.example/a/b?q"},
		{"a.example:81", false, route.Redirect{Authority: "b.example"}, "http://b.example:81/a/b?q"},
		{"a.example", false, route.Redirect{Path: route.PathEdit{Value: "/x", Set: true}}, "http://a.example/x?q"},
		{"a.example", false, route.Redirect{Path: route.PathEdit{Value: "/x", Prefix: true, Set: true}}, "http://a.example/x/b?q"},
		{"", false, route.Redirect{Scheme: "https"}, "/a/b?q"},
	} {
		c.r.Status = 302
		to := &caller{query: "q"}
		x := asking(&route.Action{Redirect: &c.r, Response: route.Edits{Set: []route.Field{{Name: "x-own", Value: "1"}}}}, to)
		x.Head.Authority, x.Peer.Secure, x.Destination = c.authority, c.secure, nil
		x.Decision.Match = &route.Match{Path: route.Path{Kind: route.PathPrefix, Value: "/a"}}
		if passes(New(nil), x) || to.answered != 1 || !x.Outcome.Answered || x.Outcome.Status != 302 {
			t.Fatalf("%+v: %+v", c, x.Outcome)
		}
		if f := x.Reply.Fields; len(f) != 2 || f[0] != (route.Field{Name: "location", Value: c.want}) || f[1].Name != "x-own" {
			t.Errorf("%+v: %+v", c, f)
		}
	}
	x := asking(&route.Action{Redirect: &route.Redirect{Status: 301}}, &caller{gone: true})
	if passes(New(nil), x) || x.Outcome.Answered || x.Outcome.Reason != flow.ReasonDownstreamReset {
		t.Errorf("a caller that is gone: %+v", x.Outcome)
	}
}
