package sidecar

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// ruled is snap with rules for requests to a service, as they are after their way from the controller.
func ruled(t *testing.T, snap *policy.Snapshot, service string, rules ...route.Rule) *policy.Snapshot {
	t.Helper()
	x, err := policy.RoutesToXDS(service, rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, came, err := policy.RoutesFromXDS(x)
	if err != nil {
		t.Fatal(err)
	}
	snap.Routes = map[string][]route.Rule{service: came}
	return snap
}

// versions are both sides of an exchange in every version of HTTP.
func versions(t *testing.T, f func(t *testing.T, c *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol)) {
	for _, from := range []struct {
		name   string
		caller func(testing.TB) *http.Client
	}{{"HTTP/1.1", client}, {"HTTP/2", h2client}} {
		for _, to := range []struct {
			name   string
			app    func(testing.TB, http.HandlerFunc) netip.AddrPort
			speaks flow.Protocol
		}{{"HTTP/1.1", app, flow.ProtocolHTTP1}, {"HTTP/2", h2app, flow.ProtocolHTTP2}} {
			t.Run(from.name+" to "+to.name, func(t *testing.T) { f(t, from.caller(t), to.app, to.speaks) })
		}
	}
}

// meshed starts an application behind a sidecar of its own, and one whose application calls it by rules.
func meshed(t *testing.T, h http.HandlerFunc, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol, rules ...route.Rule) (web, shop *running, addr netip.AddrPort) {
	t.Helper()
	ca := testmesh.NewCA(t)
	shop = start(t, serverSnapshot("shop", app(t, h), policy.ModeStrict, speaks), ca.Holder("shop"), time.Second)
	sv := mesh("shop")
	web = start(t, ruled(t, clientSnapshot(sv, shop.addr(t, "inbound")), "shop", rules...), ca.Holder("web"), time.Second)
	return web, shop, web.addr(t, "outbound")
}

// ask asks once, without following redirects.
func ask(t *testing.T, c *http.Client, method, url string, header http.Header, body string) (*http.Response, string) {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := own.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(got)
}

func under(name, prefix string, a route.Action) route.Rule {
	return route.Rule{Name: name, Matches: []route.Match{{Path: route.Path{Kind: route.PathPrefix, Value: prefix}}}, Action: a}
}

// Fields, authority and path are edited through two sidecars in every version of HTTP, and neither framing nor traces suffer.
func TestFilterEdits(t *testing.T) {
	to := []route.Backend{{
		Service: "shop", Weight: 1,
		Request:  route.Edits{Set: []route.Field{{Name: "x-layer", Value: "backend"}}},
		Response: route.Edits{Add: []route.Field{{Name: "x-passed", Value: "backend"}}},
	}}
	rules := []route.Rule{
		under("edit", "/edit", route.Action{
			Backends: to,
			Request: route.Edits{
				Set:    []route.Field{{Name: "x-set", Value: "rule"}, {Name: "x-layer", Value: "rule"}, {Name: "user-agent", Value: "ua"}},
				Add:    []route.Field{{Name: "x-added", Value: "rule"}},
				Remove: []string{"x-gone"},
			},
			Response: route.Edits{
				Set: []route.Field{{Name: "x-own", Value: "rule"}, {Name: "content-type", Value: "text/x"}}, Add: []route.Field{{Name: "x-passed", Value: "rule"}},
				Remove: []string{"x-secret"},
			},
		}),
		under("rewrite", "/old", route.Action{
			Backends: []route.Backend{{Service: "shop", Weight: 1}},
			Rewrite:  route.Rewrite{Authority: "inner.example", Path: route.PathEdit{Prefix: true, Value: "/new/", Set: true}},
		}),
		under("full", "/full", route.Action{
			Backends: []route.Backend{{Service: "shop", Weight: 1}}, Rewrite: route.Rewrite{Path: route.PathEdit{Value: "/one", Set: true}},
		}),
	}
	versions(t, func(t *testing.T, c *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol) {
		var mu sync.Mutex
		var seen *http.Request
		var body string
		web, shop, addr := meshed(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			seen, body = r, string(b)
			mu.Unlock()
			w.Header()["X-Own"] = []string{"app", "app2"}
			w.Header().Set("X-Secret", "1")
			w.Header().Set("X-Passed", "app")
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "answer")
		}, app, speaks, rules...)
		for range 3 { // the connection, and the Exchange, are used again
			resp, got := ask(t, c, "POST", "http://"+addr.String()+"/edit/a?q=1", http.Header{"X-Set": {"1", "2"}, "X-Added": {"app"}, "X-Gone": {"1"}, "X-Kept": {"1"}}, "hello")
			mu.Lock()
			h := seen.Header
			for name, want := range map[string]string{"X-Set": "rule", "X-Layer": "backend", "X-Added": "app,rule", "X-Gone": "", "X-Kept": "1", "User-Agent": "ua"} {
				if v := strings.Join(h[name], ","); v != want {
					t.Errorf("the application got %s: %q, want %q", name, v, want)
				}
			}
			if body != "hello" || seen.URL.String() != "/edit/a?q=1" || h.Get("Traceparent") == "" || len(h["X-Request-Id"]) != 1 {
				t.Errorf("the application got %q, %s, %v", body, seen.URL, h)
			}
			mu.Unlock()
			for name, want := range map[string]string{"X-Own": "rule", "X-Secret": "", "X-Passed": "app,rule,backend", "Content-Type": "text/x"} {
				if v := strings.Join(resp.Header[name], ","); v != want {
					t.Errorf("the caller got %s: %q, want %q", name, v, want)
				}
			}
			if got != "answer" || resp.StatusCode != 200 {
				t.Errorf("%d %q", resp.StatusCode, got)
			}
			for path, want := range map[string]string{
				"/old": "/new", "/old/": "/new/", "/old/a/b?x=%20y": "/new/a/b?x=%20y", "/full/x/y?z": "/one?z", "/other": "/other", "/old%2F..a": "/old%2F..a",
			} {
				if resp, got := ask(t, c, "GET", "http://"+addr.String()+path, nil, ""); got != "answer" {
					t.Errorf("%s: %d %q", path, resp.StatusCode, got)
				}
				host := addr.String()
				if strings.HasPrefix(path, "/old") && !strings.HasPrefix(path, "/old%") {
					host = "inner.example"
				}
				mu.Lock()
				if seen.RequestURI != want || seen.Host != host {
					t.Errorf("%s became %s of %s, want %s of %s", path, seen.RequestURI, seen.Host, want, host)
				}
				mu.Unlock()
			}
		}
		web.stop()
		shop.stop()
		for _, r := range web.rec.Closed(flow.KindExchange) {
			if r.Reason != flow.ReasonNone || strings.HasPrefix(r.Path, "/new") {
				t.Errorf("%+v", r)
			}
		}
		if n, m := len(web.rec.Closed(flow.KindAttempt)), len(shop.rec.Closed(flow.KindExchange)); n != m || n == 0 {
			t.Errorf("%d attempts and %d exchanges", n, m)
		}
	})
}

