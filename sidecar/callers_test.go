package sidecar

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/translate"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// callersMesh has two callers of one service, which has an instance for each thing by which it can be told from the others.
const callersMesh = `
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {env: production}}
spec: {service: web, version: v1, upstreams: [{service: catalog, listen: "10.0.0.1:9001"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop, labels: {env: staging}}
spec: {service: web, serviceAccount: tester, upstreams: [{service: catalog, listen: "10.0.0.2:9001"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: plain, namespace: shop, labels: {env: production, place: cloud}}
spec: {service: catalog, version: v1, locality: {region: eu, zone: eu-1}, ports: [{protocol: http, listen: "10.0.1.1:8080", target: "10.0.1.1:80"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: second, namespace: shop, labels: {env: production, place: cloud}}
spec: {service: catalog, version: v2, locality: {region: eu, zone: eu-1}, ports: [{protocol: http, listen: "10.0.1.2:8080", target: "10.0.1.2:80"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: far, namespace: shop, labels: {env: production, place: cloud}}
spec: {service: catalog, version: v1, locality: {region: us, zone: us-1}, ports: [{protocol: http, listen: "10.0.1.3:8080", target: "10.0.1.3:80"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: staged, namespace: shop, labels: {env: staging, place: cloud}}
spec: {service: catalog, version: v1, locality: {region: eu, zone: eu-1}, ports: [{protocol: http, listen: "10.0.1.4:8080", target: "10.0.1.4:80"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: cellar, namespace: shop, labels: {env: production, place: on-premises}}
spec: {service: catalog, version: v1, locality: {region: eu, zone: eu-1}, ports: [{protocol: http, listen: "10.0.1.5:8080", target: "10.0.1.5:80"}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Callers
metadata: {name: testers, namespace: shop}
spec: {from: [{serviceAccounts: [tester], labels: {env: staging}}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Callers
metadata: {name: production, namespace: shop}
spec: {from: [{services: [web], identities: ["spiffe://test.mesh/ns/shop/sa/web"], labels: {env: production, version: v1}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules:
    - {name: version, matches: [{path: {value: /version}}], backendRefs: [{group: tulle.dev, kind: Subset, name: version}]}
    - {name: zone, matches: [{path: {value: /zone}}], backendRefs: [{group: tulle.dev, kind: Subset, name: zone}]}
    - {name: environment, matches: [{path: {value: /environment}}], backendRefs: [{group: tulle.dev, kind: Subset, name: environment}]}
    - {name: place, matches: [{path: {value: /place}}], backendRefs: [{group: tulle.dev, kind: Subset, name: place}]}
    - {name: two, matches: [{path: {value: /two}}], backendRefs: [{group: tulle.dev, kind: Subset, name: two}]}
    - name: mine-for-testers
      matches: [{path: {value: /mine}}]
      filters: [{type: ExtensionRef, extensionRef: {group: tulle.dev, kind: Callers, name: testers}}]
      backendRefs: [{group: tulle.dev, kind: Subset, name: environment}]
    - name: mine-for-production
      matches: [{path: {value: /mine}}]
      filters: [{type: ExtensionRef, extensionRef: {group: tulle.dev, kind: Callers, name: production}}]
      backendRefs: [{group: tulle.dev, kind: Subset, name: place}]
    - {name: both, matches: [{path: {value: /both}}], backendRefs: [{group: tulle.dev, kind: Subset, name: version}]}
    - name: both-for-testers
      matches: [{path: {value: /both}}]
      filters: [{type: ExtensionRef, extensionRef: {group: tulle.dev, kind: Callers, name: testers}}]
      backendRefs: [{group: tulle.dev, kind: Subset, name: zone}]
    - name: only-for-testers
      matches: [{path: {value: /only}}]
      filters: [{type: ExtensionRef, extensionRef: {group: tulle.dev, kind: Callers, name: testers}}]
      backendRefs: [{name: catalog}]
`

