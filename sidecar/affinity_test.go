package sidecar

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Requests of one session stay at one endpoint, by a cookie that the sidecar sets once, by a header field or by a query parameter, whichever versions of HTTP are
// on both sides.
func TestAffinity(t *testing.T) {
	for _, from := range []struct {
		name   string
		caller func(testing.TB) *http.Client
	}{{"HTTP/1.1", client}, {"HTTP/2", h2client}} {
		for _, to := range []struct {
			name   string
			app    func(testing.TB, http.HandlerFunc) netip.AddrPort
			speaks flow.Protocol
		}{{"HTTP/1.1", app, flow.ProtocolHTTP1}, {"HTTP/2", h2app, flow.ProtocolHTTP2}} {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				var apps []netip.AddrPort
				for i := range 4 {
					apps = append(apps, to.app(t, func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Set-Cookie", "own=1")
						w.Header().Set("X-App", fmt.Sprint(i, " ", r.Header.Get("Cookie")))
						_, _ = io.WriteString(w, "ok")
					}))
				}
				_, addr := front(t, func(s *policy.Service) {
					s.Protocol = to.speaks
					s.Balancer = policy.Balancer{Algorithm: policy.BalanceMaglev, Affinity: []policy.AffinityKey{
						{Kind: policy.AffinityHeader, Name: "x-user"},
						{Kind: policy.AffinityQuery, Name: "user"},
						{Kind: policy.AffinityCookie, Name: "sid", Generate: true, TTL: time.Hour, Path: "/", Attributes: []policy.CookieAttribute{{Name: "SameSite", Value: "Lax"}}},
					}}
				}, apps...)
				c := from.caller(t)
				ask := func(path string, header http.Header) (app string, set []string) {
					t.Helper()
					req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr.String()+path, nil)
					if err != nil {
						t.Fatal(err)
					}
					req.Header = header
					resp, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || string(body) != "ok" || len(resp.Header["Set-Cookie"]) == 0 || resp.Header["Set-Cookie"][0] != "own=1" {
						t.Fatalf("%q, %v, %v", body, err, resp.Header)
					}
					app, _, _ = strings.Cut(resp.Header.Get("X-App"), " ")
					return app, resp.Header["Set-Cookie"][1:]
				}
				seen := map[string]bool{}
				for range 60 {
					app, set := ask("/", http.Header{"Cookie": {"other=x"}})
					seen[app] = true
					if len(set) != 1 || !strings.HasPrefix(set[0], "sid=") || !strings.HasSuffix(set[0], "; Max-Age=3600; Path=/; SameSite=Lax; HttpOnly") {
						t.Fatalf("Set-Cookie %q", set)
					}
					pair, _, _ := strings.Cut(set[0], ";")
					for range 3 {
						again, set := ask("/", http.Header{"Cookie": {"other=x; " + pair}})
						if again != app || len(set) != 0 {
							t.Fatalf("the session of app %s went to %s, Set-Cookie %q", app, again, set)
						}
					}
				}
				if len(seen) != 4 {
					t.Errorf("60 sessions went to %v, want all of 4", seen)
				}
				users := map[string]string{}
				for i := range 120 {
					user := fmt.Sprint("u", i%40)
					var app string
					var set []string
					if i%3 == 0 {
						app, set = ask("/a?x=1&user="+user, nil)
					} else {
						app, set = ask("/b?user=z", http.Header{"X-User": {user}})
					}
					if users[user] == "" {
						users[user] = app
					}
					if users[user] != app || len(set) != 0 {
						t.Errorf("%s went to %s and to %s, Set-Cookie %q", user, users[user], app, set)
					}
				}
			})
		}
	}
}

// An endpoint that says when to come back is left alone until then.
func TestRetryAfter(t *testing.T) {
	for _, to := range []struct {
		name   string
		app    func(testing.TB, http.HandlerFunc) netip.AddrPort
		speaks flow.Protocol
	}{{"HTTP/1.1", app, flow.ProtocolHTTP1}, {"HTTP/2", h2app, flow.ProtocolHTTP2}} {
		for _, from := range []func(testing.TB) *http.Client{client, h2client} {
			for _, status := range []int{429, 503} {
				var asked atomic.Int32
				busy := to.app(t, func(w http.ResponseWriter, _ *http.Request) {
					asked.Add(1)
					w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
					w.WriteHeader(status)
				})
				idle := func() netip.AddrPort { return to.app(t, func(http.ResponseWriter, *http.Request) {}) }
				_, addr := front(t, func(s *policy.Service) { s.Protocol = to.speaks }, busy, idle(), idle())
				c := from(t)
				for range 150 {
					req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr.String()+"/", nil)
					if err != nil {
						t.Fatal(err)
					}
					resp, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					_ = resp.Body.Close()
				}
				if n := asked.Load(); n > 1 {
					t.Errorf("%s, %d: it was asked %d times", to.name, status, n)
				}
			}
		}
	}
}