// Rules that answer themselves do so without a service.
func TestFilterAnswers(t *testing.T) {
	set := route.Edits{Set: []route.Field{{Name: "x-own", Value: "1"}}}
	rules := []route.Rule{
		under("https", "/https", route.Action{Redirect: &route.Redirect{Scheme: "https", Status: 301}, Response: set}),
		under("host", "/host", route.Action{Redirect: &route.Redirect{Authority: "new.example", Port: 8443, Path: route.PathEdit{Prefix: true, Value: "/", Set: true}, Status: 302}}),
		under("path", "/path", route.Action{Redirect: &route.Redirect{Path: route.PathEdit{Value: "/there", Set: true}, Status: 308}}),
		under("maintenance", "/maintenance", route.Action{Respond: &route.Respond{Status: 503, Body: "back at noon\n"}, Response: set}),
		under("json", "/json", route.Action{Respond: &route.Respond{Status: 200, Body: "{}", Type: "application/json"}}),
		under("none", "/none", route.Action{Respond: &route.Respond{Status: 204}}),
		under("large", "/large", route.Action{Respond: &route.Respond{Status: 200, Body: strings.Repeat("0123456789", 6000)}}),
	}
	for _, from := range []func(testing.TB) *http.Client{client, h2client} {
		web := start(t, ruled(t, clientSnapshot(mesh("shop")), "shop", rules...), &identity.Holder{}, time.Second)
		addr, c := web.addr(t, "outbound"), from(t)
		_, port, _ := strings.Cut(addr.String(), ":")
		for _, w := range []struct {
			method, path     string
			status           int
			location, typ    string
			body, own, field string
		}{
			{"GET", "/https/a?b=c", 301, "https://127.0.0.1/https/a?b=c", "", "", "1", ""},
			{"GET", "/host", 302, "http://new.example:8443/", "", "", "", ""},
			{"GET", "/host/x/y?z=", 302, "http://new.example:8443/x/y?z=", "", "", "", ""},
			{"POST", "/path/x", 308, "http://127.0.0.1:" + port + "/there", "", "", "", ""},
			{"GET", "/maintenance", 503, "", "text/plain; charset=utf-8", "back at noon\n", "1", ""},
			{"HEAD", "/maintenance", 503, "", "text/plain; charset=utf-8", "", "1", ""},
			{"PUT", "/json", 200, "", "application/json", "{}", "", ""},
			{"GET", "/none", 204, "", "", "", "", ""},
			{"GET", "/large", 200, "", "text/plain; charset=utf-8", strings.Repeat("0123456789", 6000), "", ""},
		} {
			body := ""
			if w.method == "POST" || w.method == "PUT" {
				body = "some body"
			}
			resp, got := ask(t, c, w.method, "http://"+addr.String()+w.path, nil, body)
			if resp.StatusCode != w.status || resp.Header.Get("Location") != w.location || resp.Header.Get("Content-Type") != w.typ || got != w.body || resp.Header.Get("X-Own") != w.own {
				t.Errorf("%s %s: %d %v %q", w.method, w.path, resp.StatusCode, resp.Header, got)
			}
		}
		web.stop()
		all := web.rec.Closed(flow.KindExchange)
		for _, r := range all {
			if !r.Answered || r.Reason != flow.ReasonNone || r.Attempts != 0 || r.Route == "" || r.Status == 0 {
				t.Errorf("%+v", r)
			}
		}
		if len(all) != 9 || len(web.rec.Closed(flow.KindAttempt)) != 0 {
			t.Errorf("%d exchanges, attempts %v", len(all), web.rec.Closed(flow.KindAttempt))
		}
	}
}

