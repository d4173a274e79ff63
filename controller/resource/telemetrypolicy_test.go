package resource

import (
	"fmt"
	"strings"
	"testing"
)

const telemetryMesh = `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-1, namespace: shop}
spec: {service: catalog}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: catalog-2, namespace: shop}
spec: {service: catalog, telemetry: {headers: [x-own]}}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {service: web}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: other-1, namespace: other}
spec: {service: other}
---
apiVersion: tulle.dev/v1alpha1
kind: TelemetryPolicy
metadata: {name: mesh}
spec: {targetRefs: [{group: tulle.dev, kind: MeshConfig}], headers: [X-Mesh], propagation: {accept: [w3c]}}
---
apiVersion: tulle.dev/v1alpha1
kind: TelemetryPolicy
metadata: {name: shop, namespace: shop}
spec: {headers: [x-shop], propagation: {emit: [w3c, b3]}}
---
apiVersion: tulle.dev/v1alpha1
kind: TelemetryPolicy
metadata: {name: web, namespace: shop}
spec: {targetRefs: [{kind: Service, name: web}], headers: []}
`

func TestTelemetryBySpeciality(t *testing.T) {
	set, problems := Resolve(Decode("mesh.yaml", []byte(telemetryMesh)), EmptySet())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := map[string]string{
		"catalog-1": "[x-shop] [w3c] [w3c b3]",
		"catalog-2": "[x-own] [w3c] [w3c b3]",
		"web-1":     "[] [w3c] [w3c b3]",
		"other-1":   "[x-mesh] [w3c] []",
	}
	for _, w := range set.Workloads {
		v := set.Telemetry(w)
		if got := fmt.Sprint(v.Headers, v.Propagation.Accept, v.Propagation.Emit); got != want[w.Metadata.Name] {
			t.Errorf("%s: %s, want %s", w.Metadata.Name, got, want[w.Metadata.Name])
		}
	}
}

func TestTelemetryPolicyMistakes(t *testing.T) {
	for spec, want := range map[string]string{
		"{headers: [cookie]}":         "carries credentials",
		"{propagation: {emit: [b3]}}": "w3c is missing",
		"{targetRefs: [{kind: Service, name: web, sectionName: http}]}":                  "without sectionName",
		"{targetRefs: [{group: tulle.dev, kind: ExternalService, name: bank}]}":          "has no sidecar",
		"{targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]}": "a policy is of sidecars",
		"{targetRefs: [{kind: Service, name: web}, {kind: Service, name: web}]}":         "listed twice",
		"{targetRefs: [{kind: Service, name: webb}], headers: [x-a]}":                    `no service "webb" in the mesh (did you mean "web"?)`,
		"{targetRefs: [{kind: Service, name: other}], headers: [x-a]}":                   "is in namespace other",
		"{targetRefs: [{kind: Namespace}], headers: [x-a]}":                              "namespace shop already has TelemetryPolicy shop/shop (mesh.yaml:",
	} {
		text := telemetryMesh + "---\napiVersion: tulle.dev/v1alpha1\nkind: TelemetryPolicy\nmetadata: {name: late, namespace: shop}\nspec: " + spec + "\n"
		_, problems := Resolve(Decode("mesh.yaml", []byte(text)), EmptySet())
		if len(problems) != 1 || !strings.Contains(problems[0].Message, want) {
			t.Errorf("%s: %v, want %q", spec, problems, want)
		}
	}
}
