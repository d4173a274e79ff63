package resource

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkResolve is of a mesh with a Gateway and as many routes, each with a host of its own.
func BenchmarkResolve(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		var text strings.Builder
		text.WriteString("apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: edge-1}\nspec: {service: edge, edge: {gateway: {name: web}}}\n---\n" +
			"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web}\nspec: {gatewayClassName: tulle, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n" +
			"apiVersion: tulle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: all}\nspec: {targetRefs: [{kind: Namespace}], requestTimeout: 3s}\n")
		for i := range n {
			fmt.Fprintf(&text, "---\napiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: s%d-1}\nspec: {service: s%d, ports: [{protocol: http, listen: \"10.%d.%d.1:80\", target: \"127.0.0.1:80\"}]}\n", i, i, i/250, i%250)
			fmt.Fprintf(&text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r%d}\n"+
				"spec: {parentRefs: [{name: web}], hostnames: [h%d.example.com], rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: s%d}]}, {backendRefs: [{name: s%d}]}]}\n", i, i, i, i)
		}
		documents := Decode("f.yaml", []byte(text.String()))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				set, _ := Resolve(documents, EmptySet())
				if len(set.Edges["edge-1"][0].Hosts) != n+1 {
					b.Fatal(len(set.Edges["edge-1"][0].Hosts))
				}
			}
		})
	}
}
