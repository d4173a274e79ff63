package shop

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs one instance on ports of its own until the test ends, and checks that it stops cleanly.
func start(t *testing.T, cfg Config) (app, control string) {
	t.Helper()
	cfg.Listen, cfg.Control = "127.0.0.1:0", "127.0.0.1:0"
	ctx, cancel := context.WithCancel(context.Background())
	bound := make(chan [2]string, 1)
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, cfg, func(a, c net.Addr) { bound <- [2]string{a.String(), c.String()} })
	}()
	t.Cleanup(func() {
		controlClient.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s did not stop cleanly: %v", cfg.Service, err)
		}
	})
	select {
	case b := <-bound:
		return b[0], b[1]
	case err := <-done:
		done <- nil
		t.Fatalf("%s did not start: %v", cfg.Service, err)
	}
	return "", ""
}

func get(t *testing.T, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestTopologyIsTheShopThatWasPromised(t *testing.T) {
	var http, tcp, external, tiers, three, twoVersions int
	names := map[string]bool{}
	callers := map[string]int{}
	for _, s := range Topology() {
		if names[s.Name] {
			t.Errorf("%s is listed twice", s.Name)
		}
		names[s.Name] = true
		tiers = max(tiers, s.Tier)
		switch {
		case s.External:
			external++
		case s.Protocol == HTTP:
			http++
		case s.Protocol == TCP:
			tcp++
		}
		versions := map[string]bool{}
		for _, i := range s.Instances {
			versions[i.Version] = true
		}
		if len(s.Instances) == 3 {
			three++
		}
		if len(versions) == 2 {
			twoVersions++
		}
		for _, c := range s.Calls {
			callers[c]++
		}
	}
	if http < 8 || tcp != 1 || external != 1 || tiers != 4 || three != 1 || twoVersions != 1 {
		t.Errorf("http %d tcp %d external %d tiers %d three-endpoint %d two-version %d", http, tcp, external, tiers, three, twoVersions)
	}
	if callers["catalog"] < 2 {
		t.Errorf("catalog has %d callers; ejection needs at least 2 reporters", callers["catalog"])
	}
	for c := range callers {
		if !names[c] {
			t.Errorf("%s is called but does not exist", c)
		}
	}
}

func TestEveryServiceHasRoutes(t *testing.T) {
	for _, svc := range Topology() {
		s := &server{svc: svc}
		if got := len(s.routes()); (got == 0) != (svc.Protocol == TCP) {
			t.Errorf("%s (%s) has %d routes", svc.Name, svc.Protocol, got)
		}
	}
}

func TestFaultIsSetSeenAndLifted(t *testing.T) {
	app, control := start(t, Config{Service: "ledger"})
	c := Control{Address: control}
	ctx := t.Context()
	post := func() int {
		resp, err := http.Post("http://"+app+"/entries", "application/json", strings.NewReader(`{"amount":1}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if got := post(); got != 201 {
		t.Fatalf("healthy: %d", got)
	}
	if err := c.Set(ctx, Fault{Kind: FaultError}); err != nil {
		t.Fatal(err)
	}
	if got := post(); got != 503 {
		t.Errorf("with an error fault: %d", got)
	}
	if _, body := get(t, "http://"+control+"/fault"); !strings.Contains(body, `"kind":"error"`) {
		t.Errorf("GET /fault = %s", body)
	}
	if err := c.Set(ctx, Fault{Kind: FaultSlow, Latency: 30 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if got := post(); got != 201 || time.Since(began) < 30*time.Millisecond {
		t.Errorf("with a slow fault: %d after %s", got, time.Since(began))
	}
	if err := c.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, "http://"+control+"/fault"); !strings.Contains(body, `"kind":""`) {
		t.Errorf("after healing: %s", body)
	}
}

func TestFaultRefusals(t *testing.T) {
	for body, want := range map[string]string{
		`{"kind":"melt"}`:                         `kind "melt"`,
		`{"kind":"slow","ratio":2}`:               "ratio 2",
		`{"kind":"slow","latencyNs":-1}`:          "latency",
		`{"kind":"error","status":200}`:           "status 200",
		`{"kind":"error","extra":1}`:              "unknown field",
		`{"kind":"slow","latencyNs":99999999999}`: "at most 1m",
	} {
		f := &faults{}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPut, "http://127.0.0.1:1/fault", strings.NewReader(body))
		f.controlHandler().ServeHTTP(w, r)
		if w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want 400 naming %q", body, w.Code, w.Body, want)
		}
		if f.get() != (Fault{}) {
			t.Errorf("%s: was put in force", body)
		}
	}
}

func TestFaultRatio(t *testing.T) {
	f := &faults{}
	f.set(Fault{Kind: FaultError, Status: 503, Ratio: 0.25})
	hits := 0
	for range 10_000 {
		if f.hit().Kind == FaultError {
			hits++
		}
	}
	if hits < 2000 || hits > 3000 {
		t.Errorf("%d of 10,000 were hit at ratio 0.25", hits)
	}
}

func TestLoopbackOnly(t *testing.T) {
	h := LoopbackOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }))
	for _, c := range []struct {
		host, origin string
		want         int
	}{
		{"127.0.0.1:1", "", 200},
		{"localhost:1", "", 200},
		{"[::1]:1", "", 200},
		{"127.0.0.1", "http://127.0.0.1:9", 200},
		{"evil.example:1", "", 403},
		{"127.0.0.1:1", "https://evil.example", 403},
		{"127.0.0.1.evil.example", "", 403},
		{"127.0.0.1:1", "null", 403},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://x/", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("Host %q Origin %q: %d, want %d", c.host, c.origin, w.Code, c.want)
		}
	}
}

// TestTraceContextIsForwarded: every calling service hands traceparent on unchanged; recommendations does not.
func TestTraceContextIsForwarded(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	seen := make(chan http.Header, 8)
	dep := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/prices" {
			io.WriteString(w, `{"3":{"amount":1,"currency":"EUR"}}`)
			return
		}
		io.WriteString(w, `{"id":1}`)
	}))
	defer dep.Close()
	// A service trips over its rare bug before it calls anybody, so asking again is no second call.
	ask := func(url string, header ...string) {
		t.Helper()
		for range 20 {
			if code, _ := get(t, url, header...); code == http.StatusOK {
				return
			}
		}
		t.Fatalf("%s never answered 200", url)
	}
	addr := dep.Listener.Addr().String()
	app, _ := start(t, Config{Service: "recommendations", Hosts: map[string]string{"catalog": addr}})
	ask("http://"+app+"/for/3", "Traceparent", parent)
	if h := <-seen; h.Get("Traceparent") != "" {
		t.Errorf("recommendations must drop traceparent, sent %q", h.Get("Traceparent"))
	}
	app, _ = start(t, Config{Service: "catalog", Hosts: map[string]string{"pricing": addr, "inventory": addr}})
	ask("http://"+app+"/products/3", "Traceparent", parent, "Tracestate", "a=b", "X-Request-Id", "r1", "Cookie", "secret")
	for range 2 {
		h := <-seen
		if h.Get("Traceparent") != parent || h.Get("Tracestate") != "a=b" || h.Get("X-Request-Id") != "r1" {
			t.Errorf("catalog sent %v", h)
		}
		if h.Get("Cookie") != "" {
			t.Error("catalog forwarded the cookie")
		}
	}
}

// TestWholeShop wires every service directly to its dependencies and buys something.
func TestWholeShop(t *testing.T) {
	addr := map[string]string{}
	all := Topology()
	for done := 0; done < len(all); {
		before := done
		for _, s := range all {
			if addr[s.Name] != "" {
				continue
			}
			hosts := map[string]string{}
			for _, c := range s.Calls {
				if addr[c] != "" {
					hosts[c] = addr[c]
				}
			}
			if len(hosts) < len(s.Calls) {
				continue
			}
			addr[s.Name], _ = start(t, Config{Service: s.Name, Instance: s.Instances[0].Name, Hosts: hosts})
			done++
		}
		if done == before {
			t.Fatal("the topology has a cycle")
		}
	}
	web := "http://" + addr["web"]
	// Each page may meet the rare deliberate 500 of some service; three tries make a false alarm as rare as 1e-8.
	for _, c := range []struct {
		path, body, want string
		code             int
	}{
		{"/?user=ann", "", `"categories":["living"`, 200},
		{"/products/7?user=ann", "", `"stock":`, 200},
		{"/products/9999", "", "not found", 404},
		{"/search?q=lamp", "", `"hits":[`, 200},
		{"/cart?user=ann", `{"item":7}`, `"items":"`, 201},
		{"/checkout?user=ann", `{}`, `"paid"`, 201},
	} {
		var code int
		var body string
		for range 3 {
			if c.body == "" {
				code, body = get(t, web+c.path)
			} else {
				resp, err := http.Post(web+c.path, "application/json", strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				code, body = resp.StatusCode, string(b)
			}
			if code < 500 {
				break
			}
		}
		if code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s, want %d with %q", c.path, code, body, c.code, c.want)
		}
	}
}

func TestSessionsProtocol(t *testing.T) {
	table := &sessionTable{}
	for _, c := range [][2]string{
		{"TOUCH ann", "OK 1"},
		{"TOUCH ann", "OK 2"},
		{"PUT ann 7", "OK 1"},
		{"PUT ann 8", "OK 2"},
		{"GET ann", "OK 7,8"},
		{"DROP ann", "OK"},
		{"GET ann", "OK "},
		{"MELT ann", "ERR unknown verb MELT"},
		{"", "ERR expected: VERB user [item]"},
	} {
		if got := table.answer(c[0]); got != c[1] {
			t.Errorf("%q: %q, want %q", c[0], got, c[1])
		}
	}
}

func TestSessionClientReplacesClosedConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 4)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 64)
			c.Read(buf)
			io.WriteString(c, "OK 1\n")
			conns <- c
		}
	}()
	client := newSessionClient(l.Addr().String())
	for range 2 {
		if got, err := client.ask(t.Context(), "TOUCH ann"); err != nil || got != "1" {
			t.Fatalf("%q %v", got, err)
		}
		(<-conns).Close() // the pooled connection is now dead
	}
	client.close()
	l.Close()
	<-done
	if _, err := client.ask(t.Context(), "TOUCH ann"); err == nil {
		t.Error("a server that is gone must be an error")
	}
}

