package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// routed is a mesh of catalog, with endpoints of two versions, and of prices, each behind its sidecar, and web, whose sidecar goes by rules.
type routed struct {
	t    *testing.T
	web  *running
	snap *policy.Snapshot
	at   string
}

func route2(t *testing.T, rules ...route.Rule) *routed {
	t.Helper()
	ca := testmesh.NewCA(t)
	behind := func(service, says string) netip.AddrPort {
		at := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, says) })
		return start(t, serverSnapshot(service, at, policy.ModeStrict, flow.ProtocolHTTP1), ca.Holder(service), 0).addr(t, "inbound")
	}
	catalog := mesh("catalog")
	catalog.Balancer.Subsets.Selectors = [][]string{{"version"}}
	snap := clientSnapshot(catalog, behind("catalog", "v1"), behind("catalog", "v2"))
	snap.Endpoints["catalog"][1].Version = "v2"
	snap.Services["prices"] = mesh("prices")
	snap.Endpoints["prices"] = []policy.Endpoint{{Address: behind("prices", "prices"), Instance: "p", Weight: 100}}
	snap.Routes = map[string][]route.Rule{"catalog": rules}
	if err := route.Check(rules); err != nil {
		t.Fatal(err)
	}
	m := &routed{t: t, web: start(t, snap, ca.Holder("web"), 0), snap: snap}
	m.at = m.web.addr(t, "outbound").String()
	return m
}

// ask says who answered, or with what status and reason.
func (m *routed) ask(c *http.Client, method, target string, header http.Header) string {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), method, "http://"+m.at+target, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := c.Do(req)
	if err != nil {
		m.t.Errorf("%s %s: %v", method, target, err)
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Errorf("%s %s: %v", method, target, err)
	}
	if resp.StatusCode != 200 {
		return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("x-tulle-reason"))
	}
	return string(body)
}

func backends(of ...route.Backend) route.Action { return route.Action{Backends: of} }

func at(kind route.PathKind, path string) route.Match {
	return route.Match{Path: route.Path{Kind: kind, Value: path}}
}

var (
	v1     = route.Backend{Service: "catalog", Subset: "version=v1", Weight: 1}
	v2     = route.Backend{Service: "catalog", Subset: "version=v2", Weight: 1}
	prices = route.Backend{Service: "prices", Weight: 1}
)

