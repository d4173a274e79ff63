package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

func TestPages(t *testing.T) {
	var notReady error
	var snapshot *policy.Snapshot
	drained := 0
	s := New(Config{
		Ready:    func() error { return notReady },
		Metrics:  func(w io.Writer) { _, _ = io.WriteString(w, "up 1\n") },
		Snapshot: func() *policy.Snapshot { return snapshot },
		Drain:    func() { drained++ },
	})
	do := func(method, path string, status int, body string) string {
		t.Helper()
		r := httptest.NewRequest(method, "http://127.0.0.1:15000"+path, nil)
		r.RemoteAddr = "127.0.0.1:9"
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != status || !strings.Contains(w.Body.String(), body) {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, w.Code, w.Body, status, body)
		}
		return w.Body.String()
	}
	do("GET", "/", 200, "/readyz")
	do("GET", "/healthz", 200, "ok")
	do("GET", "/readyz", 200, "ready")
	notReady = errors.New("no policy yet")
	do("GET", "/readyz", 503, "not ready: no policy yet")
	do("GET", "/healthz", 200, "ok")
	do("GET", "/metrics", 200, "up 1")
	do("GET", "/config", 503, "no policy yet")
	snapshot = &policy.Snapshot{Revision: "r7", Listeners: []policy.Listener{{Name: "inbound", Side: flow.SideServer, Protocol: flow.ProtocolHTTP1}}}
	var got map[string]any
	if err := json.Unmarshal([]byte(do("GET", "/config", 200, `"server"`)), &got); err != nil || got["Revision"] != "r7" {
		t.Errorf("%v %v", got, err)
	}
	do("GET", "/drain", 405, "")
	if drained != 0 {
		t.Error("GET drained")
	}
	do("POST", "/drain", 202, "draining")
	if drained != 1 {
		t.Errorf("drained %d times", drained)
	}
	do("GET", "/debug/pprof/", 200, "goroutine")
	do("GET", "/nothing", 404, "")
}

func TestMetricsFormats(t *testing.T) {
	s := New(Config{
		Metrics: func(w io.Writer) { _, _ = io.WriteString(w, "text\n") },
		Open:    func(w io.Writer) { _, _ = io.WriteString(w, "open\n") },
	})
	for accept, want := range map[string]string{
		"":                             "text",
		"*/*":                          "text",
		"application/openmetrics-text": "open",
		"application/openmetrics-text; version=1.0.0":          "open",
		"application/openmetrics-text;version=2.0.0":           "text",
		"application/openmetrics-text;q=0":                     "text",
		"application/openmetrics-text;q=0.2, text/plain;q=0.5": "text",
		"application/openmetrics-text;q=x":                     "text",
		// What Prometheus 3 sends.
		"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1": "open",
	} {
		r := httptest.NewRequest("GET", "http://127.0.0.1:15000/metrics", nil)
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if got := strings.TrimSpace(w.Body.String()); got != want || strings.Contains(w.Header().Get("Content-Type"), "openmetrics") != (want == "open") || w.Header().Get("Vary") != "Accept" {
			t.Errorf("Accept %q: got %q as %q", accept, got, w.Header().Get("Content-Type"))
		}
	}
}

func TestStrangers(t *testing.T) {
	drained := false
	s := New(Config{Hosts: []string{"cart.shop"}, Drain: func() { drained = true }})
	for _, c := range []struct {
		name, host, origin, site string
		allowed                  bool
	}{
		{"curl", "127.0.0.1:15000", "", "", true},
		{"other loopback address", "127.0.0.2", "", "", true},
		{"IPv6", "[::1]:15000", "", "", true},
		{"IPv6 without port", "[::1]", "", "", true},
		{"name", "LocalHost:15000", "", "", true},
		{"configured", "cart.shop:15000", "", "", true},
		{"own page", "localhost:15000", "http://localhost:15000", "same-origin", true},
		{"typed into a browser", "localhost:15000", "", "none", true},
		{"rebound name", "evil.example:15000", "", "", false},
		{"looks local", "localhost.evil.example", "", "", false},
		{"another machine's address", "10.1.2.3:15000", "", "", false},
		{"no host", "", "", "", false},
		{"page of a stranger", "127.0.0.1:15000", "https://evil.example", "", false},
		{"sandboxed page", "127.0.0.1:15000", "null", "", false},
		{"garbage", "127.0.0.1:15000", "http://%zz", "", false},
		{"form of a stranger", "127.0.0.1:15000", "", "cross-site", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			drained = false
			r := httptest.NewRequest("POST", "/drain", nil)
			r.RemoteAddr = "127.0.0.1:9"
			r.Host = c.host
			for k, v := range map[string]string{"Origin": c.origin, "Sec-Fetch-Site": c.site} {
				if v != "" {
					r.Header.Set(k, v)
				}
			}
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if drained != c.allowed || !c.allowed && (w.Code != 403 || !strings.HasPrefix(w.Body.String(), "forbidden: ")) {
				t.Errorf("drained %v, %d %s", drained, w.Code, w.Body)
			}
		})
	}
}

func TestRun(t *testing.T) {
	s := New(Config{Address: "127.0.0.1:0"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() {}) }()
	addr := s.Addr()
	response, err := http.Get("http://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 {
		t.Error(response.Status)
	}
	if err := New(Config{Address: addr}).Run(ctx, func() {}); err == nil || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("a port in use must say what to do: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Where the page listens for others, these get health and metrics; what tells or changes more is for callers on this machine, by whatever address of it.
func TestOthers(t *testing.T) {
	s := New(Config{
		Hosts: []string{"10.0.0.5"}, Ready: func() error { return nil }, Metrics: func(io.Writer) {}, Drain: func() { t.Error("drained") }, Quit: func() { t.Error("quit") },
		Snapshot: func() *policy.Snapshot { return &policy.Snapshot{} },
	})
	ask := func(method, path, from string) int {
		r := httptest.NewRequest(method, "http://10.0.0.5:15000"+path, nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: 15000}))
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w.Code
	}
	for path, open := range map[string]bool{"/healthz": true, "/readyz": true, "/metrics": true, "/config": false, "/debug/pprof/": false, "/debug/pprof/cmdline": false} {
		want := map[bool]int{true: 200, false: 403}[open]
		if got := ask("GET", path, "10.0.0.6:1234"); got != want {
			t.Errorf("%s from another machine: %d, want %d", path, got, want)
		}
		for _, from := range []string{"127.0.0.1:1234", "[::1]:1234", "10.0.0.5:1234", "[::ffff:10.0.0.5]:1234"} {
			if got := ask("GET", path, from); got != 200 {
				t.Errorf("%s from %s: %d, want 200", path, from, got)
			}
		}
	}
	for _, path := range []string{"/drain", "/quit"} {
		if got := ask("POST", path, "10.0.0.6:1234"); got != 403 {
			t.Errorf("%s from another machine: %d, want 403", path, got)
		}
	}
}
