package translate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// randomConfig are documents about Gateways, routes and policies of few names, so that they meet: most refer to something, some to nothing, some to what is of another kind.
func randomConfig(r *rand.Rand) []string {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	maybe := func(s string) string {
		if r.IntN(2) == 0 {
			return ""
		}
		return s
	}
	list := func(least, most int, of func() string) string {
		var out []string
		for range least + r.IntN(most-least+1) {
			if s := of(); !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	namespace := func() string { return one("shop", "shop", "infra", "lab") }
	host := func() string {
		return `"` + one("a.example.com", "b.example.com", "*.example.com", "*.com", "x.a.example.com", "other.org") + `"`
	}
	service := func() string { return one("web", "api", "db", "vault", "bank", "nobody") }
	var docs []string
	doc := func(version, kind, name, ns, spec string) {
		meta := "name: " + name
		if ns != "" {
			meta += ", namespace: " + ns
		}
		if r.IntN(4) == 0 {
			meta += fmt.Sprintf(", creationTimestamp: \"2026-01-0%dT00:00:00Z\"", 1+r.IntN(3))
			if strings.HasPrefix(version, "tulle") {
				meta, _, _ = strings.Cut(meta, ", creation")
			}
		}
		docs = append(docs, fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {%s}\nspec: %s\n", version, kind, meta, spec))
	}
	const tulle, gateway = "tulle.dev/v1alpha1", "gateway.networking.k8s.io/v1"
	for i, p := range []string{"http", "grpc", "tcp", "tls"} {
		name := []string{"web", "api", "db", "vault"}[i]
		doc(tulle, "Workload", name+"-1", one("shop", "shop", "infra"),
			fmt.Sprintf("{service: %s, ports: [{name: main, protocol: %s, listen: \"10.0.0.%d:8080\", target: \"127.0.0.1:80\"}, {name: more, protocol: %s, listen: \"10.0.0.%d:8081\", target: \"127.0.0.1:81\"}]}",
				name, p, i+1, one("http", "tcp", "auto"), i+1))
	}
	doc(tulle, "ExternalService", "bank", "shop", fmt.Sprintf("{addresses: [\"192.0.2.1:443\"], protocol: %s}", one("http", "tcp", "tls")))
	doc(tulle, "Workload", "client-1", namespace(), "{service: client, upstreams: [{service: web, listen: \"127.0.0.1:9001\"}, {service: api, listen: \"127.0.0.1:9002\"}, {service: db, listen: \"127.0.0.1:9003\"}, {service: bank, listen: \"127.0.0.1:9004\"}], proxy: {listen: \"127.0.0.1:9009\"}}")
	for i := range 1 + r.IntN(3) {
		ns := one("shop", "shop", "infra")
		doc(tulle, "Workload", fmt.Sprintf("edge-%d", i), ns,
			fmt.Sprintf("{service: edge-%s, edge: {gateway: {name: %s%s%s}%s}}", ns, one("g1", "g2"), maybe(", address: "+one("10.9.0.1", "0.0.0.0", "10.9.0.2")), maybe(", trustedHops: 1"),
				maybe(fmt.Sprintf(", listeners: [{name: own, listen: \"%s:%d\", protocol: http, routes: [{service: web}]}]", one("0.0.0.0", fmt.Sprintf("10.9.0.%d", i+1)), 80+r.IntN(8)))))
	}
	for _, n := range []string{"cert", "ca"} {
		doc(tulle, "TLSFiles", n, namespace(), map[string]string{"cert": "{certFile: /c.pem, keyFile: /c.key}", "ca": "{caFile: /ca.pem}"}[n])
	}
	for i := range 1 + r.IntN(3) {
		doc(tulle, "Subset", fmt.Sprintf("s%d", i), "shop", fmt.Sprintf("{service: %s, labels: {version: v1}}", service()))
	}
	listeners := func() string {
		var out []string
		for i := range 1 + r.IntN(6) {
			protocol := one("HTTP", "HTTP", "HTTPS", "HTTPS", "TLS", "TCP", "UDP")
			l := fmt.Sprintf("name: l%d, port: %d, protocol: %s", i, 80+r.IntN(8), protocol)
			if protocol != "TCP" && protocol != "UDP" {
				if h := maybe(", hostname: " + host()); !slices.ContainsFunc(out, func(o string) bool { return strings.Contains(o, h) }) {
					l += h
				}
			}
			refs := list(1, 2, func() string { return "{name: " + one("cert", "ca", "none") + maybe(", namespace: "+namespace()) + "}" })
			switch protocol {
			case "HTTPS":
				l += maybe(", tls: {certificateRefs: " + refs + "}")
			case "TLS":
				l += ", tls: {mode: " + one("Passthrough", "Terminate, certificateRefs: [{name: cert}]", "Terminate, certificateRefs: "+refs) + "}"
			}
			l += maybe(", allowedRoutes: {namespaces: {from: " + one("All", "All", "Same", "None", "Selector, selector: {matchLabels: {kubernetes.io/metadata.name: lab}}") + "}" +
				maybe(", kinds: [{kind: "+one("HTTPRoute", "TCPRoute", "GRPCRoute")+"}]") + "}")
			out = append(out, "{"+l+"}")
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	for _, n := range []string{"g1", "g2"} {
		doc(gateway, "Gateway", n, one("shop", "shop", "infra"), fmt.Sprintf("{gatewayClassName: %s, listeners: %s%s}", one("tulle", "tulle", "other"), listeners(),
			maybe(", tls: {frontend: {default: {validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: "+one("ca", "none", "cert")+"}]}}}}")))
	}
	backends := func() string {
		return list(1, 3, func() string {
			return one("{name: "+service(), "{name: "+service()+", namespace: "+namespace(), "{group: tulle.dev, kind: Subset, name: s0", "{group: tulle.dev, kind: ExternalService, name: bank", "{name: web, port: "+one("8080", "8081", "1")) +
				maybe(fmt.Sprintf(", weight: %d", r.IntN(3))) + "}"
		})
	}
	parents := func() string {
		return list(0, 3, func() string {
			return one("{name: "+one("g1", "g2")+", namespace: "+namespace(), "{name: g1", "{name: g2, sectionName: l0", "{group: \"\", kind: Service, name: "+one("web", "db", "vault", "nobody")+maybe(", namespace: shop"), "{group: \"\", kind: Service, name: api, sectionName: more") + "}"
		})
	}
	for i, kind := range []string{"HTTPRoute", "HTTPRoute", "HTTPRoute", "GRPCRoute", "TCPRoute", "TCPRoute", "TLSRoute", "TLSRoute"} {
		rule := maybe("name: named, ") + "backendRefs: " + backends()
		hosts := maybe(", hostnames: " + list(1, 3, host))
		switch kind {
		case "HTTPRoute":
			rule = maybe("matches: [{path: {value: /"+one("a", "b")+"}}"+maybe(", {headers: [{name: x, value: y}]}")+"], ") +
				maybe("filters: ["+one("{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}", "{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}}",
					"{type: RequestMirror, requestMirror: {backendRef: {name: "+service()+"}}}", "{type: URLRewrite, urlRewrite: {hostname: h.example}}")+"], ") + maybe("timeouts: {request: 2s}, ") + rule
		case "TCPRoute":
			hosts = ""
		case "TLSRoute":
			hosts = ", hostnames: [" + host() + ", " + one("a.example.com", "z.example.com") + "]"
		}
		more := ""
		if kind != "TLSRoute" {
			more = maybe(", {backendRefs: " + backends() + "}")
		}
		doc(gateway, kind, fmt.Sprintf("r%d", i), namespace(), fmt.Sprintf("{parentRefs: %s%s, rules: [{%s}%s]}", parents(), hosts, rule, more))
	}
	for i := range 1 + r.IntN(4) {
		doc(tulle, "TrafficPolicy", fmt.Sprintf("p%d", i), namespace(), "{"+one(
			"targetService: "+service(), "targetRefs: [{kind: Service, name: "+service()+maybe(", sectionName: "+one("main", "more"))+"}]", "targetRefs: [{kind: Namespace}]",
			"targetRefs: [{group: tulle.dev, kind: MeshConfig}]", "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r"+one("0", "1", "2")+maybe(", sectionName: named")+"}]")+
			maybe(", requestTimeout: "+one("1s", "10s", "off"))+maybe(", tryTimeout: "+one("500ms", "1s"))+maybe(", retry: {attempts: 3, backoffBase: "+one("10ms", "250ms")+maybe(", backoffMax: 20s")+"}")+
			maybe(", loadBalancer: {algorithm: "+one("random", "least-request, choices: 3", "maglev, affinity: [{header: x}]")+"}")+maybe(", faults: [{delay: {duration: 1ms}}]")+
			maybe(", rateLimits: [{name: l, requests: 5}]")+"}")
	}
	for i := range r.IntN(3) {
		doc(gateway, "BackendTLSPolicy", fmt.Sprintf("t%d", i), "shop", fmt.Sprintf("{targetRefs: [{group: \"\", kind: Service, name: %s}], validation: {hostname: bank.example, %s}}", one("bank", "bank", "web"),
			one("wellKnownCACertificates: System", "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: "+one("ca", "none")+"}]")))
	}
	for _, from := range []string{"HTTPRoute", "Gateway"} {
		doc("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", strings.ToLower(from), namespace(),
			fmt.Sprintf("{from: [{group: gateway.networking.k8s.io, kind: %s, namespace: %s}], to: [{group: \"\", kind: %s}]}", from, namespace(), one("Service", "Secret")))
	}
	return docs
}

// TestWhateverIsConfigured is true of every configuration: what is in force can be told to sidecars, each of which can take it; in what order documents stand decides nothing that is in force, but who is refused of two
// that cannot both be; and a Gateway counts the routes that are accepted at its listeners.
func TestWhateverIsConfigured(t *testing.T) {
	tell := func(docs []string) (*resource.Set, map[string]string, []resource.Problem) {
		t.Helper()
		set, problems := resource.Resolve(resource.Decode("f.yaml", []byte(strings.Join(docs, "---\n"))), resource.EmptySet())
		endpoints, err := discovery.FromSet(set, "tulle.local")
		if err != nil {
			t.Fatal(err)
		}
		out, err := Translate(Input{TrustDomain: "tulle.local", Set: set, Endpoints: endpoints})
		if err != nil {
			t.Fatalf("the fleet cannot be told: %v", err)
		}
		revisions := map[string]string{}
		for name, w := range out.Workloads {
			if _, err := policy.FromXDS(w.Resources); err != nil {
				t.Fatalf("%s: a sidecar would refuse it: %v", name, err)
			}
			revisions[name] = w.Snapshot.Revision
		}
		return set, revisions, problems
	}
	served, refusals := 0, 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		docs := randomConfig(r)
		failed := t.Failed()
		set, first, problems := tell(docs)
		refused := slices.ContainsFunc(problems, func(p resource.Problem) bool { return p.Severity == resource.Refused })
		if refused {
			refusals++
		} else {
			r.Shuffle(len(docs), func(i, k int) { docs[i], docs[k] = docs[k], docs[i] })
			if _, second, _ := tell(docs); !cmp.Equal(first, second) {
				t.Errorf("the order of documents decides:\n%s", cmp.Diff(first, second))
			}
		}
		for _, ports := range set.Edges {
			served += len(ports)
		}
		for _, s := range set.Statuses {
			for _, l := range s.Listeners {
				if len(l.Conditions) < 4 || l.AttachedRoutes > 8 {
					t.Errorf("%s, listener %s: %+v", s.Key, l.Name, l)
				}
			}
		}
		if t.Failed() && !failed {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(docs, "---\n"))
		}
	}
	t.Logf("%d ports served, %d configurations with refusals", served, refusals)
	if served < 100 || refusals > 150 {
		t.Errorf("%d ports were served, and of %d configurations something was refused: the test looks at nothing", served, refusals)
	}
}
