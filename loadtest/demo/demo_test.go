//go:build unix

package demo

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/lint"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/store/event"
)

func TestConfigurationIsAcceptedByTheController(t *testing.T) {
	ws := plan(16000, 15000)
	meshed, external := 0, 0
	for _, w := range ws {
		if w.External {
			external++
		} else {
			meshed++
		}
	}
	found := map[string]int{}
	var docs []resource.Document
	for name, text := range map[string]string{"workloads": workloadsYAML(ws), "external": externalYAML(ws), "policies": policiesYAML} {
		for _, d := range resource.Decode(name, []byte(text)) {
			if d.Err != nil {
				t.Errorf("%s: %v", d.Position, d.Err)
			}
			found[d.Key.Kind]++
			docs = append(docs, d)
		}
	}
	if found["Workload"] != meshed || found["ExternalService"] != external || found["TrafficPolicy"] != 2 {
		t.Errorf("found %v, want %d workloads and %d external", found, meshed, external)
	}
	set, problems := resource.Resolve(docs, resource.EmptySet())
	endpoints, err := discovery.FromSet(set, "tulle.local")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lint.Run(lint.Input{Set: set, Problems: problems, Endpoints: endpoints}).Findings {
		if f.Severity != lint.Advice { // catalog's callers wait for it less long than it does for others: advice
			t.Error(f)
		}
	}
}

func TestPlanGivesEveryListenerItsOwnPort(t *testing.T) {
	seen := map[string]string{}
	for _, n := range Defaults().addresses(plan(16000, 15000)) {
		if other, ok := seen[n.address]; ok {
			t.Errorf("%s: %s and %s", n.address, other, n.what)
		}
		seen[n.address] = n.what
	}
	sidecars := 0
	for _, w := range plan(16000, 15000) {
		if w.Admin != "" {
			sidecars++
		}
		if w.Service == LoadInstance && w.Admin == "" {
			t.Error("the load generator is a workload and needs a sidecar")
		}
	}
	if seen["127.0.0.1:15000"] == "" || sidecars < 13 {
		t.Errorf("%d sidecars", sidecars)
	}
}

func TestPortInUseIsNamedWithItsFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	err = checkFree([]needed{{l.Addr().String(), "the dashboard", "--http"}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"port " + port, "the dashboard", "--http", "lsof -i :" + port} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Error("more than one line")
	}
	if err := checkFree([]needed{{"nonsense", "x", "--http"}}); err == nil || !strings.Contains(err.Error(), "--http") {
		t.Error(err)
	}
	if err := checkFree([]needed{{"127.0.0.1:1", "a", "--x"}, {"127.0.0.1:1", "b", "--y"}}); err == nil {
		t.Error("twice the same address was accepted")
	}
}

func TestDataDirRefusesForeignFolders(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(file, []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(dir, false); err == nil || !strings.Contains(err.Error(), "left alone") {
		t.Errorf("open: %v", err)
	}
	if removed, err := Clean(dir); removed || err == nil {
		t.Errorf("clean: %v %v", removed, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("the file is gone")
	}
	// A marker that is a link to somewhere else is not ours either.
	if err := os.Symlink(file, filepath.Join(dir, marker)); err != nil {
		t.Fatal(err)
	}
	if removed, err := Clean(dir); removed || err == nil {
		t.Errorf("clean with a linked marker: %v %v", removed, err)
	}
}

func TestDataDirIsLockedKeptAndCleaned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "demo")
	d, err := openDataDir(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(path, false); !errors.Is(err, ErrInUse) {
		t.Errorf("a second demo: %v", err)
	}
	if _, err := Clean(path); !errors.Is(err, ErrInUse) {
		t.Errorf("cleaning under a running demo: %v", err)
	}
	if err := os.WriteFile(d.join("spans"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.close()
	if _, err := os.Stat(d.lockFile()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the lock was left behind")
	}
	d, err = openDataDir(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.join("spans")); err != nil {
		t.Error("keep did not keep")
	}
	d.close()
	d, err = openDataDir(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.join("spans")); err == nil {
		t.Error("a fresh start kept old data")
	}
	d.close()
	if removed, err := Clean(path); !removed || err != nil {
		t.Errorf("clean: %v %v", removed, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the folder is still there")
	}
	if removed, err := Clean(path); removed || err != nil {
		t.Errorf("clean of nothing: %v %v", removed, err)
	}
}

func TestWebhookKeepsAndTells(t *testing.T) {
	var heard []string
	h := &webhook{heard: func(n Notification) {
		status, line := alertLine(n)
		heard = append(heard, status+": "+line)
	}}
	srv := httptest.NewServer(h.handler())
	defer srv.Close()
	post := func(body string) int {
		resp, err := http.Post(srv.URL, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	body := `{"status":"firing","alerts":[{"status":"firing","labels":{"alertname":"EndpointEjected","service":"catalog"}}]}`
	if code := post(body); code != 204 {
		t.Errorf("%d", code)
	}
	if code := post("not json"); code != 400 {
		t.Errorf("%d for nonsense", code)
	}
	for range keptAlerts {
		post(`{"status":"resolved"}`)
	}
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	var kept []Notification
	if err := json.Unmarshal(b, &kept); err != nil || len(kept) != keptAlerts {
		t.Errorf("kept %d: %v", len(kept), err)
	}
	if len(heard) != keptAlerts+1 || !strings.HasPrefix(heard[0], "firing: EndpointEjected on catalog {") {
		t.Errorf("%d heard, first %q", len(heard), heard[0])
	}
}

func TestTellerTellsEvents(t *testing.T) {
	var b strings.Builder
	tl := newTeller(&b, false)
	tl.event(event.Event{Kind: event.KindEjected, Message: "catalog-2 was ejected: 98 % of its answers were 5xx", Traces: []string{"abc"}})
	tl.event(event.Event{Kind: event.KindCertificate, Message: "not worth a line"})
	if got := b.String(); !strings.Contains(got, "ejected") || !strings.Contains(got, "tulle trace abc") || strings.Contains(got, "not worth") || strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
}

func TestChecks(t *testing.T) {
	for flag, change := range map[string]func(*Config){
		"--rate":       func(c *Config) { c.Rate = 0 },
		"--admin-base": func(c *Config) { c.AdminBase = 80 },
		"--shop-base":  func(c *Config) { c.ShopBase = 99999 },
		"--duration":   func(c *Config) { c.Duration = -time.Second },
		"--sidecar":    func(c *Config) { c.Sidecar = filepath.Join(t.TempDir(), "none") },
	} {
		c := Defaults()
		c.DataDir = t.TempDir()
		change(&c)
		if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
