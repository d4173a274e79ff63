package resource

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// kept are, of every kind that is about Gateways, a version that is good, and a line of it that makes it bad.
var kept = map[Key][2]string{
	{"GatewayClass", "", "mine"}: {"apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: mine}\nspec: {controllerName: tulle.dev/gateway-controller}\n", "controllerName: nobody"},
	{"Gateway", "shop", "web"}: {
		"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web, namespace: shop}\nspec: {gatewayClassName: mine, listeners: [{name: http, port: 80, protocol: HTTP}]}\n",
		"listeners: [{name: http, port: 80, protocol: HTTP}, {name: http, port: 81, protocol: HTTP}]",
	},
	{"TCPRoute", "shop", "tcp"}: {
		"apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: tcp, namespace: shop}\nspec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: db}]}]}\n", "rules: []",
	},
	{"TLSRoute", "shop", "tls"}: {
		"apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: tls, namespace: shop}\nspec: {hostnames: [a.example.com], rules: [{backendRefs: [{name: db}]}]}\n", "hostnames: [192.0.2.1]",
	},
	{"BackendTLSPolicy", "shop", "bank"}: {
		"apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: bank, namespace: shop}\n" +
			"spec: {targetRefs: [{group: \"\", kind: Service, name: bank}], validation: {wellKnownCACertificates: System, hostname: bank.example}}\n", "validation: {hostname: bank.example}",
	},
	{"Namespace", "", "shop"}:         {"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\nspec: {finalizers: [kubernetes]}\n", "finalizer: []"},
	{"TLSFiles", "shop", "files"}:     {"apiVersion: tulle.dev/v1alpha1\nkind: TLSFiles\nmetadata: {name: files, namespace: shop}\nspec: {caFile: /ca.pem}\n", "caFile: ca.pem"},
	{"TrafficPolicy", "shop", "all"}:  {"apiVersion: tulle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: all, namespace: shop}\nspec: {targetRefs: [{kind: Namespace}]}\n", "targetRefs: [{kind: Namespace, name: other}]"},
	{"Workload", "shop", "edge-1"}:    {"apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: edge-1, namespace: shop}\nspec: {service: edge, edge: {gateway: {name: web}}}\n", "edge: {gateway: {name: web, address: here}}"},
	{"ExternalService", "shop", "db"}: {"apiVersion: tulle.dev/v1alpha1\nkind: ExternalService\nmetadata: {name: db, namespace: shop}\nspec: {addresses: [\"192.0.2.1:1\"], protocol: tcp}\n", "addresses: []"},
}

// TestLastValidStays: each kind's bad version is refused, its last valid one stays in force, and nothing else is touched.
func TestLastValidStays(t *testing.T) {
	documents := func(bad Key) []Document {
		var parts []string
		for k, v := range kept {
			text := v[0]
			if k == bad {
				name, _, _ := strings.Cut(v[1], ":")
				head, body, _ := strings.Cut(text, "spec: {")
				i, spec := len(head), "spec: {"+body
				if at := strings.Index(spec, name+":"); at >= 0 { // in place of the field, to the end of it
					text = text[:i] + "spec: {" + v[1] + without(spec, name) + "}\n"
				} else {
					text = text[:i] + "spec: {" + v[1] + "}\n"
				}
			}
			parts = append(parts, text)
		}
		slices.Sort(parts)
		return Decode("f.yaml", []byte(strings.Join(parts, "---\n")))
	}
	good, problems := Resolve(documents(Key{}), EmptySet())
	for _, p := range problems {
		if p.Severity == Refused {
			t.Fatalf("the good versions: %s", p)
		}
	}
	if len(good.Entries) != len(kept) {
		t.Fatalf("%d entries, want %d", len(good.Entries), len(kept))
	}
	for k := range kept {
		set, problems := Resolve(documents(k), good)
		refused := slices.DeleteFunc(problems, func(p Problem) bool { return p.Severity != Refused })
		if len(refused) != 1 || refused[0].Key != k || !refused[0].Kept {
			t.Errorf("%s: refused are %v, want it alone, and kept", k, refused)
			continue
		}
		if len(set.Entries) != len(good.Entries) || set.Entries[k].Object != good.Entries[k].Object {
			t.Errorf("%s: its last valid version is not in force", k)
		}
		if len(set.Edges["edge-1"]) != 1 {
			t.Errorf("%s: the edge serves %v", k, set.Edges)
		}
	}
}

// without is a flow mapping's other fields, as text with a comma before.
func without(spec, name string) string {
	spec = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(spec), "spec: {"), "}")
	var out string
	depth, begin := 0, 0
	field := func(s string) {
		if s = strings.TrimSpace(s); s != "" && !strings.HasPrefix(s, name+":") {
			out += ", " + s
		}
	}
	for i, c := range spec {
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			if depth == 0 {
				field(spec[begin:i])
				begin = i + 1
			}
		}
	}
	field(spec[begin:])
	return out
}

// TestRoutesThatDoNotFit: what a sidecar's table cannot take of routes is left out by route, with a status, and what it cannot take of a rule by rule.
func TestRoutesThatDoNotFit(t *testing.T) {
	var b strings.Builder
	b.WriteString(kept[Key{"GatewayClass", "", "mine"}][0] + "---\n" + kept[Key{"Gateway", "shop", "web"}][0] + "---\n" + kept[Key{"Workload", "shop", "edge-1"}][0])
	for _, name := range []string{"a", "b", "c"} { // 100 expressions each, of which a table has 256
		fmt.Fprintf(&b, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s, namespace: shop}\nspec:\n  parentRefs: [{name: web}]\n  rules:\n", name)
		for r := range 2 {
			b.WriteString("    - matches:\n")
			for m := range 50 {
				fmt.Fprintf(&b, "        - {path: {type: RegularExpression, value: \"/%s/%d-%d.*\"}}\n", name, r, m)
			}
		}
	}
	fmt.Fprintf(&b, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: d, namespace: shop}\nspec:\n  parentRefs: [{name: web}]\n  hostnames: [d.example]\n  rules:\n"+
		"    - matches: [{path: {type: RegularExpression, value: \"/%s\"}}]\n    - {}\n", strings.Repeat("x", 2000))
	set, problems := Resolve(Decode("f.yaml", []byte(b.String())), EmptySet())
	var said []string
	for _, p := range problems {
		said = append(said, p.String())
	}
	all := strings.Join(said, "\n")
	for _, want := range []string{
		"HTTPRoute shop/c: parent Gateway shop/web: host * of listener http: ", "the route is left out there", "HTTPRoute shop/d: parent Gateway shop/web: spec.rules[0]: ", "the rule is left out",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("nobody is told %q of:\n%s", want, all)
		}
	}
	names := map[string]int{}
	for _, v := range set.Edges["edge-1"][0].Hosts {
		for _, r := range v.Rules {
			names[r.Name]++
		}
	}
	want := map[string]int{"shop/a[0]": 1, "shop/a[1]": 1, "shop/b[0]": 1, "shop/b[1]": 1, "shop/d[1]": 1, "unmatched": 2}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("rules %v, want %v", names, want)
	}
}