// What a rule adds never makes a head that the next sidecar does not take.
func TestFilterEditsAreBounded(t *testing.T) {
	var add []route.Field
	for i := range 40 {
		add = append(add, route.Field{Name: fmt.Sprint("x-added-", i), Value: "1"})
	}
	for _, from := range []func(testing.TB) *http.Client{client, h2client} {
		web, shop, addr := meshed(t, func(http.ResponseWriter, *http.Request) {}, app, flow.ProtocolHTTP1,
			under("many", "/", route.Action{Backends: []route.Backend{{Service: "shop", Weight: 1}}, Request: route.Edits{Add: add}}))
		c := from(t)
		for n, want := range map[int]int{10: 200, 90: 431} {
			h := http.Header{}
			for i := range n {
				h.Set(fmt.Sprint("X-Came-", i), "1")
			}
			if resp, got := ask(t, c, "GET", "http://"+addr.String()+"/", h, ""); resp.StatusCode != want {
				t.Errorf("with %d fields: %d %s", n, resp.StatusCode, got)
			}
		}
		web.stop()
		shop.stop()
		if n, m := len(web.rec.Closed(flow.KindAttempt)), len(shop.rec.Closed(flow.KindExchange)); m != 1 || n != slices.Max([]int{n, m}) {
			t.Errorf("%d attempts and %d exchanges", n, m)
		}
	}
}

// toShop is the backend of rules that go on.
var toShop = []route.Backend{{Service: "shop", Weight: 1}}

// Requests that fail, or are turned away, on purpose say so and why, and are no attempts; of a delayed one the Record says that it was.
func TestFilterFaultsAndLimits(t *testing.T) {
	rules := []route.Rule{
		under("fail", "/fail", route.Action{Backends: toShop, Faults: []route.Fault{
			{Headers: []route.Value{{Name: "x-chaos", Kind: route.ValuePresent}}, Status: 418, AbortPPM: route.Million},
		}}),
		under("slow", "/slow", route.Action{Backends: toShop, Faults: []route.Fault{{Delay: 30 * time.Millisecond, DelayPPM: route.Million}}}),
		under("limited", "/limited", route.Action{Backends: toShop, Limits: []route.RateLimit{{Name: "hourly", Requests: 2, Per: time.Hour}}}),
	}
	versions(t, func(t *testing.T, c *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol) {
		web, shop, addr := meshed(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, app, speaks, rules...)
		for _, w := range []struct {
			path, chaos   string
			status        int
			reason, after string
		}{
			{"/fail", "", 200, "", ""},
			{"/fail", "1", 418, "fault_injected", ""},
			{"/slow", "", 200, "", ""},
			{"/limited", "", 200, "", ""},
			{"/limited", "", 200, "", ""},
			{"/limited", "", 429, "rate_limited", "1800"},
		} {
			h := http.Header{}
			if w.chaos != "" {
				h.Set("X-Chaos", w.chaos)
			}
			resp, got := ask(t, c, "POST", "http://"+addr.String()+w.path, h, "a body")
			if resp.StatusCode != w.status || resp.Header.Get("X-Tulle-Reason") != w.reason || resp.Header.Get("Retry-After") != w.after || w.status == 200 && got != "ok" {
				t.Errorf("%+v: %d %v %q", w, resp.StatusCode, resp.Header, got)
			}
		}
		web.stop()
		shop.stop()
		reasons := map[string]int{}
		for _, r := range web.rec.Closed(flow.KindExchange) {
			reasons[r.Route+" "+r.Reason.String()+" "+r.Detail]++
			if r.Reason != flow.ReasonNone && r.Attempts != 0 {
				t.Errorf("%+v", r)
			}
		}
		want := map[string]int{
			"fail  ": 1, "fail fault_injected rule fail": 1, "slow  delayed by 30ms by a fault of its rule": 1, "limited  ": 2, "limited rate_limited limit hourly: 2 in 1h0m0s": 1,
		}
		if !maps.Equal(reasons, want) {
			t.Errorf("%v", reasons)
		}
		if n := len(web.rec.Closed(flow.KindAttempt)); n != 4 || len(shop.rec.Closed(flow.KindExchange)) != 4 {
			t.Errorf("%d attempts", n)
		}
	})
}

