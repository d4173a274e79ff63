package alert

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/metric"
)

// hook is a webhook receiver that can be told to fail.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	fail   bool
	failed int
	bodies chan map[string]any
}

func newHook(t *testing.T) *hook {
	h := &hook{bodies: make(chan map[string]any, 64)}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.fail {
			h.failed++
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			m = map[string]any{"error": err.Error()}
		}
		h.bodies <- m
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) set(fail bool) { h.mu.Lock(); h.fail = fail; h.mu.Unlock() }

func (h *hook) next(t *testing.T) map[string]any {
	t.Helper()
	select {
	case b := <-h.bodies:
		return b
	case <-time.After(20 * time.Second):
		t.Fatal("no notification came")
		return nil
	}
}

// eventually polls, because the notifier runs on real time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

type scene struct {
	t      *testing.T
	db     *metric.DB
	hook   *hook
	dir    string
	rules  string
	mu     sync.Mutex
	events []event.Kind
}

func newScene(t *testing.T) *scene {
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := &scene{t: t, db: db, hook: newHook(t), dir: t.TempDir(), rules: t.TempDir()}
	rule := `
groups:
- name: test
  interval: 50ms
  rules:
  - alert: TestFault
    expr: last_over_time(fault[1m]) > 0
    labels: {severity: error}
    annotations: {summary: "{{ $labels.service }} is at fault"}
`
	if err := os.WriteFile(filepath.Join(s.rules, "test.yaml"), []byte(rule), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) fault(v float64) {
	s.t.Helper()
	err := s.db.NewWriter().Write(s.t.Context(), time.Now(), func(b *metric.Batch) {
		b.Gauge("fault", v, "service", "catalog", "destination", "catalog")
		b.Exemplar("fault", "0af7651916cd43dd8448eb211c80319c", 0.3, time.Now(), "service", "catalog", "destination", "catalog")
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// run starts alerting; the returned function stops it and waits.
func (s *scene) run() (*Alerting, func()) {
	s.t.Helper()
	a, err := New(Config{
		DB: s.db, DataDir: s.dir, RulesDir: s.rules, WebhookURLs: []string{s.hook.URL + "/alerts"}, GroupWait: 50 * time.Millisecond, ResendDelay: 100 * time.Millisecond,
		OnEvent: func(e event.Event) { s.mu.Lock(); s.events = append(s.events, e.Kind); s.mu.Unlock() },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- a.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		s.t.Fatal(err)
	}
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		})
	}
	s.t.Cleanup(stop)
	return a, stop
}

func (s *scene) kinds() []event.Kind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

func TestWebhookGetsFiringThenResolved(t *testing.T) {
	s := newScene(t)
	s.fault(1)
	a, _ := s.run()
	body := s.hook.next(t)
	if body["version"] != "4" || body["status"] != "firing" || body["receiver"] != "default" || body["externalURL"] != "http://127.0.0.1:8640" {
		t.Errorf("body %v", body)
	}
	first := body["alerts"].([]any)[0].(map[string]any)
	if l := first["labels"].(map[string]any); l["alertname"] != "TestFault" || l["service"] != "catalog" {
		t.Errorf("labels %v", l)
	}
	if an := first["annotations"].(map[string]any); an["summary"] != "catalog is at fault" || an["traces"] != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("annotations %v", an)
	}
	if list := a.Alerts(); len(list) != 1 || list[0].State != "firing" || list[0].Service != "catalog" {
		t.Errorf("alerts %+v", list)
	}
	if i := slices.IndexFunc(a.Rules(), func(r Rule) bool { return r.Name == "TestFault" }); i < 0 || a.Rules()[i].Active != 1 || a.Rules()[i].Health != "ok" {
		t.Errorf("rules %+v", a.Rules())
	}
	s.fault(0)
	if body := s.hook.next(t); body["status"] != "resolved" {
		t.Errorf("then %v", body["status"])
	}
	if got := s.kinds(); !slices.Equal(got, []event.Kind{event.KindAlertFiring, event.KindAlertOK}) {
		t.Errorf("events %v", got)
	}
}

func TestRestartNeitherRepeatsNorForgets(t *testing.T) {
	s := newScene(t)
	s.fault(1)
	_, stop := s.run()
	s.hook.next(t)
	stop()

	// Still at fault: nothing is said twice.
	a, stop := s.run()
	eventually(t, "the alert fires again after the restart", func() bool { return len(a.Alerts()) == 1 && a.Alerts()[0].State == "firing" })
	runs := a.Rules()[len(a.Rules())-1].LastRun
	eventually(t, "ten evaluations", func() bool { return a.Rules()[len(a.Rules())-1].LastRun.Sub(runs) > 500*time.Millisecond })
	select {
	case b := <-s.hook.bodies:
		t.Errorf("it was notified again: %v", b)
	default:
	}
	stop()

	// It heals while nothing runs: the restored alert is resolved by its rule.
	s.fault(0)
	b, err := New(Config{DB: s.db, DataDir: s.dir, RulesDir: s.rules, Now: func() time.Time { return time.Now().Add(2 * restoredGrace) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.firing) != 1 {
		t.Fatalf("%d alerts were kept", len(b.firing))
	}
	b.sweep(b.cfg.Now())
	if len(b.firing) != 0 {
		t.Error("an alert that nobody confirms goes on firing")
	}
	if got := s.kinds(); !slices.Equal(got, []event.Kind{event.KindAlertFiring}) {
		t.Errorf("events %v", got)
	}
}

func TestUndeliveredIsSentAfterRestart(t *testing.T) {
	s := newScene(t)
	s.hook.set(true)
	s.fault(1)
	_, stop := s.run()
	eventually(t, "an attempt fails", func() bool { s.hook.mu.Lock(); defer s.hook.mu.Unlock(); return s.hook.failed > 0 })
	stop()
	s.hook.set(false)
	s.run()
	if body := s.hook.next(t); body["status"] != "firing" {
		t.Errorf("status %v", body["status"])
	}
}

func TestDamagedStateIsSaid(t *testing.T) {
	s := newScene(t)
	if err := os.WriteFile(filepath.Join(s.dir, "alerts.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{DB: s.db, DataDir: s.dir}); err != nil {
		t.Errorf("a damaged list of firing alerts stops the observer: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "nflog"), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{DB: s.db, DataDir: s.dir}); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("error %v", err)
	}
}
