package lint

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/controller/resource"
)

// reference is one that a route makes to another namespace.
type reference struct {
	fromKind, fromNamespace, group, kind, namespace, name string
}

// unusedGrant is about ReferenceGrants by which no route may do what it could not do without.
func unusedGrant(m *mesh, say func(place, string, ...any)) {
	var references []reference
	gateways := map[string]bool{} // namespaces that have one; what they refer to is not looked at
	for _, e := range m.entries() {
		add := func(ref gatewayv1.BackendObjectReference) {
			key := e.Object.Key()
			if ref.Namespace == nil || string(*ref.Namespace) == key.Namespace {
				return
			}
			kind := "Service"
			if ref.Kind != nil {
				kind = string(*ref.Kind)
			}
			references = append(references, reference{key.Kind, key.Namespace, string(deref(ref.Group)), kind, string(*ref.Namespace), string(ref.Name)})
		}
		switch o := e.Object.(type) {
		case *resource.HTTPRoute:
			for _, r := range o.Spec.Rules {
				for _, b := range r.BackendRefs {
					add(b.BackendObjectReference)
				}
				for _, f := range r.Filters {
					if f.RequestMirror != nil {
						add(f.RequestMirror.BackendRef)
					}
				}
			}
		case *resource.GRPCRoute:
			for _, r := range o.Spec.Rules {
				for _, b := range r.BackendRefs {
					add(b.BackendObjectReference)
				}
				for _, f := range r.Filters {
					if f.RequestMirror != nil {
						add(f.RequestMirror.BackendRef)
					}
				}
			}
		case *resource.TCPRoute:
			for _, r := range o.Spec.Rules {
				for _, b := range r.BackendRefs {
					add(b.BackendObjectReference)
				}
			}
		case *resource.TLSRoute:
			for _, r := range o.Spec.Rules {
				for _, b := range r.BackendRefs {
					add(b.BackendObjectReference)
				}
			}
		case *resource.Gateway:
			gateways[o.GetNamespace()] = true
		}
	}
	for _, e := range m.entries() {
		if g, ok := e.Object.(*resource.ReferenceGrant); ok && !grants(g, references) &&
			!slices.ContainsFunc(g.Spec.From, func(f gatewayv1.ReferenceGrantFrom) bool { return f.Kind == "Gateway" && gateways[string(f.Namespace)] }) {
			say(m.at(g.Key()), "spec: no route refers to anything that it allows")
		}
	}
}

func grants(g *resource.ReferenceGrant, references []reference) bool {
	for _, r := range references {
		if r.namespace != g.GetNamespace() {
			continue
		}
		for _, f := range g.Spec.From {
			for _, t := range g.Spec.To {
				if string(f.Kind) == r.fromKind && string(f.Namespace) == r.fromNamespace && string(t.Group) == r.group && string(t.Kind) == r.kind &&
					(t.Name == nil || string(*t.Name) == r.name) {
					return true
				}
			}
		}
	}
	return false
}