// A gRPC call that is delayed ends when its caller gives it up, and one that fails has the status of gRPC that the rule says.
func TestFilterFaultsOfGRPC(t *testing.T) {
	shop := start(t, serverSnapshot("shop", healthApp(t, nil), policy.ModePermissive, flow.ProtocolGRPC), &identity.Holder{}, time.Second)
	sv := external(func(s *policy.Service) { s.Protocol = flow.ProtocolGRPC })
	by := func(v string) []route.Value { return []route.Value{{Name: "x-chaos", Value: v}} }
	web := start(t, ruled(t, clientSnapshot(sv, shop.addr(t, "inbound")), "ext", under("chaos", "/", route.Action{
		Backends: []route.Backend{{Service: "ext", Weight: 1}},
		Faults:   []route.Fault{{Headers: by("fail"), GRPC: 5, AbortPPM: route.Million}, {Headers: by("slow"), Delay: time.Hour, DelayPPM: route.Million}},
	})), &identity.Holder{}, time.Second)
	cc, err := grpc.NewClient(web.addr(t, "outbound").String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	check := func(chaos string, timeout time.Duration) codes.Code {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-chaos", chaos), timeout)
		defer cancel()
		_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{})
		return status.Code(err)
	}
	if got := check("no", time.Minute); got != codes.OK {
		t.Errorf("without a fault: %s", got)
	}
	if got := check("fail", time.Minute); got != codes.NotFound {
		t.Errorf("a fault: %s", got)
	}
	if got := check("slow", 20*time.Millisecond); got != codes.DeadlineExceeded {
		t.Errorf("a delay: %s", got)
	}
	testmesh.Eventually(t, "the delayed call has ended", func() bool { return len(web.rec.Closed(flow.KindExchange)) == 3 })
	for _, r := range web.rec.Closed(flow.KindExchange) {
		if code, _ := r.GRPC.Code(); r.Reason == flow.ReasonFaultInjected && (code != 5 || r.Attempts != 0) {
			t.Errorf("%+v", r)
		}
	}
}

// Preflights are answered by the sidecar, and answers say what the rule says, whatever the application, or a failure, would.
func TestFilterCORS(t *testing.T) {
	rule := under("api", "/", route.Action{
		Backends: toShop, CORS: &route.CORS{Origins: []string{"https://*.example"}, Methods: []string{"PUT"}, Credentials: true},
		Faults: []route.Fault{{Headers: []route.Value{{Name: "x-chaos", Kind: route.ValuePresent}}, Status: 500, AbortPPM: route.Million}},
	})
	versions(t, func(t *testing.T, c *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol) {
		_, _, addr := meshed(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "OPTIONS" {
				t.Error("the application got a preflight")
			}
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("Access-Control-Max-Age", "1")
			w.Header().Set("Vary", "Accept")
		}, app, speaks, rule)
		url := "http://" + addr.String() + "/"
		resp, _ := ask(t, c, "OPTIONS", url, http.Header{"Origin": {"https://a.example"}, "Access-Control-Request-Method": {"PUT"}}, "")
		if h := resp.Header; resp.StatusCode != 204 || h.Get("Access-Control-Allow-Origin") != "https://a.example" || h.Get("Access-Control-Allow-Methods") != "PUT" || h.Get("Content-Length") != "" {
			t.Errorf("preflight: %d %v", resp.StatusCode, h)
		}
		for _, w := range []struct{ origin, chaos, allowed, vary string }{
			{"https://a.example", "", "https://a.example", "Accept,Origin"}, {"https://a.evil", "", "", "Accept,Origin"}, {"https://a.example", "1", "https://a.example", "Origin"},
		} {
			h := http.Header{"Origin": {w.origin}}
			if w.chaos != "" {
				h.Set("X-Chaos", w.chaos)
			}
			resp, _ := ask(t, c, "PUT", url, h, "x")
			got := resp.Header
			if strings.Join(got["Access-Control-Allow-Origin"], ",") != w.allowed || strings.Join(got["Vary"], ",") != w.vary || got.Get("Access-Control-Max-Age") != "" || (resp.StatusCode == 500) != (w.chaos != "") {
				t.Errorf("%+v: %d %v", w, resp.StatusCode, got)
			}
		}
	})
}

