package resource

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/route"
)

// httpRoute reads a checked route.
func (t *attaching) httpRoute(o *HTTPRoute, position Position) *object {
	r := &object{GatewayObject: o, key: o.Key(), position: position, parents: o.Spec.ParentRefs, layer: layerHTTP}
	for _, h := range o.Spec.Hostnames {
		r.hostnames = append(r.hostnames, string(h))
	}
	for i := range o.Spec.Rules {
		spec, at := &o.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i)
		x := rule{section: string(value(spec.Name, "")), Rule: route.Rule{Name: r.ruleName(i, spec.Name)}}
		for _, m := range spec.Matches {
			x.Matches = append(x.Matches, httpMatch(m))
		}
		a := &x.Action
		for k, f := range spec.Filters {
			at := fmt.Sprintf("%s.filters[%d]", at, k)
			switch f.Type {
			case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
				a.Request = edits(f.RequestHeaderModifier)
			case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
				a.Response = edits(f.ResponseHeaderModifier)
			case gatewayv1.HTTPRouteFilterRequestMirror:
				t.mirror(r, &x, at, f.RequestMirror)
			case gatewayv1.HTTPRouteFilterRequestRedirect:
				a.Redirect = redirect(f.RequestRedirect)
			case gatewayv1.HTTPRouteFilterURLRewrite:
				a.Rewrite = route.Rewrite{Authority: string(value(f.URLRewrite.Hostname, "")), Path: pathEdit(f.URLRewrite.Path)}
			case gatewayv1.HTTPRouteFilterCORS:
				a.CORS = cors(f.CORS)
			case gatewayv1.HTTPRouteFilterExternalAuth:
				x.broken = at + ".externalAuth: " + noExternalAuth
			case gatewayv1.HTTPRouteFilterExtensionRef:
				t.extension(r, &x, at, string(f.ExtensionRef.Group), string(f.ExtensionRef.Kind), string(f.ExtensionRef.Name))
			}
		}
		refs := make([]gatewayv1.BackendRef, len(spec.BackendRefs))
		for k := range spec.BackendRefs {
			refs[k] = spec.BackendRefs[k].BackendRef
		}
		t.backends(r, &x, at, refs, func(k int, b *route.Backend) string {
			for j, f := range spec.BackendRefs[k].Filters {
				switch f.Type {
				case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
					b.Request = edits(f.RequestHeaderModifier)
				case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
					b.Response = edits(f.ResponseHeaderModifier)
				default:
					return fmt.Sprintf(".filters[%d]: %s is not done for single backends; make it a filter of the rule", j, f.Type)
				}
			}
			return ""
		})
		if d := spec.Timeouts; d != nil {
			a.Timeouts = route.Timeouts{Request: off(d.Request), Try: off(d.BackendRequest)}
		}
		a.Retry = retry(spec.Retry)
		a.Session = session(spec.SessionPersistence, x.Name, cookiePath(x.Matches))
		if x.broken != "" || x.void {
			x.Action = route.Action{} // without a backend: 500
		}
		r.rules = append(r.rules, x)
	}
	r.accept(HTTPRouteFields, o)
	return r
}

// Why some filters are not there, in the field tables too.
const (
	noExternalAuth = "is not supported: let the service ask, or put the authorising proxy in front of it"
	noExtension    = "is not supported: of group tulle.dev there are Callers; faults, rate limits and direct answers are fields of a TrafficPolicy whose targetRefs name the route"
	noCallers      = "is not supported: whose requests a rule is for is said of the whole rule"
)

func httpMatch(m gatewayv1.HTTPRouteMatch) route.Match {
	var out route.Match
	if p := m.Path; p != nil {
		v := value(p.Value, "/")
		switch value(p.Type, gatewayv1.PathMatchPathPrefix) {
		case gatewayv1.PathMatchExact:
			out.Path = route.Path{Kind: route.PathExact, Value: v}
		case gatewayv1.PathMatchRegularExpression:
			out.Path = route.Path{Kind: route.PathRegex, Value: v}
		default:
			if v != "/" { // which is of all
				out.Path = route.Path{Kind: route.PathPrefix, Value: v}
			}
		}
	}
	out.Method = string(value(m.Method, ""))
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, headerValue(strings.ToLower(string(h.Name)), h.Value, value(h.Type, "") == gatewayv1.HeaderMatchRegularExpression))
	}
	for _, q := range m.QueryParams {
		out.Query = append(out.Query, headerValue(string(q.Name), q.Value, value(q.Type, "") == gatewayv1.QueryParamMatchRegularExpression))
	}
	return out
}

func headerValue(name, v string, regex bool) route.Value {
	out := route.Value{Name: name, Value: v}
	if regex {
		out.Kind = route.ValueRegex
	}
	return out
}

func pathEdit(m *gatewayv1.HTTPPathModifier) route.PathEdit {
	switch {
	case m == nil:
		return route.PathEdit{}
	case m.Type == gatewayv1.PrefixMatchHTTPPathModifier:
		return route.PathEdit{Set: true, Prefix: true, Value: rooted(*m.ReplacePrefixMatch)}
	}
	return route.PathEdit{Set: true, Value: rooted(*m.ReplaceFullPath)}
}

// rooted is a path that begins with a slash, as all do here.
func rooted(p string) string {
	if p == "" {
		return "/"
	}
	return p
}

func redirect(f *gatewayv1.HTTPRequestRedirectFilter) *route.Redirect {
	return &route.Redirect{
		Scheme: value(f.Scheme, ""), Authority: string(value(f.Hostname, "")), Port: uint16(value(f.Port, 0)), Path: pathEdit(f.Path), Status: value(f.StatusCode, 302),
	}
}

func cors(f *gatewayv1.HTTPCORSFilter) *route.CORS {
	c := &route.CORS{Credentials: value(f.AllowCredentials, false), MaxAge: time.Duration(f.MaxAge) * time.Second}
	for _, o := range f.AllowOrigins {
		c.Origins = append(c.Origins, string(o))
	}
	for _, m := range f.AllowMethods {
		c.Methods = append(c.Methods, string(m))
	}
	for _, h := range f.AllowHeaders {
		c.Headers = append(c.Headers, string(h))
	}
	for _, h := range f.ExposeHeaders {
		c.Expose = append(c.Expose, string(h))
	}
	return c
}

// retry is a rule's: attempts of the Gateway API are those after the first.
func retry(f *gatewayv1.HTTPRouteRetry) *route.Retry {
	if f == nil {
		return nil
	}
	r := &route.Retry{}
	if f.Attempts != nil {
		r.Attempts = min(*f.Attempts+1, maxTries)
	}
	for _, c := range f.Codes {
		r.Statuses = append(r.Statuses, int(c))
	}
	if f.Backoff != nil {
		r.Backoff = duration(*f.Backoff)
	}
	return r
}

// maxTries is the most that a sidecar makes of one request.
const maxTries = 10

// cookiePath is where a session's cookie is for: the one path of the rule, else all.
func cookiePath(matches []route.Match) string {
	if len(matches) == 1 && (matches[0].Path.Kind == route.PathExact || matches[0].Path.Kind == route.PathPrefix) {
		return matches[0].Path.Value
	}
	return "/"
}

// sessionName is what a rule's session is called that has no name: the same for every sidecar, and no other rule's.
func sessionName(rule string) string {
	h := fnv.New32a()
	h.Write([]byte(rule))
	return fmt.Sprintf("tulle-session-%08x", h.Sum32())
}
