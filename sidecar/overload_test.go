package sidecar

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// More comes than an application can do: its sidecar answers some of it itself, says why, and the caller's sidecar does not hold it against the endpoint. Of HTTP/1.1 and HTTP/2.
func TestOverload(t *testing.T) {
	for _, protocol := range []flow.Protocol{flow.ProtocolHTTP1, flow.ProtocolHTTP2} {
		t.Run(protocol.String(), func(t *testing.T) {
			ca := testmesh.NewCA(t)
			serve, c := app, client(t)
			if protocol == flow.ProtocolHTTP2 {
				serve, c = h2app, h2client(t)
			}
			var one sync.Mutex
			at := serve(t, func(http.ResponseWriter, *http.Request) {
				one.Lock()
				defer one.Unlock()
				time.Sleep(20 * time.Millisecond) // the work
			})
			snap := serverSnapshot("catalog", at, policy.ModeStrict, protocol)
			snap.Listeners[0].Adaptive = policy.Adaptive{Latency: 50 * time.Millisecond, MinRequests: 2}
			far := start(t, snap, ca.Holder("catalog"), time.Second)
			sv := mesh("catalog")
			sv.Protocol, sv.Retry.Attempts = protocol, 1
			web := start(t, clientSnapshot(sv, far.addr(t, "inbound")), ca.Holder("web"), time.Second)
			url := "http://" + web.addr(t, "outbound").String() + "/"

			var mu sync.Mutex
			shed := 0
			var wg sync.WaitGroup
			turned := func() int {
				mu.Lock()
				defer mu.Unlock()
				return shed
			}
			for began := time.Now(); turned() < 20 && time.Since(began) < 20*time.Second; time.Sleep(5 * time.Millisecond) { // 200 a second, four times what it can do
				wg.Go(func() {
					resp, err := c.Get(url)
					if err != nil {
						return
					}
					_ = resp.Body.Close()
					if resp.StatusCode == 200 {
						return
					}
					mu.Lock()
					defer mu.Unlock()
					shed++
					if h := resp.Header; resp.StatusCode != 503 || h.Get("x-tulle-reason") != "shed" || h.Get("retry-after") != "1" {
						t.Errorf("status %d, %v", resp.StatusCode, h)
					}
				})
			}
			wg.Wait()
			if shed < 20 {
				t.Fatalf("%d are shed", shed)
			}
			c.CloseIdleConnections()
			for _, s := range far.Saturation() {
				if s.Side == flow.SideServer && s.ShedAdaptive < 20 {
					t.Errorf("%+v", s)
				}
			}
			if e := web.Saturation(); e[len(e)-1].Ejected != 0 {
				t.Errorf("the endpoint is out: %+v", e)
			}
			far.stop()
			for _, r := range far.rec.Closed(flow.KindExchange) {
				if r.Reason == flow.ReasonShed && !strings.Contains(r.Detail, "the application is overloaded: ") {
					t.Fatalf("%q", r.Detail)
				}
			}
		})
	}
}