// Requests go where the rules of their service say, whichever version of HTTP they come by; what no rule is for goes to the service itself.
func TestRulesDecide(t *testing.T) {
	canary := at(route.PathPrefix, "/")
	canary.Headers = []route.Value{{Name: "x-canary", Value: "yes"}, {Name: "x-user", Kind: route.ValueRegex, Value: "[0-9]+"}}
	search := at(route.PathExact, "/search")
	search.Query, search.Method = []route.Value{{Name: "beta", Kind: route.ValuePresent}}, "GET"
	m := route2(t,
		route.Rule{Name: "exact", Matches: []route.Match{at(route.PathExact, "/prices")}, Action: backends(prices)},
		route.Rule{Name: "regex", Matches: []route.Match{at(route.PathRegex, "/items/[0-9]+/price")}, Action: backends(prices)},
		route.Rule{Name: "canary", Matches: []route.Match{canary}, Action: backends(v2)},
		route.Rule{Name: "beta", Matches: []route.Match{search}, Action: backends(v2)},
		route.Rule{Name: "items", Matches: []route.Match{at(route.PathPrefix, "/items")}, Action: backends(v1)},
		route.Rule{Name: "nobody", Matches: []route.Match{at(route.PathPrefix, "/nobody")}},
		route.Rule{Name: "broken", Matches: []route.Match{at(route.PathPrefix, "/broken")}, Action: backends(route.Backend{Weight: 1})},
		route.Rule{Name: "unmatched", Matches: []route.Match{at(route.PathPrefix, "/none")}, Action: route.Action{Respond: &route.Respond{Status: 404, Body: "no rule"}}},
		route.Rule{Name: "empty", Matches: []route.Match{at(route.PathPrefix, "/empty")}, Action: backends(route.Backend{Service: "prices"})},
	)
	recorded := func() int { return len(m.web.rec.Closed(flow.KindExchange)) }
	for _, from := range []struct {
		name   string
		client *http.Client
	}{{"HTTP/1.1", client(t)}, {"HTTP/2", h2client(t)}} {
		yes := http.Header{"X-Canary": {"yes"}, "X-User": {"42"}}
		for _, c := range []struct {
			method, target string
			header         http.Header
			want, route    string
		}{
			{"GET", "/prices?x=1", nil, "prices", "exact"},
			{"GET", "/items/7/price", nil, "prices", "regex"},
			{"GET", "/items/7", nil, "v1", "items"},
			{"POST", "/items", nil, "v1", "items"},
			{"GET", "/items/7", yes, "v1", "items"}, // a longer prefix counts before header fields
			{"GET", "/other", yes, "v2", "canary"},
			{"GET", "/search?a=b&beta=", nil, "v2", "beta"},
			{"GET", "/none/x", nil, "404 ", "unmatched"},
			{"GET", "/nobody", nil, "500 no_backend", "nobody"},
			{"GET", "/broken/x", nil, "500 no_backend", "broken"},
			{"GET", "/empty", nil, "500 no_backend", "empty"},
		} {
			before := recorded()
			if got := m.ask(from.client, c.method, c.target, c.header); got != c.want {
				t.Errorf("%s %s %s: %q, want %q", from.name, c.method, c.target, got, c.want)
			}
			testmesh.Eventually(t, "a Record of "+c.target, func() bool { return recorded() > before })
			to := "catalog"
			if c.want == "prices" {
				to = "prices"
			}
			if r := m.web.rec.Closed(flow.KindExchange)[before]; r.Route != c.route || r.Destination.Service != to || r.Destination.Namespace != "shop" {
				t.Errorf("%s %s: the Record has route %q to %+v", from.name, c.target, r.Route, r.Destination)
			}
		}
		for target, header := range map[string]http.Header{"/other": {"X-Canary": {"yes"}, "X-User": {"x"}}, "/search": nil} {
			before := recorded()
			if got := m.ask(from.client, "GET", target, header); got != "v1" && got != "v2" {
				t.Errorf("%s %s: %q, want any endpoint of the service", from.name, target, got)
			}
			testmesh.Eventually(t, "a Record of "+target, func() bool { return recorded() > before })
		}
	}
}

// A split is held within what chance allows: 10,000 requests, five standard deviations.
func TestSplitIsHeld(t *testing.T) {
	heavy, light := v1, v2
	heavy.Weight, light.Weight = 90, 10
	m := route2(t, route.Rule{Name: "split", Action: backends(heavy, light)})
	const n, workers = 10_000, 8
	var counts [2]atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			c := client(t)
			for range n / workers {
				switch got := m.ask(c, "GET", "/", nil); got {
				case "v1":
					counts[0].Add(1)
				case "v2":
					counts[1].Add(1)
				default:
					t.Errorf("answered %q", got)
				}
			}
		})
	}
	wg.Wait()
	if got, off := counts[1].Load(), 5*math.Sqrt(n*0.1*0.9); math.Abs(float64(got)-n*0.1) > off {
		t.Errorf("%d of %d requests went to a share of 10 %%, want %v to %v", got, n, n*0.1-off, n*0.1+off)
	}
}

// A canary is moved from 0 to 100 % in steps, under load: no request fails, at 0 it gets nothing, and at 100 everything.
func TestCanaryIsMovedUnderLoad(t *testing.T) {
	split := func(percent uint32) []route.Rule {
		stable, canary := v1, v2
		stable.Weight, canary.Weight = 100-percent, percent
		return []route.Rule{{Name: "split", Action: backends(stable, canary)}}
	}
	m := route2(t, split(0)...)
	var counts [2]atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := client(t)
			if i%2 == 1 {
				c = h2client(t)
			}
			for ctx.Err() == nil {
				switch got := m.ask(c, "GET", "/", nil); got {
				case "v1":
					counts[0].Add(1)
				case "v2":
					counts[1].Add(1)
				default:
					t.Errorf("answered %q", got)
				}
			}
		})
	}
	both := func() int64 { return counts[0].Load() + counts[1].Load() }
	for _, percent := range []uint32{0, 1, 10, 50, 90, 100} {
		snap := *m.snap
		snap.Revision, snap.Routes = fmt.Sprint("c-", percent), map[string][]route.Rule{"catalog": split(percent)}
		m.web.source.Set(&snap)
		testmesh.Eventually(t, snap.Revision+" in force", func() bool { return m.web.Snapshot() == &snap })
		settled := both() + 100 // those in flight are judged by the Snapshot before
		testmesh.Eventually(t, "requests under "+snap.Revision, func() bool { return both() >= settled })
		before := [2]int64{counts[0].Load(), counts[1].Load()}
		testmesh.Eventually(t, "more of them", func() bool { return both() >= settled+300 })
		got := [2]int64{counts[0].Load() - before[0], counts[1].Load() - before[1]}
		switch share := float64(got[1]) / float64(got[0]+got[1]); {
		case percent == 0 && got[1] > 0, percent == 100 && got[0] > 0, percent == 50 && (share < 0.3 || share > 0.7):
			t.Errorf("at %d %%: %v", percent, got)
		}
	}
	stop()
	wg.Wait()
}

