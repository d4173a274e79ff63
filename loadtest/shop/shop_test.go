package shop

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/gen/shopv1"
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
	var http, grpc, tcp, external, tiers, three, twoVersions int
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
		case s.Protocol == GRPC:
			grpc++
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
	if http < 8 || grpc != 2 || tcp != 1 || external != 1 || tiers != 4 || three != 1 || twoVersions != 1 {
		t.Errorf("http %d gRPC %d tcp %d external %d tiers %d three-endpoint %d two-version %d", http, grpc, tcp, external, tiers, three, twoVersions)
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
		if got := len(s.routes()); (got > 0) != (svc.Protocol == HTTP) {
			t.Errorf("%s (%s) has %d routes", svc.Name, svc.Protocol, got)
		}
		g := grpc.NewServer()
		if registered := s.register(g); registered != (svc.Protocol == GRPC) || registered != (len(g.GetServiceInfo()) == 1) {
			t.Errorf("%s (%s) registers %v", svc.Name, svc.Protocol, g.GetServiceInfo())
		}
	}
}

func TestFaultIsSetSeenAndLifted(t *testing.T) {
	hosts := map[string]string{} // nobody is called
	for _, dep := range []string{"catalog", "search", "cart", "checkout", "recommendations", "sessions"} {
		hosts[dep] = "127.0.0.1:1"
	}
	app, control := start(t, Config{Service: "web", Hosts: hosts})
	c := Control{Address: control}
	ctx := t.Context()
	hello := func() int {
		code, _ := get(t, "http://"+app+"/hello")
		return code
	}
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if got := hello(); got != 200 {
		t.Fatalf("healthy: %d", got)
	}
	if err := c.Set(ctx, Fault{Kind: FaultError}); err != nil {
		t.Fatal(err)
	}
	if got := hello(); got != 503 {
		t.Errorf("with an error fault: %d", got)
	}
	if _, body := get(t, "http://"+control+"/fault"); !strings.Contains(body, `"kind":"error"`) {
		t.Errorf("GET /fault = %s", body)
	}
	if err := c.Set(ctx, Fault{Kind: FaultSlow, Latency: 30 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if got := hello(); got != 200 || time.Since(began) < 30*time.Millisecond {
		t.Errorf("with a slow fault: %d after %s", got, time.Since(began))
	}
	if err := c.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, "http://"+control+"/fault"); !strings.Contains(body, `"kind":""`) {
		t.Errorf("after healing: %s", body)
	}
}

// connect is a client's connection to a gRPC service of the shop.
func connect(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func TestFaultOfACall(t *testing.T) {
	app, control := start(t, Config{Service: "ledger"})
	c, ctx := Control{Address: control}, t.Context()
	book := func() codes.Code {
		_, err := shopv1.NewLedgerClient(connect(t, app)).Book(ctx, &shopv1.BookRequest{User: "ann", Amount: 1})
		return status.Code(err)
	}
	for _, step := range []struct {
		fault Fault
		want  codes.Code
	}{
		{Fault{}, codes.OK},
		{Fault{Kind: FaultError}, codes.Unavailable},
		{Fault{Kind: FaultError, Status: 500}, codes.Internal},
		{Fault{Kind: FaultSlow, Latency: time.Millisecond}, codes.OK},
	} {
		if err := c.Set(ctx, step.fault); err != nil {
			t.Fatal(err)
		}
		if got := book(); got != step.want {
			t.Errorf("with fault %+v: %s, want %s", step.fault, got, step.want)
		}
	}
}

func TestPricing(t *testing.T) {
	v1, _ := start(t, Config{Service: "pricing"})
	v2, _ := start(t, Config{Service: "pricing", Version: "v2"})
	ctx := t.Context()
	// Rarely a call meets the deliberate bug; three tries make a false alarm as rare as 1e-8.
	for address, want := range map[string]float64{v1: 6.10, v2: 6} {
		c := shopv1.NewPricingClient(connect(t, address))
		var p *shopv1.Price
		var err error
		for range 3 {
			if p, err = c.Get(ctx, &shopv1.GetPriceRequest{Product: 3}); err == nil {
				break
			}
		}
		if err != nil || math.Abs(p.GetAmount()-want) > 1e-9 || p.GetCurrency() != "EUR" {
			t.Errorf("%v %v, want %g", p, err, want)
		}
	}
	c := shopv1.NewPricingClient(connect(t, v1))
	var got []int32
	var err error
	for range 3 {
		got = got[:0]
		stream, serr := c.List(ctx, &shopv1.ListPricesRequest{Products: []int32{9, 2, Products + 1, 5}})
		if serr != nil {
			t.Fatal(serr)
		}
		for {
			p, rerr := stream.Recv()
			if rerr != nil {
				err = rerr
				break
			}
			got = append(got, p.GetProduct())
		}
		if status.Code(err) != codes.Internal {
			break
		}
	}
	if !slices.Equal(got, []int32{9, 2}) || status.Code(err) != codes.NotFound {
		t.Errorf("%v, then %v", got, err)
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
		io.WriteString(w, `{"id":1}`)
	}))
	defer dep.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	called := grpc.NewServer()
	shopv1.RegisterPricingServer(called, &told{seen: seen})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = called.Serve(l)
	}()
	defer func() { called.Stop(); <-served }()
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
	app, _ = start(t, Config{Service: "catalog", Hosts: map[string]string{"pricing": l.Addr().String(), "inventory": addr}})
	ask("http://"+app+"/products/3", "Traceparent", parent, "Tracestate", "a=b", "X-Request-Id", "r1", "Cookie", "secret")
	ask("http://"+app+"/products", "Traceparent", parent, "Tracestate", "a=b", "X-Request-Id", "r1", "Cookie", "secret")
	for range 3 { // inventory over HTTP, pricing by a unary call and by a stream
		h := <-seen
		if h.Get("Traceparent") != parent || h.Get("Tracestate") != "a=b" || h.Get("X-Request-Id") != "r1" {
			t.Errorf("catalog sent %v", h)
		}
		if h.Get("Cookie") != "" {
			t.Error("catalog forwarded the cookie")
		}
	}
}

// told is a pricing service that shows the metadata of its calls.
type told struct {
	shopv1.UnimplementedPricingServer
	seen chan http.Header
}

func (s *told) show(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	h := http.Header{}
	for k, v := range md {
		h[http.CanonicalHeaderKey(k)] = v
	}
	s.seen <- h
}

func (s *told) Get(ctx context.Context, r *shopv1.GetPriceRequest) (*shopv1.Price, error) {
	s.show(ctx)
	return &shopv1.Price{Product: r.GetProduct(), Amount: 1, Currency: "EUR"}, nil
}

func (s *told) List(r *shopv1.ListPricesRequest, stream grpc.ServerStreamingServer[shopv1.Price]) error {
	s.show(stream.Context())
	for _, id := range r.GetProducts() {
		if err := stream.Send(&shopv1.Price{Product: id, Amount: 1, Currency: "EUR"}); err != nil {
			return err
		}
	}
	return nil
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
