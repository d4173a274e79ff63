package resource

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestEveryTrafficFieldHasADefault holds TrafficDefaults to the fields of a TrafficPolicy.
func TestEveryTrafficFieldHasADefault(t *testing.T) {
	seen := map[string]bool{}
	leafFields(reflect.ValueOf(&TrafficPolicySpec{}).Elem(), "", func(path string, _ reflect.Value) {
		seen[path] = true
		if TrafficDefaults[path] == "" {
			t.Errorf("%s has no default in TrafficDefaults; add a line to trafficdefaults.go", path)
		}
	})
	for path := range TrafficDefaults {
		if !seen[path] {
			t.Errorf("TrafficDefaults has %s, which is no field of a TrafficPolicy", path)
		}
	}
	for path := range ruleFields {
		if !seen[path] {
			t.Errorf("ruleFields has %s, which is no field of a TrafficPolicy", path)
		}
	}
}

// TestEffective asks of the configuration of the golden test where every field that somebody has set came from.
func TestEffective(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "translate", "testdata", "traffic", "1.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	set, _ := Resolve(Decode("mesh.yaml", content), EmptySet())
	lines := strings.Split(string(content), "\n")
	for _, c := range []struct{ service, rule, want string }{
		{"other", "", `
connectTimeout = 300ms: mesh, TrafficPolicy ops/everywhere
requestTimeout = 10s: mesh, TrafficPolicy ops/everywhere
retry.attempts = 3: mesh, TrafficPolicy ops/everywhere
`},
		{"catalog", "", `
connectTimeout = 300ms: mesh, TrafficPolicy ops/everywhere
faults = [{delay: {duration: 100ms, percent: 10}}]: service, TrafficPolicy shop/catalog
limits.maxRequests = 100: namespace, TrafficPolicy shop/all-of-shop
requestTimeout = 6s: service, TrafficPolicy shop/catalog over namespace mesh
retry.attempts = 3: mesh, TrafficPolicy ops/everywhere
tryTimeout = 2s: service, TrafficPolicy shop/catalog
`},
		{"catalog:admin", "", `
connectTimeout = 300ms: mesh, TrafficPolicy ops/everywhere
faults = [{delay: {duration: 100ms, percent: 10}}]: service, TrafficPolicy shop/catalog
limits.maxRequests = 100: namespace, TrafficPolicy shop/all-of-shop
requestTimeout = 1s: port, TrafficPolicy shop/catalog-admin over service namespace mesh
retry.attempts = 3: mesh, TrafficPolicy ops/everywhere
`},
		{"catalog", "shop/catalog/items", `
connectTimeout = 300ms: mesh, TrafficPolicy ops/everywhere
faults = [{headers: [{name: x-test, type: Present}], abort: {status: 503, grpc: UNAVAILABLE, percent: 0.5}}]: rule, TrafficPolicy shop/catalog-rule over service
limits.maxRequests = 100: namespace, TrafficPolicy shop/all-of-shop
requestTimeout = 2.5s: rule, HTTPRoute shop/catalog over rule route service namespace mesh
retry.attempts = 2: rule, TrafficPolicy shop/catalog-rule over mesh
tryTimeout = 1s: route, TrafficPolicy shop/catalog-route over service
`},
	} {
		var b strings.Builder
		for _, s := range Effective(set, c.service, c.rule) {
			if s.From.Level == LevelDefault {
				if s.Value != TrafficDefaults[s.Field] {
					t.Errorf("%s of %s is %q by default, want %q", s.Field, c.service, s.Value, TrafficDefaults[s.Field])
				}
				continue
			}
			over := ""
			for _, o := range s.Over {
				over += " " + o.Level.String()
			}
			if over != "" {
				over = " over" + over
			}
			fmt.Fprintf(&b, "%s = %s: %s, %s%s\n", s.Field, s.Value, s.From.Level, s.From.Key, over)
			last := s.Field[strings.LastIndexByte(s.Field, '.')+1:]
			if line := lines[s.From.Position.Line-1]; s.From.Key.Kind == "TrafficPolicy" && !strings.Contains(line, last+":") {
				t.Errorf("%s of %s is said to stand at %s, where there is %q", s.Field, c.service, s.From.Position, line)
			}
		}
		if got := "\n" + b.String(); got != c.want {
			t.Errorf("%s %s:%s\nwant:%s", c.service, c.rule, got, c.want)
		}
	}
	if got := Effective(set, "nobody", ""); got != nil {
		t.Errorf("a service that is not there has %v", got)
	}
}

func TestMeshEjectionIsTheLeast(t *testing.T) {
	set, problems := Resolve(Decode("f", []byte(`
apiVersion: tulle.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {ejection: {enabled: false}}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: a-1}
spec: {service: a}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: b-1}
spec: {service: b}
---
apiVersion: tulle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a}
spec: {targetRefs: [{kind: Service, name: a}], ejection: {enabled: true}}
`)), EmptySet())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if a, b := set.Traffic("a").Ejection.On(), set.Traffic("b").Ejection.On(); !a || b {
		t.Errorf("ejection of a %v, of b %v; want it of a only", a, b)
	}
}
