package resource

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/route"
)

// A rule whose policy answers has no backend any more, and the other rules of its route are as they were. Said of a service it does nothing, which is told.
func TestRespond(t *testing.T) {
	set, problems := Resolve(Decode("mesh.yaml", []byte(`
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-1, namespace: shop}
spec: {service: catalog, ports: [{listen: "10.0.0.1:8080", target: "127.0.0.1:80", protocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules:
    - {name: orders, matches: [{path: {value: /orders}}], backendRefs: [{name: catalog, port: 8080}]}
    - {name: rest, backendRefs: [{name: catalog, port: 8080}]}
---
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: closed, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: catalog, sectionName: orders}]
  respond: {status: 503, body: "closed until nine\n", contentType: text/plain}
---
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: vain, namespace: shop}
spec: {targetRefs: [{kind: Service, name: catalog}], respond: {status: 200}}
---
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: bad, namespace: shop}
spec: {targetRefs: [{kind: Namespace}], respond: {body: a}}
`)), EmptySet())
	rules := map[string]route.Action{}
	for _, r := range set.Rules["catalog"].For("shop", func(string) bool { return false }) {
		rules[r.Name] = r.Action
	}
	closed, rest := rules["shop/catalog/orders"], rules["shop/catalog/rest"]
	if closed.Respond == nil || *closed.Respond != (route.Respond{Status: 503, Body: "closed until nine\n", Type: "text/plain"}) || len(closed.Backends) != 0 {
		t.Errorf("%+v of %v", closed, rules)
	}
	if rest.Respond != nil || len(rest.Backends) != 1 {
		t.Errorf("%+v", rest)
	}
	var said []string
	for _, p := range problems {
		said = append(said, p.String())
	}
	for _, want := range []string{"spec.respond: is of routes and their rules; it has no effect for service catalog", "spec.respond.status: is required beside other fields"} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
}
