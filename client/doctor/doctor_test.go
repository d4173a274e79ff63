package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/client"
)

var now = time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC)

// world is what a fake observer says: by path, and by a part of a query.
type world struct {
	paths   map[string]string
	queries map[string]string // part of the expression → samples, "label=value … value" one a line
}

// well is a mesh in which nothing is wrong.
func well() world {
	return world{
		paths: map[string]string{
			"/readyz":                `{}`,
			"/api/tulle/v1/stats":    `{"version":"v1","disk":{"path":"/data","freeBytes":50000000000,"totalBytes":100000000000},"notices":[{"severity":"info","message":"hello"}]}`,
			"/api/tulle/v1/proxies":  `{"proxies":[` + proxy(``) + `]}`,
			"/api/tulle/v1/graph":    `{"nodes":[{"id":"bank","kind":"external"},{"id":"mail","kind":"service"}]}`,
			"/api/tulle/v1/services": `{}`,
		},
		queries: map[string]string{"tulle_service_endpoints)": "service=mail 2", "tulle_service_endpoints_available": "service=mail 2"},
	}
}

// proxy is a sidecar that is well, with more, which wins.
func proxy(more string) string {
	p := map[string]any{
		"instance": "mail-1", "service": "mail", "namespace": "shop", "version": "v1", "connected": true, "reporting": true, "acked": "r1", "wanted": "r1",
		"clockOffsetNs": 5_000_000, "certNotAfter": now.Add(12 * time.Hour),
	}
	if err := json.Unmarshal([]byte("{"+more+"}"), &p); err != nil {
		panic(err)
	}
	b, _ := json.Marshal(p)
	return string(b)
}

func (w world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if expr := r.URL.Query().Get("query"); r.URL.Path == "/api/v1/query" {
		type result struct {
			Metric map[string]string `json:"metric"`
			Value  []any             `json:"value"`
		}
		list := []result{}
		for part, samples := range w.queries {
			if !strings.Contains(expr, part) {
				continue
			}
			for line := range strings.Lines(samples) {
				words := strings.Fields(line)
				s := result{Metric: map[string]string{}, Value: []any{1.5, words[len(words)-1]}}
				for _, l := range words[:len(words)-1] {
					k, v, _ := strings.Cut(l, "=")
					s.Metric[k] = v
				}
				list = append(list, s)
			}
		}
		_ = json.NewEncoder(rw).Encode(map[string]any{"data": map[string]any{"resultType": "vector", "result": list}})
		return
	}
	body, ok := w.paths[r.URL.Path]
	if !ok {
		rw.WriteHeader(http.StatusServiceUnavailable)
		body = `{"error":{"message":"it is away"}}`
	}
	_, _ = rw.Write([]byte(body))
}

