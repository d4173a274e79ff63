package sidecar

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// pair is a mesh of two: web's sidecar and catalog's, in front of h.
func pair(t *testing.T, h http.HandlerFunc, says policy.Telemetry) (web, catalog *running) {
	t.Helper()
	ca := testmesh.NewCA(t)
	there := serverSnapshot("catalog", app(t, h), policy.ModePermissive, flow.ProtocolHTTP)
	there.Telemetry = says
	catalog = start(t, there, ca.Holder("catalog"), 0)
	here := clientSnapshot(mesh("catalog"), catalog.addr(t, "inbound"))
	here.Telemetry = says
	return start(t, here, ca.Holder("web"), 0), catalog
}

// The caller's sidecar learns from the far one where the time went, and nobody else does.
func TestFarTiming(t *testing.T) {
	const slow = 30 * time.Millisecond
	begun := make(chan struct{}) // the caller has the head of /early
	web, catalog := pair(t, func(w http.ResponseWriter, r *http.Request) {
		if v := r.Header.Get("x-tulle-timing"); v != "" {
			t.Errorf("the application saw x-tulle-timing %q", v)
		}
		w.Header().Set("x-tulle-timing", "h=1;q=1;s=1;f=999999") // an application may not speak for a sidecar
		if r.URL.Path == "/early" {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-begun
		}
		time.Sleep(slow)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d bytes", len(body))
	}, policy.Telemetry{})
	c := client(t)
	do := func(to netip.AddrPort, method, path, body string) {
		t.Helper()
		req, _ := http.NewRequest(method, "http://"+to.String()+path, strings.NewReader(body))
		req.Header.Set("x-tulle-timing", "h=1;q=1;s=1;f=5")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/early" {
			close(begun)
		}
		got, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if want := fmt.Sprintf("%d bytes", len(body)); string(got) != want && method != "HEAD" || resp.StatusCode != 200 {
			t.Fatalf("%s: %d %q, want %q", path, resp.StatusCode, got, want)
		}
		for name := range resp.Header {
			if strings.HasPrefix(strings.ToLower(name), "x-tulle-") {
				t.Errorf("%s: the caller saw %s: %s", path, name, resp.Header.Get(name))
			}
		}
	}
	for range 3 { // over new and pooled connections
		do(web.addr(t, "outbound"), "GET", "/slow", "")
	}
	do(web.addr(t, "outbound"), "POST", "/slow", strings.Repeat("b", 200_000))
	do(web.addr(t, "outbound"), "HEAD", "/slow", "")
	do(web.addr(t, "outbound"), "GET", "/early", "")
	do(catalog.addr(t, "inbound"), "GET", "/slow", "") // plaintext: no mesh peer
	web.stop()
	catalog.stop()
	for _, r := range web.rec.Closed(flow.KindExchange) {
		s, ok := r.Split()
		if !ok {
			t.Fatalf("%s %s: nothing is known of the far side: %+v %+v", r.Method, r.Path, r.Legs, r.Far)
		}
		if sum := s.Proxy + s.Queue + s.Connect + s.Network + s.Application + s.Transfer; sum != r.Duration {
			t.Errorf("%s %s: %+v adds up to %v, not %v", r.Method, r.Path, s, sum, r.Duration)
		}
		switch {
		case r.Path == "/early" && s.Transfer < slow:
			t.Errorf("the wait is in the body: %+v", s)
		// The far sidecar had it for all of the wait; how much of that it calls the application's hangs on when it came to look at its clock.
		case r.Path == "/slow" && (s.Application <= 0 || r.Far.FirstByte < slow || s.Network > r.Duration-slow):
			t.Errorf("the wait is not the network's: %+v of %v", s, r.Duration)
		}
	}
	for _, r := range catalog.rec.Closed(flow.KindExchange) {
		if r.Far.Known() {
			t.Errorf("a server exchange has a far side: %+v", r.Far)
		}
	}
}

