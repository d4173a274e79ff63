package sidecar

import (
	"io"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// One of three endpoints takes requests and answers none of them, from some moment on: callers that have a second get their answers from the others, and one sidecar of a few
// requests is all that it takes. Of HTTP/1.1 and HTTP/2.
func TestAnEndpointThatHangsIsLeft(t *testing.T) {
	for _, protocol := range []flow.Protocol{flow.ProtocolHTTP1, flow.ProtocolHTTP2} {
		t.Run(protocol.String(), func(t *testing.T) {
			var hangs atomic.Bool
			release := make(chan struct{})
			var endpoints []netip.AddrPort
			for i := range 3 {
				h := func(http.ResponseWriter, *http.Request) {
					if i == 0 && hangs.Load() {
						<-release
					}
				}
				if protocol == flow.ProtocolHTTP2 {
					endpoints = append(endpoints, h2app(t, h))
				} else {
					endpoints = append(endpoints, app(t, h))
				}
			}
			defer close(release)
			r := start(t, clientSnapshot(policy.Service{Name: "cart", Protocol: protocol}, endpoints...), &identity.Holder{}, 100*time.Millisecond)
			c := client(t)
			c.Timeout = time.Second
			url := "http://" + r.addr(t, "outbound").String() + "/"
			get := func() bool {
				resp, err := c.Get(url)
				if err != nil {
					return false
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				return resp.StatusCode == 200
			}
			for began := time.Now(); time.Since(began) < 500*time.Millisecond; { // what is typical is worked out twenty times a second
				if !get() {
					t.Fatal("a request failed before anything hung")
				}
			}
			hangs.Store(true)
			late := func() (n int) {
				for _, a := range r.rec.Closed(flow.KindAttempt) {
					if a.Reason == flow.ReasonTryTimeout {
						n++
					}
				}
				return n
			}
			failed, asked := 0, 0
			for ; asked < 400 || asked < 8000 && asked%100 == 0 && late() == 0 || asked%100 != 0; asked++ { // it may be the last that the balancer would choose
				if !get() {
					failed++
				}
			}
			if failed > 0 {
				t.Errorf("%d of %d requests failed with one of three endpoints hanging", failed, asked)
			}
			if n := late(); n == 0 || n > 20 {
				t.Errorf("%d tries met the endpoint that hangs, want a few", n)
			}
		})
	}
}
