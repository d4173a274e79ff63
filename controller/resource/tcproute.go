package resource

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/route"
)

func (r *TCPRoute) check() error {
	if err := checkObject(r); err != nil {
		return err
	}
	if err := checkParents(r.Spec.ParentRefs); err != nil {
		return err
	}
	if len(r.Spec.Rules) == 0 {
		return fmt.Errorf("spec.rules: needs a rule, which says where connections go")
	}
	names := map[gatewayv1.SectionName]bool{}
	for i, x := range r.Spec.Rules {
		if err := checkConnectionRule(fmt.Sprintf("spec.rules[%d]", i), x.Name, x.BackendRefs, names); err != nil {
			return err
		}
	}
	return nil
}

func (r *TLSRoute) check() error {
	if err := checkObject(r); err != nil {
		return err
	}
	if err := checkParents(r.Spec.ParentRefs); err != nil {
		return err
	}
	switch {
	case len(r.Spec.Hostnames) == 0 && !strings.HasSuffix(r.APIVersion, "/v1alpha2"): // where they may be left out: the route is for all of a listener's
		return fmt.Errorf("spec.hostnames: needs at least one; connections are told apart by it")
	case len(r.Spec.Rules) != 1:
		return fmt.Errorf("spec.rules: has %d entries, must have one; give other hosts a route of their own", len(r.Spec.Rules))
	}
	return checkConnectionRule("spec.rules[0]", r.Spec.Rules[0].Name, r.Spec.Rules[0].BackendRefs, map[gatewayv1.SectionName]bool{})
}

func checkConnectionRule(at string, name *gatewayv1.SectionName, refs []gatewayv1.BackendRef, names map[gatewayv1.SectionName]bool) error {
	if err := checkRuleName(at, name, names); err != nil {
		return err
	}
	if len(refs) == 0 {
		return fmt.Errorf("%s.backendRefs: needs at least one; connections go there", at)
	}
	for k := range refs {
		if err := checkBackend(fmt.Sprintf("%s.backendRefs[%d]", at, k), &refs[k]); err != nil {
			return err
		}
	}
	return nil
}

// tcpRoute reads a checked route. Connections have nothing by which its rules could be told apart: the first counts.
func (t *attaching) tcpRoute(o *TCPRoute, position Position) *object {
	r := &object{GatewayObject: o, key: o.Key(), position: position, parents: o.Spec.ParentRefs, layer: layerTCP}
	t.connections(r, 0, o.Spec.Rules[0].Name, o.Spec.Rules[0].BackendRefs)
	r.accept(TCPRouteFields, o)
	if n := len(o.Spec.Rules); n > 1 {
		r.common.set("Accepted", true, "", fmt.Sprintf("spec.rules[1]: connections have nothing to match, so that all go by spec.rules[0]; remove the other %d", n-1))
	}
	return r
}

// tlsRoute reads a checked route.
func (t *attaching) tlsRoute(o *TLSRoute, position Position) *object {
	r := &object{GatewayObject: o, key: o.Key(), position: position, parents: o.Spec.ParentRefs, layer: layerTLS}
	for _, h := range o.Spec.Hostnames {
		r.hostnames = append(r.hostnames, string(h))
	}
	t.connections(r, 0, o.Spec.Rules[0].Name, o.Spec.Rules[0].BackendRefs)
	r.accept(TLSRouteFields, o)
	return r
}

// connections is a rule that sends connections to backends by their weights; the share of an invalid one is refused.
func (t *attaching) connections(r *object, i int, name *gatewayv1.SectionName, refs []gatewayv1.BackendRef) {
	x := rule{section: string(value(name, "")), Rule: route.Rule{Name: r.ruleName(i, name)}}
	t.backends(r, &x, fmt.Sprintf("spec.rules[%d]", i), refs, func(int, *route.Backend) string { return "" })
	r.rules = append(r.rules, x)
}