// Copies go to another service as exchanges of their own, marked, after the rule's edits; the original neither waits for them nor fails with them, and what is too large is not copied.
func TestFilterMirrors(t *testing.T) {
	rule := under("copied", "/copied", route.Action{
		Backends: toShop, Mirrors: []route.Mirror{{Service: "shadow", PPM: route.Million}},
		Request: route.Edits{Set: []route.Field{{Name: "x-set", Value: "1"}}}, Rewrite: route.Rewrite{Path: route.PathEdit{Prefix: true, Value: "/new", Set: true}},
	})
	versions(t, func(t *testing.T, c *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol) {
		ca := testmesh.NewCA(t)
		shop := start(t, serverSnapshot("shop", app(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "answer"+r.Header.Get("X-Tulle-Mirror"))
		}), policy.ModeStrict, speaks), ca.Holder("shop"), time.Second)
		var mu sync.Mutex
		var got []string
		hold := make(chan struct{})
		shadow := start(t, serverSnapshot("shadow", app(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			got = append(got, fmt.Sprint(r.Method, " ", r.RequestURI, " ", len(body), " ", r.Header.Get("X-Set"), r.Header.Get("X-Tulle-Mirror"), " ", r.Header.Get("X-Request-Id") != ""))
			mu.Unlock()
			<-hold
			w.WriteHeader(500)
		}), policy.ModeStrict, speaks), ca.Holder("shadow"), time.Second)
		snap := clientSnapshot(mesh("shop"), shop.addr(t, "inbound"))
		snap.Services["shadow"] = mesh("shadow")
		snap.Endpoints["shadow"] = []policy.Endpoint{{Address: shadow.addr(t, "inbound"), Weight: 100}}
		web := start(t, ruled(t, snap, "shop", rule), ca.Holder("web"), time.Second)
		url := "http://" + web.addr(t, "outbound").String() + "/copied/a?q"
		for _, body := range []string{"", "small", strings.Repeat("x", 60<<10), strings.Repeat("x", 200<<10)} {
			method := "POST"
			if body == "" {
				method = "GET"
			}
			if resp, text := ask(t, c, method, url, nil, body); resp.StatusCode != 200 || text != "answer" {
				t.Errorf("%d bytes: %d %q", len(body), resp.StatusCode, text)
			}
		}
		testmesh.Eventually(t, "three copies have arrived", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 3 })
		close(hold)
		testmesh.Eventually(t, "all have ended", func() bool { return len(web.rec.Closed(flow.KindExchange)) == 7 })
		slices.Sort(got)
		if want := []string{"GET /new/a?q 0 11 true", "POST /new/a?q 5 11 true", "POST /new/a?q 61440 11 true"}; !slices.Equal(got, want) {
			t.Errorf("the shadow got %q", got)
		}
		if n := web.Room().Count(exchange.LimitMirrorBody); n != 1 {
			t.Errorf("%d bodies were too large", n)
		}
		web.stop()
		shop.stop()
		shadow.stop()
		own := map[flow.TraceID]bool{}
		for _, r := range web.rec.Closed(flow.KindExchange) {
			if r.Mirror != (r.Destination.Service == "shadow") || r.Mirror != (r.Status == 500) || r.Route != "copied" {
				t.Errorf("%+v", r)
			}
			if !r.Mirror {
				own[r.Trace.TraceID] = true
			}
		}
		for _, r := range slices.Concat(web.rec.Closed(flow.KindAttempt), shadow.rec.Closed(flow.KindExchange)) {
			if r.Mirror != (r.Destination.Service == "shadow") || !own[r.Trace.TraceID] {
				t.Errorf("%+v", r)
			}
		}
		if n, m := len(web.rec.Closed(flow.KindAttempt)), len(shadow.rec.Closed(flow.KindExchange)); n != 7 || m != 3 || web.Room().Used() != 0 {
			t.Errorf("%d attempts, %d copies, %d bytes in use", n, m, web.Room().Used())
		}
	})
}

