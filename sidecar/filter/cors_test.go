package filter

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/route"
)

func TestCORS(t *testing.T) {
	list := func(s ...string) []string { return s }
	for _, c := range []struct {
		name   string
		cors   route.CORS
		method string
		fields map[string][]string
		want   string // of a preflight its answer's fields, of others those that answers get
		on     bool
	}{
		{"any", route.CORS{Origins: list("*")}, "GET", map[string][]string{"origin": {"https://a.example"}}, "access-control-allow-origin: *", true},
		{"no browser", route.CORS{Origins: list("*")}, "GET", nil, "", true},
		{
			"one",
			route.CORS{Origins: list("https://a.example"), Credentials: true, Expose: list("x-a", "x-b")},
			"GET",
			map[string][]string{"origin": {"https://a.example"}},
			"vary: Origin; access-control-allow-origin: https://a.example; access-control-allow-credentials: true; access-control-expose-headers: x-a, x-b", true,
		},
		{"another", route.CORS{Origins: list("https://a.example")}, "GET", map[string][]string{"origin": {"https://b.example"}}, "vary: Origin", true},
		{
			"any, with credentials",
			route.CORS{Origins: list("*"), Credentials: true},
			"POST",
			map[string][]string{"origin": {"null"}},
			"vary: Origin; access-control-allow-origin: null; access-control-allow-credentials: true", true,
		},
		{"OPTIONS that asks for nothing", route.CORS{Origins: list("*")}, "OPTIONS", map[string][]string{"origin": {"https://a.example"}}, "access-control-allow-origin: *", true},
		{"OPTIONS of no browser", route.CORS{Origins: list("*")}, "OPTIONS", map[string][]string{"access-control-request-method": {"PUT"}}, "", true},
		{
			"preflight",
			route.CORS{Origins: list("https://*.example"), Methods: list("GET", "PUT"), Headers: list("x-a"), MaxAge: time.Hour},
			"OPTIONS",
			map[string][]string{"origin": {"https://a.example"}, "access-control-request-method": {"PUT"}, "access-control-request-headers": {"x-z"}},
			"access-control-allow-origin: https://a.example; access-control-allow-methods: GET, PUT; access-control-allow-headers: x-a; access-control-max-age: 3600", false,
		},
		{
			"preflight of all",
			route.CORS{Origins: list("*"), Methods: list("*"), Headers: list("*")},
			"OPTIONS",
			map[string][]string{"origin": {"https://a.example"}, "access-control-request-method": {"PUT"}},
			"access-control-allow-origin: *; access-control-allow-methods: *; access-control-allow-headers: *; access-control-max-age: 5", false,
		},
		{
			"preflight of all, with credentials",
			route.CORS{Origins: list("*"), Methods: list("*"), Headers: list("*"), Credentials: true},
			"OPTIONS",
			map[string][]string{"origin": {"https://a.example"}, "access-control-request-method": {"PUT"}, "access-control-request-headers": {"x-a", "x-b"}},
			"access-control-allow-origin: https://a.example; access-control-allow-credentials: true; access-control-allow-methods: PUT; access-control-allow-headers: x-a,x-b; access-control-max-age: 5", false,
		},
		{"preflight of another", route.CORS{Origins: list("https://a.example")}, "OPTIONS", map[string][]string{"origin": {"https://b.example"}, "access-control-request-method": {"PUT"}}, "", false},
	} {
		x := asking(&route.Action{CORS: &c.cors}, &caller{fields: c.fields})
		x.Head.Method = c.method
		on := passes(New(nil), x)
		fields := x.Answer
		if !on {
			if x.Reply.Status != 204 || x.Reply.Fields[0] != (route.Field{Name: "vary", Value: "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}) {
				t.Errorf("%s: %+v", c.name, x.Reply)
			}
			fields = x.Reply.Fields[1:]
		} else if !slices.Equal(fields, x.Passed.Append) || len(x.Passed.Drop) != len(corsFields) {
			t.Errorf("%s: %+v", c.name, x.Passed)
		}
		var got []string
		for _, f := range fields {
			got = append(got, fmt.Sprintf("%s: %s", f.Name, f.Value))
		}
		if on != c.on || strings.Join(got, "; ") != c.want {
			t.Errorf("%s: %v %q", c.name, on, got)
		}
	}
}

func TestOrigins(t *testing.T) {
	for _, c := range []struct {
		allowed, origin string
		want            bool
	}{
		{"https://a.example", "https://a.example", true},
		{"https://a.example", "HTTPS://A.example", true},
		{"https://a.example", "https://a.example:8443", false},
		{"https://a.example:8443", "https://a.example:8443", true},
		{"https://a.example", "http://a.example", false},
		{"https://a.example", "https://a.example.evil.example", false},
		{"https://*.a.example", "https://b.a.example", true},
		{"https://*.a.example", "https://c.b.a.example", true},
		{"https://*.a.example", "https://a.example", false},
		{"https://*.a.example", "https://.a.example", false},
		{"https://*.a.example", "https://evil.example/.a.example", false},
		{"https://*.a.example", "https://evil.example:1.a.example", false},
		{"https://*.a.example", "https://ba.example", false},
		{"https://*.a.example", "http://b.a.example", false},
		{"https://*.a.example:8443", "https://b.a.example:8443", true},
		{"https://*.a.example:8443", "https://b.a.example", false},
		{"https://*.a.example", "null", false},
		{"*", "null", true},
	} {
		if got := allows([]string{"https://other.example", c.allowed}, c.origin); got != c.want {
			t.Errorf("%s allows %s: %v", c.allowed, c.origin, got)
		}
	}
}
