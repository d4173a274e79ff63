package resource

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/route"
)

// grpcRoute reads a checked route. A call of gRPC is a POST to /SERVICE/METHOD (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
func (t *attaching) grpcRoute(o *GRPCRoute, position Position) *object {
	r := &object{GatewayObject: o, key: o.Key(), position: position, parents: o.Spec.ParentRefs, layer: layerGRPC}
	for _, h := range o.Spec.Hostnames {
		r.hostnames = append(r.hostnames, string(h))
	}
	for i := range o.Spec.Rules {
		spec, at := &o.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i)
		x := rule{section: string(value(spec.Name, "")), Rule: route.Rule{Name: r.ruleName(i, spec.Name)}}
		for _, m := range spec.Matches {
			x.Matches = append(x.Matches, grpcMatch(m))
		}
		a := &x.Action
		for k, f := range spec.Filters {
			at := fmt.Sprintf("%s.filters[%d]", at, k)
			switch f.Type {
			case gatewayv1.GRPCRouteFilterRequestHeaderModifier:
				a.Request = edits(f.RequestHeaderModifier)
			case gatewayv1.GRPCRouteFilterResponseHeaderModifier:
				a.Response = edits(f.ResponseHeaderModifier)
			case gatewayv1.GRPCRouteFilterRequestMirror:
				t.mirror(r, &x, at, f.RequestMirror)
			case gatewayv1.GRPCRouteFilterExtensionRef:
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
				case gatewayv1.GRPCRouteFilterRequestHeaderModifier:
					b.Request = edits(f.RequestHeaderModifier)
				case gatewayv1.GRPCRouteFilterResponseHeaderModifier:
					b.Response = edits(f.ResponseHeaderModifier)
				default:
					return fmt.Sprintf(".filters[%d]: %s is not done for single backends; make it a filter of the rule", j, f.Type)
				}
			}
			return ""
		})
		a.Session = session(spec.SessionPersistence, x.Name, "/")
		if x.broken != "" || x.void {
			x.Action = route.Action{} // without a backend: 500
		}
		r.rules = append(r.rules, x)
	}
	r.accept(GRPCRouteFields, o)
	return r
}

func grpcMatch(m gatewayv1.GRPCRouteMatch) route.Match {
	out := route.Match{Path: grpcPath(m.Method)}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, headerValue(strings.ToLower(string(h.Name)), h.Value, value(h.Type, "") == gatewayv1.GRPCHeaderMatchRegularExpression))
	}
	return out
}

// grpcPath is the path of the calls that m is for: of one method exactly, of one service by its segment, of others by regular expression.
func grpcPath(m *gatewayv1.GRPCMethodMatch) route.Path {
	const part = `[^/]+`
	switch {
	case m == nil:
		return route.Path{}
	case value(m.Type, gatewayv1.GRPCMethodMatchExact) == gatewayv1.GRPCMethodMatchRegularExpression:
		return route.Path{Kind: route.PathRegex, Value: "/(?:" + value(m.Service, part) + ")/(?:" + value(m.Method, part) + ")"}
	case m.Service == nil:
		return route.Path{Kind: route.PathRegex, Value: "/" + part + "/" + *m.Method} // a name of a method has nothing to quote
	case m.Method == nil:
		return route.Path{Kind: route.PathPrefix, Value: "/" + *m.Service}
	}
	return route.Path{Kind: route.PathExact, Value: "/" + *m.Service + "/" + *m.Method}
}