func examine(t *testing.T, w world) Report {
	t.Helper()
	s := httptest.NewServer(w)
	defer s.Close()
	r, err := Examine(t.Context(), client.New(s.URL), now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWell(t *testing.T) {
	r := examine(t, well())
	if r.Level != OK || len(r.Results) != len(checks) {
		t.Errorf("%+v", r)
	}
	for _, result := range r.Results {
		if len(result.Findings) != 1 || result.Findings[0].What == "" || result.Findings[0].Level != OK {
			t.Errorf("%+v", result)
		}
	}
}

// Every check finds what it is for, in words that name what, and what to do; and no other check minds.
func TestIll(t *testing.T) {
	proxies := func(list ...string) func(w *world) {
		return func(w *world) { w.paths["/api/tulle/v1/proxies"] = `{"proxies":[` + strings.Join(list, ",") + `]}` }
	}
	path := func(p, body string) func(w *world) { return func(w *world) { w.paths[p] = body } }
	query := func(part, samples string) func(w *world) { return func(w *world) { w.queries[part] = samples } }
	const timeouts, http = `outcome="timeout"`, `protocol=~`
	tested := map[string]bool{}
	for _, c := range []struct {
		check string
		ill   func(w *world)
		level Level
		want  string // part of SUBJECT|WHAT|DO|YAML of the first finding
	}{
		{"observer", func(w *world) { delete(w.paths, "/readyz") }, Fail, "not ready: the observer answered 503"},
		{"observer", path("/api/tulle/v1/stats", `{"version":"v1","notices":[{"severity":"warning","message":"The controller is away.","action":"Start it."}]}`), Warn, "|The controller is away.|Start it."},
		{"sidecars", proxies(proxy(`"connected":false,"since":"2026-11-20T13:59:00Z"`)), Fail, "mail-1|The sidecar is not connected to the controller since 2026-11-20T13:59:00Z (1m0s)"},
		{"sidecars", proxies(proxy(`"connected":false,"reporting":false,"wanted":"","acked":""`)), Fail, "mail-1|No sidecar runs for this workload"},
		{"sidecars", proxies(proxy(`"reporting":false`)), Warn, "mail-1|The sidecar does not report"},
		{"policy", proxies(proxy(`"acked":"r0","nack":"listener x: no"`)), Fail, "mail-1|The sidecar refused revision r1 and keeps r0: listener x: no|Correct"},
		{"policy", proxies(proxy(`"acked":""`)), Warn, "mail-1|The sidecar runs on revision none, r1 is meant for it."},
		{"versions", proxies(proxy(`"version":"v0"`)), Warn, "mail-1|The sidecar is version v0, the observer v1."},
		{"certificates", proxies(proxy(`"certNotAfter":"2026-11-20T14:30:00Z"`)), Warn, "mail-1|The certificate ends in 30m0s"},
		{"certificates", proxies(proxy(`"certNotAfter":"2026-11-20T13:59:59Z"`)), Fail, "mail-1|The certificate ended at 2026-11-20T13:59:59Z"},
		{"clocks", proxies(proxy(`"clockOffsetNs":-3000000000`)), Warn, "mail-1|The clock is 3s behind the observer's.|Set it (NTP)"},
		{"clocks", proxies(proxy(`"clockOffsetNs":61000000000`)), Fail, "mail-1|The clock is 1m1s ahead of"},
		{"telemetry", query("tulle_records_dropped_total", "service=mail reason=queue_full 12"), Warn, "mail|12 records were dropped in the last hour: queue_full. They are counted all the same.|The observer was away"},
		{"telemetry", query("tulle_sidecar_series_folded_total", "service=mail family=tulle.exchanges 3"), Warn, "mail|3 new series of tulle.exchanges"},
		{"disk", path("/api/tulle/v1/stats", `{"version":"v1","disk":{"path":"/data","freeBytes":3000000000,"totalBytes":100000000000}}`), Warn, "|2.8 GiB of 93.1 GiB are free (3 %) at /data.|Make room"},
		{"disk", path("/api/tulle/v1/stats", `{"version":"v1","disk":{"path":"/data","freeBytes":300000000,"totalBytes":1000000000}}`), Fail, "|286 MiB of 954 MiB"},
		{"endpoints", query("tulle_service_endpoints)", "service=mail 2\nservice=void 0"), Fail, "void|The service has no endpoint"},
		{"endpoints", query("tulle_service_endpoints_available", "service=mail 0"), Fail, "mail|All 2 endpoints are ejected."},
		{"endpoints", query("tulle_service_endpoints_available", "service=mail 1"), Warn, "mail|1 of 2 endpoints are ejected."},
		{"detection", query(timeouts, "destination=mail side=server port=25 41"), Warn, "mail:25|41 connections in the last hour waited for a caller that never spoke first; the server does.|In every Workload of service mail, add to the entry of spec.ports that listens on port 25:|opaque: true"},
		{"detection", query(timeouts, "destination=mail side=client port=9001 41"), Warn, "mail:9001|41 connections in the last hour waited for a caller that never spoke first; the server does.|In every Workload of service mail, add to the first entry of spec.ports:|opaque: true"},
		{"detection", query(timeouts, "destination=bank side=client port=3306 7"), Warn, "|In the ExternalService bank, add to spec:|opaque: true"},
		{"detection", query(timeouts, "destination=mail side=client port=other 7"), Warn, "|Declare what its ports speak.|"},
		{"detection", func(w *world) {
			w.queries[timeouts], w.queries[http] = "destination=mail side=client port=80 7", "destination=mail side=client port=80 900"
		}, Warn, "others were HTTP.|Give what is not HTTP a port of its own"},
	} {
		tested[c.check] = true
		w := well()
		c.ill(&w)
		r := examine(t, w)
		if r.Level != c.level {
			t.Errorf("%s %q: %s", c.check, c.want, r.Level)
		}
		for _, result := range r.Results {
			f := result.Findings[0]
			got := fmt.Sprintf("%s|%s|%s|%s", f.Subject, f.What, f.Do, f.YAML)
			switch {
			case result.Check != c.check:
				if result.Level != OK {
					t.Errorf("%s %q: %s says %s", c.check, c.want, result.Check, got)
				}
			case result.Level != c.level || !strings.Contains(got, c.want) || f.Do == "":
				t.Errorf("%s: %s %s\nwant %s", c.check, result.Level, got, c.want)
			}
		}
	}
	for _, k := range checks {
		if !tested[k.name] {
			t.Errorf("check %q has no case", k.name)
		}
	}
}

// What cannot be read is never health; nobody there is an error.
func TestCannotLook(t *testing.T) {
	w := well()
	w.paths = map[string]string{"/readyz": `{}`}
	r := examine(t, w)
	if r.Level != Fail {
		t.Errorf("%+v", r)
	}
	for _, result := range r.Results {
		if result.Level == OK && result.Check != "telemetry" && result.Check != "endpoints" { // which ask what answers still
			t.Errorf("%+v", result)
		}
	}
	s := httptest.NewServer(w)
	s.Close()
	if _, err := Examine(t.Context(), client.New(s.URL), now); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("nobody: %v", err)
	}
}

// A kind of finding does not flood the report, and the worst come first.
func TestMany(t *testing.T) {
	var list []string
	for i := range 50 {
		more := fmt.Sprintf(`"instance":"m-%02d","version":"v0"`, i)
		if i == 49 {
			more += `,"nack":"no"`
		}
		list = append(list, proxy(more))
	}
	w := well()
	w.paths["/api/tulle/v1/proxies"] = `{"proxies":[` + strings.Join(list, ",") + `]}`
	for _, result := range examine(t, w).Results {
		switch n := len(result.Findings); result.Check {
		case "versions":
			if n != maxFindings+1 || result.Findings[n-1].What != "And 30 more." {
				t.Errorf("%d findings, the last %+v", n, result.Findings[n-1])
			}
		case "policy":
			if n != 1 || result.Findings[0].Subject != "m-49" {
				t.Errorf("%+v", result)
			}
		}
	}
}