// Methods of gRPC are paths; what has no backend is UNAVAILABLE.
func TestRulesOfGRPC(t *testing.T) {
	ca := testmesh.NewCA(t)
	var by [2]atomic.Int64
	behind := func(service string, i int) netip.AddrPort {
		at := healthApp(t, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			by[i].Add(1)
			return next(ctx, req)
		})
		return start(t, serverSnapshot(service, at, policy.ModeStrict, flow.ProtocolGRPC), ca.Holder(service), time.Second).addr(t, "inbound")
	}
	catalog, other := mesh("catalog"), mesh("prices")
	catalog.Protocol, other.Protocol = flow.ProtocolGRPC, flow.ProtocolGRPC
	snap := clientSnapshot(catalog, behind("catalog", 0))
	snap.Services["prices"] = other
	snap.Endpoints["prices"] = []policy.Endpoint{{Address: behind("prices", 1), Instance: "p", Weight: 100}}
	snap.Routes = map[string][]route.Rule{"catalog": {
		{Name: "check", Matches: []route.Match{at(route.PathExact, "/grpc.health.v1.Health/Check")}, Action: backends(prices)},
		{Name: "list", Matches: []route.Match{at(route.PathPrefix, "/grpc.health.v1.Health")}},
	}}
	web := start(t, snap, ca.Holder("web"), time.Second)
	conn, err := grpc.NewClient("passthrough:///"+web.addr(t, "outbound").String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := healthpb.NewHealthClient(conn)
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || by[0].Load() != 0 || by[1].Load() != 1 {
		t.Errorf("Check: %v; served by %d, %d", err, by[0].Load(), by[1].Load())
	}
	if _, err := c.List(t.Context(), &healthpb.HealthListRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("List: %v, want Unavailable", err)
	}
}

// Rules are compiled when they change, and not with every Snapshot.
func TestTablesAreKept(t *testing.T) {
	s, err := New(Config{Policy: policy.Static{}, Identity: &identity.Holder{}, Recorder: &testmesh.Recorder{}})
	if err != nil {
		t.Fatal(err)
	}
	rules := []route.Rule{{Name: "split", Action: backends(v1, v2)}}
	table := func(rules []route.Rule) *route.Table {
		snap := clientSnapshot(mesh("catalog"))
		snap.Routes = map[string][]route.Rule{"catalog": rules}
		return s.bindings(snap)[0].Tables["catalog"]
	}
	first := table(rules)
	if table(rules) != first {
		t.Error("rules that have not changed were compiled again")
	}
	if table(slices.Clone(rules)) == first {
		t.Error("rules that were given anew are the old ones")
	}
	if len(s.tables) != 1 {
		t.Errorf("%d tables are kept, want that of the last Snapshot", len(s.tables))
	}
}