func TestUserNamesCannotBreakTheLineProtocol(t *testing.T) {
	for _, name := range []string{"", "a b", "a\nDROP b", strings.Repeat("x", 33)} {
		if got := orGuest(name); got != "guest" {
			t.Errorf("%q became %q", name, got)
		}
	}
}

func TestPaceStaysNearItsMedian(t *testing.T) {
	p := Pace{Median: 4 * time.Millisecond, Sigma: 0.5}
	var below int
	for range 10_000 {
		d := p.draw()
		if d <= 0 || d > 20*p.Median {
			t.Fatalf("drew %s", d)
		}
		if d < p.Median {
			below++
		}
	}
	if below < 4700 || below > 5300 {
		t.Errorf("%d of 10,000 below the median", below)
	}
}

func TestPauseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		pause(ctx, time.Hour)
		if time.Since(began) != time.Second {
			t.Errorf("paused %s", time.Since(began))
		}
	})
}

func TestMissingHostIsNamed(t *testing.T) {
	err := Run(t.Context(), Config{Service: "search", Listen: "127.0.0.1:0"}, nil)
	if err == nil || !strings.Contains(err.Error(), "--host catalog=") {
		t.Errorf("%v", err)
	}
	err = Run(t.Context(), Config{Service: "bakery", Listen: "127.0.0.1:0"}, nil)
	if err == nil || !strings.Contains(err.Error(), `no service "bakery"`) {
		t.Errorf("%v", err)
	}
}

func TestFaultJSONRoundTrip(t *testing.T) {
	b, _ := json.Marshal(Fault{Kind: FaultSlow, Latency: time.Second, Ratio: 0.5})
	if string(b) != `{"kind":"slow","latencyNs":1000000000,"ratio":0.5}` {
		t.Errorf("%s", b)
	}
}
