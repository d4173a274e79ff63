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
	{Name: "HTTPRoute", Versions: []string{"v1", "v1beta1"}, New: func() GatewayObject { return &HTTPRoute{} }},
	{Name: "GRPCRoute", Versions: []string{"v1"}, New: func() GatewayObject { return &GRPCRoute{} }},
	{Name: "ReferenceGrant", Versions: []string{"v1", "v1beta1"}, New: func() GatewayObject { return &ReferenceGrant{} }},
}

// HTTPRoute is the Gateway API's.
type HTTPRoute struct{ gatewayv1.HTTPRoute }

// GRPCRoute is the Gateway API's.
type GRPCRoute struct{ gatewayv1.GRPCRoute }

// ReferenceGrant is the Gateway API's.
type ReferenceGrant struct{ gatewayv1.ReferenceGrant }

// Key implements Object.
func (r *HTTPRoute) Key() Key { return keyOf("HTTPRoute", r) }

// Key implements Object.
func (r *GRPCRoute) Key() Key { return keyOf("GRPCRoute", r) }

// Key implements Object.
func (r *ReferenceGrant) Key() Key { return keyOf("ReferenceGrant", r) }

func keyOf(kind string, o metav1.Object) Key {
	return Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// decode reads a document whose kind is k's. The line is that of the field that is wrong, in the document; 0: none in particular.
func (k GatewayKind) decode(root *yaml.Node, version string) (GatewayObject, int, error) {
	if group, v, _ := strings.Cut(version, "/"); group != gatewayGroup || !slices.Contains(k.Versions, v) {
		var known []string
		for _, v := range k.Versions {
			known = append(known, gatewayGroup+"/"+v)
		}
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
