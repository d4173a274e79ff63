package sidecar

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// TestCallerLeaves: when a caller over HTTP/1.1 closes its connection before it is answered, both sidecars give its request up, and the application hears of it, whichever
// version of HTTP it speaks. Otherwise what nobody waits for would hold its places until the deadline.
func TestCallerLeaves(t *testing.T) {
	for _, protocol := range []flow.Protocol{flow.ProtocolHTTP1, flow.ProtocolHTTP2} {
		t.Run(policy.ProtocolName(protocol), func(t *testing.T) {
			begun, left := make(chan struct{}, 1), make(chan struct{}, 1)
			serve := app
			if protocol == flow.ProtocolHTTP2 {
				serve = h2app
			}
			at := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/slow" {
					_, _ = io.WriteString(w, "hello")
					return
				}
				begun <- struct{}{}
				<-r.Context().Done()
				left <- struct{}{}
			})
			ca := testmesh.NewCA(t)
			catalog := start(t, serverSnapshot("catalog", at, policy.ModeStrict, protocol), ca.Holder("catalog"), 0)
			service := mesh("catalog")
			service.Protocol = protocol
			web := start(t, clientSnapshot(service, catalog.addr(t, "inbound")), ca.Holder("web"), 0)
			c, err := net.Dial("tcp", web.addr(t, "outbound").String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo") // what it has begun to send besides does not hide that it leaves
			testmesh.Eventually(t, "the application has the request", func() bool { return len(begun) == 1 })
			_ = c.Close()
			testmesh.Eventually(t, "the application hears that its caller has left", func() bool { return len(left) == 1 })
			for _, r := range []*running{web, catalog} {
				testmesh.Eventually(t, "the Record says it", func() bool {
					all := r.rec.Closed(flow.KindExchange)
					return len(all) == 1 && all[0].Reason == flow.ReasonDownstreamReset && all[0].Status == 0
				})
			}
			// Who stays gets its answer, however late; and nothing is left of the one that left.
			c, err = net.Dial("tcp", web.addr(t, "outbound").String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("%v, %v", resp, err)
			}
		})
	}
}
