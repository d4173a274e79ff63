package sidecar

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// One of three endpoints fails, behind a sidecar of its own: after five failures in a row it is out, one real request finds out whether it is well again, at the second time it is,
// and it has its share again. Through two sidecars with mTLS, in virtual time.
func TestLocalEjection(t *testing.T) {
	emptyPools()
	defer emptyPools()
	ca := testmesh.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		w := &randomWorld{t: t, net: testmesh.NewNet()}
		var stops []func()
		var ends []netip.AddrPort
		var asked [3]atomic.Int64
		var fails atomic.Bool
		for i := range 3 {
			at := host(1, byte(i+1))
			l, err := w.net.Listen(netip.AddrPortFrom(at, 80))
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if asked[i].Add(1); i == 1 && fails.Load() {
					w.WriteHeader(http.StatusInternalServerError)
				}
			})}
			served := make(chan struct{})
			go func() {
				defer close(served)
				_ = srv.Serve(l)
			}()
			theirs := serverSnapshot("shop", netip.AddrPortFrom(at, 80), policy.ModeStrict, flow.ProtocolHTTP)
			theirs.Listeners[0].Address = netip.AddrPortFrom(at, 8080)
			r := w.launch(w.checked(theirs), ca.Holder("shop"), at, time.Second)
			stops = append(stops, r.stop, func() { _ = srv.Close(); <-served })
			ends = append(ends, netip.AddrPortFrom(at, 8080))
		}
		sv := mesh("shop")
		sv.Balancer.Algorithm = policy.BalanceRoundRobin
		ours := clientSnapshot(sv, ends...)
		front := netip.AddrPortFrom(host(0, 1), 80)
		ours.Listeners[0].Address = front
		web := w.launch(w.checked(ours), ca.Holder("web"), host(0, 1), time.Second)
		dial := w.net.Dialer(host(3, 1))
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, front) }}
		c := &http.Client{Transport: tr}
		post := func() bool { // which nobody sends again
			resp, err := c.Post("http://shop/", "text/plain", strings.NewReader("order"))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			synctest.Wait()
			return resp.StatusCode == 200
		}
		// for d sends a request every 20 ms, and counts those that failed, and those that the bad one got.
		during := func(d time.Duration) (failed, got int) {
			before := asked[1].Load()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if !post() {
					failed++
				}
			}
			return failed, int(asked[1].Load() - before)
		}
		if failed, got := during(time.Second); failed != 0 || got < 15 {
			t.Fatalf("while all is well %d failed, and the second has %d of 50", failed, got)
		}
		fails.Store(true)
		for range 15 {
			_ = post()
		}
		list := web.Ejections()
		if len(list) != 1 {
			t.Fatalf("after five failures in a row: %+v", list)
		}
		first := list[0]
		if term := first.Until.Sub(first.At); first.Endpoint != ends[1].String() || first.Service != "shop" || first.Why != "errors" || first.Times != 1 || term < 800*time.Millisecond || term > 1200*time.Millisecond {
			t.Errorf("%+v", first)
		}
		if failed, got := during(time.Until(first.Until) - 20*time.Millisecond); failed != 0 || got != 0 {
			t.Errorf("while it is out %d requests failed, and it got %d", failed, got)
		}
		// The term is over: one request asks, fails, and the next term is longer.
		failed, got := during(400 * time.Millisecond)
		list = web.Ejections()
		if failed != 1 || got != 1 || len(list) != 2 {
			t.Fatalf("%d requests failed, it got %d: %+v", failed, got, list)
		}
		if second := list[1]; second.Times != 2 || second.Until.Sub(second.At) < 1600*time.Millisecond || second.Until.Sub(second.At) > 2400*time.Millisecond {
			t.Errorf("the second time: %+v", second)
		}
		if e := web.Endpoints(); len(e) != 3 || e[1].Ejection == nil || e[0].Ejection != nil || e[2].Ejection != nil {
			t.Errorf("what is known of the endpoints: %+v", e)
		}
		if s := web.Saturation(); len(s) != 1 || s[0].Ejected != 1 || len(s[0].Out) != 1 || s[0].Out[0] != (flow.Out{Endpoint: ends[1].String(), Why: "errors", Until: list[1].Until}) {
			t.Errorf("%+v", s)
		}
		fails.Store(false)
		if failed, got := during(time.Until(list[1].Until) - 20*time.Millisecond); failed != 0 || got != 0 {
			t.Errorf("until its second term is over %d requests failed, and it got %d, although it is well", failed, got)
		}
		if failed, got := during(2 * time.Second); failed != 0 || got < 30 {
			t.Errorf("well again: %d requests failed, and it got %d of 100", failed, got)
		}
		if list := web.Ejections(); len(list) != 2 || web.Saturation()[0].Ejected != 0 {
			t.Errorf("%+v", list)
		}
		tr.CloseIdleConnections()
		web.stop()
		for _, stop := range stops {
			stop()
		}
		probes := 0
		for _, a := range web.rec.Closed(flow.KindAttempt) {
			if a.Probe {
				if probes++; a.Endpoint != ends[1] || (a.Status == 500) != (probes == 1) {
					t.Errorf("probe %d: %+v", probes, a)
				}
			}
		}
		if probes != 2 {
			t.Errorf("%d real requests were probes, want 2", probes)
		}
	})
}
