package translate

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/controller/resource"
)

// TestTelemetryPolicies: sidecars are told what holds for them, their own words before a policy's.
func TestTelemetryPolicies(t *testing.T) {
	set, problems := resource.Resolve(resource.Decode("mesh.yaml", []byte(`
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {service: web, telemetry: {headers: [x-own]}}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec: {service: cart}
---
apiVersion: tulle.dev/v1alpha1
kind: TelemetryPolicy
metadata: {name: shop, namespace: shop}
spec: {headers: [X-Tenant], propagation: {emit: [w3c, b3]}}
`)), resource.EmptySet())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	out, err := Translate(Input{TrustDomain: "tulle.local", Set: set})
	if err != nil {
		t.Fatal(err)
	}
	for instance, want := range map[string]string{"web-1": "[x-own] [w3c b3]", "cart-1": "[x-tenant] [w3c b3]"} {
		v := out.Workloads[instance].Snapshot.Telemetry
		if got := fmt.Sprint(v.Headers, v.Emit); got != want {
			t.Errorf("%s is told %s, want %s", instance, got, want)
		}
	}
}