// Redirected connections go by the rules of the service that was meant: requests one by one, and connections of what is not HTTP as a whole. What turns out to be bytes where
// requests are ruled goes to the endpoint that was meant.
func TestRulesOfRedirected(t *testing.T) {
	snap := redirectedSnapshot(redirectedAt, policy.Interception{DetectTimeout: time.Second})
	other, raw := netip.AddrPortFrom(host(3, 1), 80), netip.AddrPortFrom(host(3, 2), 6379)
	snap.Services["other"] = policy.Service{Name: "other", Protocol: flow.ProtocolHTTP, External: true}
	snap.Services["raw"] = policy.Service{Name: "raw", Protocol: flow.ProtocolTCP, External: true}
	snap.Endpoints["other"], snap.Endpoints["raw"] = []policy.Endpoint{{Address: other, Weight: 100}}, []policy.Endpoint{{Address: raw, Weight: 100}}
	shop := snap.Services["shop"]
	shop.Protocol = flow.ProtocolAuto
	snap.Services["shop"] = shop
	snap.Routes = map[string][]route.Rule{
		"shop": {
			{Name: "moved", Matches: []route.Match{at(route.PathPrefix, "/moved")}, Action: backends(route.Backend{Service: "other", Weight: 1})},
			{Name: "unmatched", Action: route.Action{Respond: &route.Respond{Status: 404}}},
		},
		"queue": {{Name: "drained", Action: backends(route.Backend{Service: "queue"}, route.Backend{Service: "raw", Weight: 1})}},
	}
	withSnapshot(t, snap, func(t *testing.T, r *redirected) {
		r.serve(shop1, greeter("220 shop"))
		r.serve(other, web("other"))
		r.serve(raw, greeter("220 raw"))
		c, in := r.dial(shop1)
		for path, want := range map[string]int{"/moved/x": 200, "/": 404} {
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: shop\r\n\r\n", path)
			resp, err := http.ReadResponse(in, nil)
			if err != nil || resp.StatusCode != want {
				t.Fatalf("%s: %v, %v", path, resp, err)
			}
			if body, _ := io.ReadAll(resp.Body); want == 200 && string(body) != "other as shop" {
				t.Errorf("%s: %q", path, body)
			}
		}
		_ = c.Close()
		for meant, want := range map[netip.AddrPort]string{shop1: "220 shop", queue1: "220 raw"} {
			c, in := r.dial(meant)
			if got := line(t, in); got != want {
				t.Errorf("a connection to %s was greeted %q, want %q", meant, got, want)
			}
			_ = c.Close()
		}
		synctest.Wait()
		var names []string
		for _, rec := range r.rec.Closed(flow.KindConnection) {
			names = append(names, rec.Route+">"+rec.Destination.Service)
		}
		slices.Sort(names)
		if want := []string{">shop", "drained>raw"}; !slices.Equal(names, want) {
			t.Errorf("Records of connections: %q, want %q", names, want)
		}
	})
}

// A forward proxy and an edge go by the rules of the service that a host names.
func TestRulesByHost(t *testing.T) {
	w := newGatewayWorld(t)
	split := []route.Rule{
		{Name: "v2", Matches: []route.Match{at(route.PathPrefix, "/v2")}, Action: backends(route.Backend{Service: "two", Weight: 1})},
		{Name: "gone", Matches: []route.Match{at(route.PathPrefix, "/gone")}, Action: route.Action{Respond: &route.Respond{Status: 410, Body: "gone"}}},
		{Name: "nobody", Matches: []route.Match{at(route.PathPrefix, "/nobody")}},
	}
	fill := func(snap *policy.Snapshot) *policy.Snapshot {
		w.serve(snap, "one", policy.Service{Protocol: flow.ProtocolHTTP1, External: true}, app(t, describe("one")))
		w.serve(snap, "two", policy.Service{Protocol: flow.ProtocolHTTP1, External: true}, app(t, describe("two")))
		snap.Routes = map[string][]route.Rule{"one": split}
		return snap
	}
	proxy := startProxy(t, fill(proxying(policy.UnknownRefuse)), w.mesh.Holder("web"), nil)
	edge := start(t, fill(gateway(policy.Listener{Name: "http", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{Hosts: []policy.VirtualHost{host1("one", "one")}}})), w.mesh.Holder("gateway"), time.Second)
	in, err := net.Dial("tcp", proxy.addr(t, "proxy").String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(in, "GET https://one/v2/x HTTP/1.1\r\nHost: one\r\nConnection: close\r\n\r\n") // nobody would encrypt it, wherever it is sent
	if b, err := io.ReadAll(in); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400") || !strings.Contains(string(b), "two has none") {
		t.Errorf("https to a service by rule: %q, %v", b, err)
	}
	_ = in.Close()
	for _, by := range []struct {
		name   string
		r      *running
		client *http.Client
	}{{"proxy", proxy, proxy.behind(t, nil)}, {"edge", edge, w.client(t, edge.addr(t, "http"), false)}} {
		for path, want := range map[string]string{"/": "200 one", "/v2/x": "200 two", "/gone": "410 gone", "/nobody": "500 tul"} {
			resp, err := by.client.Get("http://one" + path)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if got := fmt.Sprint(resp.StatusCode, " ", string(body)); !strings.HasPrefix(got, want) {
				t.Errorf("%s %s: %q, want %s", by.name, path, got, want)
			}
		}
		routes := map[string]bool{}
		testmesh.Eventually(t, "Records of the "+by.name, func() bool {
			for _, rec := range by.r.rec.Closed(flow.KindExchange) {
				if rec.Side == flow.SideClient && rec.Reason != flow.ReasonBadRequest {
					routes[rec.Route+">"+rec.Destination.Service] = true
				}
			}
			return len(routes) == 4
		})
		own := map[string]string{"proxy": "", "edge": "one-hosts"}[by.name]
		for _, want := range []string{own + ">one", "v2>two", "gone>one", "nobody>one"} {
			if !routes[want] {
				t.Errorf("%s: no Record %s among %v", by.name, want, routes)
			}
		}
	}
}

