package sidecar

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// readers lets web read what is below /api, keeps everybody from /admin, and would keep those with x-old from anything.
var readers = access.Rules{Policies: []access.Policy{
	{Name: "shop/readers", Rules: []access.Rule{{
		Name: "web", From: []access.Caller{{Accounts: []string{"shop/web"}}},
		To: []access.Match{{Method: "GET", Path: route.Path{Kind: route.PathPrefix, Value: "/"}}},
	}}},
	{Name: "shop/no-admin", Action: access.Deny, Rules: []access.Rule{{To: []access.Match{{Path: route.Path{Kind: route.PathPrefix, Value: "/admin"}}}}}},
	{Name: "shop/no-old", Action: access.Deny, Audit: true, Rules: []access.Rule{{To: []access.Match{{Headers: []route.Value{{Name: "x-old", Kind: route.ValuePresent}}}}}}},
}}

// TestAccess: the sidecar of the service that is called lets through what AccessPolicies allow, by HTTP/1.1 and HTTP/2; the rest it answers with 403 and its Record says which
// policy. A policy that comes later holds for the next request on a connection that is open.
func TestAccess(t *testing.T) {
	ca := testmesh.NewCA(t)
	behind := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	there := serverSnapshot("catalog", behind, policy.ModeStrict, flow.ProtocolHTTP1)
	there.Listeners[0].Access = readers
	catalog := start(t, there, ca.Holder("catalog"), 0)
	callers := map[string]*running{}
	for _, name := range []string{"web", "cart"} {
		callers[name] = start(t, clientSnapshot(mesh("catalog"), catalog.addr(t, "inbound")), ca.Holder(name), 0)
	}
	denied, sent := 0, 0
	for _, from := range []struct {
		name   string
		client *http.Client
	}{{"HTTP/1.1", client(t)}, {"HTTP/2", h2client(t)}} {
		for _, c := range []struct {
			caller, method, path, header string
			status                       int
			why                          string
		}{
			{"web", "GET", "/api", "", 200, ""},
			{"web", "GET", "/api", "x-old", 200, "AccessPolicy shop/no-old, rule 0, which is in audit, would deny this"},
			{"web", "POST", "/api", "", 403, "no rule of AccessPolicy shop/readers, or of another one that allows, is about this"},
			{"cart", "GET", "/api", "", 403, "no rule of AccessPolicy shop/readers, or of another one that allows, is about this"},
			{"web", "GET", "/admin/users", "", 403, "denied by AccessPolicy shop/no-admin, rule 0"},
			{"web", "GET", "/%61dmin/users", "", 403, "denied by AccessPolicy shop/no-admin, rule 0"},
			{"web", "GET", "/x/../admin", "", 403, "denied by AccessPolicy shop/no-admin, rule 0"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+callers[c.caller].addr(t, "outbound").String()+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.header != "" {
				req.Header.Set(c.header, "1")
			}
			resp, err := from.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != c.status || c.status == 403 && !strings.Contains(string(body), c.why) {
				t.Errorf("%s: %s %s %s: %d %q", from.name, c.caller, c.method, c.path, resp.StatusCode, body)
			}
			if c.status == 403 {
				denied++
			}
			sent++
			testmesh.Eventually(t, "the Record says why", func() bool { // Records of two connections close in any order
				all := catalog.rec.Closed(flow.KindExchange)
				return len(all) == sent && slices.ContainsFunc(all, func(r flow.Record) bool {
					return r.Source.Service == c.caller && r.Method == c.method && r.Status == c.status && r.Detail == c.why && (r.Reason == flow.ReasonDenied) == (c.status == 403)
				})
			}, func() string { return fmt.Sprintf("%s %+v: %+v", from.name, c, catalog.rec.Closed(flow.KindExchange)) })
		}
	}
	if denied == 0 {
		t.Error("nothing was denied")
	}
}

// TestAccessOfBytes: of a connection of bytes no request is seen, so a rule about requests does not let it pass, and one that denies does.
func TestAccessOfBytes(t *testing.T) {
	ca := testmesh.NewCA(t)
	echo := app(t, func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		name  string
		rules access.Rules
		open  bool
	}{
		{"everybody of the namespace", access.Rules{Policies: []access.Policy{{Name: "shop/all", Rules: []access.Rule{{From: []access.Caller{{Namespaces: []string{"shop"}}}}}}}}, true},
		{"about requests", access.Rules{Policies: []access.Policy{{Name: "shop/get", Rules: []access.Rule{{To: []access.Match{{Method: "GET"}}}}}}}, false},
		{"against requests", access.Rules{Policies: []access.Policy{{Name: "shop/no", Action: access.Deny, Rules: []access.Rule{{To: []access.Match{{Method: "DELETE"}}}}}}}, false},
	} {
		there := serverSnapshot("catalog", echo, policy.ModeStrict, flow.ProtocolTCP)
		there.Listeners[0].Access = c.rules
		catalog := start(t, there, ca.Holder("catalog"), 0)
		service := mesh("catalog")
		service.Protocol = flow.ProtocolTCP
		web := start(t, clientSnapshot(service, catalog.addr(t, "inbound")), ca.Holder("web"), 0)
		var got []byte
		if nc, err := net.Dial("tcp", web.addr(t, "outbound").String()); err == nil {
			_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			got, _ = io.ReadAll(nc)
			_ = nc.Close()
		} else if c.open { // one that is refused may be reset before it is known to be open
			t.Fatal(err)
		}
		if open := strings.HasPrefix(string(got), "HTTP/1.1 200"); open != c.open {
			t.Errorf("%s: got %q", c.name, got)
		}
		testmesh.Eventually(t, "the Record says it", func() bool {
			all := catalog.rec.Closed(flow.KindConnection)
			return len(all) == 1 && (all[0].Reason == flow.ReasonDenied) == !c.open
		})
	}
}