// A sidecar that stops ends the copies that are under way, and sends no more than it may at a time.
func TestFilterMirrorsAreBounded(t *testing.T) {
	rule := under("copied", "/", route.Action{Backends: []route.Backend{{Service: "ext", Weight: 1}}, Mirrors: []route.Mirror{{Service: "shadow", PPM: route.Million}}})
	hung := make(chan struct{})
	shadow := app(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	defer close(hung)
	snap := clientSnapshot(external(nil), app(t, func(http.ResponseWriter, *http.Request) {}))
	snap.Services["shadow"] = policy.Service{Name: "shadow", Protocol: flow.ProtocolHTTP, External: true}
	snap.Endpoints["shadow"] = []policy.Endpoint{{Address: shadow, Weight: 100}}
	web := start(t, ruled(t, snap, "ext", rule), &identity.Holder{}, time.Second)
	c := client(t)
	for range 150 {
		if resp, _ := ask(t, c, "GET", "http://"+web.addr(t, "outbound").String()+"/", nil, ""); resp.StatusCode != 200 {
			t.Fatal(resp.StatusCode)
		}
	}
	if n := web.Room().Count(exchange.LimitMirrors); n != 22 {
		t.Errorf("%d were not copied", n)
	}
	web.stop()
	copies := 0
	for _, r := range web.rec.Closed(flow.KindExchange) {
		if r.Mirror {
			copies++
		}
		if r.Mirror != (r.Reason == flow.ReasonDraining) {
			t.Errorf("%+v", r)
		}
	}
	if copies != 128 || web.Room().Used() != 0 || web.rec.Live() != 0 {
		t.Errorf("%d copies, %d bytes in use", copies, web.Room().Used())
	}
}

// Sessions stay with backend and endpoint, by cookie and by field, in every version of HTTP, until the endpoint is gone.
func TestFilterSessions(t *testing.T) {
	for _, kind := range []route.SessionKind{route.SessionCookie, route.SessionHeader} {
		versions(t, func(t *testing.T, c *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol) {
			rule := under("split", "/", route.Action{
				Backends: []route.Backend{{Service: "a", Weight: 1}, {Service: "b", Weight: 1}}, Session: &route.Session{Kind: kind, Name: "x-sid"},
			})
			snap := clientSnapshot(policy.Service{Name: "a", Protocol: speaks, External: true})
			snap.Services["b"] = policy.Service{Name: "b", Protocol: speaks, External: true}
			for _, s := range []string{"a", "b"} {
				for i := range 3 {
					snap.Endpoints[s] = append(snap.Endpoints[s], policy.Endpoint{Weight: 100, Address: app(t, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("Set-Cookie", "own=1")
						_, _ = fmt.Fprint(w, s, i)
					})})
				}
			}
			web := start(t, ruled(t, snap, "a", rule), &identity.Holder{}, time.Second)
			url := "http://" + web.addr(t, "outbound").String() + "/"
			tokenOf := func(resp *http.Response) string {
				if kind == route.SessionHeader {
					return resp.Header.Get("X-Sid")
				}
				for _, c := range resp.Cookies() {
					if c.Name == "x-sid" && c.HttpOnly && c.Path == "/" {
						return c.Value
					}
				}
				return ""
			}
			with := func(token string) http.Header {
				if kind == route.SessionHeader {
					return http.Header{"X-Sid": {token}}
				}
				return http.Header{"Cookie": {"other=1; x-sid=" + token}}
			}
			seen := map[string]int{}
			var token, at string
			for range 40 {
				resp, who := ask(t, c, "GET", url, nil, "")
				token, at = tokenOf(resp), who
				if seen[who]++; token == "" {
					t.Fatalf("no session: %v", resp.Header)
				}
				for range 3 {
					if resp, again := ask(t, c, "GET", url, with(token), ""); again != who || tokenOf(resp) != "" || resp.Header["Set-Cookie"][0] != "own=1" {
						t.Fatalf("a session of %s went to %s: %v", who, again, resp.Header)
					}
				}
			}
			if len(seen) != 6 {
				t.Errorf("sessions began at %v", seen)
			}
			gone := *snap
			gone.Revision, gone.Endpoints = "c2", map[string][]policy.Endpoint{"a": snap.Endpoints["a"], "b": snap.Endpoints["b"]}
			i := int(at[1] - '0')
			gone.Endpoints[at[:1]] = slices.Delete(slices.Clone(snap.Endpoints[at[:1]]), i, i+1)
			web.source.Set(&gone)
			testmesh.Eventually(t, "the snapshot is in force", func() bool { return web.Snapshot() == &gone })
			testmesh.Eventually(t, "the session has moved", func() bool {
				resp, who := ask(t, c, "GET", url, with(token), "")
				return who != at && who[0] == at[0] && tokenOf(resp) != ""
			})
		})
	}
}