// askedFields is a Downstream with header fields, as those of speakers are.
type askedFields struct{ exchange.Downstream }

func (askedFields) Field(name string, i int) (string, bool) {
	if name == "x-user" && i == 0 {
		return "user-999", true
	}
	return "", false
}
func (askedFields) Query() string { return "" }

// deciding are tables, from none to a thousand rules.
var deciding = []struct {
	name string
	make func(i int) route.Match
	n    int
}{
	{"no rules", nil, 0},
	{"1 rule", func(int) route.Match { return at(route.PathPrefix, "/items") }, 1},
	{"1,000 rules by path", func(i int) route.Match { return at(route.PathPrefix, fmt.Sprint("/items/", i)) }, 1000},
	{"1,000 rules by header", func(i int) route.Match {
		return route.Match{Headers: []route.Value{{Name: "x-user", Value: fmt.Sprint("user-", i)}}}
	}, 1000},
}

func deciderOf(t testing.TB, m func(i int) route.Match, n int) (exchange.Handler, *exchange.Exchange) {
	var rules []route.Rule
	for i := range n {
		rules = append(rules, route.Rule{Name: fmt.Sprint("r", i), Matches: []route.Match{m(i)}, Action: backends(v1, v2)})
	}
	table, err := route.New("catalog", rules...)
	if err != nil {
		t.Fatal(err)
	}
	d := &exchange.Destination{}
	x := &exchange.Exchange{Kind: flow.KindExchange, Downstream: askedFields{}, Binding: &exchange.Binding{Routes: table, Destinations: map[string]*exchange.Destination{"catalog": d}}}
	x.Head.Method, x.Head.Path, x.Head.Authority = "GET", "/items/999", "catalog.shop:8080"
	return decide(exchange.HandlerFunc(func(*exchange.Exchange) {})), x
}

