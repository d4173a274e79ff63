package resource

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// gatewayGroup is the API group of the Gateway API.
const gatewayGroup = gatewayv1.GroupName

// GatewayKind is a kind of the Gateway API that is read (https://gateway-api.sigs.k8s.io/reference/spec/, v1.6). Its versions have one shape.
type GatewayKind struct {
	Name     string
	Versions []string // the newest first
	Core     bool     // is of the core group, which other kinds refer to
	Cluster  bool     // has no namespace
	New      func() GatewayObject
}

// GatewayObject is an Object of the Gateway API.
type GatewayObject interface {
	Object
	metav1.Object
}

// GatewayKinds lists those kinds.
var GatewayKinds = []GatewayKind{
	{Name: "GatewayClass", Versions: []string{"v1", "v1beta1"}, Cluster: true, New: func() GatewayObject { return &GatewayClass{} }},
	{Name: "Gateway", Versions: []string{"v1", "v1beta1"}, New: func() GatewayObject { return &Gateway{} }},
	{Name: "HTTPRoute", Versions: []string{"v1", "v1beta1"}, New: func() GatewayObject { return &HTTPRoute{} }},
	{Name: "GRPCRoute", Versions: []string{"v1"}, New: func() GatewayObject { return &GRPCRoute{} }},
	{Name: "TCPRoute", Versions: []string{"v1", "v1alpha2"}, New: func() GatewayObject { return &TCPRoute{} }},
	{Name: "TLSRoute", Versions: []string{"v1", "v1alpha3", "v1alpha2"}, New: func() GatewayObject { return &TLSRoute{} }},
	{Name: "BackendTLSPolicy", Versions: []string{"v1", "v1alpha3"}, New: func() GatewayObject { return &BackendTLSPolicy{} }},
	{Name: "ReferenceGrant", Versions: []string{"v1", "v1beta1"}, New: func() GatewayObject { return &ReferenceGrant{} }},
	{Name: "Namespace", Versions: []string{"v1"}, Core: true, Cluster: true, New: func() GatewayObject { return &Namespace{} }},
}

// GatewayClass is the Gateway API's.
type GatewayClass struct{ gatewayv1.GatewayClass }

// Gateway is the Gateway API's.
type Gateway struct{ gatewayv1.Gateway }

// HTTPRoute is the Gateway API's.
type HTTPRoute struct{ gatewayv1.HTTPRoute }

// GRPCRoute is the Gateway API's.
type GRPCRoute struct{ gatewayv1.GRPCRoute }

// TCPRoute is the Gateway API's.
type TCPRoute struct{ gatewayv1.TCPRoute }

// TLSRoute is the Gateway API's.
type TLSRoute struct{ gatewayv1.TLSRoute }

// BackendTLSPolicy is the Gateway API's.
type BackendTLSPolicy struct{ gatewayv1.BackendTLSPolicy }

// ReferenceGrant is the Gateway API's.
type ReferenceGrant struct{ gatewayv1.ReferenceGrant }

// Namespace is Kubernetes' own, for its labels, by which listeners of Gateways select routes. One that nobody has written has its name as a label alone.
type Namespace struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec struct {
		Finalizers []string `json:"finalizers,omitempty"`
	} `json:"spec,omitempty"`
	Status struct {
		Phase      string             `json:"phase,omitempty"`
		Conditions []metav1.Condition `json:"conditions,omitempty"`
	} `json:"status,omitempty"`
}

// Key implements Object.
func (c *GatewayClass) Key() Key { return keyOf("GatewayClass", c) }

// Key implements Object.
func (g *Gateway) Key() Key { return keyOf("Gateway", g) }

// Key implements Object.
func (n *Namespace) Key() Key { return keyOf("Namespace", n) }

// Key implements Object.
func (r *HTTPRoute) Key() Key { return keyOf("HTTPRoute", r) }

// Key implements Object.
func (r *GRPCRoute) Key() Key { return keyOf("GRPCRoute", r) }

// Key implements Object.
func (r *TCPRoute) Key() Key { return keyOf("TCPRoute", r) }

// Key implements Object.
func (r *TLSRoute) Key() Key { return keyOf("TLSRoute", r) }

// Key implements Object.
func (p *BackendTLSPolicy) Key() Key { return keyOf("BackendTLSPolicy", p) }

// Key implements Object.
func (r *ReferenceGrant) Key() Key { return keyOf("ReferenceGrant", r) }

func keyOf(kind string, o metav1.Object) Key {
	return Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// decode reads a document whose kind is k's. The line is that of the field that is wrong, in the document; 0: none in particular.
func (k GatewayKind) decode(root *yaml.Node, version string) (GatewayObject, int, error) {
	var known []string
	for _, v := range k.Versions {
		if !k.Core {
			v = gatewayGroup + "/" + v
		}
		known = append(known, v)
	}
	if !slices.Contains(known, version) {
		return nil, 0, fmt.Errorf("apiVersion: %q must be %s", version, strings.Join(known, " or "))
	}
	object := k.New()
	w := &walk{json: true}
	if line, err := w.known(root, reflect.TypeOf(object).Elem(), ""); err != nil {
		return nil, line, err
	}
	var v any
	if err := root.Decode(&v); err != nil {
		line, message := lineOf(err, 1)
		return nil, line, fmt.Errorf("%s", message)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, 0, fmt.Errorf("names of fields must be text: %w", err)
	}
	if err := json.Unmarshal(text, object); err != nil {
		return nil, 0, err
	}
	return object, 0, nil
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// readsItself reports whether a type of Kubernetes' decides itself what it takes.
func readsItself(t reflect.Type) bool { return reflect.PointerTo(t).Implements(unmarshaler) }

// unreadable says what is wrong with a value of such a type; "" when nothing is.
func unreadable(n *yaml.Node, t reflect.Type) string {
	if t != reflect.TypeFor[metav1.Time]() || n.Tag == "!!null" {
		return ""
	}
	if _, err := time.Parse(time.RFC3339, n.Value); err != nil {
		return fmt.Sprintf("%q is no time; write for example 2026-11-20T08:00:00Z", n.Value)
	}
	return ""
}