// A split stays with a caller whom the called service's policy keeps together.
func TestFilterStickySplit(t *testing.T) {
	snap := clientSnapshot(policy.Service{Name: "a", Protocol: flow.ProtocolHTTP, External: true, Balancer: policy.Balancer{
		Algorithm: policy.BalanceMaglev, Affinity: []policy.AffinityKey{{Kind: policy.AffinityHeader, Name: "x-user"}, {Kind: policy.AffinityCookie, Name: "sid", Generate: true}},
	}})
	snap.Services["b"] = policy.Service{Name: "b", Protocol: flow.ProtocolHTTP, External: true}
	for _, s := range []string{"a", "b"} {
		snap.Endpoints[s] = []policy.Endpoint{{Weight: 100, Address: app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) })}}
	}
	web := start(t, ruled(t, snap, "a", under("split", "/", route.Action{Backends: []route.Backend{{Service: "a", Weight: 1}, {Service: "b", Weight: 1}}})), &identity.Holder{}, time.Second)
	url, c := "http://"+web.addr(t, "outbound").String()+"/", client(t)
	seen := map[string]int{}
	for i := range 40 {
		_, who := ask(t, c, "GET", url, http.Header{"X-User": {fmt.Sprint(i)}}, "")
		seen[who]++
		resp, first := ask(t, c, "GET", url, nil, "")
		set, _, _ := strings.Cut(resp.Header.Get("Set-Cookie"), ";")
		for range 3 {
			if _, again := ask(t, c, "GET", url, http.Header{"X-User": {fmt.Sprint(i)}}, ""); again != who {
				t.Errorf("user %d of %s went to %s", i, who, again)
			}
			if _, again := ask(t, c, "GET", url, http.Header{"Cookie": {set}}, ""); again != first || set == "" {
				t.Errorf("cookie %q of %s went to %s", set, first, again)
			}
		}
	}
	if seen["a"] < 8 || seen["b"] < 8 {
		t.Errorf("of 40 users %v", seen)
	}
}

// limiting is a rate limit service that lets everybody pass but bob, and is slow for sue.
type limiting struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
}

func (l *limiting) ShouldRateLimit(ctx context.Context, q *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	out := &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK, ResponseHeadersToAdd: []*corev3.HeaderValue{{Key: "X-RateLimit-Limit", Value: "5"}}}
	switch q.Descriptors[0].Entries[0].Value {
	case "bob":
		out.OverallCode = ratelimitv3.RateLimitResponse_OVER_LIMIT
	case "sue":
		<-ctx.Done()
		return nil, ctx.Err()
	case "ill":
		return nil, status.Error(codes.Internal, "ill")
	}
	return out, nil
}