func TestDecidingAllocatesNothing(t *testing.T) {
	for _, c := range deciding {
		h, x := deciderOf(t, c.make, c.n)
		if n := testing.AllocsPerRun(100, func() { h.Handle(x) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.name, n)
		}
		if want := map[bool]string{true: fmt.Sprint("r", c.n-1)}[c.n > 0]; x.Decision.Route != want || x.Destination == nil {
			t.Errorf("%s: decided %+v, want route %q", c.name, x.Decision, want)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, c := range deciding {
		b.Run(c.name, func(b *testing.B) {
			h, x := deciderOf(b, c.make, c.n)
			b.ReportAllocs()
			for b.Loop() {
				h.Handle(x)
			}
		})
	}
}

// From files to requests: the controller reads a route, the sidecar learns its rules with the service, and weights that change in the file move requests without losing any.
func TestRulesFromFiles(t *testing.T) {
	dir := t.TempDir()
	config, data := filepath.Join(dir, "config"), filepath.Join(dir, "controller")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		t.Helper()
		next := filepath.Join(config, "."+name)
		if err := errors.Join(os.WriteFile(next, []byte(content), 0o600), os.Rename(next, filepath.Join(config, name))); err != nil {
			t.Fatal(err)
		}
	}
	says := func(text string) netip.AddrPort {
		return app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	split := func(old, canary int) string {
		return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: old, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: old}]
  rules:
    - matches: [{path: {value: /items}}]
      backendRefs: [{name: old, weight: %d}, {group: tulle.dev, kind: ExternalService, name: canary, weight: %d}]
`, old, canary)
	}
	write("mesh.yaml", externalYAML("old", says("old"))+externalYAML("canary", says("canary"))+
		"apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: web-1, namespace: shop}\nspec: {service: web, upstreams: [{service: old, listen: \"127.0.0.1:15009\"}]}\n")
	write("route.yaml", split(1, 0))
	m := member{StateDir: filepath.Join(dir, "web")}
	grpcListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	adminListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.Controller = grpcListener.Addr().String()
	if m.Bundle, err = controller.EnsureCA(data, ""); err != nil {
		t.Fatal(err)
	}
	if m.Token, err = controller.IssueToken(data, "shop", "web", time.Hour); err != nil {
		t.Fatal(err)
	}
	c, err := controller.New(controller.Config{DataDir: data, ConfigDir: config, GRPCListener: grpcListener, AdminListener: adminListener, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, actors, err := m.sidecar(&testmesh.Recorder{}, func(c *Config) {
		c.Listen = func(netip.AddrPort) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	all := append(append([]run.Actor{{Name: "controller", Run: c.Run}}, actors...), run.Actor{Name: "ready", Run: func(ctx context.Context, up func()) error {
		up()
		close(ready)
		<-ctx.Done()
		return nil
	}})
	go func() { ended <- run.All(ctx, all...) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	web := &routed{t: t, at: s.Addresses()["outbound:old"].String()}
	caller := client(t)
	defer caller.CloseIdleConnections()
	asks := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			got[web.ask(caller, "GET", "/items/7", nil)]++
		}
		return got
	}
	if got := asks(20); got["old"] != 20 {
		t.Errorf("at 1 to 0: %v", got)
	}
	if got := web.ask(caller, "GET", "/other", nil); !strings.HasPrefix(got, "404") {
		t.Errorf("what no rule is for: %s", got)
	}
	last := s.Snapshot().Revision
	for _, step := range []struct{ old, canary int }{{1, 1}, {0, 1}} {
		write("route.yaml", split(step.old, step.canary))
		testmesh.Eventually(t, "the new weights in force", func() bool {
			if got := asks(1); got["old"]+got["canary"] != 1 {
				t.Fatalf("while the weights changed: %v", got)
			}
			return s.Snapshot().Revision != last
		})
		last = s.Snapshot().Revision
		if got := asks(40); step.old == 0 && got["canary"] != 40 || step.old == 1 && (got["old"] == 0 || got["canary"] == 0) || got["old"]+got["canary"] != 40 {
			t.Errorf("at %+v: %v", step, got)
		}
	}
	if err := os.Remove(filepath.Join(config, "route.yaml")); err != nil {
		t.Fatal(err)
	}
	testmesh.Eventually(t, "the route is gone", func() bool { return web.ask(caller, "GET", "/other", nil) == "old" })
}

// What a rule of an edge's host answers, or has nobody to send to, has one Record: that of what came.
func TestEdgeAnswersAlone(t *testing.T) {
	w := newGatewayWorld(t)
	snap := gateway(policy.Listener{Name: "http", Protocol: flow.ProtocolHTTP, Edge: &policy.Edge{Hosts: []policy.VirtualHost{{Name: "http/shop", Hosts: []string{"shop"}, Rules: []route.Rule{
		{Name: "on", Matches: []route.Match{at(route.PathPrefix, "/on")}, Action: backends(route.Backend{Service: "one", Weight: 1})},
		{Name: "nobody", Matches: []route.Match{at(route.PathPrefix, "/nobody")}},
		{Name: "unmatched", Action: route.Action{Respond: &route.Respond{Status: 404, Body: "none"}}},
	}}}}})
	w.serve(snap, "one", policy.Service{Protocol: flow.ProtocolHTTP1, External: true}, app(t, describe("one")))
	edge := start(t, snap, &identity.Holder{}, time.Second)
	c := w.client(t, edge.addr(t, "http"), false)
	for path, want := range map[string]int{"/on": 200, "/nobody": 500, "/": 404} {
		resp, err := c.Get("http://shop" + path)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	edge.stop()
	var got []string
	for _, r := range edge.rec.Closed(flow.KindExchange) {
		got = append(got, fmt.Sprintf("%s %s>%s %d %s", r.Side, r.Route, r.Destination.Service, r.Status, r.Reason))
	}
	slices.Sort(got)
	if want := []string{"client on>one 200 ", "server nobody>gateway 500 no_backend", "server on>gateway 200 ", "server unmatched>gateway 404 "}; !slices.Equal(got, want) {
		t.Errorf("Records:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := edge.rec.Live(); n != 0 {
		t.Errorf("%d are active", n)
	}
}