// The steady path over mTLS allocates nothing of its own either, telling and hearing included: what is left is crypto/tls, which allocates once for
// each record it reads.
func TestMeshAllocations(t *testing.T) {
	ca := testmesh.NewCA(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf, resp := make([]byte, 4096), []byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write(resp); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	server := start(t, serverSnapshot("catalog", l.Addr().(*net.TCPAddr).AddrPort(), policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), 0)
	web := start(t, clientSnapshot(mesh("catalog"), server.addr(t, "inbound")), ca.Holder("web"), 0)
	server.observer.rec, web.observer.rec = nothing{}, nothing{}
	c, err := net.Dial("tcp", web.addr(t, "outbound").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	req := []byte("GET /items/7 HTTP/1.1\r\nHost: catalog\r\nb3: " + strings.Repeat("a", 32) + "-" + strings.Repeat("b", 16) + "-1\r\n\r\n")
	buf := make([]byte, 4096)
	for range 50 {
		roundTrip(t, c, req, buf)
	}
	n := testing.AllocsPerRun(3000, func() { roundTrip(t, c, req, buf) })
	t.Logf("%v allocations per request over both sidecars", n)
	if n > 2 && !raceEnabled {
		t.Errorf("%v allocations per request over both sidecars, want the 2 of crypto/tls", n)
	}
}

// B3 goes on in the form in which it came, W3C always does, and the spans of a B3 application stay in its trace.
func TestPropagation(t *testing.T) {
	const (
		trace = "80f198ee56343ba864fe8b2a57d3eff7"
		span  = "e457b5a2e4d86bd1"
		other = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	)
	for _, c := range []struct {
		name  string
		says  policy.Telemetry
		send  map[string]string
		trace string // of the exchange; "" for a new one
		flags byte
		want  map[string]string // at the application; SPAN is the server's span, PARENT its parent
	}{
		{"single", policy.Telemetry{}, map[string]string{"b3": trace + "-" + span + "-1"}, trace, 1, map[string]string{"b3": trace + "-SPAN-1-PARENT", "x-b3-traceid": ""}},
		{"multi", policy.Telemetry{}, map[string]string{"X-B3-TraceId": trace, "X-B3-SpanId": span, "X-B3-Sampled": "0", "X-B3-ParentSpanId": span}, trace, 0, map[string]string{
			"b3": "", "x-b3-traceid": trace, "x-b3-spanid": "SPAN", "x-b3-parentspanid": "PARENT", "x-b3-sampled": "0",
		}},
		{"debug", policy.Telemetry{}, map[string]string{"b3": trace + "-" + span + "-d"}, trace, 1, map[string]string{"b3": trace + "-SPAN-d-PARENT"}},
		{"deny", policy.Telemetry{}, map[string]string{"b3": "0"}, "", 0, map[string]string{"b3": "TRACE-SPAN-0-PARENT"}},
		{"both", policy.Telemetry{}, map[string]string{"b3": trace + "-" + span + "-1", "traceparent": other, "tracestate": "a=1"}, other[3:35], 1, map[string]string{
			"b3": other[3:35] + "-SPAN-1-PARENT", "tracestate": "a=1",
		}},
		{"b3 first", policy.Telemetry{Accept: []string{"b3", "w3c"}}, map[string]string{"b3": trace + "-" + span + "-1", "traceparent": other, "tracestate": "a=1"}, trace, 1, map[string]string{
			"b3": trace + "-SPAN-1-PARENT", "tracestate": "",
		}},
		{"none", policy.Telemetry{}, nil, "", 1, map[string]string{"b3": "", "x-b3-traceid": ""}},
		{"malformed", policy.Telemetry{}, map[string]string{"b3": trace + "-" + span + "-x"}, "", 1, map[string]string{"b3": "TRACE-SPAN-1-PARENT"}},
		{"not accepted", policy.Telemetry{Accept: []string{"w3c"}}, map[string]string{"b3": trace + "-" + span + "-1"}, "", 1, map[string]string{"b3": trace + "-" + span + "-1"}},
		{"w3c not accepted", policy.Telemetry{Accept: []string{"b3"}}, map[string]string{"traceparent": other, "tracestate": "a=1"}, "", 1, map[string]string{"b3": "", "tracestate": ""}},
		{"only w3c", policy.Telemetry{Emit: []string{"w3c"}}, map[string]string{"b3": trace + "-" + span + "-1"}, trace, 1, map[string]string{"b3": ""}},
		{"always multi", policy.Telemetry{Emit: []string{"w3c", "b3-multi"}}, nil, "", 1, map[string]string{"x-b3-traceid": "TRACE", "x-b3-spanid": "SPAN", "x-b3-sampled": "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var seen http.Header
			web, catalog := pair(t, func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() }, c.says)
			req, _ := http.NewRequest("GET", "http://"+web.addr(t, "outbound").String()+"/", nil)
			for k, v := range c.send {
				req.Header.Set(k, v)
			}
			resp, err := client(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			web.stop()
			catalog.stop()
			ex, se := web.rec.Closed(flow.KindExchange)[0], catalog.rec.Closed(flow.KindExchange)[0]
			if ex.Trace.Started != (c.trace == "") || c.trace != "" && ex.Trace.TraceID.String() != c.trace || ex.Trace.Flags != c.flags || se.Trace.TraceID != ex.Trace.TraceID {
				t.Errorf("web %+v, catalog %+v", ex.Trace, se.Trace)
			}
			if want := fmt.Sprintf("00-%s-%s-%02x", se.Trace.TraceID, se.Trace.SpanID, c.flags); seen.Get("traceparent") != want {
				t.Errorf("the application saw traceparent %q, want %q", seen.Get("traceparent"), want)
			}
			fill := strings.NewReplacer("TRACE", se.Trace.TraceID.String(), "SPAN", se.Trace.SpanID.String(), "PARENT", se.Trace.ParentID.String())
			for k, want := range c.want {
				if got := strings.Join(seen.Values(k), "|"); got != fill.Replace(want) {
					t.Errorf("the application saw %s %q, want %q", k, got, fill.Replace(want))
				}
			}
		})
	}
}

// What the allow-list names is kept of both heads and on both sides; nothing else is.
func TestHeadersByAllowList(t *testing.T) {
	web, catalog := pair(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["X-Cache"] = []string{"hit", "edge"}
		w.Header().Set("Set-Cookie", "SECRET")
	}, policy.Telemetry{Headers: []string{"x-tenant", "x-cache"}})
	req, _ := http.NewRequest("GET", "http://"+web.addr(t, "outbound").String()+"/", nil)
	req.Header.Set("X-Tenant", strings.Repeat("t", 1000))
	req.Header.Set("Cookie", "SECRET")
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	web.stop()
	catalog.stop()
	want := flow.Headers("<x-tenant:" + strings.Repeat("t", flow.MaxHeaderValue) + "\n>x-cache:hit, edge\n")
	for _, r := range []*running{web, catalog} {
		if got := r.rec.Closed(flow.KindExchange)[0].Headers; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, a := range web.rec.Closed(flow.KindAttempt) {
		if a.Headers != "" {
			t.Errorf("an attempt has headers: %q", a.Headers)
		}
	}
}
