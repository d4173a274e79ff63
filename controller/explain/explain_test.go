package explain

import (
	"errors"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
)

const mesh = `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-1, namespace: shop}
spec:
  service: catalog
  ports:
    - {name: api, listen: "10.0.0.1:8080", target: "127.0.0.1:8080", protocol: http}
    - {name: admin, listen: "10.0.0.1:8081", target: "127.0.0.1:8081", protocol: http}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: web}
spec:
  service: web
  upstreams: [{service: catalog, port: api, listen: "127.0.0.1:9001"}]
  intercept: {outbound: {listen: "127.0.0.1:15001"}}
---
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog, namespace: shop}
spec: {targetRefs: [{kind: Service, name: catalog}], requestTimeout: 5s}
---
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog-admin, namespace: shop}
spec: {targetRefs: [{kind: Service, name: catalog, sectionName: admin}], requestTimeout: 7s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog, namespace: web}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog, namespace: shop}]
  rules: [{name: all, backendRefs: [{name: catalog, namespace: shop}]}]
`

func TestOf(t *testing.T) {
	set, problems := resource.Resolve(resource.Decode("mesh.yaml", []byte(mesh)), resource.EmptySet())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	endpoints, err := discovery.FromSet(set, "tulle.local")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ service, timeout, from string }{
		{"catalog", "5s", "service, TrafficPolicy shop/catalog (mesh.yaml:22)"},
		{"catalog:admin", "7s", "port, TrafficPolicy shop/catalog-admin (mesh.yaml:27)"},
		{"web", "15s", "default"},
	} {
		a, err := Of(set, endpoints, Question{Service: c.service})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range a.Settings {
			if s.Field == "requestTimeout" && (s.Value != c.timeout || s.From.String() != c.from || s.Unit != "duration") {
				t.Errorf("%s: %+v", c.service, s)
			}
		}
	}
	for from, want := range map[string]Caller{
		"web-1":     {Workload: "Workload web/web-1", Reaches: "spec.upstreams[0] at 127.0.0.1:9001", Rules: []string{"web/catalog/all", "unmatched"}, Consumer: true},
		"catalog-1": {Workload: "Workload shop/catalog-1", Rules: []string{}},
	} {
		a, err := Of(set, endpoints, Question{Service: "catalog", From: from})
		if err != nil {
			t.Fatal(err)
		}
		if got := *a.Caller; got.Workload != want.Workload || got.Reaches != want.Reaches || got.Consumer != want.Consumer || strings.Join(got.Rules, " ") != strings.Join(want.Rules, " ") {
			t.Errorf("%s: %+v", from, got)
		}
	}
	if a, err := Of(set, endpoints, Question{Service: "catalog:admin", From: "web-1"}); err != nil || a.Caller.Reaches != "its connections are redirected" {
		t.Errorf("%+v, %v", a, err)
	}
	for _, q := range []Question{{Service: "nobody"}, {Service: "catalog:metrics"}, {Service: "catalog", Namespace: "web"}, {Service: "catalog", Rule: "web/catalog/some"}, {Service: "catalog", From: "nobody-1"}} {
		if _, err := Of(set, endpoints, q); !errors.As(err, new(Missing)) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
