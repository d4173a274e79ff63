package collector_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/collector/processor/cardinality"
	"github.com/tulle-mesh/tulle/collector/processor/enrich"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
)

func TestRedactionIsConfigured(t *testing.T) {
	ca := newAuthority(t)
	hashes := map[any]bool{}
	for _, mesh := range []bool{true, false} {
		db := openSpans(t, t.TempDir())
		cfg := collector.Config{
			Spans: db, HashKey: []byte("0123456789abcdef"),
			Redact: enrich.Config{Headers: []string{"X_Tenant", "cookie"}, Drop: []string{"user.*", "tulle.*", "service.*", "secret"}, Hash: []string{"enduser.id", "user.name"}},
		}
		creds := insecure.NewCredentials()
		if mesh {
			cfg.Identity, creds = ca.holder(t, observerID), credentials.NewTLS(ca.holder(t, cartID).ClientTLS())
		}
		c, _ := start(t, cfg)
		td := batch()
		rs := td.ResourceSpans().At(0)
		rs.Resource().Attributes().PutStr("user.home", "/home/x")
		sp := rs.ScopeSpans().At(0).Spans().At(0)
		for _, k := range []string{"http.request.header.x-tenant", "http.response.header.x_tenant", "http.request.header.x-other", "http.request.header.x-request-id", "USER.email", "user.name", "enduser.id", "secret"} {
			sp.Attributes().PutStr(k, "value")
		}
		sp.Events().At(0).Attributes().PutStr("secret", "value")
		if err := send(t.Context(), dial(t, c, creds), td); err != nil {
			t.Fatal(err)
		}
		res, attrs, sp := stored(t, db)
		for _, k := range []string{"http.request.header.x-tenant", "http.response.header.x_tenant", "http.request.header.x-request-id", "kept"} {
			if attrs[k] == nil {
				t.Errorf("mesh %v: %s is gone", mesh, k)
			}
		}
		for _, k := range []string{"http.request.header.x-other", "http.request.header.cookie", "USER.email", "user.name", "secret", "url.query"} {
			if attrs[k] != nil {
				t.Errorf("mesh %v: %s is kept", mesh, k)
			}
		}
		if res["user.home"] != nil || res[flow.AttrServiceName] != "bank" || (res[flow.AttrReporterIdentity] != nil) != mesh || sp.Events().At(0).Attributes().Len() != 1 {
			t.Errorf("mesh %v: resource %v, event %v", mesh, res, sp.Events().At(0).Attributes().AsRaw())
		}
		if h, _ := attrs["enduser.id"].(string); len(h) != len("hashed:")+16 || !strings.HasPrefix(h, "hashed:") {
			t.Errorf("enduser.id is %q", h)
		}
		hashes[attrs["enduser.id"]] = true
		if a := c.Stats().Altered; a["redacted"] != 7 || a["hashed"] != 1 {
			t.Errorf("mesh %v: %v", mesh, a)
		}
	}
	if len(hashes) != 1 {
		t.Errorf("equal values have different hashes: %v", hashes)
	}
}

func TestRedactionThatCannotWorkIsRefused(t *testing.T) {
	for name, cfg := range map[string]collector.Config{
		"bad pattern":   {Redact: enrich.Config{Drop: []string{"a["}}},
		"empty pattern": {Redact: enrich.Config{Hash: []string{""}}, HashKey: []byte("k")},
		"no key":        {Redact: enrich.Config{Hash: []string{"a"}}},
		"no header":     {Redact: enrich.Config{Headers: []string{"x-*"}}},
		"no budget":     {Cardinality: cardinality.Config{Names: -1}},
	} {
		cfg.Spans, cfg.GRPC = refusing{}, "127.0.0.1:0"
		if _, err := collector.New(cfg); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want a one-line error", name, err)
		}
	}
}

func TestOverflowIsToldOnce(t *testing.T) {
	var (
		mu     sync.Mutex
		events []event.Event
	)
	c, _ := start(t, with(func(c *collector.Config) {
		c.Spans, c.Cardinality.Names = openSpans(t, t.TempDir()), 2
		c.OnEvent = func(e event.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		}
	}))
	for i := range 5 {
		body := strings.Replace(zipkinJSON, `"get"`, fmt.Sprintf(`"get %d"`, i), 1)
		if a := postTo(t, c.Address("zipkin"), "/api/v2/spans", "application/json", []byte(body)); a.code != 202 {
			t.Fatalf("%+v", a)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 1 || events[0].Kind != event.KindOverflow || events[0].Service != "bank" || events[0].Evidence["first"] != "get 2" {
		t.Errorf("%+v", events)
	}
	if n := c.Stats().Altered["name_overflow"]; n != 3 {
		t.Errorf("%d names counted, want 3", n)
	}
}