// A rate limit service that is part of the mesh is asked by mTLS, and in time.
func TestFilterGlobalLimits(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	ratelimitv3.RegisterRateLimitServiceServer(srv, &limiting{})
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-served })
	ca := testmesh.NewCA(t)
	limiter := start(t, serverSnapshot("limiter", l.Addr().(*net.TCPAddr).AddrPort(), policy.ModeStrict, flow.ProtocolGRPC), ca.Holder("limiter"), time.Second)
	limit := func(name, domain string, timeout time.Duration, open bool) route.RateLimit {
		return route.RateLimit{Name: name, Domain: domain, Service: "limiter", Timeout: timeout, FailOpen: open, Keys: []route.Key{{Kind: route.KeyHeader, Name: "x-user"}}}
	}
	rules := []route.Rule{
		under("strict", "/strict", route.Action{Backends: toShop, Limits: []route.RateLimit{limit("users", "shop", time.Second, false)}}),
		under("open", "/open", route.Action{Backends: toShop, Limits: []route.RateLimit{limit("users", "shop", 200*time.Millisecond, true)}}),
	}
	for _, from := range []func(testing.TB) *http.Client{client, h2client} {
		snap := clientSnapshot(policy.Service{Name: "shop", Protocol: flow.ProtocolHTTP1, External: true}, app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
		snap.Services["limiter"] = mesh("limiter")
		snap.Endpoints["limiter"] = []policy.Endpoint{{Address: limiter.addr(t, "inbound"), Weight: 100}}
		web := start(t, ruled(t, snap, "shop", rules...), ca.Holder("web"), time.Second)
		c := from(t)
		for _, w := range []struct {
			path, user, reason, limit string
			status                    int
		}{
			{"/strict", "", "", "", 200},
			{"/strict", "ann", "", "5", 200},
			{"/strict", "bob", "rate_limited", "5", 429},
			{"/strict", "ill", "limiter_failed", "", 503},
			{"/open", "bob", "rate_limited", "5", 429},
			{"/open", "ill", "", "", 200},
			{"/open", "sue", "", "", 200},
		} {
			h := http.Header{}
			if w.user != "" {
				h.Set("X-User", w.user)
			}
			resp, body := ask(t, c, "GET", "http://"+web.addr(t, "outbound").String()+w.path, h, "")
			if resp.StatusCode != w.status || resp.Header.Get("X-Tulle-Reason") != w.reason || resp.Header.Get("X-Ratelimit-Limit") != w.limit || (resp.Header.Get("Retry-After") != "") != (w.status == 429) {
				t.Errorf("%+v: %d %v %s", w, resp.StatusCode, resp.Header, body)
			}
		}
		web.stop()
		asked := 0
		for _, r := range web.rec.Closed(flow.KindExchange) {
			if r.Destination.Service == "limiter" {
				asked++
				if r.Protocol != flow.ProtocolGRPC || r.Destination.Identity != testmesh.ID("limiter").String() {
					t.Errorf("%+v", r)
				}
			}
		}
		if asked != 6 {
			t.Errorf("it was asked %d times", asked)
		}
	}
}

// In every version of HTTP, any edits of any head are what a naive model makes of it, in both directions.
func TestFilterEditsAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 29))
	name := func() string { return fmt.Sprint("x-f", r.IntN(4)) }
	fields := func() (out []route.Field) {
		for range r.IntN(3) {
			out = append(out, route.Field{Name: name(), Value: fmt.Sprint("v", r.IntN(1000))})
		}
		return out
	}
	edits := func() (e route.Edits) {
		e.Set, e.Add = fields(), fields()
		for range r.IntN(2) {
			e.Remove = append(e.Remove, name())
		}
		return e
	}
	model := func(h http.Header, by ...route.Edits) map[string]string {
		h = h.Clone()
		for _, e := range by {
			for _, f := range e.Set {
				h.Set(f.Name, f.Value)
			}
			for _, f := range e.Add {
				h.Add(f.Name, f.Value)
			}
			for _, n := range e.Remove {
				h.Del(n)
			}
		}
		return seenBy(h)
	}
	var rules []route.Rule
	for i := range 40 {
		rules = append(rules, under(fmt.Sprint("r", i), fmt.Sprint("/r", i), route.Action{
			Request: edits(), Response: edits(), Backends: []route.Backend{{Service: "shop", Weight: 1, Request: edits(), Response: edits()}},
		}))
	}
	versions(t, func(t *testing.T, c *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol) {
		var mu sync.Mutex
		var got, own http.Header
		_, _, addr := meshed(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			got = r.Header
			maps.Copy(w.Header(), own)
		}, app, speaks, rules...)
		head := func() http.Header {
			h := http.Header{}
			for _, f := range append(fields(), fields()...) {
				h.Add(f.Name, f.Value)
			}
			return h
		}
		for i := range rules {
			a, sent, answer := &rules[i].Action, head(), head()
			mu.Lock()
			own = answer
			mu.Unlock()
			resp, _ := ask(t, c, "GET", fmt.Sprintf("http://%s/r%d/x", addr, i), sent, "")
			mu.Lock()
			came := got
			mu.Unlock()
			if want := model(sent, a.Request, a.Backends[0].Request); !maps.Equal(seenBy(came), want) {
				t.Errorf("%+v: of %v the application got %v, want %v", a, sent, seenBy(came), want)
			}
			if want := model(answer, a.Response, a.Backends[0].Response); !maps.Equal(seenBy(resp.Header), want) {
				t.Errorf("%+v: of %v the caller got %v, want %v", a, answer, seenBy(resp.Header), want)
			}
		}
	})
}

// seenBy is what of a head the test above is about.
func seenBy(h http.Header) map[string]string {
	out := map[string]string{}
	for k, v := range h {
		if strings.HasPrefix(k, "X-F") && k != "X-Forwarded-For" {
			out[k] = strings.Join(v, ",")
		}
	}
	return out
}
