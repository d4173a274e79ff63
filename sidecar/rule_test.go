package sidecar

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// What a rule says of times and retries counts in place of what the service says, through two sidecars.
func TestARuleHasTheLastWord(t *testing.T) {
	ca := testmesh.NewCA(t)
	release := make(chan struct{})
	defer close(release)
	var asked atomic.Int32
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/slow":
			<-release
		case asked.Add(1)%3 != 0:
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	server := start(t, serverSnapshot("catalog", at, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("catalog"), 100*time.Millisecond)
	snap := clientSnapshot(mesh("catalog"), server.addr(t, "inbound"))
	to := []route.Backend{{Service: "catalog", Weight: 1}}
	snap.Routes = map[string][]route.Rule{"catalog": {
		{
			Name: "slow", Matches: []route.Match{{Path: route.Path{Kind: route.PathExact, Value: "/slow"}}},
			Action: route.Action{Backends: to, Timeouts: route.Timeouts{Request: 200 * time.Millisecond}},
		},
		{
			Name: "flaky", Matches: []route.Match{{Path: route.Path{Kind: route.PathExact, Value: "/flaky"}}},
			Action: route.Action{Backends: to, Retry: &route.Retry{Attempts: 3, Statuses: []int{500}, Backoff: time.Millisecond}},
		},
	}}
	web := start(t, snap, ca.Holder("web"), 100*time.Millisecond)
	c := client(t)
	for _, tc := range []struct {
		path   string
		status int
		reason string
		tries  int32
	}{{"/slow", 504, "request_timeout", 0}, {"/flaky", 200, "", 3}, {"/else", 500, "", 1}} {
		asked.Store(0)
		began := time.Now()
		resp, err := c.Post("http://"+web.addr(t, "outbound").String()+tc.path, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != tc.status || resp.Header.Get("x-tulle-reason") != tc.reason || asked.Load() != tc.tries || time.Since(began) > 10*time.Second {
			t.Errorf("%s: status %d, reason %q, %d tries, after %v; want %d, %q and %d", tc.path, resp.StatusCode, resp.Header.Get("x-tulle-reason"), asked.Load(), time.Since(began), tc.status, tc.reason, tc.tries)
		}
	}
}
