package sidecar

import (
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// web calls catalog, one of whose two applications is not there, and catalog calls prices, which is overloaded. What the far sidecar could not deliver is delivered to the other one, a POST
// as well; that it is a second try is in the Records of all who serve it, and what is called while it is served is not tried twice again. The application learns how much time is left, and nothing
// of tries.
func TestRetriesAcrossSidecars(t *testing.T) {
	for _, protocol := range []flow.Protocol{flow.ProtocolHTTP1, flow.ProtocolHTTP2} {
		t.Run(protocol.String(), func(t *testing.T) {
			ca := testmesh.NewCA(t)
			serve, c := app, client(t)
			if protocol == flow.ProtocolHTTP2 {
				serve, c = h2app, h2client(t)
			}
			busy := app(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
			prices := policy.Service{Name: "prices", Protocol: flow.ProtocolHTTP1, Balancer: policy.Balancer{Algorithm: policy.BalanceRandom}, Retry: policy.Retry{BudgetMin: 10000}} // none of its retries helps

			var mu sync.Mutex
			onward := netip.AddrPort{}
			var problems []string
			live := serve(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				body, _ := io.ReadAll(r.Body)
				left, err := strconv.Atoi(r.Header.Get("x-request-timeout-ms"))
				if string(body) != "a body" || err != nil || left <= 0 || left > 20000 || r.Header.Get("x-tulle-attempt") != "" {
					problems = append(problems, string(body)+" with "+strings.Join(r.Header.Values("x-request-timeout-ms"), ",")+r.Header.Get("x-tulle-attempt"))
				}
				call, _ := http.NewRequest(http.MethodGet, "http://"+onward.String()+"/price", nil)
				call.Header.Set("traceparent", r.Header.Get("traceparent"))
				if resp, err := client(t).Do(call); err != nil || resp.StatusCode != 503 {
					problems = append(problems, "prices")
				} else {
					_ = resp.Body.Close()
				}
			})
			snap := serverSnapshot("catalog", live, policy.ModeStrict, protocol)
			calls := clientSnapshot(prices, busy, busy)
			calls.Endpoints["prices"][1].Address = app(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
			calls.Listeners[0].Address = netip.MustParseAddrPort("127.0.0.2:0") // no two listeners have one address
			snap.Listeners, snap.Services, snap.Endpoints = append(snap.Listeners, calls.Listeners...), calls.Services, calls.Endpoints
			good := start(t, snap, ca.Holder("catalog"), time.Second)
			mu.Lock()
			onward = good.addr(t, "outbound")
			mu.Unlock()
			bad := start(t, serverSnapshot("catalog", netip.MustParseAddrPort("127.0.0.1:1"), policy.ModeStrict, protocol), ca.Holder("catalog"), time.Second)
			sv := mesh("catalog")
			sv.Protocol, sv.Balancer.Algorithm = protocol, policy.BalanceRandom
			web := start(t, clientSnapshot(sv, good.addr(t, "inbound"), bad.addr(t, "inbound")), ca.Holder("web"), time.Second)

			const requests = 40
			for range requests {
				r, _ := http.NewRequest(http.MethodPost, "http://"+web.addr(t, "outbound").String()+"/buy", strings.NewReader("a body"))
				r.Header.Set("x-request-timeout-ms", "20000")
				resp, err := c.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != 200 {
					t.Errorf("status %d: %s", resp.StatusCode, text)
				}
			}
			c.CloseIdleConnections()
			for _, s := range []*running{web, good, bad} {
				s.stop()
			}
			mu.Lock()
			for _, p := range problems {
				t.Errorf("the application saw: %s", p)
			}
			mu.Unlock()
			second := map[string]bool{} // traces of requests that came by a second try
			for _, e := range good.rec.Closed(flow.KindExchange) {
				if e.Side == flow.SideServer && e.Attempt != 0 {
					if e.Attempt != 2 {
						t.Errorf("attempt %d", e.Attempt)
					}
					second[e.Trace.TraceID.String()] = true
				}
			}
			if n := len(bad.rec.Closed(flow.KindExchange)); len(second) != n || n == 0 || n == requests {
				t.Errorf("%d of %d came by a second try, %d went wrong first", len(second), requests, n)
			}
			for _, e := range good.rec.Closed(flow.KindExchange) {
				if want := map[bool]int{true: 1, false: 2}[second[e.Trace.TraceID.String()]]; e.Side == flow.SideClient && e.Attempts != want {
					t.Errorf("prices was tried %d times, want %d", e.Attempts, want)
				}
			}
			for _, a := range web.rec.Closed(flow.KindAttempt) {
				if a.Failed() && !strings.Contains(a.Detail, "connect_refused") {
					t.Errorf("attempt %d: %v, %q", a.Attempt, a.Reason, a.Detail)
				}
			}
		})
	}
}