// What is routed by labels of who serves and of who calls arrives where the configuration says, through the sidecars that the controller's Snapshots make.
func TestRoutingByWorkloads(t *testing.T) {
	text := callersMesh
	for name, labels := range map[string]string{
		"version": "version: v2", "zone": "zone: us-1", "environment": "env: staging", "place": "place: on-premises", "two": "env: production, place: on-premises",
	} {
		text += fmt.Sprintf("---\napiVersion: tulle.dev/v1alpha1\nkind: Subset\nmetadata: {name: %s, namespace: shop}\nspec: {service: catalog, labels: {%s}}\n", name, labels)
	}
	set, problems := resource.Resolve(resource.Decode("mesh.yaml", []byte(text)), resource.EmptySet())
	for _, p := range problems {
		t.Error(p)
	}
	endpoints, err := discovery.FromSet(set, testmesh.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	out, err := translate.Translate(translate.Input{TrustDomain: testmesh.TrustDomain, Set: set, Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	emptyPools()
	defer emptyPools()
	ca := testmesh.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		w := &randomWorld{t: t, net: testmesh.NewNet()}
		var stops []func()
		callers := map[string]*running{}
		for name, of := range out.Workloads {
			at := of.Snapshot.Listeners[0].Address.Addr()
			if !strings.HasPrefix(name, "web") {
				l, err := w.net.Listen(netip.AddrPortFrom(at, 80))
				if err != nil {
					t.Fatal(err)
				}
				srv := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
				served := make(chan struct{})
				go func() {
					defer close(served)
					_ = srv.Serve(l)
				}()
				stops = append(stops, func() { _ = srv.Close(); <-served })
			}
			account := of.Identity.String()[strings.LastIndex(of.Identity.String(), "/")+1:]
			r := w.launch(w.checked(of.Snapshot), ca.Holder(account), at, time.Second)
			if stops = append([]func(){r.stop}, stops...); strings.HasPrefix(name, "web") {
				callers[name] = r
			}
		}
		for _, c := range []struct{ caller, path, answer, rule string }{
			{"web-1", "/version", "second", "version"},
			{"web-2", "/version/7", "second", "version"},
			{"web-1", "/zone", "far", "zone"},
			{"web-1", "/environment", "staged", "environment"},
			{"web-1", "/place", "cellar", "place"},
			{"web-2", "/two", "cellar", "two"},
			{"web-1", "/mine", "cellar", "mine-for-production"},
			{"web-2", "/mine", "staged", "mine-for-testers"},
			{"web-1", "/both", "second", "both"},
			{"web-2", "/both", "far", "both-for-testers"},
			{"web-1", "/only", "404", "unmatched"},
			{"web-2", "/only", "any", "only-for-testers"},
		} {
			r := callers[c.caller]
			to := r.Snapshot().Listeners[0].Address
			tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return w.net.Dialer(to.Addr())(ctx, to) }}
			for range 5 {
				before := len(r.rec.Closed(flow.KindExchange))
				resp, err := (&http.Client{Transport: tr}).Get("http://catalog" + c.path)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				got := string(b)
				switch {
				case resp.StatusCode != 200:
					got = fmt.Sprint(resp.StatusCode)
				case c.answer == "any":
					got = "any"
				}
				synctest.Wait()
				seen := r.rec.Closed(flow.KindExchange)
				if rule := seen[len(seen)-1].Route; got != c.answer || len(seen) != before+1 || strings.TrimPrefix(rule, "shop/catalog/") != c.rule {
					t.Errorf("%s %s: %s by rule %s, want %s by %s", c.caller, c.path, got, rule, c.answer, c.rule)
				}
			}
			tr.CloseIdleConnections()
		}
		for _, stop := range stops {
			stop()
		}
	})
	if n, m := len(out.Workloads["web-1"].Snapshot.Routes["catalog"]), len(out.Workloads["web-2"].Snapshot.Routes["catalog"]); n != 8 || m != 10 {
		t.Errorf("%d and %d rules are told, want 8 and 10: those of others are not", n, m)
	}
}
